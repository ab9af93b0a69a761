"""The table of a comparison: statistics against slow references, views on a frame with known answers, renderings."""

import io
import itertools
import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
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
from lfs.sheet import Column, Sheet, epochs_text, metric_title, p_text, score_text, short_point
from lfs.table import Comparison, Row, compare_methods
from search_space.errors import UserError

TAR = "all:tar@far=0.001"
NUM_TRAIN = 1000


def cell(method: str, seed: int, accuracy: float, reward: float = 0.0, **more: Any) -> dict[str, Any]:
    """One row of the frame; `tar` is 0.5 - accuracy / 2, so that the two metrics disagree."""
    searched = more.pop("searched", method in ("search", "random", "am_lfs"))
    point = more.pop("point", "")
    return {
        "method": method, "searched": searched, "point": point,
        "value": float(point.partition("=")[2]) if point else math.nan, "seed": seed, "replicate": 0,
        "reward": reward, "num_images": 40_000 if searched else 10_000, "diverged": False, "reason": "",
        "test:accuracy": accuracy, f"test:{TAR}": 0.5 - accuracy / 2, **more,
    }  # fmt: skip


def diverged(method: str, seed: int, **more: Any) -> dict[str, Any]:
    lost = {"diverged": True, "reason": "loss is not finite", "num_images": 2000, f"test:{TAR}": math.nan}
    return cell(method, seed, math.nan, math.nan, **lost, **more)


def small_frame() -> pd.DataFrame:
    """Softmax; AM at 0.1 (best by test accuracy) and 0.2 (best by reward); a search. Seeds 0, 1, 2."""
    rows = []
    for seed, luck in enumerate((0.00, 0.01, 0.03)):
        rows += [
            cell("search", seed, 0.90 + luck, 0.5),
            cell("am", seed, 0.80 + 2 * luck, 0.40 - luck, point="margin=0.2"),
            cell("am", seed, 0.85 + luck * luck, 0.20 + luck, point="margin=0.1"),
            cell("softmax", seed, 0.70 - luck, 0.1),
        ]
    return pd.DataFrame(rows)


def compared(frame: pd.DataFrame, metrics: Sequence[str] = ("accuracy", TAR), **more: Any) -> Comparison:
    return compare_methods(frame, metrics, **{"population": 2, "num_train_images": NUM_TRAIN, **more})


def row(table: Comparison, view: str, method: str) -> Row:
    [found] = [r for v in table.views if v.key == view for r in v.rows if r.method == method]
    return found


def text_of(what: Any, width: int = 80, terminal: bool = False) -> str:
    file = io.StringIO()
    what.as_text(Console(file=file, width=width, highlight=False, force_terminal=terminal))
    return file.getvalue()


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


def many_rows() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    methods = ["softmax", "norm_softmax", "a_softmax", "v_softmax", "arc", "am", "mv_am", "random", "search"]
    grid = ["margin=0.15", "margin=0.25"]

    def more() -> dict[str, float]:
        return {f"test:{name}/auc": rng.random() for name in "xy"}

    rows = [
        cell(m, seed, 0.8 + 0.01 * rng.random(), rng.random(), point=point, **more())
        for m in methods
        for point in (grid if m in ("arc", "am", "mv_am", "a_softmax") else [""])
        for seed in range(3)
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize("terminal", [False, True])
def test_the_text_fits_80_columns_and_no_number_is_cut(terminal: bool) -> None:
    metrics = ["accuracy", TAR, "x/auc", "y/auc"]
    table = compared(many_rows(), metrics)
    text = text_of(table, 80, terminal)
    plain = text.replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert max(map(len, plain.split("\n"))) <= 80
    for view in table.views:
        for i, metric in enumerate(metrics):
            for found in view.rows:
                score = found.scores[i].estimate
                assert score_text(score, metric, 3) in plain
    grid = text_of(table.grid, 80)
    assert max(map(len, grid.split("\n"))) <= 80
    assert all(score_text(e, m, 3) in grid for r in table.grid.rows for m, e in zip(metrics, r.scores, strict=True))


@pytest.mark.parametrize("width", [20, 43, 44, 60, 61, 200])
def test_a_wrapped_table_is_as_wide_as_goes_and_tears_no_group(width: int) -> None:
    keys = (Column(header="name", cells=("x" * 10,)),)
    groups = tuple((Column(header=str(i), cells=("y" * 8,)), Column(header="p", cells=("z" * 5,))) for i in range(4))
    sheet = Sheet(title="", caption="", keys=keys, groups=groups)
    parts = list(sheet.parts(width))
    at_most = max(1, (width - 10) // (8 + 5 + 2 * 2))  # groups beside the key, with two gaps each
    assert [len(part) // 2 for part in parts] == {1: [1, 1, 1, 1], 2: [2, 2], 3: [2, 2], 11: [4]}[at_most]
    assert [column.header for part in parts for column in part[1:]] == ["0", "p", "1", "p", "2", "p", "3", "p"]
    assert all(part[0] == keys[0] for part in parts)


def test_a_wide_console_has_one_table_for_each_view() -> None:
    table = compared(many_rows(), ["accuracy", TAR, "x/auc", "y/auc"])
    heads = [line for line in text_of(table, 160).split("\n") if line.startswith("method")]
    assert len(heads) == 3
    assert heads[0].split() == ["method", "grid", "point", "accuracy", "p", "TAR@FAR=1e-3", "p", "AUC", "p", "AUC", "p",
                                "cost", "grid"]  # fmt: skip
    assert len([line for line in text_of(table, 80).split("\n") if line.startswith("method")]) > 3


def test_the_best_is_bold_or_starred_where_nothing_is_bold() -> None:
    table = compared(small_frame(), ["accuracy"])
    best = "91.33 ± 0.88"
    assert f"*{best}" in text_of(table)
    assert f"\x1b[1m{best}\x1b[0m" in text_of(table, terminal=True)
    assert f"*{best}" not in text_of(table, terminal=True)
    assert f"| **{best}** |" in table.as_markdown()
    assert table.as_markdown().count("**") == 2 * len(table.views)


def test_markdown_rows_have_as_many_cells_as_their_head() -> None:
    rows = [*small_frame().to_dict("records"), cell("a|b", 0, 0.5)]
    table = compared(pd.DataFrame(rows))
    text = table.as_markdown().replace("\\|", "!")
    assert text.count("a!b") == 4  # three views, one note
    for part in text.split("### ")[1:]:
        counts = {line.count("|") for line in part.split("\n") if line.startswith("|")}
        assert len(counts) == 1
    assert "| AM-Softmax | margin=0.2 * |" in table.grid.as_markdown()


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


def test_the_grid_shows_every_point_and_marks_the_chosen_one() -> None:
    table = compared(small_frame())
    assert [(r.method, r.point, r.chosen) for r in table.grid.rows] == [
        ("softmax", "", True),
        ("am", "margin=0.1", False),
        ("am", "margin=0.2", True),
        ("search", "", True),
    ]
    text = text_of(table.grid)
    assert "margin=0.2 *" in text
    assert "margin=0.1 *" not in text
    frame = table.grid.as_frame()
    reward = frame[(frame["point"] == "margin=0.2") & (frame["metric"] == "reward")].iloc[0]
    assert reward["mean"] == pytest.approx(fmean([0.40, 0.39, 0.37]))


def test_without_any_grid_there_is_no_hindsight() -> None:
    frame = small_frame()
    table = compared(frame[frame["method"] != "am"])
    assert [view.key for view in table.views] == ["chosen", "equal_cost"]
    assert "grid" not in text_of(table)


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


@pytest.mark.parametrize(
    ("metric", "title"),
    [
        ("accuracy", "accuracy"),
        ("all:tar@far=0.0001", "all pairs\nTAR@FAR=1e-4"),
        ("lfw/tar@far=0.0025", "lfw\nTAR@FAR=2.5e-3"),
        ("cfp/all:auc", "cfp, all pairs\nAUC"),
        ("d_prime", "d'"),
    ],
)
def test_metric_titles(metric: str, title: str) -> None:
    assert metric_title(metric) == title


@pytest.mark.parametrize(
    ("p", "text"), [(math.nan, ""), (0.0, "<.001"), (0.00099, "<.001"), (0.0314, ".031"), (0.9996, "1"), (1.0, "1")]
)
def test_p_values_are_compact(p: float, text: str) -> None:
    assert p_text(p) == text


def test_numbers_for_a_reader() -> None:
    two = Estimate(values={0: 1.0, 1: 2.0})
    assert score_text(two, "d_prime", 2) == "1.500 ± 0.500"
    assert score_text(Estimate(values={0: 0.25}), "lfw/auc", 2) == "25.00 (1/2)"
    assert [epochs_text(e) for e in (2.46, 99.94, 99.96, math.nan)] == ["2.5", "99.9", "100", "-"]
    assert [short_point(p) for p in ("margin=0.2", "m2=0.3,m3=0.1", "")] == ["0.2", "0.3,0.1", ""]
