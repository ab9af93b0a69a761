"""The table of a comparison: statistics against slow references, views on a frame with known answers, renderings."""

import io
import itertools
import math
from collections.abc import Sequence
from statistics import fmean, stdev

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lfs.scores import (
    Estimate,
    best_of_weights,
    best_point,
    equal_cost_estimate,
    estimate,
    paired_difference,
    read_cells,
)
from search_space.errors import UserError
from tests.lfs.comparison_cells import cell, compared, diverged, row, small_frame, text_of


def brute_force(rewards: Sequence[float], population: int) -> list[float]:
    known = [-math.inf if math.isnan(r) else r for r in rewards]
    subsets = list(itertools.combinations(range(len(known)), population))
    wins = [max(subset, key=lambda i: (known[i], -i)) for subset in subsets]
    return [wins.count(i) / len(subsets) for i in range(len(known))]


@pytest.mark.parametrize("rewards", [[0.3], [1.0, 3.0, 2.0, 0.5, 2.5], [1, 1, 0, 1, 2, 0], [math.nan, 1, math.nan, 0]])
def test_best_of_weights_is_the_share_of_subsets_that_a_training_wins(rewards: list[float]) -> None:
    for population in range(1, len(rewards) + 1):
        np.testing.assert_allclose(best_of_weights(rewards, population), brute_force(rewards, population), atol=1e-15)


@pytest.mark.parametrize("population", [0, 4])
def test_best_of_weights_refuses_more_than_there_are(population: int) -> None:
    with pytest.raises(ValueError, match=rf"B must be in 1\.\.n = 3, got {population}"):
        best_of_weights([1, 2, 3], population)


def test_equal_cost_pools_points_and_replicates_of_each_seed() -> None:
    rng = np.random.default_rng(0)
    rows = [
        cell("am", seed, rng.random(), rng.random(), point=f"margin={m}", replicate=replicate)
        for seed in (0, 1) for m in (0.1, 0.2, 0.3) for replicate in (0, 1)
    ]  # fmt: skip
    cells = read_cells(pd.DataFrame(rows), ["accuracy"])
    found = equal_cost_estimate(cells, "accuracy", 4)
    for seed in (0, 1):
        pool = [(r["reward"], r["test:accuracy"]) for r in rows if r["seed"] == seed]
        winners = [max(subset)[1] for subset in itertools.combinations(pool, 4)]
        assert found.values[seed] == pytest.approx(fmean(winners))


def test_equal_cost_of_a_search_is_its_own_score_and_too_few_trainings_have_none() -> None:
    table = compared(small_frame(), population=2)
    assert row(table, "equal_cost", "search").scores[0].estimate.mean == pytest.approx(fmean([0.90, 0.91, 0.93]))
    softmax = row(table, "equal_cost", "softmax")
    assert softmax.scores[0].estimate.values == {}
    assert math.isnan(softmax.total_epochs)
    line = next(line for line in text_of(table).partition("At equal total cost")[2].split("\n") if "Softmax" in line)
    assert line.split() == ["Softmax", "-", "-", "-"]


def test_a_diverged_training_wins_no_subset_unless_all_did() -> None:
    rows = [cell("am", 0, 0.8, 0.1, point="margin=0.1")]
    rows += [diverged("am", 0, point=f"margin={m}") for m in (0.2, 0.3)]
    cells = read_cells(pd.DataFrame(rows), ["accuracy"])
    assert equal_cost_estimate(cells, "accuracy", 3).values == {0: pytest.approx(0.8)}
    some = equal_cost_estimate(cells, "accuracy", 2)
    assert (some.values, some.lacking) == ({}, "diverged")


def test_the_paired_test_is_that_of_scipy_over_common_seeds() -> None:
    a, b = [0.5, 0.7, 0.4, 0.9], [0.4, 0.65, 0.45, 0.7]
    left = Estimate(values=dict(enumerate(a)) | {7: 0.0})
    difference, p = paired_difference(left, Estimate(values=dict(enumerate(b)) | {9: 1.0}))
    assert p == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert difference.mean == pytest.approx(fmean(a) - fmean(b))


def test_the_paired_test_at_its_limits() -> None:
    one, two = Estimate(values={0: 0.5}), Estimate(values={0: 0.5, 1: 0.25})
    assert math.isnan(paired_difference(one, two)[1])
    assert paired_difference(two, two)[1] == 1
    assert paired_difference(two, Estimate(values={0: 0.25, 1: 0.0}))[1] == 0


def test_the_reward_chooses_the_point_and_test_scores_have_no_say() -> None:
    am = row(compared(small_frame()), "chosen", "am")
    assert am.point == "margin=0.2"
    assert am.scores[0].estimate.values == pytest.approx({0: 0.80, 1: 0.82, 2: 0.86})


def test_in_hindsight_each_metric_has_its_own_best_point() -> None:
    am = row(compared(small_frame()), "best", "am")
    assert [score.estimate.point for score in am.scores] == ["margin=0.1", "margin=0.2"]
    assert am.scores[0].estimate.mean == pytest.approx(fmean([0.85, 0.8501, 0.8509]))


def test_a_point_that_diverged_is_chosen_only_if_all_did() -> None:
    rows = [cell("am", s, 0.8, 0.1, point="margin=0.1") for s in (0, 1)]
    rows += [cell("am", 0, 0.9, 0.9, point="margin=0.2"), diverged("am", 1, point="margin=0.2")]
    assert best_point(read_cells(pd.DataFrame(rows), ["accuracy"]), "reward") == "margin=0.1"
    assert best_point(read_cells(pd.DataFrame(rows[2:]), ["accuracy"]), "reward") == "margin=0.2"


def test_replicates_are_for_the_equal_cost_alone() -> None:
    extra = [cell("softmax", s, 0.99, 0.9, replicate=1) for s in range(3)]
    table = compared(pd.concat([small_frame(), pd.DataFrame(extra)]))
    assert row(table, "chosen", "softmax") == row(compared(small_frame()), "chosen", "softmax")
    assert row(table, "equal_cost", "softmax").scores[0].estimate.values == pytest.approx({0: 0.99, 1: 0.99, 2: 0.99})


def test_mean_error_best_and_rival_of_a_known_frame() -> None:
    table = compared(small_frame())
    search, am, softmax = (row(table, "chosen", m).scores[0] for m in ("search", "am", "softmax"))
    values = [0.90, 0.91, 0.93]
    assert search.estimate.mean == pytest.approx(fmean(values))
    assert search.estimate.se == pytest.approx(stdev(values) / 3**0.5)
    assert (search.best, am.best, softmax.best) == (True, False, False)
    assert (search.rival, am.rival, softmax.rival) == ("am", "search", "search")
    assert softmax.p == pytest.approx(stats.ttest_rel([0.70, 0.69, 0.67], values).pvalue)
    assert search.p == am.p
    assert [row(table, "chosen", m).scores[1].best for m in ("search", "am", "softmax")] == [False, False, True]


def test_cost_is_in_passes_over_the_training_set() -> None:
    table = compared(small_frame(), population=2)
    costs = {v.key: {r.method: (r.epochs, r.total_epochs) for r in v.rows} for v in table.views}
    assert costs["chosen"] == {"softmax": (10, 10), "am": (10, 20), "search": (40, 40)}
    assert costs["best"] == costs["chosen"]
    assert costs["equal_cost"]["am"] == (10, 20)
    assert costs["equal_cost"]["search"] == (40, 40)


def test_what_diverged_early_does_not_make_a_row_cheap() -> None:
    frame = pd.DataFrame([cell("softmax", 0, 0.8), diverged("softmax", 1)])
    assert row(compared(frame), "chosen", "softmax").epochs == 10


def test_rows_come_in_the_papers_order_whatever_the_order_of_the_frame() -> None:
    methods = ["search", "mine", "am", "random", "search:wide", "softmax", "arc", "am_lfs", "norm_softmax"]
    frame = pd.DataFrame([cell(m, 0, 0.5, searched=":" in m or m in ("search", "random", "am_lfs")) for m in methods])
    found = compared(frame)
    names = list(dict.fromkeys(found.as_frame()["name"]))
    first = ["Softmax", "Norm-Softmax", "Arc-Softmax", "AM-Softmax", "mine"]
    assert names == [*first, "AM-LFS", "Random-Softmax", "Search-Softmax", "search:wide"]
    assert text_of(compared(frame.sample(frac=1, random_state=3))) == text_of(found)


def test_missing_and_diverged_cells_are_shown() -> None:
    rows = small_frame().to_dict("records")
    rows = [r for r in rows if (r["method"], r["seed"]) != ("search", 2) and r["point"] != "margin=0.1"]
    rows += [diverged("am", s, point="margin=0.1") for s in (0, 1, 2)] + [diverged("arc", s) for s in (0, 1, 2)]
    table = compared(pd.DataFrame(rows), methods=("am_lfs", "softmax"), seeds=(0, 1, 2))
    assert table.notes == (
        "Arc-Softmax: seeds 0, 1, 2 diverged (loss is not finite)",
        "AM-Softmax at margin=0.1: seeds 0, 1, 2 diverged (loss is not finite)",
        "AM-LFS: seeds 0, 1, 2 missing",
        "Search-Softmax: seed 2 missing",
    )
    cells = [line.split() for line in text_of(table, 160).split("\n")]
    assert ["Arc-Softmax", "diverged", "diverged"] in [line[:3] for line in cells]
    assert ["AM-LFS", "missing", "missing"] in [line[:3] for line in cells]
    assert "90.50 ± 0.50 (2/3)" in text_of(table)
    assert all(note in text_of(table, 200) and note in table.as_markdown() for note in table.notes)
    assert "diverged" in text_of(table.grid)


def test_a_row_with_fewer_seeds_is_not_called_the_best_of_complete_ones() -> None:
    frame = small_frame()
    table = compared(frame[~((frame["method"] == "search") & (frame["seed"] == 2))])
    assert not row(table, "chosen", "search").scores[0].best
    assert row(table, "chosen", "am").scores[0].best
    assert "(k/n): k of n seeds" in text_of(table)
    assert "(k/n)" not in text_of(compared(frame))


def test_one_seed_has_neither_error_nor_test() -> None:
    frame = small_frame()
    table = compared(frame[frame["seed"] == 0])
    text = text_of(table)
    assert "One seed: no standard error" in text
    assert "90.00" in text
    assert "±" not in text
    assert table.as_frame()["p"].isna().all()


def test_the_frame_holds_unrounded_numbers() -> None:
    table = compared(small_frame())
    back = pd.read_csv(io.StringIO(table.as_frame().to_csv(index=False)))
    assert len(back) == 3 * 3 * 2
    found = back[(back["view"] == "best") & (back["method"] == "am") & (back["metric"] == "accuracy")].iloc[0]
    values = [0.85, 0.8501, 0.8509]
    expected = row(table, "best", "am").scores[0]
    numbers = [expected.estimate.mean, expected.estimate.se, expected.p]
    assert [found["mean"], found["se"], found["p"]] == pytest.approx(numbers, rel=1e-14)
    assert found["mean"] == pytest.approx(fmean(values))
    assert (found["point"], found["rival"], found["num_seeds"], found["total_epochs"]) == (
        "margin=0.1",
        "search",
        3,
        20,
    )


def test_an_unknown_metric_is_refused_with_those_there_are() -> None:
    with pytest.raises(UserError, match=r"one of those tested \(accuracy, all:tar@far=0.001\), got 'auc'"):
        compared(small_frame(), ["auc"])


def test_a_broken_frame_is_a_defect() -> None:
    with pytest.raises(ValueError, match="lacks columns: reward, seed"):
        compared(small_frame().drop(columns=["seed", "reward"]))
    with pytest.raises(ValueError, match=r"cell am margin=0.1 seed 0 replicate 0 is there twice"):
        compared(pd.concat([small_frame(), small_frame().iloc[[2]]]))


def test_points_are_ordered_by_value_not_by_spelling() -> None:
    rows = [cell("am", 0, 0.5, point=f"margin={m}") for m in ("10", "9", "0.5")]
    cells = read_cells(pd.DataFrame(rows), ["accuracy"])
    assert [c.point for c in cells] == ["margin=0.5", "margin=9", "margin=10"]
    assert estimate(cells, "margin=9", "accuracy").values == {0: 0.5}
