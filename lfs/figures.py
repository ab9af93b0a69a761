"""Figures of a comparison and of learned losses, as PNG or SVG."""

import io
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from statistics import median
from typing import Any

import matplotlib
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from lfs.colours import MUTED, REFERENCE_COLOURS
from lfs.loss_curves import default_references, losses_at, margins_at, target_cosines, target_probabilities
from lfs.scores import (
    REWARD,
    Cell,
    Estimate,
    best_point,
    display_name,
    equal_cost_estimate,
    estimate,
    paired_difference,
    points_of,
    read_cells,
)
from lfs.sheet import is_fraction, metric_title, p_text, short_point
from search_space.errors import UserError
from search_space.loss import Loss

# Colours of Okabe and Ito, and of Tol: told apart with every common kind of colour vision. Searches have theirs to
# themselves.
SEARCH_COLOURS = {"search": "#D55E00", "am_lfs": "#0072B2", "random": "#AA4499"}
MORE_SEARCH_COLOURS = ("#882255", "#332288", "#117733")
LOSS_COLOURS = ("#009E73", "#E69F00", "#56B4E9", "#000000", "#8C6D31", "#7F7F7F", "#999933")
DPI = 150
TICKS = {
    1e-6: r"$10^{-6}$", 1e-4: r"$10^{-4}$", 0.01: "0.01", 0.5: "0.5", 0.99: "0.99", 1 - 1e-4: "0.9999",
    1 - 1e-6: r"$1-10^{-6}$",
}  # fmt: skip

logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # fonts of formulas that it can do without


def figure_bytes(figure: Figure, name: str) -> bytes:
    """A figure in the format of the file `name`; the same figure gives the same bytes. Text in SVG stays text.

    Raises:
        UserError: `name` ends neither in .png nor in .svg.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in (".png", ".svg"):
        raise UserError(f"a figure's file must end in .png or .svg, got {name!r}")
    buffer = io.BytesIO()
    metadata = {"Date": None} if suffix == ".svg" else {"Software": None}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lfs"}):
        figure.savefig(buffer, dpi=DPI, format=suffix[1:], metadata=metadata)
    return buffer.getvalue()


@dataclass(frozen=True, kw_only=True)
class _Lane:
    """The place of one method on the x axis: a step for each grid point."""

    method: str
    cells: list[Cell]
    start: float
    colour: str

    @property
    def searched(self) -> bool:
        return self.cells[0].searched

    @property
    def points(self) -> list[str]:
        return points_of(self.cells)

    @property
    def x(self) -> list[float]:
        return [self.start + i for i in range(len(self.points))]

    def best(self, metric: str) -> Estimate:
        """At its best grid point in hindsight."""
        return estimate(self.cells, best_point(self.cells, metric), metric)


def comparison_figure(frame: pd.DataFrame, metrics: Sequence[str], *, population: int | None = None) -> Figure:
    """Every loss against every search: does the search beat the best fixed margin beyond the error?

    One panel for each metric. Each method has a lane of its own, because margins are in different units: a hand-crafted
    loss is the curve over its grid, mean ± standard error over seeds, and a search is a point whose mean and error run
    across the panel. A ring is the grid point that the reward chose, a diamond the best by reward of B trainings. Above
    the panel stands the search's paired difference to the hand-crafted loss and margin that are best in hindsight.
    What lies far below all of this is a triangle at the lower edge, with its value.

    Args:
        frame, metrics, population: as `compare_methods` takes them; without `population` there are no diamonds.
    """
    lanes = _lanes(read_cells(frame, metrics))
    if not lanes or not metrics:
        raise ValueError("the figure of a comparison needs a finished cell and a metric")
    end = lanes[-1].x[-1]
    figure = Figure(figsize=(max(8.5, 1.5 + 0.21 * end), 1.4 + 2.3 * len(metrics)), layout="constrained")
    panels = figure.subplots(len(metrics), 1, sharex=True, squeeze=False)[:, 0]
    for panel, metric in zip(panels, metrics, strict=True):
        _draw_panel(panel, lanes, metric, population)
    panels[0].set_xlim(-1, end + 1)
    _label_lanes(panels[-1], lanes)
    figure.legend(handles=_marks(lanes, population), loc="outside upper left", ncols=4, frameon=False, fontsize=8)
    return figure


def _lanes(cells: Sequence[Cell]) -> list[_Lane]:
    lanes: list[_Lane] = []
    start, used = 0.0, {False: 0, True: 0}
    for method in dict.fromkeys(cell.method for cell in cells if cell.replicate == 0):
        mine = [cell for cell in cells if cell.method == method]
        searched = mine[0].searched
        colours = MORE_SEARCH_COLOURS if searched else LOSS_COLOURS
        colour = SEARCH_COLOURS.get(method) or colours[used[searched] % len(colours)]
        used[searched] += method not in SEARCH_COLOURS
        lanes.append(_Lane(method=method, cells=mine, start=start, colour=colour))
        start += len(points_of(mine)) + 1.0
    return lanes


def _draw_panel(panel: Axes, lanes: Sequence[_Lane], metric: str, population: int | None) -> None:
    unit = 100.0 if is_fraction(metric) else 1.0
    for lane in lanes:
        _draw_lane(panel, lane, metric, unit, population)
    low = _lower_edge(lanes, metric) * unit
    if math.isfinite(low):
        panel.set_ylim(low, panel.get_ylim()[1])
    for lane in lanes:
        for x, point in zip(lane.x, lane.points, strict=True):
            _mark_unseen(panel, x, estimate(lane.cells, point, metric), unit, lane.colour)
    panel.set_ylabel(metric_title(metric) + (" [%]" if is_fraction(metric) else ""))
    panel.set_title(_verdict(lanes, metric), fontsize=8.5, loc="right", color=MUTED)
    panel.grid(axis="y", linewidth=0.4, alpha=0.5)
    panel.spines[["top", "right"]].set_visible(False)


def _draw_lane(panel: Axes, lane: _Lane, metric: str, unit: float, population: int | None) -> None:
    found = [estimate(lane.cells, point, metric) for point in lane.points]
    means, errors = [e.mean * unit for e in found], [e.se * unit for e in found]
    panel.errorbar(lane.x, means, errors, fmt="o-", color=lane.colour, markersize=4, linewidth=1.3, capsize=2, zorder=3)
    if lane.searched:
        panel.axhline(means[0], color=lane.colour, linewidth=1, zorder=1)
        if not math.isnan(errors[0]):
            edges = means[0] - errors[0], means[0] + errors[0]
            panel.axhspan(*edges, color=lane.colour, alpha=0.15, linewidth=0, zorder=0)
        return
    if len(found) > 1:
        i = lane.points.index(best_point(lane.cells, REWARD))
        panel.plot(lane.x[i], means[i], "o", color=lane.colour, markerfacecolor="none", markersize=9, zorder=4)
    if population and (best := equal_cost_estimate(lane.cells, metric, population)).values:
        style: dict[str, Any] = {"markerfacecolor": "white", "markersize": 4.5, "capsize": 2, "zorder": 4}
        panel.errorbar(lane.x[-1] + 0.75, best.mean * unit, best.se * unit, fmt="D", color=lane.colour, **style)


def _mark_unseen(panel: Axes, x: float, found: Estimate, unit: float, colour: str) -> None:
    """A word or a triangle for what has no place between the edges."""
    style: dict[str, Any] = {"fontsize": 7, "rotation": 90, "ha": "center", "va": "bottom", "color": colour}
    low, mean = panel.get_ylim()[0], found.mean * unit
    if not found.values:
        panel.text(x, 0.03, found.lacking, transform=panel.get_xaxis_transform(), **style)
    elif mean < low:
        panel.plot(x, low, "v", color=colour, markersize=5, clip_on=False)
        panel.annotate(f"{mean:.{2 if unit > 1 else 3}f}", (x, low), (0, 6), textcoords="offset points", **style)


def _lower_edge(lanes: Sequence[_Lane], metric: str) -> float:
    """Lower end of the y axis: all that is drawn, but not what would press the leading half into a few pixels."""
    every = [estimate(lane.cells, point, metric) for lane in lanes for point in lane.points]
    shown = [e for e in every if e.values]
    if not shown:
        return -math.inf
    top = max(e.mean for e in shown)
    error = max((e.se for e in shown if not math.isnan(e.se)), default=0.0)
    spread = max(top - median(e.mean for e in shown), error)
    lowest = min(e.mean - (0.0 if math.isnan(e.se) else e.se) for e in shown)
    return max(lowest - 0.3 * spread, top - 3.5 * spread) if spread else -math.inf


def _verdict(lanes: Sequence[_Lane], metric: str) -> str:
    """The search against the best that a fixed loss could have done."""
    fixed = [lane for lane in lanes if not lane.searched]
    searches = sorted((lane for lane in lanes if lane.searched), key=lambda lane: lane.method != "search")
    if not fixed or not searches:
        return ""
    rival = max(fixed, key=lambda lane: lane.best(metric).place())
    own, other = searches[0].best(metric), rival.best(metric)
    difference, p = paired_difference(own, other)
    if not difference.values:
        return ""
    unit, digits = (100, 2) if is_fraction(metric) else (1, 3)
    name = display_name(rival.method) + (f" at {short_point(other.point)}" if other.point else "")
    text = f"{display_name(searches[0].method)} − {name}: {difference.mean * unit:+.{digits}f}"
    if math.isnan(p):
        return f"{text} (1 seed)"
    p_value = p_text(p) if p < 0.001 else f"= {p_text(p)}"
    return f"{text} ± {difference.se * unit:.{digits}f} (paired, p {p_value})"


def _label_lanes(panel: Axes, lanes: Sequence[_Lane]) -> None:
    marks = [(x, short_point(point)) for lane in lanes for x, point in zip(lane.x, lane.points, strict=True) if point]
    panel.set_xticks([x for x, _ in marks], [text for _, text in marks], fontsize=7, rotation=90)
    names = panel.secondary_xaxis(-0.02)
    names.spines[:].set_visible(False)
    middles = [(lane.x[0] + lane.x[-1]) / 2 for lane in lanes]
    names.set_xticks(middles, [display_name(lane.method) for lane in lanes], rotation=35, ha="right", fontsize=9)
    longest = max((len(text) for _, text in marks), default=0)
    names.tick_params(length=0, pad=4 + 4.5 * longest)
    names.set_xlabel("margin, or the parameter that the grid is over, and loss", fontsize=9)
    for lane, label in zip(lanes, names.get_xticklabels(), strict=True):
        label.set_color(lane.colour)
        label.set_rotation_mode("anchor")


def _marks(lanes: Sequence[_Lane], population: int | None) -> list[Line2D]:
    marks = [Line2D([], [], color=MUTED, marker="o", markersize=4, label="mean ± standard error over seeds")]
    hollow: dict[str, Any] = {"color": MUTED, "linestyle": "none", "markerfacecolor": "none"}
    if any(len(lane.points) > 1 for lane in lanes):
        marks.append(Line2D([], [], marker="o", markersize=9, label="chosen by reward", **hollow))
    if population and any(not lane.searched for lane in lanes):
        marks.append(Line2D([], [], marker="D", markersize=4.5, label=f"best by reward of {population}", **hollow))
    if any(lane.searched for lane in lanes):
        marks.append(Line2D([], [], color=MUTED, alpha=0.4, linewidth=6, label="a search, across the panel"))
    return marks


def loss_figure(
    generations: Sequence[tuple[int, Loss]], num_classes: int, *, references: Sequence[tuple[str, Loss]] | None = None
) -> Figure:
    """What a search learned: margin against target probability, and loss against target cosine, by generation.

    All cosines but the target's are 0, embeddings are of length 20, and running means are as they are at the start.
    Losses of different scales are each drawn at their own. The axis of p is that of its log odds, on which the target
    cosine runs evenly: trained samples lie close to p = 1. Where a loss is not that of any margin (it is negative,
    say), its curve has a gap.

    Args:
        generations: number and loss of each.
        num_classes: classes of the head.
        references: name and loss of the fixed curves; by default AM and Arc at their papers' margins and normalised
            softmax, at the scale of the last generation.
    """
    if not generations:
        raise ValueError("the figure of a learned loss needs a generation")
    scale = generations[-1][1].scale
    fixed = default_references(scale) if references is None else references
    figure = Figure(figsize=(9, 4), layout="constrained")
    margin_panel, loss_panel = figure.subplots(1, 2)
    light = 0.08 if len(generations) > 1 else 1.0
    shades = matplotlib.colormaps["viridis_r"](torch.linspace(light, 1, len(generations)).numpy())
    curves: list[tuple[Loss, dict[str, Any]]] = [
        (loss, {"color": shade, "linewidth": 1.5}) for (_, loss), shade in zip(generations, shades, strict=True)
    ]
    for i, (name, loss) in enumerate(fixed):
        style = {
            "color": REFERENCE_COLOURS[i % 3],
            "linestyle": ("--", "-.", ":")[i % 3],
            "linewidth": 1.8,
            "label": name,
        }
        curves.append((loss, style))
    cosine = target_cosines(scale, num_classes)
    p = target_probabilities(cosine, scale, num_classes)
    for loss, style in curves:
        margin_panel.plot(p, margins_at(loss, p, num_classes), **style)
        loss_panel.plot(cosine, losses_at(loss, cosine, num_classes), **style)
    _label_margin_panel(margin_panel, scale, num_classes)
    loss_panel.set_xlabel("cosine of the target class")
    loss_panel.set_ylabel("loss [nat]")
    loss_panel.set_ylim(bottom=min(0.0, *loss_panel.get_ylim()))
    handles, labels = margin_panel.get_legend_handles_labels()
    if len(generations) == 1:
        handles, labels = [margin_panel.lines[0], *handles], ["learned", *labels]
    loss_panel.legend(handles, labels, loc="upper right", frameon=False, fontsize=9)
    for panel in (margin_panel, loss_panel):
        panel.grid(linewidth=0.4, alpha=0.5)
        panel.spines[["top", "right"]].set_visible(False)
    if len(generations) > 1:
        _colour_bar(figure, _generation_names(generations), shades, loss_panel)
    return figure


def _generation_names(generations: Sequence[tuple[int, Loss]]) -> list[str]:
    """Numbers of the generations, with their scale where they differ in it."""
    differ = len({loss.scale for _, loss in generations}) > 1
    return [f"{number}" + (f" (s = {loss.scale:.3g})" if differ else "") for number, loss in generations]


def _label_margin_panel(panel: Axes, scale: float, num_classes: int) -> None:
    panel.set_xscale("logit")
    panel.xaxis.set_minor_locator(NullLocator())
    left, right = panel.get_xlim()
    ticks = {p: text for p, text in TICKS.items() if left <= p <= right}
    panel.set_xticks(list(ticks), list(ticks.values()), fontsize=8)
    panel.set_xlabel("probability p of the target class [log odds]")
    panel.set_ylabel("CosFace margin of the same loss [cosine]")
    low, high = panel.get_ylim()
    panel.set_ylim(max(low, -0.3), min(high, 1.0))
    background = math.log(num_classes - 1)

    def cosine(p: Any) -> Any:
        return (
            torch.logit(torch.as_tensor(p, dtype=torch.float64).clamp(1e-300, 1 - 1e-16)).numpy() + background
        ) / scale

    def probability(c: Any) -> Any:
        return torch.sigmoid(torch.as_tensor(c, dtype=torch.float64) * scale - background).numpy()

    top = panel.secondary_xaxis("top", functions=(cosine, probability))
    top.set_xscale("linear")
    top.set_xlabel(f"cosine of the target class at scale {scale:.3g}")


def _colour_bar(figure: Figure, names: Sequence[str], shades: Any, panel: Axes) -> None:
    n = len(names)
    norm = BoundaryNorm([i - 0.5 for i in range(n + 1)], n)
    bar = figure.colorbar(ScalarMappable(norm, ListedColormap(shades)), ax=panel, label="generation", pad=0.02)
    shown = range(0, n, math.ceil(n / 10))
    bar.set_ticks(list(shown), labels=[names[i] for i in shown])
    bar.minorticks_off()
