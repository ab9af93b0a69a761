"""Reliability of a reward, on made rewards whose reliability is known."""

import math

import numpy as np
import pytest

from lfs.rank import reliability

LOSSES = ["a", "b", "c", "d", "e"]


def made(loss_spread: float, luck: float, orders: int = 40, pair_noise: float = 0.0, seed: int = 0):
    """Rewards of `orders` trainings per loss with the given standard deviations, and replicates of each."""
    rng = np.random.default_rng(seed)
    levels = np.linspace(-1, 1, len(LOSSES))
    levels *= loss_spread / levels.std(ddof=1)
    rewards = 0.5 + levels + luck * rng.standard_normal((orders, len(LOSSES)))
    replicates = rewards[:, :, None] + pair_noise * rng.standard_normal((orders, len(LOSSES), 400))
    return rewards, replicates


def test_a_reward_without_luck_ranks_perfectly() -> None:
    found = reliability("auc", 2, LOSSES, *made(0.1, 0.0))
    assert found.rank_correlation == pytest.approx(1)
    assert found.luck == pytest.approx(0, abs=1e-12)
    assert found.loss_spread == pytest.approx(0.1)
    assert (found.best, found.metric, found.length) == ("e", "auc", 2)


def test_a_reward_of_luck_alone_does_not_rank() -> None:
    found = reliability("auc", 1, LOSSES, *made(0.0, 0.1, orders=60))
    assert abs(found.rank_correlation) < 0.1
    assert found.luck == pytest.approx(0.1, rel=0.15)
    assert found.loss_spread < 0.02


def test_luck_and_spread_are_told_apart() -> None:
    found = reliability("auc", 1, LOSSES, *made(0.05, 0.1, orders=150))
    assert found.loss_spread == pytest.approx(0.05, rel=0.15)
    assert found.luck == pytest.approx(0.1, rel=0.05)


def test_rank_correlation_is_the_mean_over_pairs_of_orders() -> None:
    rewards = np.array([[1, 2, 3, 4, 5], [1, 2, 3, 5, 4], [5, 4, 3, 2, 1]], float)
    found = reliability("auc", 1, LOSSES, rewards, np.repeat(rewards[:, :, None], 3, axis=2))
    # one swap of neighbours among five: 1 - 6 * 2 / (5 * 24); with the reversed order the negatives
    assert found.rank_correlation == pytest.approx((0.9 - 1 - 0.9) / 3)


def test_paired_error_is_that_of_a_difference() -> None:
    found = reliability("auc", 1, LOSSES, *made(0.1, 0.1, orders=3, pair_noise=0.02))
    assert found.paired_se == pytest.approx(0.02 * math.sqrt(2), rel=0.05)


def test_a_reward_that_is_the_same_for_all_has_no_rank() -> None:
    found = reliability("auc", 1, LOSSES, np.full((2, 5), 0.5), np.full((2, 5, 3), 0.5))
    assert math.isnan(found.rank_correlation)


def test_one_order_is_refused() -> None:
    with pytest.raises(ValueError, match=r"orders >= 2"):
        reliability("auc", 1, LOSSES, np.ones((1, 5)), np.ones((1, 5, 3)))
