"""Candidates that take many times as long as the others of their generation."""

import time
from collections.abc import Callable

from lfs.generation import Search


class Stragglers:
    """Times of the candidates in training.

    Args:
        factor: a candidate may take so many times the median of its generation; 0: as long as it likes.
        clock: in seconds.
    """

    def __init__(self, factor: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.factor, self._clock = factor, clock
        self._generation = -1
        self._began: dict[tuple[str, int], float] = {}

    def leased(self, trainer: str, generation: int, index: int) -> None:
        """A trainer has a candidate from now on, unless it has had it before."""
        if generation != self._generation:
            self._generation, self._began = generation, {}
        self._began.setdefault((trainer, index), self._clock())

    def forget(self, trainer: str) -> None:
        """What a trainer had goes to others, or it starts it afresh."""
        self._began = {key: at for key, at in self._began.items() if key[0] != trainer}

    def overdue(self, search: Search) -> dict[int, str]:
        """Candidates that take too long, and how long that is.

        The median is that of the whole generation, the lower of two middle ones: it is looked for once half of the
        candidates are done, and is never more than what is found then. Diverged candidates end early and do not count.
        """
        took = sorted(r.train_s + r.validate_s for r in search.reports.values() if not r.diverged)
        num_candidates = len(search.actions) - sum(r.diverged for r in search.reports.values())
        middle = (num_candidates - 1) // 2
        if not (self.factor and middle < len(took)) or not took or search.state.generation != self._generation:
            return {}
        limit_s, now = self.factor * took[middle], self._clock()
        reason = f"took more than {self.factor:g} times the median of {took[middle]:.3g} s"
        running = {(trainer, index): index for trainer, index in search.running.items()}
        return {i: reason for key, i in running.items() if now - self._began.get(key, now) > limit_s}
