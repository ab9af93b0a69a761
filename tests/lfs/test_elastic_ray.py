"""A cluster that grows and shrinks under a search: nodes that join, are drained, and end by SIGTERM."""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from lfs.commands import INTERRUPTED
from lfs.run_store import RunStore
from lfs.serial import SerialRun
from tests.lfs.conftest import Command, free_address, start_ray
from tests.lfs.test_search_ray import Start, digest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

DRAIN = """
import sys
from lfs.connect import joined
address, name = sys.argv[1:]
with joined(address):
    import ray
    from ray._raylet import GcsClient
    [node] = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeName"] == name]
    reason, deadline_ms = 2, 2**62  # a preemption
    accepted, why = GcsClient(address=address).drain_node(node, reason, "for the test", deadline_ms)
    assert accepted, why
"""


def wait_for(what: str, look: Callable[[], bool], search: Command, timeout_s: float = 60) -> float:
    """Seconds until something is so."""
    began = time.monotonic()
    while not look():
        assert search.process.poll() is None, f"ended before: {what}\n{search.err.read_text()}"
        assert time.monotonic() - began < timeout_s, f"never: {what}"
        time.sleep(0.1)
    return time.monotonic() - began


def workers(node: Command) -> list[int]:
    """Trainers of a node that are at work."""
    return node.family("ray::ResourceTrainable")


def test_nodes_join_are_drained_and_end_and_one_trainer_brings_the_search_to_the_same_end(
    run_command: Start, recipe_file: Callable[..., str], tmp_path: Path
) -> None:
    address = free_address()
    joins = f"--address={address}"
    start_ray(run_command, "--head", f"--port={address.split(':')[1]}", "--num-cpus=0", "--include-dashboard=false")
    start_ray(run_command, joins, "--num-cpus=1", "--node-name=stays")
    arguments = ("--config", recipe_file(generations=12), "--storage", str(tmp_path), "--num-workers", "2")
    search = run_command("lfs.search", *arguments, "--name", "run", "--address", address)
    store = RunStore(str(tmp_path / "run"))
    search.wait_for(tmp_path / "run" / "generations" / "000000" / "COMMIT")

    drained = start_ray(run_command, joins, "--num-cpus=1", "--node-name=drained")
    assert wait_for("a trainer where a node joined", lambda: bool(workers(drained)), search) < 20
    wait_for("its work", lambda: "trainer-001" in trainers(store), search)
    subprocess.run([sys.executable, "-c", DRAIN, address, "drained"], check=True, timeout=60)
    wait_for("the drained node without trainers", lambda: not workers(drained), search)

    ends = start_ray(run_command, joins, "--num-cpus=1", "--node-name=ends")
    wait_for("a trainer where another node joined", lambda: bool(workers(ends)), search)
    os.kill(ends.process.pid, signal.SIGTERM)
    assert ends.wait(30) is not None
    assert search.wait() == 0, search.err.read_text()
    assert search.err.read_text() == ""

    alone = RunStore(str(tmp_path / "alone"))
    alone.create(store.load_config())
    SerialRun(alone).run(lambda status: None)
    assert digest(Path(store.path)) == digest(Path(alone.path))
    assert alone.load_result() == store.load_result()


def trainers(store: RunStore) -> set[str]:
    """Who trained the candidates of the last committed generation."""
    done = store.committed()
    return set(store.load_candidates(done[-1])["trainer"]) - {""} if done else set()


def test_a_generation_closes_without_a_trainer_that_stands_still_and_takes_it_back(
    run_command: Start, recipe_file: Callable[..., str], tmp_path: Path
) -> None:
    arguments = ("--config", recipe_file(generations=40), "--storage", str(tmp_path), "--num-workers", "2")
    search = run_command("lfs.search", *arguments, "--name", "run", "--straggler-factor", "2.5")
    store = RunStore(str(tmp_path / "run"))
    wait_for("work for both", lambda: len(trainers(store)) == 2, search, 120)
    stands = workers(search)[0]
    os.kill(stands, signal.SIGSTOP)
    try:
        wait_for("a line that says so", lambda: ", 1 dropped, " in search.out.read_text(), search)
        without = max(store.committed())
        wait_for("generations without it", lambda: max(store.committed()) > without + 1, search)
    finally:
        os.kill(stands, signal.SIGCONT)
    wait_for("it takes part again", lambda: len(trainers(store)) == 2, search)
    os.kill(search.process.pid, signal.SIGINT)
    assert search.wait() == INTERRUPTED, search.err.read_text()

    rows = pd.concat([store.load_candidates(g) for g in store.committed()])
    [dropped] = rows[rows["dropped"]].to_dict("records")
    assert dropped["reason"].startswith("took more than 2.5 times the median of ")
    assert math.isnan(dropped["reward"])
    others = rows[(rows["generation"] == dropped["generation"]) & ~rows["dropped"]]
    assert len(others) == 3
    assert others["advantage"].sum() == pytest.approx(0)
