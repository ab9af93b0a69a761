"""The generation that is running: who has which candidate, what came of each, and which is the best so far."""

import bisect
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lfs.messages import Report
from search_space.loss import Loss


@dataclass
class OpenGeneration:
    """Candidates by their index. Weights are opaque handles; nothing here decides what a search does."""

    actions: npt.NDArray[np.float64]  # [B, dim]
    losses: list[Loss]
    """What the actions stand for."""

    rejected: int = 0
    """Draws that were no usable loss and were drawn again."""

    error: str = ""
    """Why the candidates could not be sampled."""

    queue: list[int] = field(init=False)
    """Candidates that nobody trains and nobody has reported, rising."""

    leases: dict[str, int] = field(default_factory=dict)
    """Trainer -> candidate."""

    reports: dict[int, Report] = field(default_factory=dict)
    failures: dict[int, int] = field(default_factory=dict)
    """Errors of a candidate's training."""

    deaths: dict[int, int] = field(default_factory=dict)
    """Losses of whoever trained a candidate, or held its weights."""

    dropped: dict[int, str] = field(default_factory=dict)
    """Candidates that the generation goes on without, and why."""

    best: int | None = None
    best_weights: Any = None

    def __post_init__(self) -> None:
        self.queue = list(range(len(self.losses)))

    @property
    def complete(self) -> bool:
        """Whether every candidate has its outcome, or is dropped."""
        return len(self.reports) + len(self.dropped) == len(self.actions)

    def wants(self, index: int) -> bool:
        """Whether a candidate's outcome would be news."""
        return 0 <= index < len(self.actions) and index not in self.reports and index not in self.dropped

    def hand_out(self, trainer: str) -> int | None:
        """A candidate for a trainer, the one that it has if it has one; None: all are in other hands."""
        if trainer not in self.leases and self.queue:
            self.leases[trainer] = self.queue.pop(0)
        return self.leases.get(trainer)

    def take_back(self, trainer: str) -> int | None:
        """The candidate that a trainer has, which is handed out again, to the next one who asks."""
        index = self.leases.pop(trainer, None)
        if index is not None:
            self.requeue(index)
        return index

    def give_back(self, trainer: str, index: int) -> None:
        """A trainer has not got a candidate done."""
        if self.leases.get(trainer) == index:
            del self.leases[trainer]
        self.requeue(index)

    def requeue(self, index: int) -> None:
        """Hand a candidate out again, unless somebody trains it or has."""
        if self.wants(index) and index not in self.queue and index not in self.leases.values():
            bisect.insort(self.queue, index)

    def take(self, report: Report, weights: Any) -> None:
        """An outcome that is news, whoever brings it."""
        self.reports[report.index] = report
        self._settle(report.index)
        self._compare(report, weights)

    def drop(self, index: int, reason: str) -> None:
        """Go on without a candidate, whoever trains it."""
        self.dropped[index] = reason
        self._settle(index)

    def lose_best(self) -> int | None:
        """The best candidate's weights are lost: it is handed out again; None: there is no best one.

        The next best stands in for it, without weights, until the same winner comes back.
        """
        lost = self.best
        if lost is not None:
            del self.reports[lost]
            self.requeue(lost)
            self.best = self.best_weights = None
            for report in self.reports.values():
                self._compare(report, None)
        return lost

    def _settle(self, index: int) -> None:
        """Nobody is to train a candidate any more, whoever is at it."""
        self.leases = {trainer: held for trainer, held in self.leases.items() if held != index}
        if index in self.queue:
            self.queue.remove(index)

    def _compare(self, report: Report, weights: Any) -> None:
        """Hold the weights of the best reward so far; equal rewards go to the lower index, whoever came first."""
        if report.diverged:
            return
        standing = None if self.best is None else self.reports[self.best]
        if standing is None or (report.reward, -report.index) > (standing.reward, -standing.index):
            self.best, self.best_weights = report.index, weights


def count(counts: dict[int, int], index: int) -> int:
    """One more; how many that makes."""
    counts[index] = counts.get(index, 0) + 1
    return counts[index]
