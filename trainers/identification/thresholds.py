"""Thresholds at false-accept rates, by one law for every protocol."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from search_space.errors import UserError, require
from trainers.identification.units import Scores, cosine_of


@dataclass(frozen=True, kw_only=True)
class FarPoint:
    """What is accepted at a false-accept rate (FAR)."""

    far: float
    """As asked for."""

    comparisons: int
    """Impostor comparisons that the rate is a share of."""

    false_accepts: int
    """How many of them may be accepted: the largest k with k / comparisons <= far. 0: the rate is below one of them."""

    threshold: float
    """Cosine of the (k + 1)-th highest of them. Accepted is what scores *above* it; ties with it are rejected."""

    rate: float
    """Share of what should be accepted that is."""


def check_fars(fars: Sequence[float]) -> tuple[float, ...]:
    """The rates; raises `UserError` unless each is in [0, 1)."""
    require(all(0 <= far < 1 for far in fars), "false-accept rates must be in [0, 1)", list(fars))
    return tuple(float(far) for far in fars)


def false_accepts(far: float, comparisons: int) -> int:
    """The largest k with k / comparisons <= far."""
    count = math.floor(far * comparisons) + 1  # not floor alone: 0.29 * 100 is 28.999...
    while count / comparisons > far:
        count -= 1
    return count


def kth_highest(scores: Scores, k: int) -> int:
    """The k-th highest of scores, k from 1."""
    return int(np.partition(scores, len(scores) - k)[len(scores) - k])


def verification_point(far: float, comparisons: int, highest: Scores, genuine: Scores) -> FarPoint:
    """The share of genuine scores that is accepted at a FAR.

    Args:
        comparisons: impostor comparisons.
        highest: at least the `false_accepts` + 1 highest scores among them, in any order.
        genuine: [num_genuine] scores.
    """
    allowed = false_accepts(far, comparisons)
    bar = kth_highest(highest, allowed + 1)
    rate = float(np.count_nonzero(genuine > bar) / len(genuine))
    return FarPoint(far=far, comparisons=comparisons, false_accepts=allowed, threshold=cosine_of(bar), rate=rate)


class Highest:
    """The k highest of scores that come in parts.

    Args:
        k: at least 1.
    Raises:
        UserError: k is above `MAX_KEPT`.
    """

    MAX_KEPT = 2**25

    def __init__(self, k: int) -> None:
        if k > self.MAX_KEPT:
            raise UserError(
                f"a false-accept rate must allow at most {self.MAX_KEPT - 1:,} false accepts, got one that allows "
                f"{k - 1:,}; ask for a lower rate"
            )
        self._k, self._slack = k, max(k // 4, 256)
        self._kept = np.empty(k + self._slack, np.int32)
        self._count = 0
        self.bar: int | None = None
        """Only scores above it can still be among the k highest; None: any can."""

    def add(self, scores: Scores) -> None:
        """Take note of scores; those that are not above the bar may be left out."""
        if self.bar is not None:
            scores = scores[scores > self.bar]
        while len(scores):
            part, scores = np.split(scores, [len(self._kept) - self._count])
            self._kept[self._count : self._count + len(part)] = part
            self._count += len(part)
            if self._count == len(self._kept) or (self.bar is None and self._count >= self._k):
                scores = scores[scores > self._shrink()]

    def _shrink(self) -> int:
        """Keep the k highest; the lowest of them."""
        held = self._kept[: self._count]
        held.partition(self._count - self._k)
        self._kept[: self._k] = held[self._count - self._k :].copy()
        self._count, self.bar = self._k, int(self._kept[: self._k].min())
        return self.bar

    def scores(self) -> Scores:
        """The k highest, in any order, with a few more; all, if there were no more than k."""
        return self._kept[: self._count]
