"""The figures of a report for plotly.js, as its JSON: `{"data": [traces], "layout": {...}}`.

Every text that comes from the run goes through `label`: plotly takes texts for a kind of HTML.
"""

import html
import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch

from lfs.colours import BLACK, BLUE, GREEN, MUTED, ORANGE, PALE, REFERENCE_COLOURS, SKY, VERMILION
from lfs.loss_curves import default_references, losses_at, margins_at, target_cosines, target_probabilities
from lfs.report_run import Generation, Run, number
from lfs.report_series import KINDS, Shifts, costs, noise
from lfs.sheet import is_fraction
from lfs.terminal import printable
from search_space.loss import Loss
from trainers.verification.roc_curve import RocCurve

Chart = dict[str, Any]
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"
MAX_POINTS = 20_000
"""Candidates that a figure shows."""
MAX_BARS = MAX_POINTS // 3
"""Of the trainers' time, the last ones: each has two ends and a gap."""
MAX_DIMENSIONS = 24
MAX_TRAINERS = 48
MAX_CURVES = 9
NUM_CLASSES = 1000
"""Of the curves of a loss: the number only shifts them sideways, by log(classes) / scale."""
COLUMNS = 3
TICKS = {1e-6: "10<sup>−6</sup>", 1e-4: "10<sup>−4</sup>", 0.01: "0.01", 0.5: "0.5", 0.99: "0.99", 1 - 1e-4: "0.9999",
         1 - 1e-6: "1−10<sup>−6</sup>"}  # fmt: skip
SHADES = ("#FDE725", "#B5DE2B", "#6ECE58", "#35B779", "#1F9E89", "#26828E", "#31688E", "#3E4989", "#440154")
"""Viridis, from light to dark."""
KIND_STYLES = dict(zip(KINDS, ((BLUE, 11), (ORANGE, 11), (PALE, 3), (VERMILION, 11), (BLACK, 3)), strict=True))
"""Colour and width of each kind of time: the idle ones are thin, so that they are told apart without colour."""


def label(text: object) -> str:
    """A text from outside as a text of a figure."""
    shown = printable(str(text))
    return html.escape(shown if len(shown) <= 60 else f"{shown[:57]}...")


def values(numbers: Iterable[float], digits: int | None = None) -> list[float | None]:
    """Numbers for JSON; what is not finite leaves a gap."""
    return [None if not math.isfinite(x) else float(x) if digits is None else round(float(x), digits) for x in numbers]


def axis(title: str, size: int = 13, **more: Any) -> dict[str, Any]:
    """An axis with its unit."""
    style = {"gridcolor": "#E3E7EA", "zerolinecolor": "#AAB4BC", "linecolor": MUTED, "ticks": "outside"}
    return {"title": {"text": title, "standoff": 6, "font": {"size": size}}, "automargin": True, **style, **more}


def layout(height: int, **more: Any) -> dict[str, Any]:
    """What all figures have in common."""
    return {
        "height": height, "margin": {"l": 64, "r": 16, "t": 44, "b": 52}, "font": {"family": FONT, "size": 13},
        "paper_bgcolor": "white", "plot_bgcolor": "white", "hovermode": "closest", "uirevision": "kept",
        "legend": {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "font": {"size": 12}},
        "hoverlabel": {"namelength": -1}, **more,
    }  # fmt: skip


def metric_text(run: Run) -> str:
    """What is rewarded, with its unit."""
    return f"{label(run.config.reward.metric)} [{reward_unit(run)}]"


def reward_unit(run: Run) -> str:
    """Of the reward, as far as it is known: a metric of the user's own may be anything."""
    parts = run.config.reward.metric.split("+")
    if all(map(is_fraction, parts)):
        return "fraction"
    return "standard deviations" if all(part.removeprefix("all:") == "d_prime" for part in parts) else "1"


def generation_axis(run: Run, **more: Any) -> dict[str, Any]:
    """Generations, counted from 1, in whole numbers."""
    few = len(run.generations) <= 12
    return axis("generation", **({"dtick": 1} if few else {"nticks": 12}), tickformat="d", **more)


def band(x: Sequence[Any], low: Sequence[Any], high: Sequence[Any], name: str, colour: str, **more: Any) -> Chart:
    """The area between two lines, which have no gaps."""
    pairs = [(a, b, c) for a, b, c in zip(x, low, high, strict=True) if b is not None and c is not None]
    xs, lows, highs = ([pair[i] for pair in pairs] for i in range(3))
    return {
        "type": "scatter", "mode": "lines", "x": xs + xs[::-1], "y": highs + lows[::-1], "fill": "toself", "name": name,
        "fillcolor": colour, "line": {"width": 0}, "hoverinfo": "skip", **more,
    }  # fmt: skip


def reward_chart(run: Run) -> Chart:
    """Reward of every candidate, the best and the mean of each generation, and how sure they are."""
    rows = run.candidates
    rows = rows[rows["reward"].notna()]
    rows = rows.iloc[:: -(-len(rows) // MAX_POINTS)] if len(rows) else rows
    x = [g.number + 1 for g in run.generations]
    best, mean = [g.best for g in run.generations], [number(g.summary["mean_reward"]) for g in run.generations]
    se = [number(g.summary["best_reward_se"]) for g in run.generations]
    paired = noise(run).to_numpy(np.float64)
    low, high = ([b + sign * s for b, s in zip(best, se, strict=True)] for sign in (-1, 1))
    told = [b - p for b, p in zip(best, paired, strict=True)]
    texts = [f"candidate {c:.0f}" for c in rows["candidate"]]
    return {
        "data": [
            band(x, values(low), values(high), "best ± standard error", "rgba(0,114,178,0.13)"),
            band(x, values(told), values(best), "not told apart from the best", "rgba(0,114,178,0.30)"),
            {"type": "scatter", "mode": "markers", "name": "candidate", "x": [int(n) + 1 for n in rows["generation"]],
             "y": values(rows["reward"]), "text": texts, "hovertemplate": "%{text}: %{y:.6g}<extra></extra>",
             "marker": {"size": 5, "color": "#6B7A86", "opacity": 0.6}},
            {"type": "scatter", "mode": "lines", "name": "mean", "x": x, "y": values(mean),
             "line": {"color": VERMILION, "width": 2, "dash": "dash"},
             "hovertemplate": "mean: %{y:.6g}<extra></extra>"},
            {"type": "scatter", "mode": "lines+markers", "name": "best", "x": x, "y": values(best),
             "line": {"color": BLUE, "width": 2}, "marker": {"size": 6},
             "hovertemplate": "generation %{x}, best: %{y:.6g}<extra></extra>"},
        ],
        "layout": layout(
            420, xaxis=generation_axis(run), yaxis=axis(f"reward: {metric_text(run)}")
        ),
    }  # fmt: skip


def unit_of(name: str) -> str:
    """The unit of a loss parameter; the spaces' own names say what it is."""
    angle, cosine = ("m_arc", "angle"), ("margin", "m_cos")
    return "rad" if name.startswith(angle) else "cosine" if name.startswith(cosine) else "1"


def policy_names(run: Run) -> tuple[list[str], list[Generation]]:
    """The first dimensions of the policy, and the generations that have them."""
    last = run.generations[-1].summary if run.generations else {}
    names = list(last.get("parameter_names", []))[:MAX_DIMENSIONS]
    return names, [g for g in run.generations if list(g.summary["parameter_names"])[: len(names)] == names]


def time_unit(found: Shifts) -> tuple[str, float]:
    """The unit for the axis of time, and its seconds."""
    last = float(found.bars["end"].max())
    return ("h", 3600.0) if last > 2 * 3600 else ("min", 60.0) if last > 120 else ("s", 1.0)


def policy_chart(run: Run) -> Chart | None:
    """Mean and standard deviation of each dimension of the policy, and what the winners had; None: no policy."""
    names, used = policy_names(run)
    if not names:
        return None
    x = [g.number + 1 for g in used]
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    grid = {"rows": rows, "columns": columns, "pattern": "independent", "xgap": 0.34, "ygap": 0.38}
    made = layout(150 + 190 * rows, grid=grid)
    data: list[Chart] = []
    for i, name in enumerate(names):
        mean, std = (np.array([number(g.summary[key][i]) for g in used]) for key in ("policy_mean", "policy_std"))
        won = [number(g.summary["winner_parameters"].get(name)) for g in used]
        place: Chart = {"xaxis": f"x{i + 1}", "yaxis": f"y{i + 1}", "showlegend": i == 0}
        data += [
            band(x, values(mean - std), values(mean + std), "mean ± std", "rgba(0,114,178,0.18)", **place),
            {"type": "scatter", "mode": "lines", "name": "mean after the generation", "x": x, "y": values(mean),
             "line": {"color": BLUE, "width": 2}, "hovertemplate": "mean %{y:.4g}<extra></extra>", **place},
            {"type": "scatter", "mode": "markers", "name": "winner", "x": x, "y": values(won),
             "marker": {"color": VERMILION, "size": 6, "symbol": "x-thin", "line": {"color": VERMILION, "width": 1.5}},
             "hovertemplate": "winner of %{x}: %{y:.4g}<extra></extra>", **place},
        ]  # fmt: skip
        made[f"xaxis{i + 1}"] = generation_axis(run, anchor=f"y{i + 1}", size=11)
        made[f"yaxis{i + 1}"] = axis(f"{label(name)} [{unit_of(name)}]", anchor=f"x{i + 1}", size=11)
    made["hovermode"] = "x"
    return {"data": data, "layout": made}


@lru_cache(maxsize=4 * MAX_CURVES)
def _curves(loss: Loss, scale: float) -> tuple[list[float | None], list[float | None]]:
    """Margins and values of a loss; a live page asks for the same ones again and again."""
    cosine = target_cosines(scale, NUM_CLASSES)
    p = target_probabilities(cosine, scale, NUM_CLASSES)
    found = margins_at(loss, p, NUM_CLASSES), losses_at(loss, cosine, NUM_CLASSES)
    return values(found[0].tolist(), 6), values(found[1].tolist(), 6)


def loss_chart(losses: Sequence[tuple[int, Loss]]) -> Chart:
    """Margin against target probability, and loss against target cosine, of some generations and three known losses.

    Args:
        losses: number (from 0) and loss of at least one generation.
    """
    scale = losses[-1][1].scale
    cosine = target_cosines(scale, NUM_CLASSES)
    p = target_probabilities(cosine, scale, NUM_CLASSES)
    odds = torch.logit(p).tolist()
    shades = SHADES[-1:] if len(losses) == 1 else [SHADES[round(i * 8 / (len(losses) - 1))] for i in range(len(losses))]
    curves = [
        (f"generation {g + 1}", loss, {"color": s, "width": 2}) for (g, loss), s in zip(losses, shades, strict=True)
    ]
    dashes = ("dash", "dashdot", "dot")
    curves += [
        (name, loss, {"color": colour, "width": 2, "dash": dash})
        for (name, loss), colour, dash in zip(default_references(scale), REFERENCE_COLOURS, dashes, strict=True)
    ]
    data: list[Chart] = []
    for name, loss, line in curves:
        shown = {"type": "scatter", "mode": "lines", "name": name, "line": line, "legendgroup": name}
        margins, heights = _curves(loss, scale)
        data.append(shown | {"x": values(odds, 4), "y": margins, "hovertemplate": f"{name}: %{{y:.4f}}<extra></extra>"})
        data.append(shown | {
            "x": values(cosine.tolist(), 5), "y": heights, "xaxis": "x2", "yaxis": "y2", "showlegend": False,
            "hovertemplate": f"{name}: %{{y:.3f}}<extra></extra>",
        })  # fmt: skip
    ticks = {math.log(q) - math.log1p(-q): text for q, text in TICKS.items()}
    drawn = [y for trace in data[::2] for y in trace["y"] if y is not None]
    low, high = max(-0.3, min(drawn, default=0)), min(1.0, max(drawn, default=0.5))
    room = 0.05 * (high - low or 1)
    made = layout(
        470, grid={"rows": 1, "columns": 2, "pattern": "independent", "xgap": 0.28},
        xaxis=axis("probability p of the target class [log odds]", tickvals=list(ticks), ticktext=list(ticks.values())),
        yaxis=axis("CosFace margin of the same loss [cosine]", range=[low - room, high + room]),
        xaxis2=axis("cosine of the target class", anchor="y2"), yaxis2=axis("loss [nat]", anchor="x2"),
    )  # fmt: skip
    return {"data": data, "layout": made}


def gain_chart(run: Run, rows: pd.DataFrame) -> Chart:
    """Where the gain of each generation came from.

    Args:
        rows: as `gains` gives them, at least one.
    """
    x = [int(g) + 1 for g in rows["generation"]]

    def bar(column: str, name: str, colour: str, shape: str) -> Chart:
        pattern = {"shape": shape, "fillmode": "overlay", "fgcolor": "white", "fgopacity": 1, "size": 6}
        return {
            "type": "bar", "name": name, "x": x, "y": values(rows[column]),
            "marker": {"color": colour, "pattern": pattern | {"solidity": 0.2}},
            "hovertemplate": f"{name}: %{{y:.5f}}<extra></extra>",
        }  # fmt: skip

    def marks(column: str, name: str, symbol: str, colour: str, above: pd.Series | float = 0.0) -> Chart:
        return {
            "type": "scatter", "mode": "markers", "name": name, "x": x, "y": values(rows[column] + above),
            "marker": {"symbol": symbol, "size": 10, "color": colour, "line": {"width": 2, "color": colour}},
            "customdata": values(rows[column]), "hovertemplate": f"{name}: %{{customdata:.5f}}<extra></extra>",
        }  # fmt: skip

    data = [
        bar("training", "by training alone", SKY, ""), bar("choosing", "by choosing the winner", ORANGE, "/"),
        marks("gain", "gain over the parent", "diamond-open", BLACK),
    ]  # fmt: skip
    if rows["luck"].notna().any():
        below = rows["training"].clip(lower=0.0)  # what the bar of choosing stands on
        data.append(marks("luck", "choosing by luck alone", "line-ew-open", BLACK, below))
    made = layout(400, barmode="relative", bargap=0.35, xaxis=generation_axis(run))
    made["yaxis"] = axis(f"gain in reward: {metric_text(run)}")
    return {"data": data, "layout": made}


def drawn_bars(found: Shifts) -> tuple[list[str], pd.DataFrame, int]:
    """The first trainers, their last `MAX_BARS` bars, and how many they have."""
    names = list(found.trainers.index)[:MAX_TRAINERS]
    bars = found.bars[found.bars["trainer"].isin(names)]
    last = np.argsort(bars["end"].to_numpy(), kind="stable")[-MAX_BARS:]
    return names, bars.iloc[np.sort(last)], len(bars)


def trainers_chart(found: Shifts) -> Chart:
    """Who worked when: one line for each trainer."""
    names, drawn, count = drawn_bars(found)
    place = {name: i for i, name in enumerate(names)}
    unit, seconds = time_unit(found)
    data = []
    for kind, (colour, width) in KIND_STYLES.items():
        bars = drawn[drawn["kind"] == kind]
        x: list[float | None] = []
        y: list[int | None] = []
        texts: list[str] = []
        for trainer, begin, end, text in zip(
            *(bars[name] for name in ("trainer", "begin", "end", "text")), strict=True
        ):
            x += [round(begin / seconds, 4), round(end / seconds, 4), None]
            y += [place[trainer]] * 2 + [None]
            texts += [f"{text}<br>{kind}, {end - begin:,.1f} s"] * 2 + [""]
        if x:
            data.append({
                "type": "scatter", "mode": "lines", "name": kind, "x": x, "y": y, "text": texts, "connectgaps": False,
                "hovertemplate": "%{text}<extra></extra>", "line": {"color": colour, "width": width, "simplify": False},
            })  # fmt: skip
    made = layout(
        150 + 26 * len(names),
        xaxis=axis(f"time at work [{unit}]", rangemode="tozero" if len(drawn) == count else "normal"),
    )
    ticks: Chart = {"tickvals": list(place.values()), "ticktext": [label(name) for name in names]}
    made["yaxis"] = axis("trainer", range=[len(names) - 0.5, -0.5], zeroline=False, **ticks)
    return {"data": data, "layout": made}


def cost_chart(run: Run) -> Chart:
    """Trainers' time by generation, and training pictures so far."""
    rows = costs(run)
    x = [int(g) + 1 for g in rows["generation"]]
    bars = [
        {"type": "bar", "name": name, "x": x, "y": values(rows[column], 3), "marker": {"color": colour},
         "hovertemplate": f"{name}: %{{y:,.1f}} s<extra></extra>"}
        for column, name, colour in (
            ("training_s", "training", BLUE), ("validating_s", "validating", ORANGE)
        )
    ]  # fmt: skip
    line = {
        "type": "scatter", "mode": "lines", "name": "pictures so far", "x": x, "y": values(rows["total_images"]),
        "line": {"color": GREEN, "width": 2, "dash": "dash"}, "xaxis": "x2", "yaxis": "y2",
        "hovertemplate": "%{y:,} pictures<extra></extra>",
    }  # fmt: skip
    made = layout(
        360, barmode="stack", grid={"rows": 1, "columns": 2, "pattern": "independent", "xgap": 0.28},
        xaxis=generation_axis(run), yaxis=axis("time of all trainers [s]"),
        xaxis2=generation_axis(run, anchor="y2"),
        yaxis2=axis("training pictures so far", rangemode="tozero", anchor="x2"),
    )  # fmt: skip
    return {"data": [*bars, line], "layout": made}


def roc_chart(curves: dict[str, RocCurve], points: pd.DataFrame) -> Chart:
    """TAR over FAR.

    Args:
        curves: measured now, by set.
        points: stored, columns set, far, tar, tar_se.
    """
    colours, dashes = (BLUE, VERMILION, GREEN, BLACK, ORANGE, SKY), ("solid", "dash", "dashdot", "dot")
    data: list[Chart] = []
    for i, (name, curve) in enumerate(curves.items()):
        thin = curve.corners().thinned(min(0.1, 1 / curve.num_impostor), 500)
        fars = thin.fars.clip(0.7 / curve.num_impostor)
        line = {"color": colours[i % 6], "dash": dashes[i % 4], "width": 2, "shape": "hv"}
        data.append({
            "type": "scatter", "mode": "lines", "name": label(name), "x": values(fars), "y": values(thin.tars),
            "line": line, "hovertemplate": "FAR %{x:.2e}, TAR %{y:.4f}<extra></extra>",
        })  # fmt: skip
    for i, (where, part) in enumerate(points.groupby("set", sort=False)):
        data.append({
            "type": "scatter", "mode": "markers", "name": label(where), "x": values(part["far"]),
            "y": values(part["tar"]), "error_y": {"type": "data", "array": values(part["tar_se"]), "thickness": 1.2},
            "marker": {"size": 9, "symbol": ("circle-open", "square-open", "diamond-open")[i % 3],
                       "color": colours[(i + len(curves)) % 6], "line": {"width": 2}},
            "hovertemplate": "FAR %{x:.2e}, TAR %{y:.4f}<extra></extra>",
        })  # fmt: skip
    made = layout(440, xaxis=axis("false accept rate (FAR) [fraction]", type="log", exponentformat="power", dtick=1))
    made["yaxis"] = axis("true accept rate (TAR) [fraction]", range=[-0.02, 1.02])
    return {"data": data, "layout": made}
