"""The whole ROC: against a slow loop over thresholds, by hand, and with few points."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.verification import roc_points
from trainers.verification.roc_curve import RocCurve, roc_curve, roc_curve_of_steps

scored = st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=2, max_size=40).filter(
    lambda pairs: 0 < sum(same for _, same in pairs) < len(pairs)
)


def unzip(pairs: list[tuple[int, bool]]) -> tuple[list[float], list[bool]]:
    return [float(score) for score, _ in pairs], [same for _, same in pairs]


def steps(curve: RocCurve, fars: np.ndarray) -> np.ndarray:
    """TAR at some FARs: that of the last point that is not to the right."""
    return curve.tars[np.searchsorted(curve.fars, fars, "right") - 1]


@given(scored)
@settings(max_examples=80, deadline=None)
def test_equals_the_obvious_loop(pairs: list[tuple[int, bool]]) -> None:
    scores, same = unzip(pairs)
    curve = roc_curve(scores, same)
    expected = []
    for threshold in (*sorted(set(scores), reverse=True), -np.inf):
        accepted = [kind for score, kind in pairs if score > threshold]
        far = accepted.count(False) / same.count(False)
        expected.append((far, accepted.count(True) / same.count(True), threshold))
    assert list(zip(curve.fars, curve.tars, curve.thresholds, strict=True)) == expected
    assert (curve.num_genuine, curve.num_impostor) == (same.count(True), same.count(False))
    genuine, impostor = (np.array([4 - s for s, kind in pairs if kind == of], np.int32) for of in (True, False))
    counted = roc_curve_of_steps(genuine, impostor, 4)
    again = roc_curve([(4 - score) / 4 for score in scores], same)
    for name in ("fars", "tars", "thresholds"):
        np.testing.assert_array_equal(getattr(counted, name), getattr(again, name))


@given(scored, st.floats(0, 0.99))
@settings(max_examples=80, deadline=None)
def test_agrees_with_the_points(pairs: list[tuple[int, bool]], far: float) -> None:
    scores, same = unzip(pairs)
    curve, points = roc_curve(scores, same), roc_points(scores, same, [far], 2)
    last = int(np.flatnonzero(curve.fars <= far)[-1])
    assert (curve.tars[last], curve.thresholds[last]) == (points.tars[0], points.thresholds[0])


def test_by_hand_with_a_tie() -> None:
    curve = roc_curve([4, 3, 3, 2, 1], [True, True, False, True, False])
    assert curve.fars.tolist() == [0, 0, 0.5, 0.5, 1]
    assert curve.tars.tolist() == [0, 1 / 3, 2 / 3, 1, 1]
    assert curve.thresholds.tolist() == [4, 3, 2, 1, -np.inf]


def test_all_scores_equal() -> None:
    curve = roc_curve([7, 7, 7], [True, False, True])
    assert (curve.fars.tolist(), curve.tars.tolist()) == ([0, 1], [0, 1])
    assert curve.corners().fars.tolist() == [0, 1]


@given(scored)
@settings(max_examples=80, deadline=None)
def test_corners_lose_nothing(pairs: list[tuple[int, bool]]) -> None:
    curve = roc_curve(*unzip(pairs))
    corners = curve.corners()
    fars = np.concatenate((curve.fars, np.linspace(0, 1, 50)))
    assert steps(corners, fars).tolist() == steps(curve, fars).tolist()
    assert set(zip(corners.fars, corners.tars, strict=True)) <= set(zip(curve.fars, curve.tars, strict=True))


def test_corners_of_a_straight_run() -> None:
    curve = roc_curve([9, 8, 7, 6, 5, 4, 3], [True, True, True, False, False, True, False])
    assert curve.corners().thresholds.tolist() == [9, 6, 4, 3, -np.inf]


def test_few_points_move_by_less_than_a_column() -> None:
    random = np.random.default_rng(0)
    same = np.arange(200_000) % 50 == 0
    curve = roc_curve(random.normal(size=len(same)) + 2 * same, same)
    few = curve.thinned(1e-5, columns=300)
    assert len(few) < 700 < len(curve)
    fars = np.logspace(-5, 0, 2000)
    column = 10 ** (5 / 300 * 1.001)
    assert (steps(few, fars) >= steps(curve, fars / column)).all()
    assert (steps(few, fars) <= steps(curve, np.minimum(fars * column, 1))).all()


@pytest.mark.parametrize(
    ("scores", "same", "message"),
    [([1, np.nan], [1, 0], "finite"), ([1, 2], [1, 1], "impostor"), ([1, 2, 3], [1, 0], "num_pairs")],
)
def test_refused(scores: list[float], same: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        roc_curve(scores, same)
