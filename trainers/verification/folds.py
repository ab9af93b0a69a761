"""Accuracy over folds, each at a threshold from the other folds."""

import numpy as np
import numpy.typing as npt

from trainers.verification.pairs import Floats, Ints, SortedPairs, cumulative


def fold_accuracies(scores: npt.ArrayLike, same: npt.ArrayLike, fold: npt.ArrayLike) -> Floats:
    """Accuracy on each fold at the `best_threshold` of all other folds.

    Returns:
        [num_folds] in rising order of the fold labels.
    Source: Huang et al. 2007, Labeled Faces in the Wild, view 2.
    """
    pairs = SortedPairs.checked(scores, same)
    [accuracies] = accuracy_rows(pairs, fold_numbers(fold, len(pairs.scores)), *pairs.once())
    return np.asarray(accuracies, dtype=np.float64)


def fold_thresholds(scores: npt.ArrayLike, same: npt.ArrayLike, fold: npt.ArrayLike) -> Floats:
    """The threshold of each fold in `fold_accuracies`: the `best_threshold` of all other folds.

    Returns:
        [num_folds] in rising order of the fold labels.
    """
    pairs = SortedPairs.checked(scores, same)
    folds = fold_numbers(fold, len(pairs.scores))[pairs.order]
    gains = pairs.gains(*pairs.once())
    others = [folds != number for number in range(int(folds.max()) + 1)]
    thresholds = [threshold_rows(pairs.scores[rest], gains[:, rest], pairs.outside)[0] for rest in others]
    return np.asarray(thresholds, np.float64)


def best_threshold(scores: npt.ArrayLike, same: npt.ArrayLike) -> float:
    """Threshold with the best accuracy on all pairs.

    Every interval between two neighbouring distinct scores, and the two outside, is tried. The result is the middle of
    the lowest interval on which accuracy is best; equally good neighbours count as one interval.
    """
    pairs = SortedPairs.checked(scores, same)
    return float(threshold_rows(pairs.scores, pairs.gains(*pairs.once()), pairs.outside)[0])


def fold_numbers(fold: npt.ArrayLike, num_pairs: int) -> Ints:
    """[num_pairs] folds counted from 0 in rising order of their labels."""
    labels, numbers = np.unique(np.asarray(fold), return_inverse=True)
    if numbers.shape != (num_pairs,):
        raise ValueError(f"fold must be [num_pairs] = [{num_pairs}], got {numbers.shape}")
    if len(labels) < 2:
        raise ValueError(f"at least 2 folds are needed: a threshold comes from the other folds; got {labels.tolist()}")
    return np.asarray(numbers, dtype=np.int64)


def accuracy_rows(pairs: SortedPairs, folds: Ints, genuine: Ints, impostor: Ints) -> Floats:
    """[rows, folds] accuracy at the best threshold of the other folds; NaN where a resample holds no pair of a fold."""
    gains = pairs.gains(genuine, impostor)
    sorted_folds = folds[pairs.order]
    accuracies = np.empty((len(gains), int(folds.max()) + 1))
    for number in range(accuracies.shape[1]):
        held_out = sorted_folds == number
        thresholds = threshold_rows(pairs.scores[~held_out], gains[:, ~held_out], pairs.outside)
        own = gains[:, held_out]
        rejected = np.searchsorted(pairs.scores[held_out], thresholds, "right")[:, None]
        won = np.take_along_axis(cumulative(own), rejected, axis=1)[:, 0]
        accepted_all = -np.minimum(own, 0).sum(axis=1)  # correct decisions with the threshold below everything
        weight = np.abs(own).sum(axis=1)
        accuracies[:, number] = np.where(weight > 0, (accepted_all + won) / np.maximum(weight, 1), np.nan)
    return accuracies


def threshold_rows(scores: Floats, gains: Ints, outside: tuple[float, float]) -> Floats:
    """[rows] `best_threshold` of sorted scores for rows of gains."""
    starts = np.flatnonzero(np.diff(scores, prepend=-np.inf) > 0)  # of runs of equal scores
    won = cumulative(np.add.reduceat(gains, starts, axis=1))  # [rows, intervals]
    best = won == won.max(axis=1, keepdims=True)
    first = best.argmax(axis=1)
    falls = best[:, :-1] & ~best[:, 1:]
    last = np.where(falls.any(axis=1), falls.argmax(axis=1), best.shape[1] - 1)
    bounds = np.concatenate(([outside[0]], scores[starts], [outside[1]]))
    low, high = bounds[first], bounds[last + 1]
    middle = low + (high - low) / 2
    # between neighbouring floats there is no middle: what is above the lower one is accepted
    thresholds: Floats = np.where(middle < high, middle, low)
    return thresholds
