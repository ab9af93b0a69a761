"""A driver that goes on without its terminal: what is shown until then, and what happens when it cannot start."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from lfs.commands import INTERRUPTED
from lfs.detach import ctrl_c_waits, has_begun, log_file, relay
from lfs.run_store import RunStore
from lfs.view import View
from tests.lfs.conftest import Command


def test_lines_are_shown_as_they_come_but_the_last_is_held_back(tmp_path: Path) -> None:
    out, log = io.StringIO(), tmp_path / "log"
    view = View(Console(file=out, soft_wrap=True))
    held = ""
    with log.open("ab", buffering=0) as writer, log.open("rb") as reader:
        for text, shown, kept in (
            (b"", [], ""), (b"one\n", [], "one"), (b"two\nthree\n", ["one", "two"], "three"),
            (b"", ["one", "two"], "three"), (b"four\n", ["one", "two", "three"], "four"),
        ):  # fmt: skip
            writer.write(text)
            held = relay(reader, held, view)
            assert (out.getvalue().splitlines(), held) == (shown, kept)


def test_a_driver_has_begun_once_it_says_so_itself(tmp_path: Path) -> None:
    store = RunStore(str(tmp_path / "run"))
    assert not has_begun(store, 7)
    store.write(json.dumps({"address": "x:1", "host": "h", "pid": 8}).encode(), "running.json")
    assert not has_begun(store, 7)  # another one, perhaps of an earlier start
    assert has_begun(store, 8)


def test_its_output_is_beside_a_local_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert log_file(RunStore(str(tmp_path / "runs" / "a"))) == tmp_path / "runs" / "a.log"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert tmp_path / "state" in log_file(RunStore(f"file://{tmp_path}/runs/a")).parents


def test_one_that_cannot_start_ends_in_the_line_of_its_driver_and_leaves_no_run(
    run_command: Callable[..., Command], recipe_file: Callable[..., str], tmp_path: Path
) -> None:
    arguments = ("--config", recipe_file(), "--storage", str(tmp_path), "--name", "run", "--detach")
    command = run_command("lfs.search", *arguments, "--address", "127.0.0.1:9")
    assert command.wait() == 1
    [line] = command.err.read_text().splitlines()
    assert line.startswith("lfs.search: no Ray cluster answers at 127.0.0.1:9")
    assert command.out.read_text().startswith("train: ")
    assert not (tmp_path / "run").exists()
    assert line in (tmp_path / "run.log").read_text()


def test_ctrl_c_while_it_starts_ends_it(tmp_path: Path, recipe_file: Callable[..., str]) -> None:
    arguments = ["--config", recipe_file(), "--storage", str(tmp_path), "--name", "run", "--detach"]
    command = subprocess.Popen(
        [sys.executable, "-m", "lfs.search", *arguments], stderr=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    log = tmp_path / "run.log"
    while not log.exists():
        assert command.poll() is None
        time.sleep(0.02)
    [driver] = _wait_for_children(command.pid)
    os.kill(command.pid, signal.SIGINT)
    _, said = command.communicate(timeout=60)
    assert command.returncode == INTERRUPTED
    assert b"interrupted" in said
    assert not Path(f"/proc/{driver}").exists()


def test_ctrl_c_in_the_moment_of_the_start_takes_effect_after_it() -> None:
    started = []

    def start() -> None:
        with ctrl_c_waits():
            os.kill(os.getpid(), signal.SIGINT)
            started.append("a process")

    with pytest.raises(KeyboardInterrupt):
        start()
    assert started
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def _wait_for_children(pid: int) -> list[int]:
    while not (found := Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        time.sleep(0.02)
    return [int(child) for child in found]
