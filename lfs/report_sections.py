"""The sections of a report: a few sentences, tables and figures each. What is missing is said where it is missed."""

import dataclasses
import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch

from lfs.config import SearchConfig
from lfs.loss_curves import losses_at
from lfs.progress import duration_text
from lfs.report_charts import (
    MAX_CURVES,
    MAX_DIMENSIONS,
    MAX_POINTS,
    MAX_TRAINERS,
    NUM_CLASSES,
    Chart,
    cost_chart,
    drawn_bars,
    gain_chart,
    loss_chart,
    policy_chart,
    reward_chart,
    roc_chart,
    trainers_chart,
)
from lfs.report_faces import Faces
from lfs.report_run import Run, number
from lfs.report_series import costs, gains, noise, shifts, stored_points
from lfs.results_show import event_line
from lfs.results_tables import scored
from lfs.terminal import printable
from lfs.view import reward_text
from search_space.errors import first_line
from search_space.loss import Loss, loss_from_dict

UNDRAWABLE = (ValueError, TypeError, AttributeError, RuntimeError, ArithmeticError)
"""What a stored loss raises that is none, or none that can be computed."""
MAX_SCORES = 6
"""Test scores in the summary."""
MAX_ROWS = 2000
"""Of a table: the last ones."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of the page."""

    key: str
    title: str
    text: str
    """HTML, everything from the run escaped."""

    charts: dict[str, Chart] = field(default_factory=dict)


def escaped(text: object) -> str:
    """A text from anywhere as HTML that is nothing but this text."""
    return html.escape(printable(str(text), keep="\n"))


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{escaped(text)}</p>"


def note(text: str) -> str:
    """What is missing, and why."""
    return f'<p class="note">{escaped(text)}</p>'


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of plain texts; the last `MAX_ROWS` rows."""
    cells = [list(map(escaped, row)) for row in rows]
    cut = note(f"the last {MAX_ROWS:,} of {len(cells):,} rows") if len(cells) > MAX_ROWS else ""
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in cells[-MAX_ROWS:])
    head = "".join(f'<th scope="col">{escaped(name)}</th>' for name in heads)
    return f'{cut}<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def sections(run: Run, faces: Faces | str) -> list[Section]:
    """All sections, in the order of the page, always the same ones.

    Args:
        faces: what the test pictures came to, or why that is not known.
    """
    if not run.generations:
        empty = note("no generation is committed yet")
        keys = ("reward", "policy", "loss", "gain", "lineage", "trainers", "cost", "verification", "pairs")
        inner = [Section(key=key, title=TITLES[key], text=empty) for key in keys]
    else:
        inner = [
            _reward(run), _policy(run), _loss(run), _gain(run), _lineage(run), _trainers(run), _cost(run),
            _verification(run, faces), _pairs(faces),
        ]  # fmt: skip
    return [_summary(run), *inner, _configuration(run)]


TITLES = {
    "summary": "In short", "reward": "Reward", "policy": "Policy", "loss": "The loss that was found",
    "gain": "Where the gain came from", "lineage": "Lineage of the winners", "trainers": "Trainers", "cost": "Cost",
    "verification": "Verification", "pairs": "Hardest pairs", "configuration": "Configuration",
}  # fmt: skip


def _summary(run: Run) -> Section:
    config, done = run.config, run.generations
    rows: list[tuple[str, str]] = [("state", f"{run.state}, {len(done):,} of {config.generations:,} generations")]
    what = f"{config.mode} in space {config.space.name}, {config.population} candidates a generation"
    if config.mode == "fixed":
        what = "replay of a search's losses" if config.schedule else f"training with {config.loss.name}"
    rows.append(("search", what))
    if done:
        best = max(done, key=lambda g: -math.inf if math.isnan(g.best) else g.best)
        shown = reward_text(best.best, number(best.summary["best_reward_se"]))
        rows.append(("best reward", f"{shown} ({config.reward.metric}, generation {best.number + 1})"))
        first = next((g.best for g in done if not math.isnan(g.best)), math.nan)
        rows.append(("gain since the first generation", f"{best.best - first:+.4f}"))
        rows.append(("the last winner's loss", named(done[-1].summary["winner_parameters"])))
        took = costs(run)
        rows.append(("cost", f"{took['total_images'].iloc[-1]:,.0f} training pictures, {_trainer_hours(took)}"))
    for name, value in _tests(run)[:MAX_SCORES]:
        rows.append((f"test: {name}", value))
    text = table(("", ""), rows).replace("<table>", '<table class="facts">')
    if run.missing:
        text += "".join(note(f"missing: {line}") for line in run.missing[:20])
        text += note(f"and {len(run.missing) - 20:,} more") if len(run.missing) > 20 else ""
    return Section(key="summary", title=TITLES["summary"], text=text)


def named(parameters: Mapping[str, float]) -> str:
    """All parameters of a loss; those that are 0 are left out, if there are others."""
    shown = {name: value for name, value in parameters.items() if value} or parameters
    return ", ".join(f"{name} {value:.3g}" for name, value in shown.items())


def _trainer_hours(took: pd.DataFrame) -> str:
    return f"{(took['training_s'].sum() + took['validating_s'].sum()) / 3600:,.2f} trainer hours"


def _reward(run: Run) -> Section:
    rows = run.candidates
    text = paragraph(
        "Each dot is a candidate: one loss, trained from the weights of the winner before it. The wide band is one "
        "standard error of the best reward over the reward pairs. All candidates are measured on the same pairs, so "
        "two of them are told apart far better than that: those in the dark band are within one paired standard error "
        "of the winner."
    )
    lost = int(rows["diverged"].sum()), int(rows["dropped"].sum())
    if any(lost):
        text += note(f"without a reward: {lost[0]:,} candidates diverged, {lost[1]:,} were dropped")
    if (count := int(rows["reward"].notna().sum())) > MAX_POINTS:
        text += note(f"of {count:,} candidates, every {-(-count // MAX_POINTS)}th is drawn")
    paired = noise(run)
    shown = [
        (g.number + 1, "warm-up" if g.summary["warmup"] else "", g.summary["winner"], repr(g.best),
         repr(number(g.summary["best_reward_se"])), repr(number(g.summary["mean_reward"])),
         repr(float(paired[g.number])), g.summary["candidates"], g.summary["diverged"])
        for g in run.generations
    ]  # fmt: skip
    heads = ("generation", "", "winner", "best reward", "± standard error", "mean reward", "± paired (median)",
             "candidates", "diverged")  # fmt: skip
    text += _details("numbers", "Numbers", table(heads, [[_plain(v) for v in row] for row in shown]))
    return Section(key="reward", title=TITLES["reward"], text=text, charts={"reward": reward_chart(run)})


def _plain(value: object) -> object:
    return "-" if value == "nan" else value


def _details(key: str, title: str, inner: str) -> str:
    return f'<details id="{key}"><summary>{escaped(title)}</summary>{inner}</details>'


def _policy(run: Run) -> Section:
    chart = policy_chart(run)
    if chart is None:
        return Section(key="policy", title=TITLES["policy"], text=note("a training with fixed losses has no policy"))
    text = paragraph(
        "The Gaussian that losses are drawn from, in the loss's own parameters, after each generation; crosses are "
        "what the winners had. It moves towards what was rewarded, and stands still in the warm-up and where rewards "
        "were not told apart."
    )
    names = run.generations[-1].summary["parameter_names"]
    if len(names) > MAX_DIMENSIONS:
        text += note(f"the first {MAX_DIMENSIONS} of {len(names)} dimensions")
    return Section(key="policy", title=TITLES["policy"], text=text, charts={"policy": chart})


def _loss(run: Run) -> Section:
    losses, notes = shown_losses(run)
    text = "".join(map(note, notes))
    if not losses:
        return Section(key="loss", title=TITLES["loss"], text=text)
    text = paragraph(
        "The winners' losses, from the first generation (light) to the last (dark), beside AM, Arc and Softmax. On the "
        "left, how much harder a sample is made: the CosFace margin that would give the same loss, against how sure "
        "the model is of it already. On the right, the loss itself. All other classes, "
        f"{NUM_CLASSES:,} in all, lie at cosine 0."
    ) + text  # fmt: skip
    try:
        charts = {"loss": loss_chart(losses)}
    except UNDRAWABLE as error:
        charts, text = {}, text + note(f"the losses cannot be drawn together: {first_line(error)[:300]}")
    return Section(key="loss", title=TITLES["loss"], text=text, charts=charts)


def shown_losses(run: Run) -> tuple[list[tuple[int, Loss]], list[str]]:
    """Winners' losses of a few generations, evenly spaced, first and last among them; and why others are not there."""
    found, wrong = list[tuple[int, Loss]](), list[str]()
    last = len(run.generations) - 1
    for i in sorted({round(i * last / (MAX_CURVES - 1)) for i in range(MAX_CURVES)}):
        g = run.generations[i]
        try:
            loss = loss_from_dict(g.summary["winner_loss"])
            losses_at(loss, torch.zeros(1, dtype=torch.float64), 2)  # what it stands for may be no loss
            found.append((g.number, loss))
        except UNDRAWABLE as error:
            wrong.append(f"the loss of generation {g.number + 1} cannot be drawn: {first_line(error)[:300]}")
    return found, wrong


def _gain(run: Run) -> Section:
    rows = gains(run)
    if rows.empty:
        return Section(key="gain", title=TITLES["gain"], text=note("there is no generation with a parent yet"))
    text = paragraph(
        "Gain: reward of the winner minus that of its parent, the winner before it. By training alone: mean reward of "
        "the candidates minus the parent's, which is what one more generation of training gives with a loss that is "
        "drawn from the policy and not chosen. By choosing: best minus mean. Both add up to the gain. By luck alone: "
        "what choosing would give if all candidates were equally good and only the noise of the measurement differed, "
        "the expected largest of so many normal numbers times the median paired standard error / √2. Choosing that "
        "does not rise above it has not found a better loss. A policy that has learned shows in the mean, too."
    )
    training, choosing, luck = (float(rows[name].sum()) for name in ("training", "choosing", "luck"))
    told = int((rows["choosing"] > rows["luck"]).sum())
    text += paragraph(
        f"Over {len(rows):,} generations: {training + choosing:+.4f}, of which training alone {training:+.4f} and "
        f"choosing {choosing:+.4f}; luck alone would have given {luck:.4f}. Choosing rose above luck in {told:,}."
    )
    return Section(key="gain", title=TITLES["gain"], text=text, charts={"gain": gain_chart(run, rows)})


def _lineage(run: Run) -> Section:
    origin = run.config.start or f"untrained weights (seed {run.config.seed})"
    text = paragraph(f"Each winner's weights are what all candidates of the next generation start from: {origin} →")
    before = dict[int, float]()
    shown = []
    for g in run.generations:
        gain = g.best - before.get(g.number - 1, math.nan)
        rows = g.candidates
        by = ", ".join(rows.loc[rows["winner"], "trainer"])
        shown.append((
            g.number + 1, f"candidate {g.summary['winner']}", named(g.summary["winner_parameters"]),
            reward_text(g.best, number(g.summary["best_reward_se"])), "-" if math.isnan(gain) else f"{gain:+.4f}",
            by or "-", "kept" if g.number in run.with_weights else "deleted",
        ))  # fmt: skip
        before[g.number] = g.best
    heads = ("generation", "winner", "loss", "reward", "gain over its parent", "trainer", "weights")
    text += table(heads, shown)
    if run.generations[-1].number not in run.with_weights:
        text += note("the weights of the last generation are gone: neither a resume nor an evaluation can start there")
    return Section(key="lineage", title=TITLES["lineage"], text=text)


def _trainers(run: Run) -> Section:
    found = shifts(run)
    if found is None:
        why = "the run does not record when trainers worked: an older version made it, or its candidates are missing"
        return Section(key="trainers", title=TITLES["trainers"], text=note(why))
    text = paragraph(
        f"Utilisation {found.utilisation:.1%}: the share of the trainers' time, each from its first candidate to its "
        "last report, in which they trained or validated. Waiting is for work, for the weights to start from, or for "
        "the others to be done. Lost work was not brought to its end; dead is from the loss of a trainer to its return."
    )
    if found.paused_s:
        text += note(
            f"{duration_text(found.paused_s)} in which nobody worked are cut out: the search was stopped or paused"
        )
    known = run.candidates
    if unknown := int((known["leased_at"].isna() & known["reward"].notna()).sum()):
        text += note(f"{unknown:,} candidates have no times: an older version trained them")
    if len(found.trainers) > MAX_TRAINERS:
        text += note(f"the first {MAX_TRAINERS} of {len(found.trainers):,} trainers are drawn")
    _, drawn, count = drawn_bars(found)
    if len(drawn) < count:
        text += note(f"the last {len(drawn):,} of {count:,} bars are drawn")
    rows = [
        (name, f"{row.utilisation:.1%}", *(f"{value:,.1f}" for value in list(row)[1:6]))
        for name, row in zip(found.trainers.index, found.trainers.itertuples(), strict=True)
    ]
    heads = ("trainer", "utilisation", "training [s]", "validating [s]", "waiting [s]", "lost work [s]", "dead [s]")
    text += _details("times", "Numbers", table(heads, rows))
    return Section(key="trainers", title=TITLES["trainers"], text=text, charts={"trainers": trainers_chart(found)})


def _cost(run: Run) -> Section:
    rows = costs(run)
    won = run.candidates
    images = rows["total_images"].iloc[-1]
    share = won.loc[won["winner"], "num_images"].sum() / images if images else math.nan
    wall = rows["wall_s"].sum()
    text = paragraph(
        f"{int(rows['candidates'].sum()):,} candidates saw {images:,.0f} training pictures in {_trainer_hours(rows)} "
        f"({duration_text(rows['training_s'].sum())} training, {duration_text(rows['validating_s'].sum())} "
        f"validating), {duration_text(wall)} on the clock. "
        + (f"The winners alone, which is what training their losses from scratch costs, saw {share:.1%} of the "
           "pictures." if share == share else "")
    )  # fmt: skip
    return Section(key="cost", title=TITLES["cost"], text=text, charts={"cost": cost_chart(run)})


def _tests(run: Run) -> list[tuple[str, str]]:
    metrics: dict[str, float] = run.result["test"] if run.result else {}
    known_by = scored(metrics, run.config.reward.metric)
    names = [name for name in metrics if not name.endswith(("_se", "threshold"))]
    names.sort(key=lambda name: name != known_by)  # the others stay in their order
    return [(name, reward_text(metrics[name], metrics.get(f"{name}_se"))) for name in names]


def _verification(run: Run, faces: Faces | str) -> Section:
    text = ""
    if run.result is None:
        tested = "the final model is tested when all generations are behind"
        text += note(tested if run.config.data.test.lmdb else "the run has no test sets")
    points = stored_points(run.result["test"] if run.result else {})
    curves = {} if isinstance(faces, str) else faces.curves
    if not curves and run.result is not None:
        text += note(f"no whole curve, only the stored points: {faces}")
    if curves:
        text += paragraph("Lines: the final model's curve on its test sets, measured for this report. Marks: what the "
                          "search stored when it ended, ± one standard error.")  # fmt: skip
    text += _details("scores", "Test scores", table(("metric", "value"), _tests(run))) if run.result else ""
    charts = {"roc": roc_chart(curves, points)} if curves or len(points) else {}
    return Section(key="verification", title=TITLES["verification"], text=text, charts=charts)


def _pairs(faces: Faces | str) -> Section:
    if isinstance(faces, str):
        return Section(key="pairs", title=TITLES["pairs"], text=note(f"not shown: {faces}"))
    text = ""
    for same, title in ((True, "One person, least alike"), (False, "Two people, most alike")):
        cells = [
            f'<figure><div><img src="{escaped(pair.pictures[0])}" alt="{escaped(pair.keys[0])}">'
            f'<img src="{escaped(pair.pictures[1])}" alt="{escaped(pair.keys[1])}"></div>'
            f"<figcaption>cosine {pair.cosine:.3f}<br>{escaped(_short(pair.keys[0]))}<br>"
            f"{escaped(_short(pair.keys[1]))}<br>{escaped(pair.place)}</figcaption></figure>"
            for pair in faces.hardest if pair.same == same
        ]  # fmt: skip
        text += f'<h3>{title}</h3><div class="pairs">{"".join(cells)}</div>'
    return Section(key="pairs", title=TITLES["pairs"], text=text)


def _short(key: str) -> str:
    return key if len(key) <= 40 else f"...{key[-37:]}"


def _configuration(run: Run) -> Section:
    changed = list(_changed(run.config, SearchConfig()))
    text = paragraph("Settings that differ from the defaults:") + table(("setting", "value"), changed)
    text += _details("all", "Everything, as it is stored", f"<pre>{escaped(run.settings)}</pre>")
    if run.versions:
        text += paragraph("Versions: " + ", ".join(f"{name} {value}" for name, value in run.versions.items()))
    if run.events:
        text += _details(
            "events", "What was done to the search", table(("event",), [[event_line(e)] for e in run.events])
        )
    return Section(key="configuration", title=TITLES["configuration"], text=text)


def _changed(config: Any, default: Any, prefix: str = "") -> Iterable[tuple[str, str]]:
    for item in dataclasses.fields(config):
        value, usual = getattr(config, item.name), getattr(default, item.name)
        if dataclasses.is_dataclass(value):
            yield from _changed(value, usual, f"{prefix}{item.name}.")
        elif value != usual:
            shown = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            yield f"{prefix}{item.name}", shown if len(shown) <= 500 else f"{shown[:497]}..."
