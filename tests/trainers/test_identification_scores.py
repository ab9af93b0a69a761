"""Scores of unit embeddings, and thresholds of many of them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainers.slow_identification import FARS, slow_score
from trainers.identification.thresholds import Highest, false_accepts, verification_point
from trainers.identification.units import (
    STEPS_PER_UNIT,
    all_scores,
    error_bound,
    pair_scores,
    scores_of,
    unit_embeddings,
)
from trainers.verification import roc_points


def test_unit_embeddings_are_the_nearest_on_their_grid():
    vectors = np.random.default_rng(0).normal(size=(700, 300)) * 10.0 ** np.arange(-3, 4).repeat(100)[:, None]
    units = unit_embeddings(vectors)
    exact = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert units.dtype == np.float32
    assert np.abs(units - exact).max() <= 2.0**-25 + 1e-15
    assert (units.astype(np.float64) * 2**24 == np.rint(units.astype(np.float64) * 2**24)).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int8, ">f4"])
def test_units_depend_on_no_other_row_and_not_on_length(dtype):
    vectors = (np.random.default_rng(1).normal(size=(300, 512)) * 20).astype(dtype)
    units = unit_embeddings(vectors)
    assert (np.concatenate([unit_embeddings(vectors[i : i + 1]) for i in range(300)]) == units).all()
    assert (unit_embeddings(vectors.astype(np.float64) * 2.0**40) == units).all()
    assert not unit_embeddings(np.zeros((2, 3))).any()


def test_scores_are_exact_in_any_order():
    rng = np.random.default_rng(2)
    left, right = (unit_embeddings(rng.normal(size=(40, 512))) for _ in range(2))
    slow = np.array([[slow_score(a, b) for b in right] for a in left])
    assert (all_scores(left, right) == slow).all()
    order = rng.permutation(512)
    assert (all_scores(left[:, order], right[:, order]) == slow).all()
    rows, columns = (rng.integers(40, size=5000) for _ in range(2))
    assert (pair_scores(left, right, rows, columns) == slow[rows, columns]).all()


def test_scores_end_at_one():
    assert scores_of(np.array([1.00001, -1.00001, 1.0])).tolist() == [STEPS_PER_UNIT, -STEPS_PER_UNIT, STEPS_PER_UNIT]


@pytest.mark.parametrize("dim", [1, 64, 4096])
def test_products_in_float32_are_within_the_error_bound(dim):
    rng = np.random.default_rng(3)
    left = unit_embeddings(np.abs(rng.normal(size=(100, dim))) + 0.1)
    right = unit_embeddings(left + rng.normal(size=left.shape) * 1e-3 / dim)
    products = (torch.from_numpy(left) @ torch.from_numpy(right).T).numpy().astype(np.float64)
    assert np.abs(products - all_scores(left, right) / STEPS_PER_UNIT).max() <= error_bound(dim)


@pytest.mark.parametrize("seed", range(20))
def test_thresholds_are_those_of_listed_pairs(seed):
    rng = np.random.default_rng(seed)
    impostor, genuine = (rng.integers(-8, 9, size=size).astype(np.int32) for size in rng.integers(1, 40, size=2))
    scores = np.concatenate((impostor, genuine)) / STEPS_PER_UNIT
    expected = roc_points(scores, np.arange(len(scores)) >= len(impostor), FARS, 2)
    points = [verification_point(far, len(impostor), impostor, genuine) for far in FARS]
    assert [p.threshold for p in points] == expected.thresholds.tolist()
    assert [p.rate for p in points] == expected.tars.tolist()


def test_false_accepts_are_whole_numbers():
    assert [false_accepts(far, 100) for far in (0.0, 0.009, 0.01, 0.29, 0.999)] == [0, 0, 1, 29, 99]
    assert false_accepts(1e-9, 3_530 * 10**6) == 3
    assert false_accepts(1e-6, 3_530 * 10**6) == 3530
    assert false_accepts(1e-9, 274_000 * 1_580_000) == 432


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.lists(st.integers(-9, 9), max_size=700), max_size=8), k=st.integers(1, 900))
def test_the_highest_are_those_of_a_sort(parts, k):
    highest, seen = Highest(k), []
    for part in parts:
        scores = np.array(part, np.int32)
        highest.add(scores if highest.bar is None else scores[scores > highest.bar])
        seen += part
        expected = sorted(seen, reverse=True)[:k]
        assert sorted(highest.scores().tolist(), reverse=True)[:k] == expected
        if highest.bar is not None:
            assert highest.bar <= expected[-1]
        assert len(highest.scores()) <= k + max(k // 4, 256)
