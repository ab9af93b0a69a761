"""Reward to advantage: what each candidate of a generation weighs in the policy gradient."""

import numpy as np
import numpy.typing as npt

from search_space.config import ADVANTAGE_KINDS
from search_space.policy import Array


def advantages(
    rewards: npt.ArrayLike,
    *,
    kind: str,
    noise_floor: float = 0.0,
    diverged: npt.ArrayLike | None = None,
) -> Array:
    """Advantage of each candidate of one generation.

    Args:
        rewards: [B], higher is better; that of a diverged candidate is not read.
        kind: `range` (published: `2 * (r - mean) / (max - min + 1e-6)`), `standardize` (unit standard deviation) or
            `rank` (tied rewards share their mean rank; best 1, worst -1).
        noise_floor: spread (max - min) of rewards, in their unit, up to which they count as tied; 0: exact ties only.
        diverged: [B] bool. Diverged candidates get the worst reward, as far below the worst finite one as that is
            below the best, or below all by the same amount if those are tied.
    Returns:
        [B] float64, sum 0 to rounding; exactly 0 if all are tied or there is one candidate.
    Raises:
        ValueError: no candidate, a reward that is not finite (its index is named), all diverged, unknown kind.
    Source: Wang et al. 2020, published code. Differs: ties give exactly 0.
    """
    if kind not in ADVANTAGE_KINDS:
        raise ValueError(f"kind must be one of {ADVANTAGE_KINDS}, got {kind!r}")
    values = np.array(rewards, np.float64)
    [num_candidates] = values.shape
    bad = np.zeros(num_candidates, bool) if diverged is None else np.asarray(diverged, bool)
    if bad.shape != values.shape:
        raise ValueError(f"expected diverged [{num_candidates}], got shape {bad.shape}")
    if bad.all():
        raise ValueError(f"expected a candidate that did not diverge, got {num_candidates} candidates, all diverged")
    for index in np.flatnonzero(~np.isfinite(values) & ~bad):
        raise ValueError(f"reward of candidate {index} must be finite, got {values[index]}; is it diverged?")
    values = _place_diverged(values, bad, noise_floor)
    if np.ptp(values) == 0:
        return np.zeros(num_candidates)
    return _weigh(values, kind)


def _place_diverged(values: Array, bad: npt.NDArray[np.bool_], noise_floor: float) -> Array:
    """Rewards with ties made exact and every diverged candidate below all others."""
    finite = values[~bad]
    spread = np.ptp(finite)
    if spread <= noise_floor:
        return np.where(bad, -1.0, 0.0)
    return np.where(bad, finite.min() - spread, values)


def _weigh(values: Array, kind: str) -> Array:
    """Centred and scaled rewards that are not all equal."""
    weights: Array
    if kind == "rank":  # below - above is twice the centred mean rank
        below = (values[:, None] > values).sum(axis=1)
        above = (values[:, None] < values).sum(axis=1)
        weights = (below - above) / (len(values) - 1)
        return weights
    spread = np.ptp(values)
    unit = (values - values.min()) / spread  # in [0, 1]: the squares of a tiny spread do not underflow
    unit -= unit.mean()
    weights = 2 * unit * (spread / (spread + 1e-6)) if kind == "range" else unit / unit.std()
    return weights
