"""What goes into the driver's log, and how much."""

import logging
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lfs import quiet
from lfs.run_store import RunStore
from tests.lfs.unread import unread


def test_the_log_of_a_driver_keeps_the_last_messages_within_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quiet, "LOG_BYTES", 10_000)
    monkeypatch.setattr(quiet, "LAST_LOGS_S", 120.0)  # a busy disk is not what is tested here
    with quiet.quiet_logs(RunStore(str(tmp_path))):
        for number in range(1000):
            logging.getLogger("ray.tune").warning("message %d: %s", number, "x" * 50)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 20_000
    assert "message 999:" in (tmp_path / "driver.log").read_text()
    assert "ray.tune" in (tmp_path / "driver.log.1").read_text()


def test_what_ray_keeps_from_the_terminal_is_in_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, tune = logging.getLogger("ray"), logging.getLogger("ray.tune.execution")
    before = log.level
    log.setLevel(logging.ERROR)  # as `ray.init(logging_level="ERROR")` does
    try:
        with quiet.quiet_logs(RunStore(str(tmp_path))):
            assert logging.getLogger("sqlalchemy.engine").getEffectiveLevel() > logging.INFO  # or it shows all it asks
            tune.info("a trial started")
            tune.warning("a trial is slow")
        assert log.level == logging.ERROR
    finally:
        log.setLevel(before)
    written = (tmp_path / "driver.log").read_text()
    assert "INFO ray.tune.execution: a trial started" in written
    assert "WARNING ray.tune.execution: a trial is slow" in written
    assert capsys.readouterr() == ("", "")


def test_a_log_whose_disk_is_full_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with quiet.quiet_logs(RunStore(str(tmp_path / "run"))):  # no such folder: it cannot be opened
        logging.getLogger("lfs").warning("lost")
    assert capsys.readouterr() == ("", "")


def test_who_logs_does_not_wait_for_a_disk_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet, "LAST_LOGS_S", 0.05)
    hangs = threading.Event()

    class Hung(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            hangs.wait(60)

    began = time.monotonic()
    with quiet.written_aside(Hung()) as handler:
        for _ in range(3):
            handler.handle(logging.makeLogRecord({"msg": "x"}))
    assert time.monotonic() - began < 10
    hangs.set()


LEAVES = """
import sys, threading, time
from rich.console import Console
from lfs.quiet import leave
from lfs.view import View

view = View(Console(force_terminal=True, width=80), Console(stderr=True, force_terminal=True))
view.begin()
view.draw("what is live")
view.say("a line")

def last():
    view.settle(5)
    leave("gone")

threading.Thread(target=last).start()
time.sleep(60)
"""


def test_the_last_line_is_not_lost_beside_what_is_live() -> None:
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", LEAVES], capture_output=True, text=True, timeout=50)
        assert (done.returncode, done.stderr) == (1, "gone\n")
        assert done.stdout.endswith("what is live\n")
        assert "a line\n" in done.stdout


def test_a_terminal_that_is_stopped_holds_up_the_last_line_for_a_while_only() -> None:
    with unread() as pipe:
        code = "import lfs.quiet\nlfs.quiet.LAST_LOGS_S = 1.0\nlfs.quiet.leave('x' * 1_000_000)"
        done = subprocess.run([sys.executable, "-c", code], stderr=pipe.stream, timeout=50)
    assert done.returncode == 1


def test_it_leaves_with_a_last_line_though_its_main_thread_is_stuck() -> None:
    code = "import threading, time; from lfs.quiet import leave\n"
    code += "threading.Thread(target=leave, args=('gone',)).start(); time.sleep(60)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (1, "gone\n")
