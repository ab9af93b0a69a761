"""The action `diff`: two runs side by side, where their settings differ and what came of them.

Examples:
    python -m lfs.results diff runs/A runs/B
    python -m lfs.results diff runs/A s3://bucket/runs/B --all --json -
"""

import argparse
import json
from collections.abc import Iterator
from typing import Any

import pandas as pd

from lfs.commands import OK
from lfs.config import SearchConfig
from lfs.options import as_flag, leaves
from lfs.results_output import add_output_flags, console, show, written
from lfs.results_tables import read_facts, run_row
from lfs.run_facts import RunFacts
from lfs.run_store import RunStore
from lfs.view import reward_text
from search_space.errors import UserError

PLACE = ("name", "storage")
"""Settings that say no more than where a run is."""
NOT_AN_OUTCOME = ("run", "generations", "mode", "loss", "reward_metric", "test_score", "test_score_se", "test_metric",
                  "test_accuracy", "test_accuracy_se", "started", "age_s")  # fmt: skip


def add_parser(actions: Any) -> None:
    """The flags of the action."""
    made = actions.add_parser(
        "diff", help="settings and outcome of two runs side by side", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    made.set_defaults(run_action=run)
    made.add_argument("runs", nargs=2, metavar="RUN", help="a run directory")
    made.add_argument("--all", action="store_true", help="settings that are equal too")
    add_output_flags(made)


def run(options: argparse.Namespace) -> int:
    """Show or write the table; what could not be read is the error at the end."""
    first, second = (read_facts(RunStore(run)) for run in options.runs)
    table = diff_table(first, second, everything=options.all)
    if not written(table, options):
        names = [facts.store.name for facts in (first, second)]
        names = names if names[0] != names[1] else [facts.store.uri for facts in (first, second)]
        titles = {"kind": "", "name": "", "run_1": names[0], "run_2": names[1]}
        show(_for_a_reader(table), console(), titles)
    if faults := [*first.faults, *second.faults]:
        raise UserError(faults[0])
    return OK


def diff_table(first: RunFacts, second: RunFacts, *, everything: bool = False) -> pd.DataFrame:
    """One row per setting that differs, then what came of the two runs.

    Returns:
        Columns `kind` (`setting`, `version`, `data` or `outcome`), `name`, `run_1`, `run_2`; values as text: numbers
        with all their digits, what is no text or number as JSON, empty where a run has none.
    """
    rows = [
        {"kind": kind, "name": name, "run_1": _text(a), "run_2": _text(b)}
        for kind, name, a, b in _rows(first, second)
        if everything or kind == "outcome" or a != b
    ]
    return pd.DataFrame(rows)


def _rows(first: RunFacts, second: RunFacts) -> Iterator[tuple[str, str, Any, Any]]:
    for name, _, _ in leaves(SearchConfig):
        if name not in PLACE:
            yield "setting", name, _setting(first.config, name), _setting(second.config, name)
    for kind, both in (("version", _versions(first, second)), ("data", _digests(first, second))):
        for name in sorted({*both[0], *both[1]}):
            yield kind, name, both[0].get(name), both[1].get(name)
    outcomes = _outcome(first), _outcome(second)
    for name in dict.fromkeys((*outcomes[0], *outcomes[1])):
        yield "outcome", name, outcomes[0].get(name), outcomes[1].get(name)


def _versions(first: RunFacts, second: RunFacts) -> tuple[dict[str, str], dict[str, str]]:
    return first.store.load_versions(), second.store.load_versions()


def _digests(first: RunFacts, second: RunFacts) -> tuple[dict[str, str], dict[str, str]]:
    return first.store.load_digest() or {}, second.store.load_digest() or {}


def _setting(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def _outcome(facts: RunFacts) -> dict[str, Any]:
    best = facts.best or {}
    row = {name: value for name, value in run_row(facts).items() if name not in NOT_AN_OUTCOME}
    won = {"best_generation": best["generation"], "best_loss": best["winner_parameters"]} if best else {}
    return row | won | {f"test {name}": value for name, value in (facts.result or {"test": {}})["test"].items()}


def _for_a_reader(table: pd.DataFrame) -> pd.DataFrame:
    """Outcomes with a standard error beside their score, in a few digits, and counted from 1; all else as stored."""
    rows = {(row["kind"], row["name"]): row for row in table.to_dict("records")}
    shown: list[dict[Any, Any]] = []
    for (kind, name), row in rows.items():
        if kind != "outcome":
            shown.append(row)
            continue
        error = rows.get((kind, f"{name}_se"), {})
        first = 1 if name == "best_generation" else 0
        sides = {side: _short(row[side], error.get(side, ""), first) for side in ("run_1", "run_2")}
        if any(sides.values()) and not (name.endswith("_se") and (kind, name.removesuffix("_se")) in rows):
            shown.append({"kind": kind, "name": name, **sides})
    return pd.DataFrame(shown, columns=list(table))


def _short(text: str, error: str, first: int) -> str:
    """A number of an outcome for a reader who counts it from `first`; all else as it is."""
    try:
        return reward_text(float(text), float(error)) if error else f"{json.loads(text) + first:,}"
    except (ValueError, TypeError, RecursionError):
        return text


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, tuple) and not any(isinstance(item, dict) for item in value):
        return as_flag(value)
    return "" if value is None else json.dumps(value, default=str)
