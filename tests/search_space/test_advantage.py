"""Reward to advantage, above all the degenerate cases."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from search_space.advantage import advantages
from search_space.config import ADVANTAGE_KINDS

REWARDS = [0.81, 0.79, 0.84, 0.8]
KINDS = pytest.mark.parametrize("kind", ADVANTAGE_KINDS)


def test_range_is_the_published_formula():
    r = np.array(REWARDS)
    np.testing.assert_allclose(
        advantages(r, kind="range"), 2 * (r - r.mean()) / (r.max() - r.min() + 1e-6), rtol=1e-12, atol=1e-12
    )


def test_standardize_has_unit_deviation():
    r = np.array(REWARDS)
    np.testing.assert_allclose(advantages(r, kind="standardize"), (r - r.mean()) / r.std(), rtol=1e-9, atol=1e-12)


def test_rank_shares_ranks_among_ties():
    assert advantages([3.0, 1.0, 2.0], kind="rank").tolist() == [1, -1, 0]
    assert advantages([5.0, 5.0, 1.0], kind="rank").tolist() == [0.5, 0.5, -1]


@given(rewards=st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.7, 1e9]), min_size=2, max_size=8))
@settings(max_examples=50, deadline=None)
def test_rank_is_the_mean_place_in_sorted_order(rewards):
    half = (len(rewards) - 1) / 2
    in_order = sorted(rewards)
    places = [np.mean([i for i, other in enumerate(in_order) if other == r]) for r in rewards]
    np.testing.assert_allclose(advantages(rewards, kind="rank"), (np.array(places) - half) / half)


@KINDS
@given(rewards=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9), data=st.data())
@settings(max_examples=60, deadline=None)
def test_sum_is_0_order_is_kept_and_places_do_not_matter(kind, rewards, data):
    weights = advantages(rewards, kind=kind)
    assert weights.dtype == np.float64
    assert np.isfinite(weights).all()
    assert abs(weights.sum()) < 1e-12
    assert abs(weights).max() <= max(2, math.sqrt(len(rewards)))
    order = np.argsort(rewards, kind="stable")
    assert (np.diff(weights[order]) >= 0).all()
    shuffled = np.array(data.draw(st.permutations(range(len(rewards)))))
    np.testing.assert_allclose(advantages(np.array(rewards)[shuffled], kind=kind), weights[shuffled], atol=1e-9)


@KINDS
@pytest.mark.parametrize("rewards", [[0.1] * 3, [0.1] * 7, [1 / 3] * 5, [5.0], [-0.0, 0.0]])
def test_ties_and_single_candidates_are_exactly_0(kind, rewards):
    assert advantages(rewards, kind=kind).tolist() == [0.0] * len(rewards)


@KINDS
def test_spread_up_to_the_noise_floor_is_a_tie(kind):
    rewards = [0.5, 0.75, 0.625]  # exact in binary
    assert not advantages(rewards, kind=kind, noise_floor=0.25).any()
    assert advantages(rewards, kind=kind, noise_floor=0.2499).all(where=[True, True, False])
    assert advantages([0.1, np.nextafter(0.1, 1)], kind=kind).any()


@KINDS
@pytest.mark.parametrize("spread", [5e-324, 1e-200, 1e-12])
def test_tiny_spreads_are_finite(kind, spread):
    weights = advantages([0.0, spread], kind=kind)
    assert np.isfinite(weights).all()
    assert weights[0] == -weights[1]


@KINDS
def test_diverged_is_as_far_below_the_worst_as_that_is_below_the_best(kind):
    weights = advantages([0.5, math.nan, 0.7], kind=kind, diverged=[False, True, False])
    assert weights.tolist() == advantages([0.5, 0.5 - (0.7 - 0.5), 0.7], kind=kind).tolist()


@KINDS
def test_several_diverged_share_the_last_place(kind):
    weights = advantages([math.nan, 0.3, math.inf, 0.4], kind=kind, diverged=[True, False, True, False])
    assert weights[0] == weights[2] < weights[1] < weights[3]
    assert abs(weights.sum()) < 1e-12


@KINDS
def test_the_reward_of_a_diverged_candidate_is_not_read(kind):
    diverged = [True, False, False]
    got = [advantages([x, 0.3, 0.4], kind=kind, diverged=diverged).tolist() for x in (math.nan, 0.9, -math.inf)]
    assert got[0] == got[1] == got[2]


@KINDS
@pytest.mark.parametrize(("rewards", "noise_floor"), [([0.25, 0.25], 0.0), ([0.25, 0.375], 0.5)])
def test_policy_learns_from_divergence_even_if_the_others_are_tied(kind, rewards, noise_floor):
    weights = advantages([*rewards, math.nan], kind=kind, noise_floor=noise_floor, diverged=[False, False, True])
    assert weights[0] == weights[1] > 0 > weights[2]


@KINDS
@pytest.mark.parametrize(
    ("rewards", "diverged", "message"),
    [
        ([0.1, math.nan, 0.3], None, "reward of candidate 1 must be finite, got nan"),
        ([0.1, 0.2, math.inf], [True, False, False], "reward of candidate 2 must be finite, got inf"),
        ([math.nan] * 2, [True, True], "2 candidates, all diverged"),
        ([], None, "expected a candidate that did not diverge, got 0"),
        ([0.1, 0.2], [True], r"expected diverged \[2\]"),
    ],
)
def test_bad_rewards(kind, rewards, diverged, message):
    with pytest.raises(ValueError, match=message):
        advantages(rewards, kind=kind, diverged=diverged)


def test_unknown_kind():
    with pytest.raises(ValueError, match=r"kind must be one of .*got 'best'"):
        advantages([1.0], kind="best")
