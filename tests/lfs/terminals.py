"""Commands on a real terminal, whose screens are kept as text in tests/lfs/golden/screens. Where one has changed on
purpose, `LFS_UPDATE_GOLDEN=1 pytest tests/lfs/test_screens.py` writes all of them anew.

The terminal is emulated (pyte), the command and its keys are real: they go through a pseudo-terminal of the system.
"""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pyte

GOLDEN = Path(__file__).parent / "golden" / "screens"
UPDATE = "LFS_UPDATE_GOLDEN"
CTRL_C = "\x03"
CTRL_Q, CTRL_S = "\x11", "\x13"
CTRL_Z = "\x1a"
MASKS = (
    (r"running( {6}|  +\d+ %)", "running  .. %"),
    (r"\b\d+\.\d+e?-?\d*\b", lambda found: re.sub(r"\d", "#", found[0])),
    (r"(# ± #\.####  #\.####)( +)\d+(?=  )", lambda found: found[1] + "n".rjust(len(found[0]) - len(found[1]))),
    (r"[\d,]+ images/s", "N images/s"),
    (r"(\? |\d+:\d\d:\d\d )left", "T left"),
    (r"(?m)^.* \.\.\. \d+:\d\d:\d\d\n", ""),  # what a slow machine waits for
    (r"[\d,.]+/s\b", "N/s"),
    (r"[━╸╺]+", "━━━"),
    (r"[\d,]+ of (?=[\d,]+ pictures)", "N of "),
)
"""What differs from run to run, and what stands for it."""


def masked(text: str) -> str:
    """A text without what differs from run to run."""
    for pattern, mask in MASKS:
        text = re.sub(pattern, mask, text)
    return text


def _on_its_terminal() -> None:
    """In the new process: the terminal is its own, and it ends with it, also where tests run under nohup."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Terminal:
    """A command of the project on a terminal of its own.

    Args:
        folder: where it runs.
        command: arguments of Python.
        size: columns and lines.
        variables: of its environment.
    """

    def __init__(self, folder: Path, *command: str, size: tuple[int, int], **variables: str) -> None:
        self.screen = pyte.HistoryScreen(*size, history=10_000)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self._at, follower = pty.openpty()
        self._resize(*size)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "TUNE_", "OMP_", "LFS_"))}
        environment |= {"CUDA_VISIBLE_DEVICES": "", "TERM": "xterm"} | variables
        for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, *command], stdin=follower, stdout=follower, stderr=follower,
            env=environment, cwd=folder, start_new_session=True,
            preexec_fn=_on_its_terminal,
        )  # fmt: skip
        os.close(follower)

    def _resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._at, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def resize(self, columns: int, lines: int) -> None:
        """Another size of the window."""
        self.screen.resize(lines, columns)
        self._resize(columns, lines)

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._at, keys.encode())

    def text(self) -> str:
        """All that can be seen, scrolled up or on the screen, without what differs from run to run."""
        above = ["".join(line[x].data for x in range(self.screen.columns)) for line in self.screen.history.top]
        return masked("\n".join(line.rstrip() for line in (*above, *self.screen.display)).rstrip("\n"))

    def wait_for(self, pattern: str, timeout_s: float = 240) -> None:
        """Until the text has a part like this."""
        deadline = time.monotonic() + timeout_s
        while not re.search(pattern, self.text()):
            assert time.monotonic() < deadline, f"no {pattern!r} in\n{self.text()}"
            assert self._read() or re.search(pattern, self.text()), f"ended without {pattern!r}:\n{self.text()}"

    def wait(self) -> int:
        """The exit code, once it has ended and all of its output is here."""
        while self._read():
            pass
        return self.process.wait(60)

    def _read(self) -> bool:
        """Take what has been written; whether more may come."""
        ready, _, _ = select.select([self._at], [], [], 1.0)
        if not ready:
            return self.process.poll() is None
        try:
            data = os.read(self._at, 4096)
        except OSError:  # Linux's way to say that nobody has it open any more
            return False
        self.raw += data
        self._stream.feed(data)
        return bool(data)

    def hang_up(self) -> None:
        """Close the window."""
        os.close(self._at)
        self._at = -1

    def clean(self) -> None:
        """End whatever is left of its session."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)
        if self._at >= 0:
            os.close(self._at)


def check(name: str, text: str, *places: Path) -> None:
    """Compare a screen with the one that is kept; `places` are folders whose names differ from run to run."""
    for place in places:
        text = text.replace(str(place), "FOLDER")
    file = GOLDEN / f"{name}.txt"
    if os.environ.get(UPDATE):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text + "\n", encoding="utf-8")
    assert text + "\n" == file.read_text(encoding="utf-8"), f"{name}:\n{text}"
