"""ROC figures and CSV: what is drawn is the curve, and names do no harm."""

import io
import itertools

import cv2
import numpy as np
import pandas as pd
import pytest

from lfs.roc_plot import MAX_CURVES, STYLES, roc_csv, roc_figure, roc_png
from search_space.errors import UserError
from trainers.verification.roc_curve import RocCurve, roc_curve


def curve(seed: int, num: int = 400, apart: float = 1.5) -> RocCurve:
    same = np.arange(num) % 2 == 0
    return roc_curve(np.random.default_rng(seed).normal(size=num) + apart * same, same)


def test_csv_gives_the_curve_back() -> None:
    curves = {"lfw": curve(0), "cfp_fp": curve(1)}
    table = pd.read_csv(io.BytesIO(roc_csv(curves)))
    assert list(table.columns) == ["set", "far", "tar", "threshold"]
    for name, made in curves.items():
        rows = table[table.set == name]
        corners = made.corners()
        assert rows.far.tolist() == corners.fars.tolist()
        assert rows.tar.tolist() == corners.tars.tolist()
        assert rows.threshold.tolist() == corners.thresholds.tolist()
    assert roc_csv({}) == b"set,far,tar,threshold\n"


def test_names_are_no_formulas_and_steer_nothing() -> None:
    text = roc_csv({"=1+1": curve(0), "a\x1b[31m": curve(1)}).decode()
    assert "'=1+1," in text
    assert "\x1b" not in text
    assert roc_png({"_$x^$": curve(0), "$": curve(1), "y" * 500: curve(2)}, title="$a_$ \x1b")


def test_what_is_drawn_is_the_curve() -> None:
    made = curve(3, 4000)
    [axes] = roc_figure({"lfw": made}).axes
    thin, thick = axes.lines
    assert thick.get_label() == "lfw"
    assert thin.get_linewidth() < thick.get_linewidth()
    assert {line.get_drawstyle() for line in axes.lines} == {"steps-post"}
    assert axes.get_xscale() == "log"
    assert "FAR" in axes.get_xlabel()
    assert "TAR" in axes.get_ylabel()
    few = 10 / 2000
    assert thin.get_xdata()[-1] == thick.get_xdata()[0] == few
    for line, fars in ((thin, np.linspace(1 / 2000, few, 20)), (thick, np.linspace(few, 1, 200))):
        x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
        drawn = y[np.searchsorted(x, fars * (1 + 1e-9), "right") - 1]
        exact = [made.tars[np.searchsorted(made.fars, far * (1 + 1e-9), "right") - 1] for far in fars]
        near = [made.tars[np.searchsorted(made.fars, far / 1.01, "right") - 1] for far in fars]
        assert ((np.array(near) <= drawn) & (drawn <= np.array(exact) + 0.01)).all()


def test_sets_are_told_apart_without_colour() -> None:
    curves = {str(number): curve(number) for number in range(MAX_CURVES)}
    lines = [line for line in roc_figure(curves).axes[0].lines if not line.get_label().startswith("_")]
    styles = {(line.get_color(), line.get_linestyle(), line.get_linewidth()) for line in lines}
    assert len(styles) == MAX_CURVES == 4 * len(STYLES)
    neighbours = [line.get_linestyle() for line in lines[:8]]
    assert all(a != b for a, b in itertools.pairwise(neighbours))
    with pytest.raises(UserError, match="1 to 32 sets, got 33"):
        roc_figure(curves | {"more": curve(0)})
    with pytest.raises(UserError, match="got 0"):
        roc_figure({})


@pytest.mark.parametrize(
    "curves",
    [{"a": roc_curve([1, 0], [True, False])}, {"b": roc_curve([1, 1, 1], [True, False, True])},
     {"c": curve(0, 400, 30)}, {"d": curve(0, 60), "e": curve(1, 20_000, 0)}],
)  # fmt: skip
def test_png_of_any_curve_and_the_same_twice(curves: dict[str, RocCurve]) -> None:
    first = roc_png(curves)
    assert first == roc_png(curves)
    picture = cv2.imdecode(np.frombuffer(first, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.std() > 5
