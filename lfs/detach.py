"""A search that goes on without the terminal: the same command in a session of its own, its output in a file."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import platformdirs

from lfs.commands import OK
from lfs.presence import where
from lfs.run_store import RunStore
from lfs.terminal import printable
from lfs.view import View

LOOK_S = 0.3


def detached(store: RunStore, arguments: Sequence[str], view: View) -> int:
    """Start the driver of a run, and return once it works on it or has ended; until then its lines are shown.

    Args:
        store: where its run is, or will be.
        arguments: of `python -m lfs.search`.
    Returns:
        Exit code.
    """
    log = log_file(store)
    driver: subprocess.Popen[bytes] | None = None
    try:
        with log.open("ab") as stream, ctrl_c_waits():
            began = stream.tell()
            driver = subprocess.Popen(
                [sys.executable, "-m", "lfs.search", *arguments],
                stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True,
            )  # fmt: skip
        with log.open("rb") as said:
            said.seek(began)
            last = ""
            while (code := driver.poll()) is None and not has_begun(store, driver.pid):
                last = relay(said, last, view)
                time.sleep(LOOK_S)
            last = relay(said, last, view)
    except KeyboardInterrupt:
        if driver is not None:
            driver.send_signal(signal.SIGINT)
            driver.wait()
        raise
    if code:
        print(printable(last), file=sys.stderr)
        return code
    if last:
        view.say(last)
    if code is None:
        view.say(f"{store.shown} goes on without this terminal (process {driver.pid}, output in {log})")
        view.say(f"watch        python -m lfs.status {store.shown}")
        view.say(f"act          python -m lfs.control pause|resume|stop|extend {store.shown}")
    return OK


@contextlib.contextmanager
def ctrl_c_waits() -> Iterator[None]:
    """Ctrl-C in this block takes effect at its end: a process that is just started is known then."""
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


def relay(said: BinaryIO, held: str, view: View) -> str:
    """Show lines that have come since, but hold the last one back: it may be the error that all ends with.

    Args:
        held: the line that was held back before.
    Returns:
        The line to hold back now.
    """
    lines = [line.decode(errors="replace").rstrip("\n") for line in said]
    for line in [held, *lines][bool(not held) : -1]:
        view.say(line)
    return lines[-1] if lines else held


def has_begun(store: RunStore, pid: int) -> bool:
    """Whether a driver has come so far that it works on the run."""
    facts = where(store)
    return facts is not None and facts["pid"] == pid


def log_file(store: RunStore) -> Path:
    """Where a detached driver's output goes: beside its run, or on this machine if the run is elsewhere."""
    log = Path(f"{store.path}.log")
    if "://" in store.uri:
        log = Path(platformdirs.user_log_dir("lfs")) / f"{store.name}-{os.getpid()}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    return log
