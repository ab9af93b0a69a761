"""Templates against slow loops and cases worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_space.errors import UserError
from trainers.identification import make_templates, verify_templates
from trainers.identification import templates as templates_module
from trainers.identification.units import pair_scores
from trainers.verification import roc_points
from trainers.verification.all_pairs import STEPS_PER_UNIT
from trainers.verification.roc_curve import roc_curve


def slow_templates(embeddings, templates, media, normalise):
    """{template: unit embedding}"""
    result = {}
    for template in set(templates):
        by_medium = {}
        for vector, owner, medium in zip(embeddings, templates, media, strict=True):
            if owner == template:
                length = np.linalg.norm(vector) or 1.0
                by_medium.setdefault(medium, []).append(np.asarray(vector) / (length if normalise else 1.0))
        mean = np.mean([np.mean(vectors, axis=0) for vectors in by_medium.values()], axis=0)
        result[template] = mean / (np.linalg.norm(mean) or 1.0)
    return result


@settings(max_examples=50, deadline=None)
@given(
    pictures=st.lists(st.tuples(st.integers(3, 6), st.integers(0, 3)), min_size=1, max_size=25),
    normalise=st.booleans(),
    rows=st.sampled_from([1, 4, 100]),
)
def test_templates_are_those_of_slow_loops(pictures, normalise, rows):
    owners, media = (list(column) for column in zip(*pictures, strict=True))
    embeddings = np.random.default_rng(len(pictures)).normal(size=(len(pictures), 5)) * 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(templates_module, "ROWS", rows)
        made = make_templates(embeddings, owners, media, normalise=normalise)
    slow = slow_templates(embeddings, owners, media, normalise)
    assert made.ids.tolist() == sorted(slow)
    np.testing.assert_allclose(made.units, [slow[i] for i in made.ids.tolist()], atol=1e-6)
    assert (made.units == make_templates(embeddings, owners, media, normalise=normalise).units).all()


def test_a_video_counts_as_much_as_a_still():
    """Medium 5 is a video of three frames along x, medium 9 a still along y of length 2."""
    embeddings = np.array([(1.0, 0), (0, 2), (1, 0), (1, 0), (0, 3)])
    ids, media = ["b", "b", "b", "b", "a"], [5, 9, 5, 5, 5]
    made = make_templates(embeddings, ids, media)
    assert made.ids.tolist() == ["a", "b"]
    np.testing.assert_allclose(made.units, [(0, 1), (0.5**0.5, 0.5**0.5)], atol=2**-24)
    weighed = make_templates(embeddings, ids, media, normalise=False)
    np.testing.assert_allclose(weighed.units, [(0, 1), (0.2**0.5, 0.8**0.5)], atol=2**-24)


def test_pictures_that_cancel_out_make_a_template_of_zeros():
    made = make_templates(np.array([(1.0, 0), (-1, 0), (1, 0)]), [1, 1, 2], [1, 2, 1])
    assert made.units.tolist() == [[0, 0], [1, 0]]
    assert pair_scores(made.units, made.units, [0, 1], [1, 1]).tolist() == [0, STEPS_PER_UNIT]


CORNERS = make_templates(np.array([(1.0, 0), (0.6, 0.8), (0, 1), (1, 0)]), [10, 20, 30, 40], [0, 0, 0, 0])


def step(cosine):
    return round(cosine * STEPS_PER_UNIT) / STEPS_PER_UNIT


def test_verification_by_hand():
    """Genuine 0.6 and 1; impostor 0, 0.8, 0.6 and 0.6."""
    left, right, same = [10, 10, 10, 20, 20, 40], [20, 40, 30, 30, 40, 20], [1, 1, 0, 0, 0, 0]
    report = verify_templates(CORNERS, left, right, same, fars=(1e-6, 0.25, 0.5, 0.75))
    assert (report.num_templates, report.num_genuine, report.num_impostor) == (4, 2, 4)
    points = [(p.comparisons, p.false_accepts, p.threshold, p.rate) for p in report.verification]
    assert points == [
        (4, 0, step(0.8), 0.5),  # below one comparison
        (4, 1, step(0.6), 0.5),  # a tie with the threshold is rejected
        (4, 2, step(0.6), 0.5),
        (4, 3, 0.0, 1.0),
    ]


def test_all_genuine_equal():
    report = verify_templates(CORNERS, [10, 40, 10], [40, 10, 30], [True, True, False])
    assert [p.rate for p in report.verification] == [1.0] * 6
    assert [p.far for p in report.verification] == [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1]


def test_rates_are_those_of_listed_pairs(monkeypatch):
    rng = np.random.default_rng(0)
    owners = np.repeat(np.arange(60), 4)
    made = make_templates(rng.normal(size=(240, 16)), owners, rng.integers(3, size=240))
    left, right = (rng.integers(60, size=5000) for _ in range(2))
    same = rng.random(5000) < 0.3
    monkeypatch.setattr(templates_module, "PAIRS", 700)
    done = []
    fars = (0.0, 1e-3, 0.1, 0.5)
    report = verify_templates(made, left, right, same, fars=fars, progress=lambda *numbers: done.append(numbers))
    cosines = pair_scores(made.units, made.units, left, right) / STEPS_PER_UNIT  # ids are rows
    expected = roc_points(cosines, same, fars, 2)
    assert [p.threshold for p in report.verification] == expected.thresholds.tolist()
    assert [p.rate for p in report.verification] == expected.tars.tolist()
    curve = roc_curve(cosines, same).corners()
    for name in ("fars", "tars", "thresholds"):
        np.testing.assert_array_equal(getattr(report.curve, name), getattr(curve, name))
    assert done[0] == (700, 5000)
    assert done[-1] == (5000, 5000)


@pytest.mark.parametrize(
    ("embeddings", "templates", "media", "message"),
    [
        (np.ones((2, 3)), [1], [1, 1], r"must be \[2\], one for each of one or more embeddings, got \[1\] and \[2\]"),
        (np.ones((2, 3)), [1, 1], [1], r"got \[2\] and \[1\]"),
        (np.ones((0, 3)), [], [], r"must be \[0\], one for each of one or more embeddings"),
        (np.ones(3), [1], [1], r"embeddings must be \[n, d\]"),
        (np.array([(1.0, 2), (np.nan, 1), (1, 1)]), [2, 1, 1], [0, 0, 0], "embeddings: row 1 must be finite"),
    ],
)
def test_bad_pictures_are_refused(embeddings, templates, media, message):
    with pytest.raises(UserError, match=message):
        make_templates(embeddings, templates, media)


@pytest.mark.parametrize(
    ("left", "right", "same", "message"),
    [
        ([10, 11], [20, 20], [1, 0], "pair 1: expected a template that has pictures, got 11"),
        ([10, 20], [99, 20], [1, 0], "pair 0: expected a template that has pictures, got 99"),
        ([10], [20, 20], [1, 0], r"left and right must be \[2\], got \[1\] and \[2\]"),
        ([10, 20], [20, 30], [1, 1], "genuine and impostor pairs are needed, got 2 genuine of 2 pairs"),
        ([10, 20], [20, 30], [0, 0], "got 0 genuine of 2 pairs"),
        ([10, 20], [20, 30], [0, 2], r"same must be \[num_pairs\] of 0 and 1"),
        ([], [], [], "got 0 genuine of 0 pairs"),
    ],
)
def test_bad_pairs_are_refused(left, right, same, message):
    with pytest.raises(UserError, match=message):
        verify_templates(CORNERS, left, right, same)


def test_rates_outside_their_range_are_refused():
    with pytest.raises(UserError, match=r"false-accept rates must be in \[0, 1\), got \[1\]"):
        verify_templates(CORNERS, [10, 10], [20, 40], [1, 0], fars=[1])
