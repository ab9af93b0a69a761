"""Receiver operating characteristics of one or several sets of pairs, as a figure and as CSV."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from lfs.colours import MUTED
from lfs.figures import DPI, figure_bytes
from lfs.terminal import printable, spreadsheet_safe
from search_space.errors import UserError
from trainers.verification.roc_curve import RocCurve

STYLES = (
    ("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", "-."), ("#000000", ":"), ("#AA4499", "-"), ("#8C6D31", "--"),
    ("#56B4E9", "-."), ("#7F7F7F", ":"),
)  # fmt: skip
"""Colours of Okabe and Ito, and of Tol, each with its own kind of line: they can be told apart without colour."""

FEW = 10
"""A false-accept rate that rests on fewer false accepts is mostly luck: the curve is thin there."""

STUB = 0.7
"""Where a curve begins, in false accepts: what it gives at no false accept holds for every lower rate."""

MAX_CURVES = 4 * len(STYLES)
"""More cannot be told apart."""

MAX_NAME = 60


def roc_png(curves: Mapping[str, RocCurve], title: str = "") -> bytes:
    """TAR over FAR of each set as a PNG; the same curves give the same bytes.

    Args:
        curves: by the name of the set, in the order of the legend.
    Raises:
        UserError: no curve, or more than can be told apart.
    """
    return figure_bytes(roc_figure(curves, title), "roc.png")


def roc_figure(curves: Mapping[str, RocCurve], title: str = "") -> Figure:
    """The figure of `roc_png`."""
    if not 1 <= len(curves) <= MAX_CURVES:
        raise UserError(f"a ROC figure shows 1 to {MAX_CURVES} sets, got {len(curves)}")
    figure = Figure(figsize=(6.4, 4.8), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    lowest = 10.0 ** math.floor(-math.log10(max(curve.num_impostor for curve in curves.values())) + 1e-9)
    lowest = min(lowest, 0.1)
    for number, (name, curve) in enumerate(curves.items()):
        _draw(axes, number, name, curve, lowest)
    axes.set_xscale("log")
    axes.set_xlim(lowest, 1)
    axes.set_ylim(_lower_limit(curves, lowest), 1.005)
    axes.set_xlabel("False accept rate (FAR) [fraction]")
    axes.set_ylabel("True accept rate (TAR) [fraction]")
    axes.xaxis.set_major_locator(LogLocator(numticks=20))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(True, which="major", color="#CCCCCC", linewidth=0.6)
    axes.set_axisbelow(True)
    if title:
        axes.set_title(figure_text(title))
    axes.legend(loc="lower right", fontsize="small", framealpha=0.9)
    axes.text(
        0.0, -0.155, f"thin: fewer than {FEW} false accepts", transform=axes.transAxes, fontsize="x-small",
        color=MUTED, va="top",
    )  # fmt: skip
    return figure


def roc_csv(curves: Mapping[str, RocCurve]) -> bytes:
    """Columns set, far, tar, threshold: the turning points of each curve, falling in threshold, exact floats.

    A pair is accepted if its score is greater than the threshold; the last of each set is -inf.
    """
    frames = []
    for name, curve in curves.items():
        [label] = spreadsheet_safe(pd.DataFrame({"set": [printable(name)]}))["set"]
        turns = curve.corners()
        frames.append(pd.DataFrame({"set": label, "far": turns.fars, "tar": turns.tars, "threshold": turns.thresholds}))
    header = pd.DataFrame({"set": [], "far": [], "tar": [], "threshold": []})
    return (pd.concat(frames) if frames else header).to_csv(index=False, lineterminator="\n").encode()


def _draw(axes: Axes, number: int, name: str, curve: RocCurve, lowest: float) -> None:
    """One curve in steps; its part below `FEW` false accepts thin."""
    colour, style = STYLES[number % len(STYLES)]
    width = 1.6 + 0.8 * (number // len(STYLES))
    few = min(FEW / curve.num_impostor, 1.0)
    start = STUB / curve.num_impostor
    points = curve.corners().thinned(min(start, lowest))
    far, tar = points.fars.clip(start), points.tars
    inside = far <= few
    between = tar[inside][-1]
    plain: dict[str, Any] = {"drawstyle": "steps-post", "color": colour, "linestyle": style}
    axes.plot([*far[inside], few], [*tar[inside], between], linewidth=width / 3, **plain)
    axes.plot([few, *far[~inside]], [between, *tar[~inside]], linewidth=width, label=figure_text(name), **plain)


def _lower_limit(curves: Mapping[str, RocCurve], lowest: float) -> float:
    """A round TAR just below the lowest that is in sight, so that curves near 1 fill the figure."""
    low = min(float(curve.tars[curve.fars <= lowest].max(initial=0.0)) for curve in curves.values())
    for limit in (0.99, 0.98, 0.95, 0.9, 0.8, 0.6, 0.4, 0.2):
        if low > limit:
            return limit
    return 0.0


def figure_text(name: str) -> str:
    """A name as text of a figure: `$` starts no formula, a leading `_` hides nothing."""
    shown = printable(name).replace("$", r"\$")
    shown = shown if len(shown) <= MAX_NAME else shown[: MAX_NAME - 3] + "..."
    return f" {shown}" if shown.startswith("_") else shown
