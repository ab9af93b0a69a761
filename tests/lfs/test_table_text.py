"""The table of a comparison as a reader sees it: text, Markdown, numbers."""

import math
from statistics import fmean

import numpy as np
import pandas as pd
import pytest

from lfs.scores import (
    Estimate,
)
from lfs.sheet import Column, Sheet, epochs_text, metric_title, p_text, score_text, short_point
from tests.lfs.comparison_cells import TAR, cell, compared, small_frame, text_of


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
