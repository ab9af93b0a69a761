"""How far long work is: a bar with rate and time left on a terminal, one plain line now and then in a pipe."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from lfs.terminal import SafeConsole

LINE_EVERY_S = 10.0
DRAW_EVERY_S = 0.1
T = TypeVar("T")


class WorkProgress:
    """Shows stages of work, one after the other. A context: at its end nothing is left of the bar.

    Args:
        unit: what is counted.
        clock: seconds that only grow.

    Nothing is drawn between updates: while pictures are decoded, the error stream is listened to.
    """

    def __init__(
        self, unit: str = "pictures", console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._unit, self._clock = unit, clock
        self._console = console or SafeConsole(stderr=True, soft_wrap=True)
        self._stage, self._began, self._first, self._said, self._drawn = "", 0.0, 0, 0.0, 0.0
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"),
            console=self._console, transient=True, auto_refresh=False,
            disable=not self._console.is_terminal,
        )  # fmt: skip

    def __enter__(self) -> "WorkProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` (0: not known) of a stage are behind; its rate is counted from the first call."""
        now = self._clock()
        if stage != self._stage:
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            self._bar.add_task(stage, total=total or None, text="")
            self._stage, self._began, self._first, self._said = stage, now, done, now
        if self._console.is_terminal and (now - self._drawn >= DRAW_EVERY_S or done == total):
            self._drawn = now
            for task in self._bar.task_ids:
                self._bar.update(task, completed=done, total=total or None, text=self.text(done, total, now))
            self._bar.refresh()
        if not self._console.is_terminal and now - self._said >= LINE_EVERY_S:
            self._said = now
            self._console.print(f"{stage}: {self.text(done, total, now)}")

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
        text = f"{done:,} of {total:,} {self._unit}" if total else f"{done:,} {self._unit}"
        if rate > 0:
            text += f", {rate:,.0f}/s"
        if rate > 0 and total:
            minutes, seconds = divmod(round((total - done) / rate), 60)
            text += f", {minutes // 60}:{minutes % 60:02d}:{seconds:02d} left"
        return text
