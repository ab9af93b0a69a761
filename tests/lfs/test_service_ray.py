"""Searches as a service on one real cluster: they share it, and are watched and acted on from other processes."""

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lfs.run_store import RunStore
from tests.lfs.conftest import free_address, start_ray
from tests.lfs.test_search_ray import Start, digest

pytestmark = pytest.mark.ray


@pytest.fixture
def cluster(run_command: Start) -> Iterator[str]:
    """Address of a cluster of two CPUs that outlives its searches."""
    address = free_address()
    port = f"--port={address.split(':')[1]}"
    head = start_ray(run_command, "--head", port, "--num-cpus=2", "--include-dashboard=false")
    yield address
    assert head.family("gcs_server"), "the cluster did not outlive its searches"


@pytest.fixture
def say(run_command: Start) -> Callable[..., str]:
    """Runs a short command to its end and returns what it printed."""

    def run(module: str, *arguments: str, code: int = 0) -> str:
        command = run_command(module, *arguments)
        assert command.wait() == code, command.err.read_text()
        assert "Traceback" not in command.err.read_text()
        return command.out.read_text() if code == 0 else command.err.read_text()

    return run


def wait_for(expected: Any, look: Callable[[], Any], timeout_s: float = 150) -> None:
    """Until a look finds what is expected."""
    deadline = time.monotonic() + timeout_s
    while (found := look()) != expected:
        assert time.monotonic() < deadline, f"expected {expected}, found {found}"


@pytest.mark.timeout(600)
def test_two_searches_share_a_cluster_and_one_is_paused_resumed_extended_and_watched(
    cluster: str, run_command: Start, say: Callable[..., str], recipe_file: Callable[..., str], tmp_path: Path
) -> None:
    runs = str(tmp_path / "runs")
    place = ("--config", recipe_file(generations=400), "--storage", runs, "--num-workers", "2", "--address", cluster)
    where = ("--address", cluster, "--storage", runs)
    out = say("lfs.search", *place, "--name", "first", "--detach")
    assert "asked for 2 CPU; the cluster has 2 CPU on 1 node(s)" in out  # what the driver says before it works
    pid = int(re.findall(r"process (\d+)", out)[0])
    first = RunStore(f"{runs}/first")
    assert "they share 4 candidates a generation" in Path(f"{first.path}.log").read_text()
    assert json.loads(first.read("running.json"))["pid"] == pid

    assert "their resources are free then" in say("lfs.control", "pause", "first", *where)

    # A taken name, a run that is worked on, an action that makes no sense: one line each.
    taken = say("lfs.search", *place, "--name", "first", "--storage", str(tmp_path / "elsewhere"), code=1)
    assert "a running search of this cluster has the name 'first' already" in taken
    assert not (tmp_path / "elsewhere" / "first").exists()
    assert f"worked on already by process {pid}" in say("lfs.search", "--resume", first.uri, code=1)
    assert "no running search 'second'" in say("lfs.control", "pause", "second", *where, code=1)
    assert "extend needs it" in say("lfs.control", "extend", "first", *where, code=1)

    other = RunStore(str(tmp_path / "other" / "first"))  # of the same name, and not running
    other.create(first.load_config())
    assert "no running search 'first'" in say("lfs.control", "stop", other.uri, *where, code=1)

    second = run_command("lfs.search", *place, "--name", "second")
    wait_for({"first": "0 of 0", "second": "2 of 2"}, lambda: trainers(say, where))
    say("lfs.control", "resume", first.uri, *where)
    wait_for({"first": "1 of 1", "second": "1 of 1"}, lambda: trainers(say, where))
    say("lfs.control", "stop", "second", "--now", *where)
    assert second.wait() == 0, second.err.read_text()
    assert "continue with python -m lfs.search --resume" in second.out.read_text()
    wait_for({"first": "2 of 2"}, lambda: trainers(say, where))
    watching = run_command("lfs.status", "first", *where)
    watching.wait_for_line("first (")
    last = len(first.committed()) + 8
    say("lfs.control", "extend", "first", "--generations", str(last), *where)
    assert watching.wait() == 0, watching.err.read_text()
    watched = watching.out.read_text()
    assert watched.splitlines()[0].startswith(f"first ({first.uri}), ")
    assert f"generation {last}/{last}: best" in watched
    assert "test: accuracy" in watched
    wait_for({}, lambda: trainers(say, where))
    assert [event["action"] for event in first.events()] == ["start", "pause", "resume", "extend"]
    assert first.load_config().generations == last
    alone = run_command("lfs.search", *place[:4], "--generations", str(last), "--name", "alone", "--num-workers", "1")
    assert alone.wait() == 0, alone.err.read_text()
    assert digest(Path(first.path)) == digest(tmp_path / "runs" / "alone")


def trainers(say: Callable[..., str], where: tuple[str, ...]) -> dict[str, str]:
    """Trainers of each running search, and how many it is to have."""
    lines = say("lfs.status", *where).splitlines()[1:]
    return {line.split()[0]: re.findall(r"\d+ of \d+", line)[0] for line in lines}
