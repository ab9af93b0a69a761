"""How far long work is: a bar with rate and time left on a terminal, one plain line now and then in a pipe."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TypeVar

from rich.console import Console, RenderableType
from rich.filesize import decimal
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lfs.live import LiveArea
from lfs.terminal import SafeConsole, is_live

LINE_EVERY_S = 10.0
DRAW_EVERY_S = 0.1
WAITED_S = 1.0
"""Waiting, or reading, that takes less is not worth a word."""
BAR_COLUMNS = 40
T = TypeVar("T")


def duration_text(seconds: float | None) -> str:
    """h:mm:ss, or `?`."""
    if seconds is None:
        return "?"
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{s:02d}"


def rate_text(rate: float) -> str:
    """Something per second, in two digits at least."""
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"


class WorkProgress:
    """Shows stages of work, one after the other. A context: at its end nothing is left of the bar.

    Args:
        unit: what is counted.
        clock: seconds that only grow.
        announce: a line says when a stage begins, where there is no bar.
        after_s: nothing is shown of work that takes less.

    Nothing is drawn between updates: while pictures are decoded, the error stream is listened to.
    """

    def __init__(
        self,
        unit: str = "pictures",
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        announce: bool = False,
        after_s: float = 0.0,
    ) -> None:
        self._unit, self._clock, self._announce, self._after_s = unit, clock, announce, after_s
        self._console = console or SafeConsole(stderr=True, soft_wrap=True)
        self._stage, self._began, self._first, self._said, self._drawn = "", 0.0, 0, 0.0, 0.0
        self._opened, self._is_shown = 0.0, False
        self._area = LiveArea(self._console)
        self._stack = ExitStack()

    def __enter__(self) -> "WorkProgress":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # its terminal may be gone
            self._stack.close()

    def update(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` (0: not known) of a stage are behind; its rate is counted from the first call."""
        now = self._clock()
        if stage != self._stage:
            self._opened = self._opened if self._stage else now
            self._stage, self._began, self._first, self._said, self._drawn = stage, now, done, now, -DRAW_EVERY_S
            if self._announce and not is_live(self._console):
                self._console.print(f"{stage} ...")
        if now - self._opened < self._after_s:
            return
        if not is_live(self._console):
            if now - self._said >= LINE_EVERY_S:
                self._said = now
                self._console.print(f"{stage}: {self.text(done, total, now)}")
        elif now - self._drawn >= DRAW_EVERY_S or done == total:
            if not self._is_shown:
                self._stack.enter_context(self._area.shown())
            self._drawn, self._is_shown = now, True
            self._area.show(bar(stage, done, total, self.text(done, total, now), self._console.width))

    def along(self, stage: str, things: Iterable[T], total: int) -> Iterator[T]:
        """The things, with an update for each that is done with."""
        self.update(stage, 0, total)
        for done, thing in enumerate(things, 1):
            yield thing
            self.update(stage, done, total)

    def text(self, done: int, total: int, now: float) -> str:
        """Counts, rate and time left in words."""
        elapsed = now - self._began
        rate = (done - self._first) / elapsed if elapsed > 0 else 0.0
        if self._unit == "bytes":
            text = decimal(done) + (f" of {decimal(total)}" if total else "")
            text += f", {decimal(round(rate))}/s" if rate > 0 else ""
        else:
            text = f"{done:,} of {total:,} {self._unit}" if total else f"{done:,} {self._unit}"
            text += f", {rate_text(rate)}" if rate > 0 else ""
        if rate > 0 and total:
            text += f", {duration_text((total - done) / rate)} left"
        return text


def bar(stage: str, done: int, total: int, text: str, width: int) -> RenderableType:
    """Stage, bar and text side by side; without the bar where there is no room for it, or no total."""
    room = min(BAR_COLUMNS, width - len(stage) - len(text) - 3)
    if room < 5 or not total:
        return Text(f"{stage} {text}")
    made = Table.grid(padding=(0, 1))
    made.add_row(Text(stage, no_wrap=True), ProgressBar(total=total, completed=done, width=room), Text(text))
    return made


@contextmanager
def reading(what: str = "reading the run", unit: str = "generations") -> Iterator[Callable[[int, int], None]]:
    """A callback (done, total) behind progress on the error stream, if that takes longer than a moment."""
    blind = False

    def update(done: int, total: int) -> None:
        nonlocal blind
        if not blind:
            try:
                work.update(what, done, total)
            except (OSError, SystemExit):  # nobody reads it: what is asked for is told all the same
                blind = True

    with WorkProgress(unit, after_s=WAITED_S) as work:
        yield update


@contextmanager
def waiting(what: str, console: Console, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Say that something is waited for whose end is not known, and for how long: ticking on a terminal, a line at times
    in a pipe. What takes a moment is not mentioned.
    """
    over, began = threading.Event(), clock()
    area = LiveArea(console)

    def tick() -> None:
        with ExitStack() as stack:
            if over.wait(WAITED_S):
                return
            if is_live(console):
                stack.enter_context(area.shown(redirect=False))
            while not over.wait(LINE_EVERY_S if not is_live(console) else WAITED_S):
                text = f"{what} ... {duration_text(clock() - began)}"
                if is_live(console):
                    area.show(Text(text, style="dim"))
                else:
                    console.print(text)

    ticking = threading.Thread(target=tick, name="waiting", daemon=True)
    ticking.start()
    try:
        yield
    finally:
        over.set()
        ticking.join()
