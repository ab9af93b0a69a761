"""The figures of a report one by one, at paper quality."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lfs.colours import BLACK, BLUE, GREEN, MUTED, ORANGE, SKY, VERMILION
from lfs.figures import figure_bytes, loss_figure
from lfs.report_charts import (
    COLUMNS,
    KIND_STYLES,
    MAX_DIMENSIONS,
    NUM_CLASSES,
    drawn_bars,
    policy_names,
    reward_unit,
    time_unit,
    unit_of,
)
from lfs.report_faces import Faces
from lfs.report_run import Run, number
from lfs.report_sections import UNDRAWABLE, shown_losses
from lfs.report_series import costs, gains, noise, shifts
from lfs.roc_plot import MAX_CURVES, figure_text, roc_figure


def figures(run: Run, faces: Faces | str) -> dict[str, bytes]:
    """Each figure that the run has something for, as a PNG by its name; the same run gives the same bytes."""
    drawings: dict[str, Callable[[], Figure | None]] = {
        "reward": lambda: _reward(run), "policy": lambda: _policy(run), "loss": lambda: _loss(run),
        "gain": lambda: _gain(run), "trainers": lambda: _trainers(run), "cost": lambda: _cost(run),
        "roc": lambda: _roc(faces),
    }  # fmt: skip
    made = {f"{name}.png": draw() for name, draw in drawings.items()} if run.generations else {}
    return {name: figure_bytes(figure, name) for name, figure in made.items() if figure is not None}


def _panels(rows: int, columns: int, width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for panel in panels.flat:
        panel.grid(axis="y", linewidth=0.4, alpha=0.5)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _legend(figure: Figure, panel: Axes) -> None:
    """Above the panels: a search for the best place among many points takes long."""
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=5, frameon=False, fontsize=7.5)


def _generations(panel: Axes) -> None:
    panel.set_xlabel("generation")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))


def _metric(run: Run) -> str:
    return f"{figure_text(run.config.reward.metric)} [{reward_unit(run)}]"


def _reward(run: Run) -> Figure:
    figure, [[panel]] = _panels(1, 1, 6.4, 4.0)
    rows = run.candidates
    x = [g.number + 1 for g in run.generations]
    best, mean, se = (
        np.array([number(value) for value in found])
        for found in zip(
            *((g.best, g.summary["mean_reward"], g.summary["best_reward_se"]) for g in run.generations), strict=True
        )
    )
    panel.fill_between(x, best - se, best + se, color=BLUE, alpha=0.13, linewidth=0, label="best ± standard error")
    panel.fill_between(
        x, best - noise(run).to_numpy(np.float64), best, color=BLUE, alpha=0.3, linewidth=0,
        label="not told apart from the best",
    )  # fmt: skip
    panel.plot(rows["generation"] + 1, rows["reward"], ".", color="#6B7A86", markersize=4, label="candidate")
    panel.plot(x, mean, "--", color=VERMILION, label="mean")
    panel.plot(x, best, "o-", color=BLUE, markersize=3, label="best")
    panel.set_ylabel(f"reward: {_metric(run)}")
    _generations(panel)
    _legend(figure, panel)
    return figure


def _policy(run: Run) -> Figure | None:
    names, used = policy_names(run)
    if not names:
        return None
    columns = min(COLUMNS, len(names))
    rows = math.ceil(min(len(names), MAX_DIMENSIONS) / columns)
    figure, panels = _panels(rows, columns, 1 + 2.8 * columns, 0.6 + 2.0 * rows)
    x = [g.number + 1 for g in used]
    for i, panel in enumerate(panels.flat):
        if i >= len(names):
            panel.remove()
            continue
        mean, std = (np.array([number(g.summary[key][i]) for g in used]) for key in ("policy_mean", "policy_std"))
        panel.fill_between(x, mean - std, mean + std, color=BLUE, alpha=0.18, linewidth=0, label="mean ± std")
        panel.plot(x, mean, color=BLUE, label="mean")
        won = [number(g.summary["winner_parameters"].get(names[i])) for g in used]
        panel.plot(x, won, "x", color=VERMILION, markersize=4, label="winner")
        panel.set_ylabel(f"{figure_text(names[i])} [{unit_of(names[i])}]", fontsize=8)
        _generations(panel)
    _legend(figure, panels[0, 0])
    return figure


def _loss(run: Run) -> Figure | None:
    losses, _ = shown_losses(run)
    try:
        return loss_figure([(g + 1, loss) for g, loss in losses], NUM_CLASSES) if losses else None
    except UNDRAWABLE:
        return None


def _gain(run: Run) -> Figure | None:
    rows = gains(run)
    if rows.empty:
        return None
    figure, [[panel]] = _panels(1, 1, 6.4, 3.6)
    x = rows["generation"].to_numpy() + 1
    training, choosing = rows["training"].to_numpy(), rows["choosing"].to_numpy()
    panel.bar(x, training, 0.65, color=SKY, label="by training alone")
    base = np.where(training > 0, training, 0.0)  # what is negative hangs below the axis
    panel.bar(x, choosing, 0.65, bottom=base, color=ORANGE, hatch="//", edgecolor="white", linewidth=0,
              label="by choosing the winner")  # fmt: skip
    panel.plot(x, rows["gain"], "D", color=BLACK, fillstyle="none", markersize=5, label="gain over the parent")
    panel.plot(x, base + rows["luck"], "_", color=BLACK, markersize=11, markeredgewidth=1.8,
               label="choosing by luck alone")  # fmt: skip
    panel.axhline(0, color=MUTED, linewidth=0.8)
    panel.set_ylabel(f"gain in reward: {_metric(run)}")
    _generations(panel)
    _legend(figure, panel)
    return figure


def _trainers(run: Run) -> Figure | None:
    found = shifts(run)
    if found is None:
        return None
    names, drawn, _ = drawn_bars(found)
    figure, [[panel]] = _panels(1, 1, 7.2, 1.3 + 0.25 * len(names))
    unit, seconds = time_unit(found)
    for kind, (colour, width) in KIND_STYLES.items():
        bars = drawn[drawn["kind"] == kind]
        places = bars["trainer"].map({name: i for i, name in enumerate(names)})
        if len(bars):
            begin, end = bars["begin"] / seconds, bars["end"] / seconds
            panel.hlines(places, begin, end, color=colour, linewidth=width / 1.6, label=kind)
    panel.set_yticks(range(len(names)), [figure_text(name) for name in names], fontsize=8)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.set_xlabel(f"time at work [{unit}]")
    panel.set_title(f"utilisation {found.utilisation:.1%}", fontsize=9, loc="right", color=MUTED)
    _legend(figure, panel)
    return figure


def _cost(run: Run) -> Figure:
    figure, [[times, pictures]] = _panels(1, 2, 7.2, 3.0)
    rows = costs(run)
    x = rows["generation"] + 1
    times.bar(x, rows["training_s"], 0.7, color=BLUE, label="training")
    times.bar(x, rows["validating_s"], 0.7, bottom=rows["training_s"], color=ORANGE, label="validating")
    times.set_ylabel("time of all trainers [s]")
    _legend(figure, times)
    pictures.plot(x, rows["total_images"], "--", color=GREEN)
    pictures.set_ylabel("training pictures so far")
    pictures.set_ylim(bottom=0)
    for panel in (times, pictures):
        _generations(panel)
    return figure


def _roc(faces: Faces | str) -> Figure | None:
    if isinstance(faces, str) or not faces.curves:
        return None
    return roc_figure(dict(list(faces.curves.items())[:MAX_CURVES]))
