"""A search that goes on without the terminal: the same command in a session of its own, its output in a file."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import platformdirs

from lfs.commands import FAILED, OK
from lfs.options import flag
from lfs.presence import where
from lfs.run_store import RunStore
from lfs.view import View

LOOK_S = 0.3


def detached(store: RunStore, view: View, changes: Mapping[str, str], *, new: bool) -> int:
    """Start the driver of a run, and return once it works on it or has failed to.

    Args:
        changes: settings that a resumed run is given anew, as flags.
        new: the run was just made, and goes again if it cannot start.
    Returns:
        Exit code.
    """
    log, arguments = log_file(store), [part for name, text in changes.items() for part in (flag(name), text)]
    with log.open("ab") as stream:
        began = stream.tell()
        driver = subprocess.Popen(
            [sys.executable, "-m", "lfs.search", "--resume", store.uri, *arguments],
            stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True,
        )  # fmt: skip
    try:
        while (code := driver.poll()) is None and not works_on(store, driver.pid):
            time.sleep(LOOK_S)
    except KeyboardInterrupt:
        driver.terminate()
        driver.wait()
        if new:
            store.discard()
        raise
    said = log.read_bytes()[began:].decode(errors="replace").splitlines()
    if code:
        print(said[-1] if said else f"lfs.search: the driver ended with exit code {code}", file=sys.stderr)
        if new:
            store.discard()
        return FAILED
    view.say(f"{store.shown} goes on without this terminal (process {driver.pid}, output in {log})")
    view.say(f"watch        python -m lfs.status {store.shown}")
    view.say(f"act          python -m lfs.control pause|resume|stop|extend {store.shown}")
    return OK


def works_on(store: RunStore, pid: int) -> bool:
    """Whether a driver has come so far that it works on the run."""
    facts = where(store)
    return facts is not None and facts["pid"] == pid


def log_file(store: RunStore) -> Path:
    """Where a detached driver's output goes: into its run, or on this machine if the run is elsewhere."""
    if "://" not in store.uri:
        return Path(store.path, "output.log")
    folder = Path(platformdirs.user_log_dir("lfs"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{store.name}-{os.getpid()}.log"
