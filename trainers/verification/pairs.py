"""Scored pairs of pictures, sorted once, and the resamples behind every standard error."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

BOOTSTRAP_KEY = 0xB007
# Numbers in one block of resamples: the working set stays within tens of megabytes for any number of pairs.
BLOCK = 2**22


def cosine_scores(embeddings: npt.ArrayLike, left: npt.ArrayLike, right: npt.ArrayLike) -> Floats:
    """Cosine of each pair of embeddings, in float64.

    Args:
        embeddings: [n, d], not normalised. A vector of zeros has cosine 0 with everything.
        left, right: [num_pairs] int, rows of `embeddings`.
    Returns:
        [num_pairs] in [-1, 1].
    Raises:
        ValueError: an embedding is not finite (the first one is named).
    """
    vectors = np.asarray(embeddings, dtype=np.float64)
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise ValueError(f"embeddings must be finite, got a row that is not: {int(np.argmin(finite))}")
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = vectors / np.where(norms > 0, norms, 1.0)
    left_index, right_index = np.asarray(left), np.asarray(right)
    scores = np.empty(len(left_index))
    block = max(1, BLOCK // max(1, units.shape[1]))
    for start in range(0, len(scores), block):
        part = slice(start, start + block)
        scores[part] = np.einsum("pd,pd->p", units[left_index[part]], units[right_index[part]])
    return np.clip(scores, -1.0, 1.0)


@dataclass(frozen=True, eq=False)
class SortedPairs:
    """Pairs in rising order of score. Weights say how often a resample holds each pair of the file, in this order."""

    order: Ints  # [num_pairs] file index of each sorted pair
    scores: Floats  # [num_pairs] rising
    same: Bools  # [num_pairs]

    @classmethod
    def checked(cls, scores: npt.ArrayLike, same: npt.ArrayLike) -> "SortedPairs":
        values, genuine = np.asarray(scores, dtype=np.float64), np.asarray(same, dtype=np.bool_)
        if values.ndim != 1 or values.shape != genuine.shape:
            raise ValueError(f"scores and same must both be [num_pairs], got {values.shape} and {genuine.shape}")
        finite = np.isfinite(values)
        if not finite.all():
            raise ValueError(f"scores must be finite, got {values[~finite][0]} at pair {int(np.argmin(finite))}")
        if genuine.all() or not genuine.any():
            raise ValueError(f"genuine and impostor pairs are needed, got {genuine.sum()} of {len(genuine)} genuine")
        order = np.argsort(values, kind="stable")
        return cls(order, values[order], genuine[order])

    @property
    def outside(self) -> tuple[float, float]:
        """Ends so far out that the middle between an end and any score is beyond all scores."""
        low, high = float(self.scores[0]), float(self.scores[-1])
        far = 2 * (high - low + 1)
        return low - far, high + far

    def once(self) -> tuple[Ints, Ints]:
        """Weights of the pairs as they are: [1, genuine], [1, impostor] ones."""
        return np.ones((1, int(self.same.sum())), np.int64), np.ones((1, int((~self.same).sum())), np.int64)

    def resamples(self, num_bootstrap: int) -> Iterator[tuple[Ints, Ints]]:
        """Blocks of ([rows, genuine], [rows, impostor]) weights in sorted order, `num_bootstrap` rows in all."""
        if num_bootstrap < 2:
            raise ValueError(f"num_bootstrap must be at least 2, got {num_bootstrap}")
        sources = []
        for kind, members in enumerate((self.same, ~self.same)):
            rank_in_file = np.argsort(np.argsort(self.order[members]))
            key = np.random.SeedSequence([BOOTSTRAP_KEY, kind])
            sources.append((np.random.Generator(np.random.Philox(key)), rank_in_file))
        block = max(1, BLOCK // len(self.scores))
        for start in range(0, num_bootstrap, block):
            rows = min(block, num_bootstrap - start)
            genuine, impostor = (resample(rng, len(rank), rows)[:, rank] for rng, rank in sources)
            yield genuine, impostor

    def gains(self, genuine: Ints, impostor: Ints) -> Ints:
        """[rows, num_pairs] correct decisions that are won when the threshold passes each score from below."""
        gains = np.empty((len(genuine), len(self.scores)), np.int64)
        gains[:, self.same] = -genuine
        gains[:, ~self.same] = impostor
        return gains


def resample(rng: np.random.Generator, num: int, rows: int) -> Ints:
    """[rows, num] how often each of `num` things comes up in `num` draws: multinomial, by counting."""
    draws = rng.integers(num, size=(rows, num), dtype=np.int64)
    draws += np.arange(rows)[:, None] * num
    return np.bincount(draws.ravel(), minlength=rows * num).reshape(rows, num)


def cumulative(weights: Ints) -> Ints:
    """[rows, n] -> [rows, n + 1] sums of the first 0, 1, ... n."""
    sums = np.zeros((weights.shape[0], weights.shape[1] + 1), np.int64)
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return sums
