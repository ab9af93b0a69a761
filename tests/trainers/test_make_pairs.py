"""Drawn pairs: what holds of every draw, who gives how many, and that nothing but the seed decides."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_space.errors import UserError
from trainers.data import make_pairs as module
from trainers.data.make_pairs import MadePairs, make_pairs


def check(made: MadePairs, labels: np.ndarray, num_folds: int, per_fold: int) -> None:
    """What the module promises."""
    assert (labels[made.left] == labels[made.right]).tolist() == made.same.tolist()
    assert made.same.tolist() == ([True] * per_fold + [False] * per_fold) * num_folds
    assert made.fold.tolist() == sorted(made.fold.tolist())
    assert len(made.fold) == 2 * num_folds * per_fold
    assert (made.left < made.right).all()
    assert len(set(zip(made.left.tolist(), made.right.tolist(), strict=True))) == len(made.left)
    ends = labels[np.concatenate((made.left, made.right))]
    people = [set(ends[np.tile(made.fold, 2) == fold]) for fold in range(num_folds)]
    for one, other in itertools.combinations(people, 2):
        assert not one & other


@given(
    counts=st.lists(st.integers(1, 7), min_size=6, max_size=60),
    num_folds=st.integers(1, 3),
    per_fold=st.integers(1, 40),
    seed=st.integers(0, 2**40),
)
@settings(max_examples=150, deadline=None)
def test_every_draw_keeps_the_law(counts: list[int], num_folds: int, per_fold: int, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)) * 3, counts))
    try:
        made = make_pairs(labels, num_folds, per_fold, seed)
    except UserError as error:
        per_fold = int(str(error).partition("at most ")[2].partition(" pairs")[0] or 0)
        if not per_fold:
            return
        made = make_pairs(labels, num_folds, per_fold, seed)  # what the message promises is true
    check(made, labels, num_folds, per_fold)


def test_every_pair_there_is() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    made = make_pairs(labels, 1, 4)
    genuine = {(a, b) for a, b in itertools.combinations(range(6), 2) if labels[a] == labels[b]}
    assert set(zip(made.left[made.same].tolist(), made.right[made.same].tolist(), strict=True)) == genuine
    check(made, labels, 1, 4)


def test_nobody_gives_a_second_pair_before_everybody_gave_one() -> None:
    counts = [530, 30, 5, 4, 3, 3, 2, 2, 1, 1]
    labels = np.repeat(np.arange(10), counts)
    for per_fold, expected in (
        (8, [1] * 8), (5, [1] * 5), (10, [2, 2, 1, 1, 1, 1, 1, 1]), (14, [2] * 6 + [1] * 2), (30, None),
    ):  # fmt: skip
        made = make_pairs(labels, 1, per_fold, seed=3)
        given_by = Counter(labels[made.left[made.same]].tolist())
        if expected:
            assert sorted(given_by.values(), reverse=True) == expected
        else:  # 1 + 1 + 3 + 3 from those who have no more; 22 from the other four, in rounds
            assert [given_by[person] for person in range(4, 8)] == [3, 3, 1, 1]
            assert sorted(given_by[person] for person in range(4)) == [5, 5, 6, 6]


def test_folds_are_alike() -> None:
    counts = np.array([530, 236, 144, 121, 109] + [10] * 200 + [2] * 1000 + [1] * 4000)
    made = make_pairs(np.repeat(np.arange(len(counts)), counts), 10, 300)
    assert set(made.num_identities.tolist()) == {520, 521}
    assert set(made.num_genuine_identities.tolist()) <= {120, 121}


def test_pictures_of_impostors_do_not_weigh() -> None:
    labels = np.repeat(np.arange(40), [400] + [5] * 39)
    made = make_pairs(labels, 1, 2000, seed=1)
    ends = np.concatenate((labels[made.left[~made.same]], labels[made.right[~made.same]]))
    shares = np.bincount(ends, minlength=40) / len(ends)
    assert abs(shares - 1 / 40).max() < 0.01  # two thirds, if pictures were drawn


def test_impostor_pairs_when_few_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.concatenate(([0, 1, 2], np.repeat([3], 3000)))  # 3 pairs of three people, 9000 with the fourth
    made = make_pairs(labels, 1, 2000)
    check(made, labels, 1, 2000)
    monkeypatch.setattr(module, "ROUNDS", 0)
    check(make_pairs(labels, 1, 2000), labels, 1, 2000)


def test_only_the_seed_decides() -> None:
    labels = np.repeat(np.arange(300), 4)
    first, again, other = (make_pairs(labels, 5, 20, seed) for seed in (7, 7, 8))
    for name in MadePairs._fields:
        assert getattr(first, name).tolist() == getattr(again, name).tolist()
    assert first.left.tolist() != other.left.tolist()


def test_the_draw_is_pinned() -> None:
    made = make_pairs(np.repeat(np.arange(12), 3), 2, 3, seed=5)
    assert list(zip(made.left.tolist(), made.right.tolist(), strict=True)) == [
        (1, 2), (7, 8), (33, 35), (7, 19), (7, 28), (27, 34), (9, 10), (13, 14),
        (15, 17), (3, 10), (4, 12), (9, 13),
    ]  # fmt: skip


def test_numbers_of_pairs() -> None:
    fold = module._Fold(np.arange(1000), np.array([0]), np.array([1000]))
    total = 1000 * 999 // 2
    low, high = module._places(fold, np.zeros(total, np.int64), np.arange(total))
    assert len(set(zip(low.tolist(), high.tolist(), strict=True))) == total
    assert (low < high).all()
    assert high.max() == 999
    big = 2**31 - 2
    top = module._Fold(np.arange(1), np.array([0]), np.array([big + 1]))
    last = np.array([big * (big + 1) // 2 - 1])
    assert module._places(top, np.zeros(1, np.int64), last).T.tolist() == [[big - 1, big]]


@pytest.mark.parametrize(
    ("counts", "num_folds", "per_fold", "message"),
    [
        ([2] * 5, 3, 1, "at least two people in each of 3 folds.*got 5 people.*fewer folds"),
        ([1] * 20, 2, 1, "a fold with 0 genuine.*take fewer folds or more pictures"),
        ([3] * 20, 2, 31, "31 genuine.*a fold with 30 genuine.*at most 30 pairs, or fewer folds"),
        ([20, 1], 1, 30, "one with 20 impostor pairs; take at most 20"),
    ],
)
def test_too_small(counts: list[int], num_folds: int, per_fold: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_pairs(np.repeat(np.arange(len(counts)), counts), num_folds, per_fold)


def test_a_million_pictures_in_seconds() -> None:
    labels = np.sort(np.random.default_rng(0).integers(0, 100_000, 1_000_000))
    check(make_pairs(labels, 10, 3000), labels, 10, 3000)
