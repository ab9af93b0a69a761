"""Browse what searches found.

Examples:
    python -m lfs.results                                  all runs in runs/
    python -m lfs.results runs/NAME                        its generations
    python -m lfs.results runs/NAME --candidates           every candidate
    python -m lfs.results runs/NAME --candidates --csv candidates.csv
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from lfs.commands import OK, run_command
from lfs.options import Parser
from lfs.run_store import RunStore, find_runs
from lfs.terminal import SafeConsole, printable, spreadsheet_safe
from lfs.view import margins_text, parameters_text, score_lines, summary_table
from search_space.errors import UserError
from search_space.loss import loss_from_dict
from trainers.untrusted import parse_json


def parser() -> Parser:
    """The command's flags."""
    made = Parser(
        prog="python -m lfs.results", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("run", nargs="?", default="", metavar="RUN", help="a run directory; none: list all runs")
    made.add_argument("--storage", default="runs", metavar="ROOT", help="folder or URI that holds the runs [runs]")
    made.add_argument("--candidates", action="store_true", help="one row per candidate instead of per generation")
    made.add_argument("--csv", metavar="FILE", default="", help="write the table as CSV; - is standard output")
    made.add_argument("--parquet", metavar="FILE", default="", help="write the table as Parquet")
    return made


def runs_table(root: str) -> pd.DataFrame:
    """One row per run under a storage root, newest first."""
    return pd.DataFrame([_run_row(store) for store in find_runs(root)])


def _run_row(store: RunStore) -> dict[str, Any]:
    try:
        config, summaries, result = store.load_config(), store.summaries(), store.load_result()
    except UserError as error:
        return {"run": store.name, "state": f"unreadable: {error}"}
    done = summaries[-1]["generation"] + 1 if summaries else 0
    state = "finished" if done == config.generations else f"{done}/{config.generations} generations"
    return {
        "run": store.name,
        "state": state,
        "mode": config.mode,
        "loss": config.loss.name or ("replay" if config.schedule else config.space.name),
        "candidates": sum(s["candidates"] for s in summaries),
        "best_reward": max((s["best_reward"] for s in summaries), default=None),
        "test_accuracy": result["test"].get("accuracy") if result else None,
        "test_accuracy_se": result["test"].get("accuracy_se") if result else None,
    }


def candidates_table(store: RunStore) -> pd.DataFrame:
    """Every candidate of every committed generation, one row each."""
    frames = [store.load_candidates(generation) for generation in store.committed()]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def generations_table(store: RunStore) -> pd.DataFrame:
    """Every committed generation, one row each."""
    table = pd.DataFrame(store.summaries())
    for name in ("winner_loss", "winner_parameters"):
        if name in table:
            table[name] = [json.dumps(value) for value in table[name]]
    return table


def write(table: pd.DataFrame, csv: str, parquet: str) -> None:
    """The table to files; `-` is standard output.

    Raises:
        UserError: a file cannot be written.
    """
    outputs: list[tuple[str, Callable[[], object]]] = [
        (csv, lambda: spreadsheet_safe(table).to_csv(sys.stdout if csv == "-" else csv, index=False)),
        (parquet, lambda: table.to_parquet(parquet, index=False)),
    ]
    for path, save in outputs:
        try:
            if path:
                save()
        except (
            OSError,
            ValueError,
            OverflowError,
            pa.ArrowException,
        ) as error:  # what is stored may not fit into one table
            raise UserError(f"{path}: cannot be written: {error}") from None


SHOWN = {
    "generation": "generation", "candidate": "candidate", "reward": "reward", "reward_se": "± se",
    "paired_se": "± paired", "advantage": "advantage", "loss": "loss", "train_loss": "train loss",
    "trainer": "trainer", "winner": "winner", "reason": "what went wrong",
}  # fmt: skip


def show(table: pd.DataFrame, console: Console, columns: dict[str, str]) -> None:
    """A data frame as a table for a person."""
    made = Table(box=None, header_style="bold", pad_edge=False)
    names = [name for name in columns if name in table and (name != "reason" or table[name].astype(bool).any())]
    for name in names:
        made.add_column(
            columns[name], no_wrap=True, justify="right" if pd.api.types.is_numeric_dtype(table[name]) else "left"
        )
    for row in table[names].to_dict("records"):
        made.add_row(*(_cell(name, row[name]) for name in names))
    console.print(made)


def _cell(name: str, value: Any) -> str:
    if name == "loss" and str(value).startswith("{"):
        return _loss_text(str(value))
    if name == "generation" and isinstance(value, int | float):
        return str(value + 1)
    if isinstance(value, bool):
        return "*" if value else ""
    if isinstance(value, float):
        return "-" if value != value else f"{value:.4f}"
    return "-" if value is None else str(value)


def _loss_text(text: str) -> str:
    """A stored loss for a reader; as it is stored, if this version cannot make it."""
    try:
        loss = loss_from_dict(parse_json(text))
        return margins_text(loss.margins) if loss.margins else parameters_text(loss.parameters())
    except (ValueError, TypeError, AttributeError, OverflowError):
        return text


def show_run(store: RunStore, console: Console) -> None:
    """A run's generations and, if it came to its end, its test scores."""
    config, summaries, result = store.load_config(), store.summaries(), store.load_result()
    what = f"{config.mode} in space {config.space.name}, B = {config.population}"
    if config.mode == "fixed":
        what = "replay of a search" if config.schedule else f"training with {config.loss.name}"
    console.print(
        f"{store.name}: {what}, reward {config.reward.metric}, {len(summaries)} of {config.generations} generations"
    )
    console.print(summary_table(summaries))
    if result:
        for line in score_lines(result["test"]):
            console.print(line)
    events = store.events()
    for event in events if len(events) > 1 else ():
        console.print(event_line(event))


def event_line(event: Mapping[str, Any]) -> str:
    """Something that was done to a search: when, what, by whom."""
    what = str(event.get("action", "?")) + (f" to {event['generations']}" if "generations" in event else "")
    who = event.get("by") or f"{event.get('host', '?')}, process {event.get('pid', '?')}"
    when = f" in generation {event['generation']}" if "generation" in event else ""
    return f"{event.get('time', '?')}  {what}{when}  ({who})"


def main(argv: Sequence[str]) -> int:
    """Run the command; see the module."""
    options = parser().parse_args(argv)
    console = SafeConsole(width=None if sys.stdout.isatty() else 200)
    store = RunStore(options.run) if options.run else None
    if store:
        store.load_config()
    elif options.candidates:
        raise UserError("--candidates needs a run: python -m lfs.results RUN --candidates")
    if store is None:
        table = runs_table(options.storage)
    else:
        table = candidates_table(store) if options.candidates else generations_table(store)
    if options.csv or options.parquet:
        write(table, options.csv, options.parquet)
        for path in filter(lambda p: p and p != "-", (options.csv, options.parquet)):
            print(f"{len(table)} rows in {printable(path)}")
    elif store and not options.candidates:
        show_run(store, console)
    elif table.empty:
        console.print(f"no {'candidates yet' if store else f'runs in {options.storage}'}")
    else:
        show(table, console, SHOWN if store else {name: name.replace("_", " ") for name in map(str, table)})
    return OK


if __name__ == "__main__":
    sys.exit(run_command(main))
