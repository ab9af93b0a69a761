"""How far a reward measures the loss and not the luck of the training: one reward at one length."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

from trainers.verification import paired_standard_error

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """One reward after one length of training."""

    metric: str
    length: float
    """In the generation unit."""

    rank_correlation: float
    """Mean of Spearman's rank correlation of the losses over all pairs of orders; NaN if a reward is the same for all
    losses."""

    loss_spread: float
    """Standard deviation of the losses' mean rewards, less the luck that is left in a mean: what there is to find."""

    luck: float
    """Standard deviation of the reward of one loss between orders."""

    paired_se: float
    """Median standard error, over the pairs of pictures, of the difference of two losses in the same order."""

    best: str
    """Loss with the best mean reward."""


def reliability(
    metric: str, length: float, losses: Sequence[str], rewards: npt.ArrayLike, replicates: npt.ArrayLike
) -> Reliability:
    """Judge a reward by the same losses in several orders.

    Args:
        losses: [L] names.
        rewards: [orders, L], finite.
        replicates: [orders, L, num_bootstrap] of each reward, over common resamples.
    """
    values, resampled = np.asarray(rewards, np.float64), np.asarray(replicates, np.float64)
    [num_orders, num_losses] = values.shape
    if num_orders < 2 or num_losses < 2 or len(losses) != num_losses or resampled.shape[:2] != values.shape:
        raise ValueError(f"expected rewards [orders >= 2, losses >= 2] and replicates of them, got {values.shape}")
    pairs = [(i, j) for i in range(num_orders) for j in range(i)]
    correlations = [_spearman(values[i], values[j]) for i, j in pairs]
    luck = float(np.sqrt(values.var(axis=0, ddof=1).mean()))
    means = values.mean(axis=0)
    errors = [
        paired_standard_error(resampled[o, i], resampled[o, j])
        for o in range(num_orders)
        for i in range(num_losses)
        for j in range(i)
    ]
    return Reliability(
        metric=metric,
        length=length,
        rank_correlation=float(np.mean(correlations)),
        loss_spread=float(np.sqrt(max(0.0, means.var(ddof=1) - luck**2 / num_orders))),
        luck=luck,
        paired_se=float(np.median(errors)),
        best=losses[int(means.argmax())],
    )


def _spearman(a: Array, b: Array) -> float:
    """Spearman's rank correlation; NaN where one side is constant."""
    return float("nan") if np.ptp(a) == 0 or np.ptp(b) == 0 else float(spearmanr(a, b).statistic)
