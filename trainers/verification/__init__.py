"""How well scores of picture pairs tell one person from two: accuracy over folds, AUC, d', TAR at a FAR.

A pair is accepted if its score is *greater* than the threshold. Genuine pairs show one person, impostor pairs two.
Everything is exact: thresholds come from sorted scores, never from a grid.

Pairs are either listed in a file or all pairs of labelled pictures; for the latter see `identity_bootstrap`.
Standard errors on listed pairs come from a stratified bootstrap. Resample r draws genuine and impostor pairs with
replacement, each kind as many as there are, from a fixed key. So all candidates that are scored on the same pairs see
the same resamples, and the difference of two candidates has the standard error of the difference of their replicates.
"""

from trainers.verification.folds import best_threshold, fold_accuracies, fold_thresholds
from trainers.verification.identity_bootstrap import AllPairsMetrics
from trainers.verification.pairs import cosine_scores
from trainers.verification.report import (
    Score,
    evaluate_metric,
    metric_name,
    paired_standard_error,
    verification_report,
)
from trainers.verification.roc import RocPoints, roc_points

__all__ = [
    "AllPairsMetrics",
    "RocPoints",
    "Score",
    "best_threshold",
    "cosine_scores",
    "evaluate_metric",
    "fold_accuracies",
    "fold_thresholds",
    "metric_name",
    "paired_standard_error",
    "roc_points",
    "verification_report",
]
