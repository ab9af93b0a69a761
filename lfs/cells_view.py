"""What a comparison shows while it trains: its cells, those that run, and the time left."""

import math
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from lfs.columns import Column, Columns
from lfs.config import SearchConfig
from lfs.progress import duration_text
from lfs.view import View, reward_text


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
        self._began, self._work = time.monotonic(), 0

    def begin(self, at_a_time: int) -> None:
        """Training starts."""
        self._began = time.monotonic()
        self.view.say(f"{len(self.cells)} of {self.total} cells to train, {at_a_time} at a time")
        self.view.begin()
        self._show()

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

    def end(self) -> None:
        """Training is over."""
        self.view.stop()

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
        self.view.draw(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(f"{self.finished}/{self.total} cells   {duration_text(self.eta_s())} left", style="bold")
        if not self.running:
            yield Text("waiting for the first to start", style="dim")
            return
        shown = list(self.running.items())[: max(1, options.size.height - 4)]
        numbers = [f"{self.done.get(cell, 0)}/{self.cells[cell].generations}" for cell, _ in shown]
        rewards = [reward_text(result.get("reward"), result.get("reward_se")) for _, result in shown]
        yield Columns(
            columns=[
                Column(title="running", cells=[cell for cell, _ in shown]),
                Column(title="generation", cells=numbers, right=True, rank=1),
                Column(title="reward", cells=rewards, right=True, rank=2),
            ],
            says_less=False,
        )
        if len(self.running) > len(shown):
            yield Text(f"and {len(self.running) - len(shown)} more", style="dim")
