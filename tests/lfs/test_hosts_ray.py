"""Searches over several hosts: network namespaces of this machine, one Ray node in each (see tests/hosts.py)."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lfs.controller import FETCH_S
from lfs.run_store import RunStore
from tests.hosts import SHORT_DETECTION, Hosts, wait_for, why_not
from tests.lfs.test_search_ray import digest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not())]
STAYS, LEAVES = 1, 2


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """A head that does not train, and two hosts with one trainer each."""
    with Hosts(tmp_path_factory.mktemp("hosts") / "shared", (0, 1, 1), SHORT_DETECTION) as made:
        yield made


def start(hosts: Hosts, folder: Path, recipe: str, num_workers: int) -> subprocess.Popen[bytes]:
    """A search over all hosts, its run in `folder`."""
    arguments = ("--config", recipe, "--num-workers", str(num_workers), "--storage", str(folder), "--name", "run")
    command = (sys.executable, "-m", "lfs.search", *arguments, "--address", hosts.address)
    with (folder / "out.txt").open("wb") as out, (folder / "err.txt").open("wb") as err:
        return hosts.popen(0, *command, stdout=out, stderr=err)


def live(hosts: Hosts) -> Path:
    """Where Tune notes results at once, on the head; it copies them to the run now and then, and in the end."""
    [session] = hosts.hosts[0].path("/run/ray").glob("session_[0-9]*")
    return session / "artifacts"


def trained(folder: Path, ip: str) -> list[dict[str, Any]]:
    """The candidates that a host trained and brought home, as Tune knows them."""
    texts = [path.read_text() for path in folder.glob("**/trainer-*/result.json")]
    rows = [json.loads(line) for text in texts for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [row for row in rows if row["node_ip"] == ip and "reward" in row]


def pids(hosts: Hosts, host: int) -> set[int]:
    """The trainers that a host has had, as far as they have brought something home."""
    return {row["pid"] for row in trained(live(hosts), hosts.ip(host))}


def trials_begun(hosts: Hosts) -> int:
    """How often Tune has had a trainer ready for work: it opens a TensorBoard file for each."""
    return len(list(live(hosts).glob("**/trainer-*/events.*")))


def test_the_winner_crosses_the_border_of_a_host_once_a_generation(
    recipe: dict[str, Any], recipe_file: Callable[..., str], tmp_path: Path
) -> None:
    run, workers = tmp_path / "run", (1, 2)
    short = recipe["trainer"] | {"generation_length": 20}
    with Hosts(tmp_path / "shared", (0, 2, 2)) as hosts:
        search = start(hosts, tmp_path, recipe_file(generations=6, population_size=8, trainer=short), 4)
        assert search.wait(200) == 0, (tmp_path / "err.txt").read_text()
        total = hosts.traffic()
    winner_bytes = (run / "generations" / "000001" / "winner.safetensors").stat().st_size
    for host in workers:
        rows = [row for row in trained(run, hosts.ip(host)) if row["generation"] > 0]  # no winner before the first
        assert len({row["pid"] for row in rows}) == 2, "a host on which less than two trainers worked shows nothing"
        winners = len({row["generation"] for row in rows})
        # One more where the final test was. Half a winner a generation is for all that Ray itself has to say.
        assert winners <= total[host][0] / winner_bytes < 1.5 * (winners + 1), (total, winner_bytes)
    # What leaves a host goes to the controller beside the driver, six winners, or is another host's copy of the winner.
    assert 6 <= total[0][0] / winner_bytes < 1.5 * 6, (total, winner_bytes)


def test_a_host_that_is_cut_off_in_the_middle_and_comes_back_changes_nothing(
    hosts: Hosts, undisturbed: Path, recipe_file: Callable[..., str], tmp_path: Path
) -> None:
    run, log = tmp_path / "run", tmp_path / "run" / "driver.log"
    search = start(hosts, tmp_path, recipe_file(), 2)
    wait_for(lambda: bool(pids(hosts, STAYS) and pids(hosts, LEAVES)), "candidate from each host", search)
    [there], [first], starts = pids(hosts, STAYS), pids(hosts, LEAVES), hosts.starts(LEAVES)
    begun = trials_begun(hosts)
    hosts.signal(STAYS, there, signal.SIGSTOP)  # or it would be done before the other host is back
    hosts.cut(LEAVES)
    try:
        wait_for(lambda: log.exists() and "its node has died" in log.read_text(), "news of the dead node", search)
    finally:
        hosts.restore(LEAVES)
    hosts.wait_for_ray(LEAVES, starts + 1)
    wait_for(lambda: trials_begun(hosts) > begun, "trainer on the returned host", search)
    hosts.signal(STAYS, there, signal.SIGCONT)
    assert search.wait(120) == 0, (tmp_path / "err.txt").read_text()
    assert (tmp_path / "err.txt").read_text() == ""
    assert "raylet" not in (tmp_path / "out.txt").read_text()
    assert {row["pid"] for row in trained(run, hosts.ip(LEAVES))} - {first}, "the returned host was not used"
    assert digest(run) == digest(undisturbed)
    assert json.loads((run / "result.json").read_text()) == json.loads((undisturbed / "result.json").read_text())


def test_a_winner_whose_host_is_gone_is_trained_again_elsewhere(hosts: Hosts, tmp_path: Path) -> None:
    run, starts = str(tmp_path / "run"), hosts.starts(LEAVES)
    command = (sys.executable, "-m", "tests.lfs.lost_winner", hosts.address, run, hosts.ip(LEAVES))
    story = hosts.popen(0, *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert story.stdin is not None
    assert story.stdout is not None
    assert story.stdout.readline() == b"reported\n"
    hosts.cut(LEAVES)
    try:
        out, _ = story.communicate(b"cut off\n", timeout=120)
    finally:
        hosts.restore(LEAVES)
    assert story.returncode == 0
    again, winner = out.decode().splitlines()
    assert again.startswith("again True")
    assert winner == "winner True"
    assert float(again.split()[-1]) < FETCH_S / 5
    assert RunStore(run).committed() == [0]
    hosts.wait_for_ray(LEAVES, starts + 1)
