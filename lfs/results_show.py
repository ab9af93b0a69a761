"""The action `show`: all runs under a storage root, the generations of a run, or every candidate.

    --where     comparisons of columns, joined by and, or, not: 'reward > 0.9 and not diverged', 'margins[0] >= 0.2',
                'generation in (3, 4)', "'trainer-001' in trainer", '`all:auc` > 0.8', 'reward - reward_se > 0.85'
    --sort      reward:desc,candidate
    --columns   generation,candidate,reward

A row without a value there fits neither a condition nor its opposite: 'reward == None' finds those without a reward.
Columns have the names that --csv writes. Generations count from 1 in --where, as on the screen and in RUN@G; in files
they count from 0, as the folders of a run do.
"""

import argparse
from collections.abc import Mapping
from typing import Any

import pandas as pd
from rich.console import Console

from lfs.commands import OK
from lfs.progress import reading
from lfs.results_filter import selected
from lfs.results_output import add_output_flags, console, print_table, show, written
from lfs.results_tables import generations_table, read_candidates, read_facts, runs_table
from lfs.run_facts import RunFacts
from lfs.run_store import RunStore
from lfs.view import age_text, reward_text, score_lines, size_text, summary_table
from search_space.errors import UserError

CANDIDATES = {
    "generation": "generation", "candidate": "candidate", "reward": "reward", "reward_se": "± se",
    "paired_se": "± paired", "advantage": "advantage", "loss": "loss", "train_loss": "train loss",
    "trainer": "trainer", "winner": "winner", "reason": "what went wrong",
}  # fmt: skip
"""Columns that are shown, and their titles."""

RUN_RANKS = ("best reward", "test score", "age", "loss", "images", "size")
CANDIDATE_RANKS = ("reward_se", "loss", "winner", "paired_se", "advantage", "trainer", "train_loss")
"""Columns that a narrow terminal goes without, the last ones first."""


def add_parser(actions: Any) -> None:
    """The flags of the action."""
    made = actions.add_parser(
        "show", help="runs, generations or candidates (where no action is named)", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    made.set_defaults(run_action=run)
    add = made.add_argument
    add("run", nargs="?", default="", metavar="RUN", help="a run directory; none: list all runs")
    add("--storage", default="runs", metavar="ROOT", help="folder or URI that holds the runs [runs]")
    add("--candidates", action="store_true", help="one row per candidate instead of per generation")
    add("--where", default="", metavar="CONDITION", help="rows to keep, see above")
    add("--sort", default="", metavar="COLUMN[:desc],...", help="order of the rows")
    add("--columns", default="", metavar="COLUMN,...", help="columns to keep, in this order")
    add_output_flags(made)


def run(options: argparse.Namespace) -> int:
    """Show or write the table that was asked for; what could not be read is the error at the end."""
    if not options.run:
        if options.candidates:
            raise UserError("--candidates needs a run: python -m lfs.results RUN --candidates")
        return _runs(options)
    store = RunStore(options.run)
    if options.candidates:
        store.load_config()
        with reading() as progress:
            table, faults = read_candidates(store, progress)
        _deliver(table, options, CANDIDATES, "no candidates yet")
    else:
        facts = read_facts(store)
        table, faults = generations_table(facts), list(facts.faults)
        if options.where or options.sort or options.columns:
            _deliver(table, options, None, "no generations yet")
        elif not written(table, options):
            show_run(facts, console())
    if faults:
        raise UserError(faults[0] + (f"; and {len(faults) - 1} more that cannot be read" if len(faults) > 1 else ""))
    return OK


def _runs(options: argparse.Namespace) -> int:
    with reading("looking at runs", "runs") as progress:
        table = runs_table(options.storage, progress)
    plain = not (options.where or options.sort or options.columns)
    if len(table) and plain and not any((options.json, options.csv, options.parquet)):
        show(_for_a_reader(table), console(), ranks=RUN_RANKS)
    else:
        _deliver(table, options, None, f"no runs in {options.storage}")
    return OK


def _deliver(table: pd.DataFrame, options: argparse.Namespace, titles: Mapping[str, str] | None, none: str) -> None:
    """Write or show the part of a table that was asked for.

    Args:
        titles: see `show`, where no columns were asked for.
        none: what to say if there are no rows.
    """
    if len(table):
        table = selected(table, where=options.where, sort=options.sort, columns=options.columns)
        none = "no row is as --where says" if options.where else none
    if written(table, options):
        return
    if table.empty:
        console().print(none)
    else:
        titles = None if options.columns else titles
        show(table, console(), titles, CANDIDATE_RANKS if titles else ())


def _for_a_reader(table: pd.DataFrame) -> pd.DataFrame:
    """Runs in few columns."""
    rows = []
    for row in table.astype(object).where(table.notna(), None).to_dict("records"):
        metric = row.get("test_metric")
        score = reward_text(row.get("test_score"), row.get("test_score_se"))
        rows.append(
            {
                "run": row["run"],
                "state": row["state"],
                "generations": "-" if row.get("done") is None else f"{row['done']:.0f}/{row['generations']:.0f}",
                "loss": row.get("loss"),
                "best reward": reward_text(row.get("best_reward"), row.get("best_reward_se")),
                "test score": f"{metric} {score}" if metric else "-",
                "age": age_text(row.get("age_s")),
                "size": size_text(row.get("size_bytes")),
                "images": "-" if row.get("num_images") is None else f"{row['num_images']:,.0f}",
                "note": row.get("note"),
            }
        )
    return pd.DataFrame(rows)


def show_run(facts: RunFacts, to: Console) -> None:
    """A run's generations and, if it came to its end, its test scores."""
    config = facts.config
    what = f"{config.mode} in space {config.space.name}, B = {config.population}"
    if config.mode == "fixed":
        what = "replay of a search" if config.schedule else f"training with {config.loss.name}"
    done = f"{len(facts.contents)} of {config.generations} generations, {facts.state}"
    to.print(f"{facts.store.name}: {what}, reward {config.reward.metric}, {done}")
    print_table(summary_table(facts.summaries), to)
    for line in score_lines(facts.result["test"]) if facts.result else ():
        to.print(line)
    only_started = len(facts.events) == 1 and facts.first_event
    for event in () if only_started else facts.events:
        to.print(event_line(event))


def event_line(event: Mapping[str, Any]) -> str:
    """Something that was done to a search: when, what, by whom."""
    what = str(event.get("action", "?")) + (f" to {event['generations']}" if "generations" in event else "")
    who = event.get("by") or f"{event.get('host', '?')}, process {event.get('pid', '?')}"
    when = f" in generation {event['generation']}" if "generation" in event else ""
    return f"{event.get('time', '?')}  {what}{when}  ({who})"
