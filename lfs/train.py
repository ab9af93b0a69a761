"""Train one model with one loss, or with the losses that a search found.

Examples:
    python -m lfs.train --loss arc --loss.margin 0.3 --generations 6
    python -m lfs.train --config real_faces --data.root /path/to/faces --loss am --loss.margin 0.35
    python -m lfs.train --loss runs/builtin-20260101-120000 --seed 1
    python -m lfs.train --loss losses.yaml --seed 1        what `lfs.results schedule RUN --out losses.yaml` wrote
    python -m lfs.train --resume runs/arc-20260101-120000
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lfs.commands import INTERRUPTED, OK, run_command
from lfs.config import SEARCH_ONLY, SearchConfig, refuse_ranks
from lfs.options import Parser, add_flags, checked, overlay
from lfs.plugins import add_allow_flag, allow_said, built, spelled_out
from lfs.resume import resumed
from lfs.run_store import RunStore
from lfs.schedule_file import read_schedule
from lfs.view import View, default_name
from search_space.config import LossConfig
from search_space.errors import UserError
from search_space.margins import LOSSES

if TYPE_CHECKING:
    from lfs.serial import SerialRun

NOT_HERE = (
    *SEARCH_ONLY, "mode", "warmup_generations", "population_size", "num_workers", "cpus_per_worker",
    "gpus_per_worker", "ranks_per_worker", "address", "dashboard", "schedule", "loss.name", "space", "policy",
)  # fmt: skip
"""Settings that only a search has."""


def parser() -> Parser:
    """The command's flags: a loss, a recipe or a run to resume, and one flag per setting."""
    made = Parser(
        prog="python -m lfs.train",
        usage="%(prog)s --loss LOSS|RUN|FILE [--config RECIPE] [--SETTING VALUE ...] | --resume RUN",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = ", ".join(LOSSES)
    made.add_argument(
        "--loss", metavar="LOSS|RUN|FILE", default="",
        help=f"{known}; MODULE:NAME of a plug-in; or a run, or a file of lfs.results schedule, whose losses are "
        "replayed from scratch",
    )  # fmt: skip
    made.add_argument("--config", metavar="RECIPE", default="", help="YAML file, or a name in configs/ [builtin]")
    made.add_argument(
        "--resume", metavar="RUN", default="", help="run directory to continue after its last committed generation"
    )
    add_allow_flag(made)
    add_flags(made, SearchConfig, but=NOT_HERE)
    return made


def replayed(source: RunStore, recipe: str, flags: dict[str, str]) -> SearchConfig:
    """A training from scratch with the losses of another run's winners; its settings too, unless a recipe is named.

    Raises:
        UserError: the run has no generation yet, or a flag that contradicts it.
    """
    config = source.load_config()
    schedule = tuple(summary["winner_loss"] for summary in source.summaries())
    if not schedule:
        raise UserError(f"--loss: {source.uri} has no committed generation yet, so there is nothing to replay")
    return _replay(schedule, config, source.uri, recipe, flags)


def replayed_file(file: str, recipe: str, flags: dict[str, str]) -> SearchConfig:
    """The same with the losses of a file, see lfs/schedule_file.py; without settings of its own, on a recipe's.

    Raises:
        UserError: the file is damaged, or a flag contradicts it.
    """
    schedule, config = read_schedule(file)
    if config is None and not recipe:
        recipe, flags = "builtin", {"generations": str(len(schedule)), **flags}
    return _replay(schedule, config, file, recipe, flags)


def _replay(
    schedule: tuple[dict[str, Any], ...], config: SearchConfig | None, source: str, recipe: str, flags: dict[str, str]
) -> SearchConfig:
    if config and config.start:
        raise UserError(f"--loss: {source} went on from {config.start}; only a run from scratch can be replayed")
    for name in flags:
        if name.startswith("loss."):
            raise UserError(f"--{name} does not apply to the replay of a run: its losses are what they were")
    if recipe or not config:
        config = built(SearchConfig, recipe, flags)
    else:
        plain = replace(config, mode="search", loss=LossConfig(), schedule=(), name="", storage="runs", order=0)
        plain = replace(plain, gpus_per_worker=None, ranks_per_worker=None)  # one process, with whole batches
        kept = asdict(replace(plain, generations=len(schedule)))
        allow_said(flags)
        config = spelled_out(checked(SearchConfig, overlay(kept, flags, SearchConfig), source, flags=flags))
    return replace(config, mode="fixed", loss=LossConfig(), schedule=schedule)


def configured(loss: str, recipe: str, flags: dict[str, str]) -> SearchConfig:
    """The configuration that `--loss`, `--config` and the flags stand for."""
    if not loss:
        raise UserError(f"--loss is needed: one of {', '.join(LOSSES)}, or a run or file to replay")
    source = RunStore(loss)
    if loss not in LOSSES and source.exists("config.yaml"):
        config, stem = replayed(source, recipe, flags), f"replay-{source.name}"
    elif loss not in LOSSES and Path(loss).is_file():
        config, stem = replayed_file(loss, recipe, flags), f"replay-{Path(loss).stem}"
    elif loss not in LOSSES and ("/" in loss or Path(loss).exists()):
        raise UserError(f"--loss: {loss} is no run: it has no config.yaml")
    else:
        named = {**flags, "mode": "fixed", "loss.name": loss}
        config, stem = built(SearchConfig, recipe or "builtin", named), loss.replace(":", ".")
    refuse_ranks(config)
    return replace(config, name=config.name or default_name(stem))


def main(argv: Sequence[str]) -> int:
    """Run the command; see the module."""
    flags = vars(parser().parse_args(argv))
    loss, recipe, resume = flags.pop("loss"), flags.pop("config"), flags.pop("resume")
    if resume and (recipe or loss):
        raise UserError("--resume goes without --config and --loss: the run has its own")
    view = View()

    from lfs.driver import new_run, old_run

    if resume:
        store, changes = resumed(resume, flags)
        if store.load_config().mode != "fixed":
            raise UserError(f"{store.uri} is a search: continue it with python -m lfs.search --resume {store.shown}")
        config = old_run(store, changes, view)
        if changes:
            store.write_config(config)
    else:
        store, _ = new_run(configured(loss, recipe, flags), view)
    return train(store, view)


def train(store: RunStore, view: View) -> int:
    """Train a run to its end, or until Ctrl-C."""
    from lfs.presence import Presence
    from lfs.serial import SerialRun

    with Presence(store) as presence:  # before its state is read
        with view.waiting("loading the data and the network"):
            run = SerialRun(store)

        def lost(line: str) -> None:
            view.warn(line)
            run.stop_asked.set()

        presence.on_lost(lost)
        return _train(store, view, run)


def _train(store: RunStore, view: View, run: "SerialRun") -> int:
    from lfs.quiet import interrupts

    resume = f"python -m lfs.train --resume {store.shown}"
    view.start(run.status())
    try:
        with interrupts(run.stop_asked, lambda: view.stopping("this generation", resume)):
            status = run.run(view.update)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped at once; continue with {resume}") from None
    finally:
        view.stop()
    view.finish(store.shown, status)
    if status["generation"] < run.config.generations:
        view.command("stopped", f"continue with {resume}")
        return INTERRUPTED
    return OK


if __name__ == "__main__":
    sys.exit(run_command(main))
