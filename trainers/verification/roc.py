"""The receiver operating characteristic: area under it, and points on it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainers.verification.pairs import Floats, Ints, SortedPairs, cumulative


@dataclass(frozen=True, eq=False)
class RocPoints:
    """The receiver operating characteristic at given false-accept rates."""

    fars: Floats
    """[points] as asked for."""

    thresholds: Floats
    """[points] see `roc_points`."""

    tars: Floats
    """[points] share of genuine pairs that is accepted."""

    replicates: Floats
    """[num_bootstrap, points] `tars` on each resample."""


def roc_points(scores: npt.ArrayLike, same: npt.ArrayLike, fars: Sequence[float], num_bootstrap: int) -> RocPoints:
    """Share of genuine pairs accepted at given false-accept rates.

    The threshold of a FAR f is the lowest t for which the share of impostor scores above t is at most f. Of n impostor
    scores that is the (k + 1)-th highest, k the largest count with k / n <= f. It follows that f below 1 / n (one
    comparison) puts t at the highest impostor score, and that genuine scores equal to t are rejected.

    Args:
        fars: each in [0, 1).
    """
    rates = np.asarray(fars, dtype=np.float64)
    if not ((rates >= 0) & (rates < 1)).all():
        raise ValueError(f"false-accept rates must be in [0, 1), got {rates.tolist()}")
    pairs = SortedPairs.checked(scores, same)
    parts = [tar_rows(pairs, rates, *weights)[0] for weights in pairs.resamples(num_bootstrap)]
    tars, thresholds = tar_rows(pairs, rates, *pairs.once())
    return RocPoints(rates, thresholds[0], tars[0], np.concatenate(parts))


def auc_rows(pairs: SortedPairs, genuine: Ints, impostor: Ints) -> Floats:
    """[rows] share of (genuine, impostor) comparisons with the genuine score higher; ties count one half."""
    high, low = pairs.scores[pairs.same], pairs.scores[~pairs.same]
    below = cumulative(genuine)
    lost_twice = below[:, np.searchsorted(high, low, "left")] + below[:, np.searchsorted(high, low, "right")]
    comparisons = high.size * low.size
    areas: Floats = (2 * comparisons - np.einsum("ri,ri->r", lost_twice, impostor)) / (2 * comparisons)
    return areas


def tar_rows(pairs: SortedPairs, fars: Floats, genuine: Ints, impostor: Ints) -> tuple[Floats, Floats]:
    """[rows, fars] share of genuine pairs accepted, and the thresholds."""
    high, falling = pairs.scores[pairs.same], pairs.scores[~pairs.same][::-1]
    num = falling.size
    accepted = np.cumsum(impostor[:, ::-1], axis=1)  # [rows, impostors] if the threshold were below the i-th highest
    counts = np.floor(fars * num).astype(np.int64) + 1
    counts -= counts / num > fars  # not floor alone: 0.29 * 100 is 28.999...
    first_refused = np.empty((len(accepted), len(counts)), np.int64)
    for column, count in enumerate(counts):
        first_refused[:, column] = (accepted > count).argmax(axis=1)
    thresholds = falling[first_refused]
    rejected = np.take_along_axis(cumulative(genuine), np.searchsorted(high, thresholds, "right"), axis=1)
    return (high.size - rejected) / high.size, thresholds
