"""All pairs in blocks, with a bootstrap over people, against slow loops over every pair."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_space.errors import UserError
from trainers.metrics import Metric
from trainers.verification import AllPairsMetrics, evaluate_metric, paired_standard_error
from trainers.verification import all_pairs as all_pairs_module
from trainers.verification import identity_bootstrap as bootstrap_module
from trainers.verification.all_pairs import STEPS_PER_UNIT, AllPairs

FARS = (0.01, 0.1, 0.29, 0.5, 0.9)


def slow_pairs(vectors, labels):
    """(rounded cosine, same person, both people) of every pair."""
    units = [v / (np.linalg.norm(v) or 1.0) for v in np.asarray(vectors, float)]
    for i, j in itertools.combinations(range(len(units)), 2):
        yield (
            round(float(units[i] @ units[j]) * STEPS_PER_UNIT) / STEPS_PER_UNIT,
            labels[i] == labels[j],
            labels[i],
            labels[j],
        )


def weighted(pairs, weight):
    """([score, weight] of genuine, [score, weight] of impostor pairs) for weights of people."""
    genuine = [(s, weight[a]) for s, same, a, _ in pairs if same and weight[a]]
    impostor = [(s, weight[a] * weight[b]) for s, same, a, b in pairs if not same and weight[a] * weight[b]]
    return genuine, impostor


def slow_metrics(genuine, impostor):
    g, n = sum(w for _, w in genuine), sum(w for _, w in impostor)
    thresholds = sorted({s for s, _ in genuine + impostor})
    result = {}
    for far in FARS:
        allowed = [t for t, _ in impostor if sum(w for s, w in impostor if s > t) / n <= far]
        result[f"tar@far={far}"] = sum(w for s, w in genuine if s > min(allowed)) / g
    won = sum(w * v * ((a > b) + 0.5 * (a == b)) for a, w in genuine for b, v in impostor)
    result["auc"] = won / (g * n)
    result["accuracy"] = max(
        sum(w for s, w in genuine if s > t) / g / 2 + sum(w for s, w in impostor if s <= t) / n / 2
        for t in [-2, *thresholds]
    )
    moments = []
    for side, total in ((genuine, g), (impostor, n)):
        mean = sum(s * w for s, w in side) / total
        moments.append((mean, sum(w * (s - mean) ** 2 for s, w in side) / total))
    (m1, v1), (m2, v2) = moments
    result["d_prime"] = (m1 - m2) / np.sqrt(max((v1 + v2) / 2, 1e-12))
    return result


def parsed(*names):
    return [Metric.parse(f"all:{name}") for name in names]


NAMES = (*(f"tar@far={far}" for far in FARS), "auc", "accuracy", "d_prime")


@st.composite
def labelled_pictures(draw):
    """Few distinct directions, so that ties are common; people in any order; a person with two pictures."""
    size = draw(st.integers(3, 14))
    labels = draw(st.lists(st.integers(0, 4), min_size=size, max_size=size).filter(lambda x: 1 < len(set(x)) < len(x)))
    part = st.sampled_from([-1, 1])  # cosines are multiples of 1/2, exact in any arithmetic
    vectors = draw(st.lists(st.tuples(part, part, part, part), min_size=size, max_size=size))
    return np.array(vectors, np.float32), labels


def exact_faces(rng, num_people=40, most=5):
    """Pictures whose cosines are multiples of 1/32, exact in any arithmetic and in any order of it."""
    vectors, labels = faces(rng, num_people, dim=64, most=most)
    return np.sign(vectors), labels


def faces(rng, num_people=40, spread=1.0, dim=6, most=5):
    """Pictures around a direction for each person."""
    counts = rng.integers(1, most + 1, num_people)
    labels = rng.permutation(np.repeat(np.arange(num_people), counts))
    centres = rng.normal(size=(num_people, dim))
    return (centres[labels] + spread * rng.normal(size=(len(labels), dim))).astype(np.float32), labels


# against slow loops


@given(labelled_pictures())
@settings(max_examples=12, deadline=None)
def test_values_equal_slow_loops(case):
    vectors, labels = case
    expected = slow_metrics(*weighted(list(slow_pairs(vectors, labels)), dict.fromkeys(labels, 1)))
    scores = AllPairsMetrics(labels, 2).evaluate(vectors, parsed(*NAMES))
    for name, score in zip(NAMES, scores, strict=True):
        assert score.value == pytest.approx(expected[name], rel=1e-4 if name == "d_prime" else 0, abs=1e-9), name


@given(labelled_pictures())
@settings(max_examples=25, deadline=None)
def test_each_replicate_of_tar_is_tar_of_the_weighted_pairs(case):
    vectors, labels = case
    metrics = AllPairsMetrics(labels, 5)
    scores = metrics.evaluate(vectors, parsed(*NAMES[: len(FARS)]))
    pairs, people = list(slow_pairs(vectors, labels)), sorted(set(labels))
    for row, weight in enumerate(metrics.weights):
        expected = slow_metrics(*weighted(pairs, dict(zip(people, weight.tolist(), strict=True))))
        for name, score in zip(NAMES, scores, strict=False):
            assert score.replicates[row] == pytest.approx(expected[name], abs=1e-12), name


def test_other_replicates_are_those_of_the_weighted_pairs_to_first_order(monkeypatch):
    rng = np.random.default_rng(0)
    vectors, labels = faces(rng, num_people=12, spread=0.8)
    pairs, names, small = list(slow_pairs(vectors, labels)), ("auc", "accuracy", "d_prime"), 1e-4
    directions = rng.normal(size=(4, 12))
    metrics = AllPairsMetrics(labels, 4)
    metrics.weights = 1 + small * directions
    scores = metrics.evaluate(vectors, parsed(*names))
    for row, weight in enumerate(metrics.weights):
        expected = slow_metrics(*weighted(pairs, dict(enumerate(weight.tolist()))))
        for name, score in zip(names, scores, strict=True):
            slope, expected_slope = (
                x / small for x in (score.replicates[row] - score.value, expected[name] - score.value)
            )
            assert slope == pytest.approx(expected_slope, rel=0.01, abs=2e-3), name


# blocks and headroom


def test_nothing_depends_on_the_block(monkeypatch):
    vectors, labels = exact_faces(np.random.default_rng(1))
    whole = AllPairsMetrics(labels, 20).evaluate(vectors, parsed(*NAMES))
    for module in (all_pairs_module, bootstrap_module):
        monkeypatch.setattr(module, "BLOCK", 150)
    parts = AllPairsMetrics(labels, 20).evaluate(vectors, parsed(*NAMES))
    for a, b in zip(whole, parts, strict=True):
        assert b.value == pytest.approx(a.value, abs=1e-12)
        np.testing.assert_allclose(b.replicates, a.replicates, atol=1e-12)


def test_a_threshold_below_the_kept_pairs_is_looked_for_further_down(monkeypatch):
    vectors, labels = exact_faces(np.random.default_rng(2), num_people=60)
    names = ("tar@far=0.02", "tar@far=0.1")
    expected = AllPairsMetrics(labels, 50).evaluate(vectors, parsed(*names))
    asked, real = [], AllPairs.top

    def top(self, units, num):
        asked.append(num)
        return real(self, units, num)

    monkeypatch.setattr(AllPairs, "top", top)
    monkeypatch.setattr(bootstrap_module, "HEADROOM", 0.1)
    monkeypatch.setattr(bootstrap_module, "LEAST_KEPT", 1)
    found = AllPairsMetrics(labels, 50).evaluate(vectors, parsed(*names))
    assert len(asked) >= 3
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(a.replicates, b.replicates)


@pytest.mark.parametrize("block", [40, 10_000])
def test_top_pairs_are_the_most_alike(monkeypatch, block):
    vectors, labels = exact_faces(np.random.default_rng(3))
    monkeypatch.setattr(all_pairs_module, "BLOCK", block)
    pairs = AllPairs(labels)
    for num in (1, 17, 200, pairs.num_impostor):
        codes, left, right = pairs.top(pairs.units(vectors), num)
        impostors = sorted((s for s, same, *_ in slow_pairs(vectors, labels) if not same), reverse=True)
        np.testing.assert_array_equal((codes - 1) / STEPS_PER_UNIT - 1, impostors[:num])
        assert (left != right).all()


# how many pairs


def test_counts_of_pairs():
    labels = [7, 3, 7, 7, 5, 3]
    pairs = AllPairs(labels)
    assert (pairs.num_identities, pairs.num_genuine, pairs.num_impostor) == (3, 4, 11)
    weights = np.array([[1, 1, 1], [2, 0, 1], [0, 3, 0]])  # of 3, 5, 7
    slow = [sum(w[a] * w[b] for a, b in itertools.combinations([0, 0, 1, 2, 2, 2], 2) if a != b) for w in weights]
    np.testing.assert_array_equal(pairs.impostor_weight(weights), slow)
    np.testing.assert_array_equal(pairs.impostor_counts, [2 * 4, 1 * 5, 3 * 3])
    np.testing.assert_array_equal(pairs.genuine_counts, [1, 0, 3])


@pytest.mark.parametrize("num", [1, 13, 399, 10**9])
def test_a_sample_of_impostor_pairs(num):
    labels = faces(np.random.default_rng(4), num_people=15)[1]
    everything, pairs = AllPairs(labels), AllPairs(labels, num)
    assert pairs.num_impostor == min(num, everything.num_impostor)
    if pairs.sample is None:
        return
    drawn = list(zip(*(side.tolist() for side in pairs.sample), strict=True))
    assert len(set(drawn)) == num
    assert all(i < j and pairs.identity[i] != pairs.identity[j] for i, j in drawn)
    np.testing.assert_array_equal(pairs.sample, AllPairs(labels, num).sample)
    weights = np.random.default_rng(0).integers(0, 3, (4, pairs.num_identities))
    slow = [sum(w[pairs.identity[i]] * w[pairs.identity[j]] for i, j in drawn) for w in weights]
    np.testing.assert_array_equal(pairs.impostor_weight(weights), slow)


def test_every_impostor_pair_is_drawn_about_as_often():
    labels, counts = np.repeat(np.arange(6), 2), {}
    for seed in range(600):
        all_pairs_module.SAMPLE_KEY, before = seed, all_pairs_module.SAMPLE_KEY
        for pair in zip(*AllPairs(labels, 7).sample, strict=True):
            counts[pair] = counts.get(pair, 0) + 1
        all_pairs_module.SAMPLE_KEY = before
    assert len(counts) == 60
    assert 40 < min(counts.values()) <= max(counts.values()) < 110  # 70 on average


def test_metrics_on_a_sample_are_near_those_on_all_and_exact_on_the_sample():
    vectors, labels = faces(np.random.default_rng(5), num_people=60)
    whole = AllPairsMetrics(labels, 20).evaluate(vectors, parsed(*NAMES))
    metrics = AllPairsMetrics(labels, 20, max_impostors=3000)
    part = metrics.evaluate(vectors, parsed(*NAMES))
    assert metrics.pairs.num_impostor == 3000 < AllPairs(labels).num_impostor
    units = metrics.pairs.units(vectors).numpy().astype(float)
    ends = [(units[side], metrics.pairs.identity[side]) for side in metrics.pairs.sample]
    cosines = np.rint((ends[0][0] * ends[1][0]).sum(1) * STEPS_PER_UNIT) / STEPS_PER_UNIT
    impostor = list(zip(cosines, ends[0][1] * 0 + 1, strict=True))
    genuine = [(s, 1) for s, same, *_ in slow_pairs(vectors, labels) if same]
    scores = np.array([s for s, _ in genuine + impostor])
    same = np.arange(len(scores)) < len(genuine)
    for name, a, b in zip(NAMES, whole, part, strict=True):
        assert b.value == pytest.approx(a.value, abs=3 * a.standard_error + 1e-9), name
        if name != "accuracy":
            expected = evaluate_metric(name, scores, same, np.arange(len(scores)) % 2, 2).value
            assert b.value == pytest.approx(expected, abs=1e-5), name


# limits


def test_a_collapsed_model_tells_nobody_apart():
    labels = np.repeat(np.arange(30), 3)
    vectors = np.random.default_rng(6).normal(size=(1, 100)).astype(np.float32) * np.ones((90, 1), np.float32)
    vectors *= np.random.default_rng(7).uniform(0.5, 2, size=(90, 1)).astype(np.float32)
    tar, auc, accuracy, d_prime = AllPairsMetrics(labels, 10).evaluate(
        vectors, parsed("tar@far=0.1", "auc", "accuracy", "d_prime")
    )
    assert (tar.value, auc.value, accuracy.value, d_prime.value) == (0, 0.5, 0.5, 0)
    assert (tar.standard_error, auc.standard_error) == (0, 0)


def test_perfect_separation():
    vectors = np.eye(5, dtype=np.float32).repeat(3, axis=0)
    scores = AllPairsMetrics(np.repeat(np.arange(5), 3), 10).evaluate(vectors, parsed(*NAMES))
    assert [s.value for s in scores[:-1]] == [1.0] * (len(NAMES) - 1)
    assert 1e5 < scores[-1].value < 1e7


def test_zero_embeddings_are_like_nobody():
    vectors = np.array([[1, 0], [1, 0], [0, 0], [0, 0]], np.float32)
    [score] = AllPairsMetrics([0, 0, 1, 1], 2).evaluate(vectors, parsed("auc"))
    assert score.value == 0.75  # genuine scores 1 and 0, all impostor scores 0


# statistics


def test_resamples_are_common_to_candidates_and_their_number_only_adds_more():
    vectors, labels = faces(np.random.default_rng(8))
    metrics, names = AllPairsMetrics(labels, 40), parsed("tar@far=0.05", "auc", "d_prime")
    moved = (vectors + 0.02 * np.random.default_rng(9).normal(size=vectors.shape)).astype(np.float32)
    fewer = AllPairsMetrics(labels, 7).evaluate(vectors, names)
    for a, b, c in zip(metrics.evaluate(vectors, names), metrics.evaluate(moved, names), fewer, strict=True):
        assert 0 < paired_standard_error(a.replicates, b.replicates) < a.standard_error / 2
        np.testing.assert_array_equal(c.replicates, a.replicates[:7])
        assert a.standard_error == np.std(a.replicates, ddof=1)


def test_a_resample_always_has_both_kinds_of_pairs():
    metrics = AllPairsMetrics([0, 0, 1], 50)  # half of all draws are of one person alone
    np.testing.assert_array_equal(metrics.weights, np.ones((50, 2)))


@pytest.mark.parametrize("name", ["tar@far=0.01", "auc", "d_prime", "accuracy"])
def test_errors_are_those_of_drawing_other_people(name):
    """The spread over 60 sets of other people, against the error that is claimed on each of them."""
    values, errors = [], []
    for seed in range(60):
        vectors, labels = faces(np.random.default_rng(seed), num_people=80, spread=0.5)
        [score] = AllPairsMetrics(labels, 60).evaluate(vectors, parsed(name))
        values.append(score.value)
        errors.append(score.standard_error)
    ratio = np.sqrt(np.mean(np.square(errors))) / np.std(values, ddof=1)
    assert 0.75 < ratio < 1.6, ratio


# refusals


def test_unusable_arrays_are_refused():
    with pytest.raises(ValueError, match="0 genuine of 3 pictures of 3 people"):
        AllPairs([0, 1, 2])
    with pytest.raises(
        ValueError, match="genuine and impostor pairs are needed, got 3 genuine of 3 pictures of 1 people"
    ):
        AllPairs([4, 4, 4])
    with pytest.raises(ValueError, match="num_bootstrap must be at least 2, got 1"):
        AllPairsMetrics([0, 0, 1], 1)
    metrics = AllPairsMetrics([0, 0, 1], 2)
    with pytest.raises(ValueError, match=r"embeddings must be \[3, d\], got \[2, 4\]"):
        metrics.evaluate(np.ones((2, 4)), parsed("auc"))
    with pytest.raises(ValueError, match="row that is not: 2"):
        metrics.evaluate(np.array([[1.0], [1.0], [np.inf]]), parsed("auc"))
    with pytest.raises(ValueError, match="one on listed pairs, got 'all:auc'"):
        evaluate_metric("all:auc", [0.1, 0.2], [True, False], [0, 1], 2)


@pytest.mark.parametrize("name", ["all:", "all:f1", "tar", "tar@far=", "tar@far=1.2.3", "ALL", "all:threshold"])
def test_unknown_metrics_are_refused(name):
    with pytest.raises(UserError, match="record must be `accuracy`, .* got "):
        Metric.parse(name, "record")


@pytest.mark.parametrize("far", ["0", "1", "1.5", "0.0"])
def test_rates_that_are_none_are_refused(far):
    with pytest.raises(UserError, match=r"the far in metric must be in \(0, 1\), got "):
        Metric.parse(f"all:tar@far={far}")


def test_names_of_metrics():
    for text, name in (
        ("all:tar@far=1e-4", "all:tar@far=0.0001"), ("tar@far=.1", "tar@far=0.1"),
        ("all:tar@far=1e-05", "all:tar@far=1e-05"), ("d_prime", "d_prime"), ("all:accuracy", "all:accuracy"),
    ):  # fmt: skip
        assert str(Metric.parse(text)) == name
        assert Metric.parse(name) == Metric.parse(text)


def test_allowed_counts_are_exact():
    totals = np.arange(1, 500)
    for far in (0.29, 0.1, 1 / 3):
        slow = [max(k for k in range(t + 1) if k / t <= far) for t in totals.tolist()]
        np.testing.assert_array_equal(bootstrap_module._allowed(far, totals), slow)
    assert Fraction(29, 100) == Fraction(int(bootstrap_module._allowed(0.29, np.array([100]))[0]), 100)
