"""Genuine pairs of probes, and how many distractors come before the mate in each."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from search_space.errors import UserError
from trainers.identification.units import HIGHEST, Ints, Scores, Singles, all_scores

ROWS = 1024
"""Probes of one identity whose scores with all of it are made at a time."""

_SPREAD = 2**22
"""More than there are scores: probe * _SPREAD + score sorts by probe, then by score."""

NEWS = 16
"""Bars are set anew after one distractor in so many probes."""


class Mates:
    """All ordered pairs (probe, mate) of two pictures of one identity.

    Pairs are grouped by probe, and rise in score within one.

    Args:
        units: [p, d] unit embeddings of the probes.
        identities: [p] whom each shows, of any type that sorts.
    Raises:
        UserError: no identity has two probes.
    """

    def __init__(self, units: Singles, identities: npt.NDArray[np.generic]) -> None:
        people = np.unique(identities, return_inverse=True)[1].reshape(-1)
        counts = np.bincount(people)
        self.num_identities = len(counts)
        self.num_without_mate = int(np.count_nonzero(counts == 1))
        num_mates = counts[people] - 1  # [p]
        if not num_mates.any():
            raise UserError(f"two probes of an identity are needed, got {len(units)} probes of as many")
        self.starts: Ints = np.concatenate(([0], np.cumsum(num_mates)))  # [p + 1] pairs before those of each probe
        self.scores: Scores = np.empty(self.starts[-1], np.int32)
        """[num_pairs] score of each pair."""
        self.probes: npt.NDArray[np.int32] = np.repeat(np.arange(len(units), dtype=np.int32), num_mates)
        """[num_pairs] probe of each pair."""
        for probes, scores in _scores_by_probe(units, people, counts):
            places = self.starts[probes, None] + np.arange(scores.shape[1])
            self.scores[places] = np.sort(scores, axis=1)

    def __len__(self) -> int:
        return len(self.scores)


def _scores_by_probe(units: Singles, people: Ints, counts: Ints) -> Iterator[tuple[Ints, Scores]]:
    """Some probes [n] of one identity, and scores [n, m] of each with its m mates."""
    for probes in np.split(np.argsort(people, kind="stable"), np.cumsum(counts)[:-1]):
        for start in range(0, len(probes) if len(probes) > 1 else 0, ROWS):
            rows = probes[start : start + ROWS]
            scores = all_scores(units[rows], units[probes])
            others = np.arange(start, start + len(rows))[:, None] != np.arange(len(probes))
            yield rows, scores[others].reshape(len(rows), len(probes) - 1)


class MateRanks:
    """How many distractors so far score at least as high as the mate of each pair, up to `depth`.

    Distractors are told by their scores; of those below a probe's `bars`, nothing need be told.

    Args:
        depth: more than so many before a mate are not told apart.
    """

    def __init__(self, mates: Mates, depth: int) -> None:
        self._mates, self._depth = mates, depth
        # A distractor that comes before the first r mates of a probe, and no further, is counted at the r-th alone.
        self._last = np.zeros(len(mates), np.int64)
        self._keys = mates.probes.astype(np.int64) * _SPREAD + mates.scores
        self._news = 0
        self.bars: Scores = np.empty(len(mates.starts) - 1, np.int32)
        """[p] lowest score of a distractor that matters; above `HIGHEST` if none does."""
        self._set_bars()

    def add(self, probes: Ints, scores: Scores) -> None:
        """Take note of distractors' scores [events] with probes [events]."""
        reached = np.searchsorted(self._keys, probes * _SPREAD + scores, "right") - 1  # last pair it comes before
        reached = reached[reached >= self._mates.starts[probes]]
        if len(reached):
            np.add.at(self._last, reached, 1)
            self._news += len(reached)
            if self._news * NEWS >= len(self.bars):  # a bar that is too low costs time, and changes nothing
                self._news = 0
                self._set_bars()

    def before(self) -> Ints:
        """[num_pairs] distractors that come before the mate; no more than right up to `depth`."""
        total = np.concatenate((np.cumsum(self._last[::-1])[::-1], [0]))
        return np.asarray(total[:-1] - total[self._mates.starts[self._mates.probes + 1]], np.int64)

    def _set_bars(self) -> None:
        """A mate with `depth` distractors before it is lost; the lowest of a probe's others is its bar."""
        open_pairs = np.flatnonzero(self.before() < self._depth)
        self.bars.fill(HIGHEST + 1)
        # lost are the lowest first, and of a probe's pairs the first one written last is to stay
        self.bars[self._mates.probes[open_pairs[::-1]]] = self._mates.scores[open_pairs[::-1]]
