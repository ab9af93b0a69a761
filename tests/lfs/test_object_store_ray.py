"""A search whose run is in an object store: pyarrow's S3 client against a real HTTP server (moto's), which falters."""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lfs.run_store import RunStore
from tests.lfs.conftest import Command
from tests.lfs.object_store import KEYS, Server, make_bucket, needs_server, place, s3_server
from tests.lfs.test_search_ray import Start, digest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600), needs_server]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with s3_server(tmp_path / "server.txt") as process:
        yield process


def wait_for_commit(store: RunStore, generation: int, search: Command) -> None:
    deadline = time.monotonic() + 120
    while generation not in store.committed():
        assert search.process.poll() is None, search.err.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.3)


def test_a_server_that_pauses_costs_nothing_a_second_driver_is_refused_and_a_server_that_is_gone_ends_it(
    server: Server, undisturbed: Path, run_command: Start, recipe_file: Callable[..., str]
) -> None:
    make_bucket(server)
    arguments = ("--config", recipe_file(), "--num-workers", "2", "--storage", place(server, "runs"), "--name")
    store = RunStore(place(server, "runs", "one"))
    one = run_command("lfs.search", *arguments, "one")
    wait_for_commit(store, 0, one)
    server.send_signal(signal.SIGSTOP)
    time.sleep(5)
    server.send_signal(signal.SIGCONT)
    assert one.wait() == 0, one.err.read_text()
    assert one.err.read_text() == ""
    assert digest(store) == digest(undisturbed)
    assert not store.exists("running.json")
    assert f"python -m lfs.results '{store.uri}'" in one.out.read_text()

    two = run_command("lfs.search", *arguments, "two", "--generations", "400")
    wait_for_commit(RunStore(place(server, "runs", "two")), 0, two)
    other = run_command("lfs.search", "--resume", place(server, "runs", "two"))
    assert other.wait() == 1
    assert f"is worked on already by process {two.process.pid}" in other.err.read_text()
    server.kill()
    began = time.monotonic()
    assert two.wait(240) == 1
    assert time.monotonic() - began < 180
    said = two.err.read_text()
    own = [line for line in said.splitlines() if not line.startswith("/arrow/cpp/")]  # that of Tune's own writer
    assert len(own) == 1
    assert "storage failed, the last committed generation is intact" in own[0]
    assert "Traceback" not in said
