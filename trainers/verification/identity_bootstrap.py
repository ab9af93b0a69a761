"""Metrics on all pairs, and their standard errors by resampling people.

Pairs that share a person are not independent, and among all pairs most do. So resample r draws people with replacement,
as many as there are, from a fixed key: a genuine pair of a person drawn w_i times has weight w_i, an impostor pair
w_i * w_j. All candidates see the same resamples, as they do with listed pairs. A resample without a single genuine or
impostor pair is drawn again.

TAR at a FAR is recomputed on each resample, exactly. For the other metrics, which are means over very many pairs or
smooth functions of such, a replicate is the value plus the sum over people of (w_i - 1) times the derivative of the
metric with respect to w_i: the same to first order. The errors of TAR are too large rather than too small, the more so
the fewer impostor pairs decide: the weight w_i * w_j of pairs that share nobody varies threefold.

Source: Owen 2007, The pigeonhole bootstrap; Bolle et al. 2004, Error analysis of pattern recognition systems.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from trainers.metrics import Metric
from trainers.verification.all_pairs import NUM_CODES, AllPairs, cosines_of_codes
from trainers.verification.pairs import BLOCK, Floats, Ints, resample
from trainers.verification.report import Score
from trainers.verification.separation import SMALLEST_VARIANCE

IDENTITY_KEY = 0x1DE7
HEADROOM = 2
"""Impostor pairs kept for the replicates of TAR, in units of what the value itself needs; more if that was too few."""

LEAST_KEPT = 1000


class AllPairsMetrics:
    """Scores models on one set of labelled pictures.

    Args:
        labels: [n] int, who is on each picture.
        max_impostors: see `AllPairs`.
        num_bootstrap: resamples, at least 2; the first k of n are the k of k.
    """

    def __init__(self, labels: npt.ArrayLike, num_bootstrap: int, max_impostors: int = 0) -> None:
        if num_bootstrap < 2:
            raise ValueError(f"num_bootstrap must be at least 2, got {num_bootstrap}")
        self.pairs = AllPairs(labels, max_impostors)
        self.weights = _weights(self.pairs, num_bootstrap)
        """[num_bootstrap, num_identities] how often each person is drawn."""

        # the pairs as they are come first, as one more resample
        self._rows = np.concatenate((np.ones((1, self.pairs.num_identities), np.int32), self.weights))
        self._impostor_weight = self.pairs.impostor_weight(self._rows)
        self._genuine_weight = self._rows.astype(np.int64) @ self.pairs.genuine_counts

    def evaluate(self, embeddings: npt.ArrayLike, metrics: Sequence[Metric]) -> list[Score]:
        """Each metric on all pairs.

        `accuracy` is the mean of the shares of right decisions of both kinds, at the threshold where that is best.

        Args:
            embeddings: [n, d] in the order of the labels, not normalised.
        Raises:
            ValueError: an embedding is not finite.
        """
        units = self.pairs.units(embeddings)
        codes = self.pairs.genuine_codes(units)
        fars = sorted({m.far for m in metrics if m.far is not None})
        kinds = {m.kind for m in metrics} - {"tar"}
        scores: dict[float | str, Score] = dict(zip(fars, self._tars(units, codes, fars), strict=True))
        scores |= self._smooth(units, codes, kinds) if kinds else {}
        return [scores[m.kind if m.far is None else m.far] for m in metrics]

    def _tars(self, units: torch.Tensor, codes: Ints, fars: Sequence[float]) -> list[Score]:
        """TAR at each rate; the threshold is that of `roc_points`, the counts those of the resample."""
        if not fars:
            return []
        allowed = np.stack([_allowed(far, self._impostor_weight) for far in fars], axis=1)  # [rows, fars]
        num = int(HEADROOM * allowed[0].max()) + LEAST_KEPT
        while True:
            num = min(num, self.pairs.num_impostor)
            tars = self._tars_from(codes, allowed, *self.pairs.top(units, num))
            if tars is not None:
                return [_score(column) for column in tars.T]
            assert num < self.pairs.num_impostor, "all impostor pairs weigh more than a FAR below 1 allows"
            num *= 4

    def _tars_from(self, codes: Ints, allowed: Ints, top: Ints, left: Ints, right: Ints) -> Floats | None:
        """[rows, fars]; None if a threshold lies below the top impostor pairs, whose codes and people these are."""
        order = np.argsort(codes)
        rising, person = codes[order], self.pairs.genuine_identity[order]
        tars = np.empty(allowed.shape)
        step = max(1, BLOCK // max(len(top), len(codes)))
        for start in range(0, len(allowed), step):
            rows = slice(start, start + step)
            weights = self._rows[rows]
            accepted = np.cumsum(weights[:, left] * weights[:, right], axis=1, dtype=np.int64)
            if (accepted[:, -1:] <= allowed[rows]).any():
                return None
            refused = np.stack(
                [np.searchsorted(a, limits, "right") for a, limits in zip(accepted, allowed[rows], strict=True)]
            )  # [rows, fars] the pair whose acceptance would be one too many
            above = np.searchsorted(rising, top[refused], "right")
            below = np.zeros((len(weights), len(rising) + 1), np.int64)
            np.cumsum(weights[:, person], axis=1, out=below[:, 1:])
            tars[rows] = 1 - np.take_along_axis(below, above, axis=1) / self._genuine_weight[rows, None]
        return tars

    def _smooth(self, units: torch.Tensor, codes: Ints, kinds: set[str]) -> dict[float | str, Score]:
        """AUC, d' and accuracy from tables of what a score of each code is worth."""
        genuine, impostor = np.bincount(codes, minlength=NUM_CODES), self.pairs.histogram(units)
        cosines = cosines_of_codes()
        tables: dict[str, tuple[Floats, Floats]] = {}  # what a genuine and what an impostor pair of each code is worth
        if "auc" in kinds:
            tables["auc"] = _share_below(impostor), 1 - _share_below(genuine)
        if "accuracy" in kinds:
            accepted = 1 - np.cumsum(genuine) / genuine.sum()  # [codes] if the threshold were each code
            best = int(np.argmax(accepted + np.cumsum(impostor) / impostor.sum()))
            above = (np.arange(NUM_CODES) > best).astype(np.float64)
            tables["accuracy"] = above, 1 - above
        if "d_prime" in kinds:
            means = [float(counts @ cosines / counts.sum()) for counts in (genuine, impostor)]
            tables["mean"] = cosines, cosines
            tables["spread"] = (cosines - means[0]) ** 2, (cosines - means[1]) ** 2
        for _, table in tables.values():
            table[0] = 0.0
        sums = self.pairs.sums(units, [table for _, table in tables.values()])
        both = {}
        for (name, (worth, _)), total in zip(tables.items(), sums, strict=True):
            own = np.zeros(self.pairs.num_identities)
            np.add.at(own, self.pairs.genuine_identity, worth[codes])
            both[name] = (
                _mean(own, self.pairs.genuine_counts, self.pairs.num_genuine),
                _mean(total, self.pairs.impostor_counts, self.pairs.num_impostor, sides=2),
            )
        scores: dict[float | str, Score] = {}
        if "auc" in kinds:  # one mean seen from two sides, whose derivatives add up
            (value, by_genuine), (_, by_impostor) = both["auc"]
            scores["auc"] = self._linear(value, by_genuine + by_impostor)
        if "accuracy" in kinds:  # the best threshold moves, but at the maximum that is of second order
            (tpr, by_genuine), (tnr, by_impostor) = both["accuracy"]
            scores["accuracy"] = self._linear((tpr + tnr) / 2, (by_genuine + by_impostor) / 2)
        if "d_prime" in kinds:
            scores["d_prime"] = self._linear(*_d_prime(both["mean"], both["spread"]))
        return scores

    def _linear(self, value: float, derivative: Floats) -> Score:
        """A score whose replicates are linear in the weights; derivative: [num_identities]."""
        return _score(np.concatenate(([value], value + (self.weights - 1.0) @ derivative)))


Mean = tuple[float, Floats]
"""A mean over pairs and its derivatives [num_identities] with respect to the weights of people."""


def _mean(sums: Floats, counts: Ints, num: int, sides: int = 1) -> Mean:
    """The mean over `num` pairs from sums and numbers of each person's pairs; a pair belongs to `sides` people."""
    value = float(sums.sum()) / (sides * num)
    return value, (sums - counts * value) / num


def _d_prime(means: tuple[Mean, Mean], variances: tuple[Mean, Mean]) -> Mean:
    """Difference of means over the root of the mean variance, with its derivatives."""
    (genuine, by_genuine), (impostor, by_impostor) = means
    variance = max((variances[0][0] + variances[1][0]) / 2, SMALLEST_VARIANCE)
    sigma, gap = np.sqrt(variance), genuine - impostor
    by_variance = (variances[0][1] + variances[1][1]) / 2
    return float(gap / sigma), (by_genuine - by_impostor) / sigma - gap / (2 * sigma**3) * by_variance


def _share_below(counts: Ints) -> Floats:
    """[codes] share of pairs below each code, ties counted one half."""
    return np.asarray((np.cumsum(counts) - counts / 2) / counts.sum(), np.float64)


def _score(rows: Floats) -> Score:
    """The value and its replicates."""
    return Score(float(rows[0]), float(np.std(rows[1:], ddof=1)), rows[1:])


def _allowed(far: float, totals: Ints) -> Ints:
    """The largest counts with count / total <= far."""
    counts: Ints = np.floor(far * totals).astype(np.int64) + 1
    counts -= counts / totals > far  # not floor alone: 0.29 * 100 is 28.999...
    return counts


def _weights(pairs: AllPairs, num_bootstrap: int) -> npt.NDArray[np.int32]:
    """[num_bootstrap, num_identities] int32, each row with a genuine and an impostor pair."""
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([IDENTITY_KEY])))
    weights = np.empty((num_bootstrap, pairs.num_identities), np.int32)
    done, step = 0, max(1, BLOCK // pairs.num_identities)
    while done < num_bootstrap:
        drawn = resample(rng, pairs.num_identities, min(step, num_bootstrap - done))
        drawn = drawn[(drawn @ pairs.genuine_counts > 0) & (pairs.impostor_weight(drawn) > 0)]
        weights[done : done + len(drawn)] = drawn
        done += len(drawn)
    return weights
