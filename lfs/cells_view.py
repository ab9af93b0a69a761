"""What a comparison shows while it trains: its cells, those that run, and the time left."""

import math
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lfs.config import SearchConfig
from lfs.view import View, duration_text, reward_text


def work_of(config: SearchConfig, generation: int = 0) -> int:
    """Candidates that a run still has to train, from a generation (counted from 0) on."""
    left = max(0, config.generations - generation)
    warm = 0 if config.mode == "fixed" else min(left, max(0, config.warmup_generations - generation))
    return warm + (left - warm) * config.population


class CellsView:
    """Shows many runs side by side; a live table on a terminal, one line per finished cell in a pipe.

    Args:
        view: where lines go.
        cells: configuration of each cell that is to run.
        done: committed generations of each.
        finished: cells that had an outcome before.
    """

    def __init__(self, view: View, cells: Mapping[str, SearchConfig], done: Mapping[str, int], finished: int) -> None:
        self.view, self.cells, self.total = view, cells, len(cells) + finished
        self.finished, self.done = finished, dict(done)
        self.running: dict[str, dict[str, Any]] = {}
        self.outcomes: dict[str, dict[str, Any]] = {}
        self.live: Live | None = None
        self._began, self._work = time.monotonic(), 0

    @property
    def console(self) -> Console:
        """Where the live view is."""
        return self.view.console

    def begin(self, at_a_time: int) -> None:
        """Training starts."""
        self._began = time.monotonic()
        self.view.say(f"{len(self.cells)} of {self.total} cells to train, {at_a_time} at a time")
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self.live = Live(self._screen(), console=self.console, refresh_per_second=4, transient=True)
            self.live.start()

    def started(self, cell: str) -> None:
        """A cell's process is up."""
        self.running[cell] = {}
        self._show()

    def result(self, cell: str, result: dict[str, Any]) -> None:
        """A generation of a cell is behind, or the cell is."""
        if "trouble" in result:  # it ended without an outcome
            self.running.pop(cell, None)
            if result["trouble"]:
                self.view.warn(f"{cell}: {result['trouble']}")
            return
        config = self.cells[cell]
        before = self.done.get(cell, 0)
        self.done[cell] = config.generations if result["done"] else result["generation"] + 1
        self._work += work_of(config, before) - work_of(config, self.done[cell])
        self.running[cell] = result
        if result["done"]:
            self.running.pop(cell)
            self.finished += 1
            self._say(cell, result)
        self._show()

    def failed(self, cell: str) -> None:
        """A cell's process died too often."""
        self.running.pop(cell, None)
        self.view.warn(f"{cell} failed; its error is in the tune folder")

    def stopping(self) -> None:
        """The user asked to stop."""
        self.view.say("stopping after the running generations; Ctrl-C again stops now (committed generations stay)")

    def end(self) -> None:
        """Training is over."""
        if self.live:
            self.live.stop()
            self.live = None

    def _say(self, cell: str, result: dict[str, Any]) -> None:
        reward = result.get("reward", math.nan)
        outcome = "diverged" if reward != reward else f"reward {reward:.4f}"
        tests = [f"{k[5:]} {v:.4f}" for k, v in result.items() if k in ("test/accuracy", "test/auc")]
        left = f", {duration_text(self.eta_s())} left" if self.finished < self.total else ""
        self.view.say(f"{self.finished}/{self.total} {cell}: {', '.join([outcome, *tests])}{left}")

    def eta_s(self) -> float | None:
        """Seconds left, by the rate so far."""
        left = sum(work_of(config, self.done.get(cell, 0)) for cell, config in self.cells.items())
        return (time.monotonic() - self._began) / self._work * left if self._work else None

    def _show(self) -> None:
        if self.live:
            self.live.update(self._screen())

    def _screen(self) -> RenderableType:
        head = f"{self.finished}/{self.total} cells   {duration_text(self.eta_s())} left"
        table = Table(box=None, header_style="bold", pad_edge=False)
        for title in ("running", "generation", "reward"):
            table.add_column(title, no_wrap=True, justify="left" if title == "running" else "right")
        for cell, result in self.running.items():
            generation = f"{self.done.get(cell, 0)}/{self.cells[cell].generations}"
            table.add_row(cell, generation, reward_text(result.get("reward"), result.get("reward_se")))
        return Group(Text(head, style="bold"), table)
