"""Metrics by name, each with its standard error."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from search_space.errors import UserError
from trainers.config import METRIC
from trainers.verification.folds import accuracy_rows, best_threshold, fold_accuracies, fold_numbers
from trainers.verification.pairs import Floats, SortedPairs
from trainers.verification.roc import auc_rows, roc_points


@dataclass(frozen=True, eq=False)
class Score:
    """A metric on one set of pairs."""

    value: float
    standard_error: float
    """Standard deviation of `replicates`."""

    replicates: Floats
    """[num_bootstrap] the metric on each resample."""


def paired_standard_error(replicates_a: Floats, replicates_b: Floats) -> float:
    """Standard error of the difference of two candidates that were scored on the same pairs.

    Args:
        replicates_a, replicates_b: [num_bootstrap] from `evaluate_metric`; row r of both is the same resample.
    """
    return float(np.std(replicates_a - replicates_b, ddof=1))


def metric_name(far: float) -> str:
    """Name of TAR at `far`, as `evaluate_metric` takes it and `verification_report` gives it."""
    return f"tar@far={float(far)}"


def evaluate_metric(
    metric: str, scores: npt.ArrayLike, same: npt.ArrayLike, fold: npt.ArrayLike, num_bootstrap: int
) -> Score:
    """One metric with its bootstrap.

    Args:
        metric: `accuracy` (mean of `fold_accuracies`), `auc` or `tar@far=F`.
        scores: [num_pairs] higher is more alike.
        same: [num_pairs] bool, genuine or impostor.
        fold: [num_pairs] int, any labels; read by `accuracy` alone.
        num_bootstrap: resamples, at least 2; the first k of n are the k of k.
    Raises:
        UserError: unknown metric.
        ValueError: scores that are not finite, no genuine or no impostor pair, arrays that do not fit together.
    """
    match = METRIC.fullmatch(metric)
    if match is None:
        raise UserError(f"metric must be `accuracy`, `auc` or `tar@far=F`, got {metric!r}")
    pairs = SortedPairs.checked(scores, same)
    if metric == "accuracy":
        folds = fold_numbers(fold, len(pairs.scores))
        value = float(accuracy_rows(pairs, folds, *pairs.once()).mean())
        # a resample of few pairs may hold none of a fold, which is then left out of its mean
        parts = [np.nanmean(accuracy_rows(pairs, folds, *w), axis=1) for w in pairs.resamples(num_bootstrap)]
    elif metric == "auc":
        value = float(auc_rows(pairs, *pairs.once())[0])
        parts = [auc_rows(pairs, *w) for w in pairs.resamples(num_bootstrap)]
    else:
        points = roc_points(scores, same, [float(match[1])], num_bootstrap)
        value, parts = float(points.tars[0]), [points.replicates[:, 0]]
    replicates = np.concatenate(parts)
    return Score(value, float(np.std(replicates, ddof=1)), replicates)


def verification_report(
    scores: npt.ArrayLike, same: npt.ArrayLike, fold: npt.ArrayLike, fars: Sequence[float], num_bootstrap: int
) -> dict[str, float]:
    """Every metric of one set of pairs, for the record.

    Returns:
        `accuracy` and `accuracy_se` (mean over folds; their standard deviation / sqrt(number of folds), the form that
        LFW results are given in), `threshold` (best over all pairs), `auc`, `auc_se`, and `tar@far=F`,
        `tar@far=F_se` for each of `fars`.
    Raises:
        ValueError: as `evaluate_metric`.
    """
    accuracies = fold_accuracies(scores, same, fold)
    area = evaluate_metric("auc", scores, same, fold, num_bootstrap)
    report = {
        "accuracy": float(accuracies.mean()),
        "accuracy_se": float(np.std(accuracies, ddof=1) / np.sqrt(len(accuracies))),
        "threshold": best_threshold(scores, same),
        "auc": area.value,
        "auc_se": area.standard_error,
    }
    points = roc_points(scores, same, fars, num_bootstrap)
    for far, tar, error in zip(fars, points.tars, np.std(points.replicates, axis=0, ddof=1), strict=True):
        report[metric_name(far)] = float(tar)
        report[f"{metric_name(far)}_se"] = float(error)
    return report
