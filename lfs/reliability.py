"""Find out how far a reward measures the loss and not the luck: what to set the reward and the generation length by.

From one common model, the same losses are trained on in several orders of the pictures. A reward that can rank gives
them the same ranks in every order.

Examples:
    python -m lfs.reliability --config real_faces --data.root /path/to/faces --after 12 --lengths 4 --num-workers 2
    python -m lfs.reliability --start runs/real_faces-20260101-120000@3 --config real_faces --lengths 4 --orders 3
    python -m lfs.reliability --resume runs/reliability-real_faces-20260101-120000
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from fractions import Fraction
from math import gcd, lcm
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from lfs import outcomes
from lfs.board import begins_at, pinned
from lfs.board import started as begin
from lfs.commands import FAILED, OK, run_command
from lfs.compare import own_parameter
from lfs.config import SEARCH_ONLY, ReliabilityConfig, SearchConfig
from lfs.locations import under
from lfs.options import Parser, add_flags
from lfs.outcomes import outcome_of
from lfs.plugins import add_allow_flag, built, resume_flags
from lfs.rank import Reliability, reliability
from lfs.run_store import RunStore, start_of
from lfs.settings import changed, load_settings, save_settings
from lfs.terminal import spreadsheet_safe
from lfs.view import View, default_name
from search_space.config import LossConfig, SpaceConfig
from search_space.errors import UserError
from search_space.margins import make_loss
from trainers.config import DataConfig
from trainers.data.verification_set import verification_sets
from trainers.metrics import Metric, parse_mean
from trainers.validation import false_accepts

SETTINGS = "reliability.yaml"
MAY_CHANGE = ("num_workers", "address", "dashboard", "orders")
BASE = "base"
MIN_LOSSES = 3
"""Fewer cannot be ranked."""

MAX_PARTS = 20
"""Generations that the shortest length is cut into at most: each is validated and committed."""


def parser() -> Parser:
    """The command's flags."""
    made = Parser(
        prog="python -m lfs.reliability",
        usage="%(prog)s [--config RECIPE | --resume FOLDER] [--SETTING VALUE ...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--config", metavar="RECIPE", default="", help="YAML file, or a name in configs/ [builtin]")
    made.add_argument("--resume", metavar="FOLDER", default="", help="folder of an earlier start to go on with")
    hidden = ["loss", "schedule", "mode", "order", "generations", "policy", "population_size", "warmup_generations"]
    hidden += SEARCH_ONLY
    hidden += [f"space.{setting.name}" for setting in fields(SpaceConfig) if setting.name != "scale"]
    add_allow_flag(made)
    add_flags(made, ReliabilityConfig, but=hidden)
    return made


def quantum(values: Sequence[float]) -> float:
    """The largest length that all of `values` are whole multiples of."""
    parts = [Fraction(value).limit_denominator(1000) for value in values if value]
    return gcd(*(p.numerator for p in parts)) / lcm(*(p.denominator for p in parts))


def losses_of(config: ReliabilityConfig) -> dict[str, LossConfig]:
    """Losses by a name that a reader understands.

    Raises:
        UserError: unknown loss, one without a parameter to vary, or a value out of its range.
    """
    losses: dict[str, LossConfig] = {}
    for name, values in config.grid.items():
        parameter = own_parameter(name)
        for value in values:
            losses[f"{name} {parameter}={value:g}"] = LossConfig.of(name, {parameter: value})
    for loss in losses.values():
        make_loss(loss, scale=config.space.scale)
    return losses


def metrics_of(data: DataConfig) -> tuple[str, ...]:
    """All rewards that the data allows to judge."""
    pairs = data.reward
    listed = ("accuracy", "auc", "d_prime", "tar@far=0.01", "tar@far=0.001")
    everyone = ("accuracy", "auc", "d_prime", "tar@far=0.01", "tar@far=0.001", "tar@far=0.0001", "tar@far=0.00001")
    names = (*(listed if pairs.pairs else ()), *(f"all:{name}" for name in everyone if pairs.labels))
    sets = verification_sets(pairs, data.root, data.input_size)
    return tuple(name for name in names if false_accepts(Metric.parse(name), sets) >= 1)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The runs behind a reliability study."""

    base: SearchConfig | None
    """Training that leads to the common model; None: it is another run's."""

    cells: dict[str, SearchConfig]
    """One run per loss and order, by name."""

    behind: int
    """Generations of the common model."""

    generations: dict[float, int]
    """Length that is judged -> generation (from 0) of the runs after which it is behind."""


def plan(config: ReliabilityConfig, root: RunStore) -> Plan:
    """The runs of a study: their generations are as long as all lengths are multiples of."""
    lengths = config.judged_lengths
    step = quantum((config.after, *lengths))
    if step < lengths[0] / MAX_PARTS:
        raise UserError(
            f"after and lengths must be whole multiples of one length, at least {lengths[0] / MAX_PARTS:g} here, "
            f"got {config.after:g} and {', '.join(f'{length:g}' for length in lengths)}"
        )
    shared: dict[str, Any] = {f: getattr(config, f) for f in SearchConfig.__dataclass_fields__}
    shared |= {"mode": "fixed", "population_size": 1, "warmup_generations": 0}
    shared["trainer"] = replace(config.trainer, generation_length=step)
    losses = losses_of(config)
    base, begins = None, round(config.after / step)
    if config.start:
        source, behind = start_of(config.start)
        begins = begins_at(behind or 0, source.load_config().trainer, shared["trainer"])
    elif begins:
        middle = list(losses.values())[len(losses) // 2]
        base = SearchConfig(**{**shared, "loss": middle, "generations": begins})
    start = config.start or (f"{under(root.uri, 'cells', BASE)}@{begins}" if base else "")
    generations = {length: begins + round(length / step) - 1 for length in lengths}
    cells = {
        cell_name(loss, order): SearchConfig(**{
            **shared, "loss": losses[loss], "order": order, "start": start, "generations": generations[lengths[-1]] + 1
        })
        for order in range(1, config.orders + 1) for loss in losses
    }  # fmt: skip
    for cell in () if base else list(cells.values())[:1]:
        begin(cell)
    return Plan(base=base, cells=cells, generations=generations, behind=begins)


def cell_name(loss: str, order: int) -> str:
    """Folder of a run."""
    return f"{loss.replace(' ', '-').replace(':', '_')}-order{order}"


def judged(config: ReliabilityConfig, root: RunStore, made: Plan) -> list[Reliability]:
    """Every reward at every length, of the losses that have scores in every order."""
    results = []
    orders = range(1, config.orders + 1)
    for length, generation in made.generations.items():
        scores = {
            loss: [scores_of(config, root, loss, order, generation) for order in orders] for loss in losses_of(config)
        }
        complete = {loss: [s for s in found if s] for loss, found in scores.items() if all(found)}
        if len(complete) < MIN_LOSSES:
            continue
        for metric in config.metrics:
            rewards = [[complete[loss][i][metric].value for loss in complete] for i in range(config.orders)]
            replicates = [[complete[loss][i][metric].replicates for loss in complete] for i in range(config.orders)]
            results.append(reliability(metric, length, list(complete), rewards, replicates))
    return results


def scores_of(
    config: ReliabilityConfig, root: RunStore, loss: str, order: int, generation: int
) -> dict[str, outcomes.KeptScore] | None:
    """Scores of a loss in one order; None if they are not there."""
    return outcomes.scores_of(RunStore(under(root.uri, "cells", cell_name(loss, order))), generation, config.metrics)


def dropped(config: ReliabilityConfig, root: RunStore) -> list[str]:
    """Why losses are left out of the table, a line for each cell that diverged."""
    lines = []
    for loss in losses_of(config):
        for order in range(1, config.orders + 1):
            outcome = outcome_of(RunStore(under(root.uri, "cells", cell_name(loss, order))))
            if outcome and outcome.diverged:
                lines.append(f"{loss} diverged in order {order} and is left out: {outcome.reason}")
    return lines


def show(results: Sequence[Reliability], unit: str, console: Console) -> None:
    """The study as a table, the best reward of each length first."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in (unit, "reward", "rank correlation", "spread of losses", "luck", "paired se", "best loss"):
        table.add_column(title, no_wrap=True, justify="left" if title in ("reward", "best loss") else "right")
    for r in sorted(results, key=lambda r: (r.length, -np.nan_to_num(r.rank_correlation, nan=-2))):
        table.add_row(
            f"{r.length:g}", r.metric, f"{r.rank_correlation:+.2f}", f"{r.loss_spread:.5f}", f"{r.luck:.5f}",
            f"{r.paired_se:.5f}", r.best,
        )  # fmt: skip
    console.print(table)
    for line in LEGEND:
        console.print(line, markup=False)


LEGEND = (
    "rank correlation: of the losses between two orders of the pictures; 1: the reward always ranks them alike",
    "spread of losses: what there is to find; luck: spread of one loss between orders",
    "paired se: standard error of the difference of two losses, over the pairs of pictures",
)


def started(recipe: str, flags: dict[str, str], view: View) -> tuple[RunStore, ReliabilityConfig]:
    """A new study: everything checked, its folder made."""
    from lfs.driver import check, resolve

    config = built(ReliabilityConfig, recipe or "builtin", flags)
    config = replace(config, name=config.name or default_name(f"reliability-{Path(recipe or 'builtin').stem}"))
    root = RunStore(under(config.storage, config.name))
    root.require_absent()
    losses_of(config)
    start = pinned(config.start) if config.start else ""
    config = replace(resolve(replace(config, start=""), view), start=start)
    metrics = config.metrics or metrics_of(config.data)
    config = replace(config, metrics=tuple(map(as_kept, metrics)))
    check(judging(config), view)
    plan(config, root)
    save_settings(root, SETTINGS, config)
    return root, config


def as_kept(metric: str) -> str:
    """The one spelling of a metric, or of a mean of metrics."""
    return "+".join(map(str, parse_mean(metric, "metrics")))


def judging(config: ReliabilityConfig) -> ReliabilityConfig:
    """The same with all judged rewards among those that the data must be able to give."""
    parts = tuple(str(metric) for name in config.metrics for metric in parse_mean(name))
    return replace(config, reward=replace(config.reward, record=parts))


def resumed(folder: str, flags: dict[str, str], view: View) -> tuple[RunStore, ReliabilityConfig]:
    """A study to go on with."""
    from lfs.driver import check

    root = RunStore(folder)
    config = load_settings(root, SETTINGS, ReliabilityConfig)
    if "metrics" in flags:
        flags = flags | {"metrics": ",".join(as_kept(name) for name in flags["metrics"].split(","))}
    config = replace(config, **changed(config, flags, MAY_CHANGE))
    plan(config, root)
    check(judging(config), view)
    save_settings(root, SETTINGS, config)
    return root, config


def train(root: RunStore, config: ReliabilityConfig, made: Plan, view: View, new: bool) -> bool:
    """Train whatever has no outcome yet: first the common model, then all losses and orders side by side."""
    from lfs.cells import train_cells

    scores = {"metrics": list(config.metrics), "generations": sorted(made.generations.values())}
    goes_on = resume_command(root)
    if made.base and not train_cells(root, config, {BASE: made.base}, view, new=new, resume=goes_on):
        return False
    common = outcome_of(RunStore(under(root.uri, "cells", BASE)))
    if common and common.diverged:
        raise UserError(f"the training of the common model diverged: {common.reason}")
    new = new and not made.base
    return train_cells(root, config, made.cells, view, scores, behind=made.behind, new=new, resume=goes_on)


def resume_command(root: RunStore) -> str:
    """The command that goes on with a study."""
    return f"python -m lfs.reliability {resume_flags(root.shown)}"


def main(argv: Sequence[str]) -> int:
    """Run the command; see the module."""
    flags = vars(parser().parse_args(argv))
    recipe, resume = flags.pop("config"), flags.pop("resume")
    if resume and recipe:
        raise UserError("--resume goes without --config: the study has its own")
    view = View()
    root, config = resumed(resume, flags, view) if resume else started(recipe, flags, view)
    made = plan(config, root)
    try:
        complete = train(root, config, made, view, new=not resume)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped at once; continue with {resume_command(root)}") from None
    results = judged(config, root, made)
    for line in dropped(config, root):
        view.warn(line)
    if results:
        show(results, config.trainer.generation_unit, view.console)
        table = pd.DataFrame([asdict(result) for result in results])
        root.write(spreadsheet_safe(table).to_csv(index=False).encode(), "reliability.csv")
    if not complete:
        view.command("incomplete", f"continue with {resume_command(root)}")
    elif not results:
        raise UserError("fewer than three losses came through in all orders: there is nothing to rank")
    return OK if complete else FAILED


if __name__ == "__main__":
    sys.exit(run_command(main))
