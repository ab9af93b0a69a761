"""Metrics against slow loops, cases worked out by hand, and statistics that are known."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_space.errors import UserError
from trainers.verification import (
    best_threshold,
    cosine_scores,
    evaluate_metric,
    fold_accuracies,
    paired_standard_error,
    roc_points,
    verification_report,
)
from trainers.verification import pairs as pairs_module
from trainers.verification.pairs import SortedPairs


def slow_ends(scores):
    far = 2 * (max(scores) - min(scores) + 1)
    return min(scores) - far, max(scores) + far


def slow_best_threshold(scores, same, ends):
    """Middle of the lowest interval of best accuracy, one candidate at a time."""
    bounds = [ends[0], *sorted(set(scores)), ends[1]]
    won = [
        sum((s > (a + b) / 2) == g for s, g in zip(scores, same, strict=True)) for a, b in itertools.pairwise(bounds)
    ]
    first = won.index(max(won))
    last = first
    while last + 1 < len(won) and won[last + 1] == won[first]:
        last += 1
    return (bounds[first] + bounds[last + 1]) / 2


def slow_accuracies(scores, same, fold, ends=None):
    result = []
    for held_out in sorted(set(fold)):
        rest = [i for i, f in enumerate(fold) if f != held_out]
        threshold = slow_best_threshold([scores[i] for i in rest], [same[i] for i in rest], ends or slow_ends(scores))
        own = [(scores[i] > threshold) == same[i] for i, f in enumerate(fold) if f == held_out]
        result.append(sum(own) / len(own))
    return result


def slow_auc(scores, same):
    genuine = [s for s, g in zip(scores, same, strict=True) if g]
    impostor = [s for s, g in zip(scores, same, strict=True) if not g]
    return sum((a > b) + 0.5 * (a == b) for a in genuine for b in impostor) / (len(genuine) * len(impostor))


def slow_d_prime(scores, same):
    genuine = [s for s, g in zip(scores, same, strict=True) if g]
    impostor = [s for s, g in zip(scores, same, strict=True) if not g]
    variance = max((np.var(genuine) + np.var(impostor)) / 2, 1e-12)
    return (np.mean(genuine) - np.mean(impostor)) / np.sqrt(variance)


def slow_tar(scores, same, far):
    genuine = [s for s, g in zip(scores, same, strict=True) if g]
    impostor = [s for s, g in zip(scores, same, strict=True) if not g]
    allowed = [t for t in impostor if sum(s > t for s in impostor) / len(impostor) <= far]
    return sum(s > min(allowed) for s in genuine) / len(genuine), min(allowed)


@st.composite
def pair_sets(draw, min_folds=2):
    """Few distinct scores, so that ties are common; both kinds present; every fold number in use."""
    num_folds = draw(st.integers(min_folds, 4))
    size = draw(st.integers(num_folds + 1, 24))
    scores = draw(st.lists(st.integers(-4, 4), min_size=size, max_size=size))
    same = draw(st.lists(st.booleans(), min_size=size, max_size=size).filter(lambda x: any(x) and not all(x)))
    fold = [i % num_folds for i in range(size)]
    return [s / 4 for s in scores], same, fold


def normal_scores(rng, num_folds=10, per_kind=300, shift=1.5):
    same = np.tile(np.repeat([True, False], per_kind), num_folds)
    fold = np.repeat(np.arange(num_folds), 2 * per_kind)
    return rng.normal(size=same.size) + shift * same, same, fold


# cosine_scores


def test_cosine_scores_equal_a_loop():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(7, 5)).astype(np.float32)
    left, right = rng.integers(7, size=20), rng.integers(7, size=20)
    wide = vectors.astype(np.float64)
    slow = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(wide[left], wide[right], strict=True)]
    np.testing.assert_allclose(cosine_scores(vectors, left, right), slow, atol=1e-14)


def test_cosine_scores_do_not_depend_on_the_block(monkeypatch):
    rng = np.random.default_rng(0)
    vectors, left, right = rng.normal(size=(9, 4)), rng.integers(9, size=50), rng.integers(9, size=50)
    whole = cosine_scores(vectors, left, right)
    monkeypatch.setattr(pairs_module, "BLOCK", 28)
    np.testing.assert_array_equal(cosine_scores(vectors, left, right), whole)


def test_cosine_of_zeros_is_zero_and_of_equals_at_most_one():
    vectors = np.array([[0.0, 0.0], [1e-30, 3e-30], [3e30, 1e30]])
    np.testing.assert_array_equal(cosine_scores(vectors, [0, 0], [0, 1]), [0.0, 0.0])
    scores = cosine_scores(vectors, [1, 2], [1, 2])
    assert (scores <= 1).all()
    np.testing.assert_allclose(scores, 1)


def test_cosine_scores_refuse_what_is_not_finite():
    with pytest.raises(ValueError, match="row that is not: 1"):
        cosine_scores([[1.0, 0.0], [np.nan, 0.0]], [0], [0])


# fast against slow


@given(pair_sets())
@settings(max_examples=60, deadline=None)
def test_values_equal_slow_loops(case):
    scores, same, fold = case
    assert best_threshold(scores, same) == pytest.approx(slow_best_threshold(scores, same, slow_ends(scores)))
    np.testing.assert_allclose(fold_accuracies(scores, same, fold), slow_accuracies(scores, same, fold), atol=1e-12)
    assert evaluate_metric("auc", scores, same, fold, 2).value == pytest.approx(slow_auc(scores, same), abs=1e-12)
    d_prime = evaluate_metric("d_prime", scores, same, fold, 2).value
    assert d_prime == pytest.approx(slow_d_prime(scores, same), rel=1e-6, abs=1e-9)
    for far in (0.01, 0.1, 0.29, 0.5, 0.9):
        points = roc_points(scores, same, [far], 2)
        assert (points.tars[0], points.thresholds[0]) == pytest.approx(slow_tar(scores, same, far), abs=1e-12)


@given(pair_sets())
@settings(max_examples=15, deadline=None)
def test_each_replicate_is_the_metric_of_the_resampled_pairs(case):
    scores, same, fold = (np.array(x) for x in case)
    [weights] = SortedPairs.checked(scores, same).resamples(3)
    order = np.argsort(scores, kind="stable")
    for metric in ("accuracy", "auc", "d_prime", "tar@far=0.3"):
        replicates = evaluate_metric(metric, scores, same, fold, 3).replicates
        for row in range(3):
            times = np.zeros(len(scores), int)
            times[order[same[order]]], times[order[~same[order]]] = weights[0][row], weights[1][row]
            picked = np.repeat(np.arange(len(scores)), times)
            if metric == "accuracy":
                if len(set(fold[picked])) == 1:
                    continue  # the loop has no other fold to take a threshold from
                slow = np.mean(slow_accuracies(scores[picked], same[picked], fold[picked], slow_ends(scores)))
            elif metric == "auc":
                slow = slow_auc(scores[picked], same[picked])
            elif metric == "d_prime":
                slow = slow_d_prime(scores[picked], same[picked])
            else:
                slow = slow_tar(scores[picked], same[picked], 0.3)[0]
            assert replicates[row] == pytest.approx(slow, rel=1e-6 if metric == "d_prime" else 0, abs=1e-9)


# by hand


def test_perfect_separation():
    scores, same, fold = [0.9, 0.1, 0.8, 0.2, 0.7, 0.3], [True, False] * 3, [0, 0, 1, 1, 2, 2]
    report = verification_report(scores, same, fold, ("accuracy", "auc", "tar@far=0.5", "tar@far=1e-3"), 20)
    assert report.pop("threshold") == pytest.approx(0.5)
    assert report == {
        "accuracy": 1.0, "accuracy_se": 0.0, "auc": 1.0, "auc_se": 0.0,
        "tar@far=0.5": 1.0, "tar@far=0.5_se": 0.0, "tar@far=0.001": 1.0, "tar@far=0.001_se": 0.0,
    }  # fmt: skip


def test_perfectly_wrong_scores():
    scores, same, fold = [0.1, 0.9, 0.2, 0.8], [True, False] * 2, [0, 0, 1, 1]
    assert evaluate_metric("auc", scores, same, fold, 2).value == 0.0
    # half right at best: accept everything, the lowest of the two equally good choices
    np.testing.assert_array_equal(fold_accuracies(scores, same, fold), [0.5, 0.5])
    assert best_threshold(scores, same) < 0.1


def test_all_scores_equal():
    scores, same, fold = [0.5] * 6, [True, True, True, False, False, False], [0, 1, 2, 0, 1, 2]
    report = verification_report(scores, same, fold, ("accuracy", "auc", "tar@far=0.1", "tar@far=0.9"), 10)
    assert report["auc"] == 0.5
    assert report["auc_se"] == 0.0
    assert report["tar@far=0.9"] == 0.0, "accepting the tie would be a FAR of 1"
    assert report["accuracy"] == 0.5


def test_all_genuine_scores_equal():
    scores = np.array([0.5, 0.5, 0.5, 0.1, 0.5, 0.9])
    same, fold = np.array([True, True, True, False, False, False]), np.array([0, 1, 2, 0, 1, 2])
    assert evaluate_metric("auc", scores, same, fold, 2).value == pytest.approx((1 + 0.5 + 0) / 3)
    points = roc_points(scores, same, [0.2, 0.34, 0.67], 2)
    np.testing.assert_array_equal(points.thresholds, [0.9, 0.5, 0.1])
    np.testing.assert_array_equal(points.tars, [0, 0, 1])


@pytest.mark.parametrize("genuine", [1, 99])
def test_one_sided_sets(genuine):
    rng = np.random.default_rng(genuine)
    same = np.arange(100) < genuine
    scores, fold = rng.normal(size=100) + 3 * same, np.arange(100) % 10
    assert evaluate_metric("auc", scores, same, fold, 2).value == pytest.approx(slow_auc(scores, same))
    np.testing.assert_allclose(fold_accuracies(scores, same, fold), slow_accuracies(scores, same, fold))
    assert np.isfinite(evaluate_metric("accuracy", scores, same, fold, 20).replicates).all()


def test_far_below_one_comparison_puts_the_threshold_at_the_highest_impostor():
    scores, same = [0.7, 0.6, 0.9, 0.1, 0.2, 0.7], [True] * 3 + [False] * 3
    points = roc_points(scores, same, [0.3, 1 / 3], 2)
    np.testing.assert_array_equal(points.thresholds, [0.7, 0.2])
    np.testing.assert_allclose(points.tars, [1 / 3, 1.0])


def test_far_that_is_a_whole_number_of_comparisons_uses_them_all():
    # 0.29 * 100 is 28.999999999999996
    scores, same = np.arange(101) / 100.0, np.arange(101) == 100
    assert roc_points(scores, same, [0.29], 2).thresholds[0] == 0.70


def test_threshold_between_neighbouring_floats_tells_them_apart():
    low = 0.3
    high = np.nextafter(low, 1)
    assert low <= best_threshold([low, high], [False, True]) < high
    assert low <= best_threshold([low, np.nextafter(high, 1), high], [False, True, True]) < high


def test_accuracy_error_is_over_folds():
    # accuracies 1, 1, 0.5: the last fold holds an impostor above the threshold of the others
    scores, same, fold = [0.8, 0.2, 0.8, 0.2, 0.8, 0.9], [True, False] * 3, [0, 0, 1, 1, 2, 2]
    np.testing.assert_array_equal(fold_accuracies(scores, same, fold), [1, 1, 0.5])
    report = verification_report(scores, same, fold, ("accuracy",), 2)
    assert report["accuracy_se"] == pytest.approx(np.sqrt(((1 / 6) ** 2 * 2 + (1 / 3) ** 2) / 2) / np.sqrt(3))


def test_fold_labels_need_not_start_at_zero():
    rng = np.random.default_rng(5)
    scores, same, fold = normal_scores(rng, num_folds=3, per_kind=20)
    np.testing.assert_array_equal(fold_accuracies(scores, same, fold), fold_accuracies(scores, same, fold * 3 + 5))


# statistics


def test_bootstrap_errors_agree_with_theory():
    rng = np.random.default_rng(1)
    scores, same, fold = normal_scores(rng, per_kind=150)
    points = roc_points(scores, same, [0.1], 400)
    fixed = (scores[same] > points.thresholds[0]).mean()
    binomial = np.sqrt(fixed * (1 - fixed) / same.sum())
    # density ratio at the threshold times the binomial error of the FAR adds to it (delta method)
    ratio = np.exp(1.5 * points.thresholds[0] - 1.5**2 / 2)
    expected = np.hypot(binomial, ratio * np.sqrt(0.1 * 0.9 / (~same).sum()))
    assert points.replicates.std(ddof=1) == pytest.approx(expected, rel=0.3)
    accuracy = evaluate_metric("accuracy", scores, same, fold, 200)
    assert accuracy.standard_error == pytest.approx(np.sqrt(accuracy.value * (1 - accuracy.value) / same.size), rel=0.3)


def test_binomial_error_of_tar_with_a_fixed_threshold():
    # impostors all equal, so that the threshold cannot move: exactly binomial
    same = np.arange(1000) < 500
    scores = np.where(same, np.arange(1000) % 4 > 0, 0.5).astype(float)
    score = evaluate_metric("tar@far=0.01", scores, same, np.arange(1000) % 2, 2000)
    assert score.value == 0.75
    assert score.standard_error == pytest.approx(np.sqrt(0.75 * 0.25 / 500), rel=0.06)
    assert score.replicates.mean() == pytest.approx(0.75, abs=3 * score.standard_error / np.sqrt(2000))


@pytest.mark.parametrize("metric", ["accuracy", "auc", "d_prime", "tar@far=1e-1"])
def test_candidates_share_resamples(metric):
    rng = np.random.default_rng(2)
    scores, same, fold = normal_scores(rng, per_kind=100)
    first = evaluate_metric(metric, scores, same, fold, 50)
    second = evaluate_metric(metric, scores + rng.normal(size=scores.size) * 0.01, same, fold, 50)
    assert 0 < paired_standard_error(first.replicates, second.replicates) < first.standard_error / 2
    assert paired_standard_error(first.replicates, first.replicates) == 0
    moved = evaluate_metric(metric, scores * 2 + 1, same, fold, 50)
    np.testing.assert_allclose(moved.replicates, first.replicates, rtol=1e-9 if metric == "d_prime" else 0)


def test_weights_belong_to_pairs_of_the_file_whatever_their_scores():
    rng = np.random.default_rng(6)
    same = rng.random(40) < 0.4
    weights_in_file = []
    for scores in rng.normal(size=(2, 40)):
        sorted_pairs = SortedPairs.checked(scores, same)
        [(genuine, impostor)] = sorted_pairs.resamples(5)
        weights = np.empty((5, 40), int)
        weights[:, sorted_pairs.order[sorted_pairs.same]] = genuine
        weights[:, sorted_pairs.order[~sorted_pairs.same]] = impostor
        weights_in_file.append(weights)
    np.testing.assert_array_equal(*weights_in_file)
    np.testing.assert_array_equal(weights_in_file[0][:, same].sum(axis=1), same.sum())
    np.testing.assert_array_equal(weights_in_file[0][:, ~same].sum(axis=1), (~same).sum())
    assert len(np.unique(weights_in_file[0], axis=0)) == 5


@pytest.mark.parametrize("metric", ["accuracy", "auc", "tar@far=1e-1"])
def test_chance_level(metric):
    rng = np.random.default_rng(3)
    scores, same, fold = normal_scores(rng, per_kind=100, shift=0)
    score = evaluate_metric(metric, scores, same, fold, 50)
    assert score.value == pytest.approx(0.1 if "tar" in metric else 0.5, abs=4 * score.standard_error)
    assert score.standard_error < 0.03


@pytest.mark.parametrize("metric", ["accuracy", "auc", "tar@far=0.05"])
def test_resamples_depend_on_neither_block_nor_number(metric, monkeypatch):
    rng = np.random.default_rng(4)
    case = normal_scores(rng, num_folds=3, per_kind=11)
    whole = evaluate_metric(metric, *case, 20)
    assert whole.standard_error == np.std(whole.replicates, ddof=1)
    np.testing.assert_array_equal(evaluate_metric(metric, *case, 7).replicates, whole.replicates[:7])
    monkeypatch.setattr(pairs_module, "BLOCK", 3 * 66)
    np.testing.assert_array_equal(evaluate_metric(metric, *case, 20).replicates, whole.replicates)


# refusals


@pytest.mark.parametrize(
    ("scores", "same", "fold", "match"),
    [
        ([0.1, np.nan], [True, False], [0, 1], "finite, got nan at pair 1"),
        ([0.1, -np.inf], [True, False], [0, 1], "finite, got -inf at pair 1"),
        ([0.1, 0.2], [True, True], [0, 1], "genuine and impostor pairs are needed, got 2 of 2 genuine"),
        ([0.1, 0.2], [False, False], [0, 1], "genuine and impostor"),
        ([], [], [], "genuine and impostor"),
        ([0.1, 0.2], [True], [0, 1], r"both be \[num_pairs\]"),
        ([0.1, 0.2], [True, False], [0], r"fold must be \[num_pairs\] = \[2\]"),
        ([0.1, 0.2], [True, False], [3, 3], r"at least 2 folds are needed.*\[3\]"),
    ],
)
def test_unusable_arrays_are_refused(scores, same, fold, match):
    with pytest.raises(ValueError, match=match):
        evaluate_metric("accuracy", scores, same, fold, 10)


def test_unusable_settings_are_refused():
    case = [0.1, 0.2], [True, False], [0, 1]
    with pytest.raises(UserError, match="`accuracy`, `auc`, `d_prime` or `tar@far=F`, .*got 'f1'"):
        evaluate_metric("f1", *case, 10)
    with pytest.raises(ValueError, match="num_bootstrap must be at least 2, got 1"):
        evaluate_metric("auc", *case, 1)
    with pytest.raises(ValueError, match=r"in \[0, 1\), got \[1.5\]"):
        roc_points(case[0], case[1], [1.5], 2)
