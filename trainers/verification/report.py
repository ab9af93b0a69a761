"""Metrics on listed pairs by name, each with its standard error."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainers.metrics import NAMES, Metric
from trainers.verification.folds import accuracy_rows, best_threshold, fold_accuracies, fold_numbers
from trainers.verification.pairs import Floats, Ints, SortedPairs
from trainers.verification.roc import auc_rows, roc_points
from trainers.verification.separation import d_prime_rows


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
    return str(Metric(kind="tar", far=float(far)))


def evaluate_metric(
    metric: str, scores: npt.ArrayLike, same: npt.ArrayLike, fold: npt.ArrayLike, num_bootstrap: int
) -> Score:
    """One metric with its bootstrap.

    Args:
        metric: `accuracy` (mean of `fold_accuracies`), `auc`, `d_prime`, `tar@far=F` or that of a plug-in.
        scores: [num_pairs] higher is more alike.
        same: [num_pairs] bool, genuine or impostor.
        fold: [num_pairs] int, any labels; read by `accuracy` alone.
        num_bootstrap: resamples, at least 2; the first k of n are the k of k.
    Raises:
        UserError: unknown metric.
        ValueError: scores that are not finite, no genuine or no impostor pair, arrays that do not fit together, or a
            metric on all pairs.
    """
    asked = Metric.parse(metric)
    if asked.all_pairs:
        raise ValueError(f"metric must be one on listed pairs, got {metric!r}")
    pairs = SortedPairs.checked(scores, same)
    if asked.kind == "accuracy":
        folds = fold_numbers(fold, len(pairs.scores))
        value = float(accuracy_rows(pairs, folds, *pairs.once()).mean())
        # a resample of few pairs may hold none of a fold, which is then left out of its mean
        parts = [np.nanmean(accuracy_rows(pairs, folds, *w), axis=1) for w in pairs.resamples(num_bootstrap)]
    elif asked.far is None:
        rows_of = {"auc": auc_rows, "d_prime": d_prime_rows}.get(asked.kind) or plugin_rows(asked.kind)
        value = float(rows_of(pairs, *pairs.once())[0])
        parts = [rows_of(pairs, *w) for w in pairs.resamples(num_bootstrap)]
    else:
        points = roc_points(scores, same, [asked.far], num_bootstrap)
        value, parts = float(points.tars[0]), [points.replicates[:, 0]]
    replicates = np.concatenate(parts)
    return Score(value, float(np.std(replicates, ddof=1)), replicates)


def plugin_rows(path: str) -> Callable[[SortedPairs, Ints, Ints], Floats]:
    """A plug-in's metric, called once for each resample, with each pair as often as it was drawn."""
    metric = NAMES.plugin(path)

    def rows_of(pairs: SortedPairs, genuine: Ints, impostor: Ints) -> Floats:
        counts = np.empty((len(genuine), len(pairs.scores)), np.int64)
        counts[:, pairs.same], counts[:, ~pairs.same] = genuine, impostor
        values = [metric(np.repeat(pairs.scores, row), np.repeat(pairs.same, row)) for row in counts]
        return np.array(values, np.float64)

    return rows_of


def verification_report(
    scores: npt.ArrayLike, same: npt.ArrayLike, fold: npt.ArrayLike, metrics: Sequence[str], num_bootstrap: int
) -> dict[str, float]:
    """Some metrics of one set of listed pairs, for the record.

    Args:
        metrics: as `evaluate_metric` takes them.
    Returns:
        `NAME` and `NAME_se` for each, the names spelled as `metric_name` does. `accuracy_se` is the standard deviation
        over folds / sqrt(number of folds), the form that LFW results are given in; `threshold`, the best over all
        pairs, comes with it.
    Raises:
        UserError, ValueError: as `evaluate_metric`.
    """
    asked = [Metric.parse(name) for name in metrics]
    fars = [m.far for m in asked if m.far is not None]
    points = roc_points(scores, same, fars, num_bootstrap)
    errors = np.std(points.replicates, axis=0, ddof=1)
    tars = dict(zip(fars, zip(points.tars.tolist(), errors.tolist(), strict=True), strict=True))
    report: dict[str, float] = {}
    for metric in asked:
        name = str(metric)
        if metric.kind == "accuracy":
            accuracies = fold_accuracies(scores, same, fold)
            report[name] = float(accuracies.mean())
            report[f"{name}_se"] = float(np.std(accuracies, ddof=1) / np.sqrt(len(accuracies)))
            report["threshold"] = best_threshold(scores, same)
        elif metric.far is not None:
            report[name], report[f"{name}_se"] = tars[metric.far]
        else:
            score = evaluate_metric(name, scores, same, fold, num_bootstrap)
            report[name], report[f"{name}_se"] = score.value, score.standard_error
    return report
