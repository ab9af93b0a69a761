"""The tables that a storage root and its runs make: runs, generations, candidates.

Whatever cannot be read is told beside what can: it hides nothing else.
"""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd
import pyarrow as pa

from lfs.folder import TEMPORARY
from lfs.generations import CANDIDATES, GENERATIONS, WINNER, Progress
from lfs.progress import reading
from lfs.run_facts import RunFacts, read_run
from lfs.run_store import CONFIG, RunStore, run_folders
from search_space.errors import UserError, first_line

ACCURACY = "accuracy"
READERS = 8
"""Runs that are looked at at once."""


def runs_table(root: str, progress: Progress | None = None) -> pd.DataFrame:
    """One row per run under a storage root, newest first; `note` says what is wrong with one.

    Args:
        progress: called with (folders looked at, folders in all) now and then.
    Raises:
        UserError: there is no such folder.
    """
    rows, folders = list[dict[str, Any]](), list(run_folders(root))
    if progress:
        progress(0, len(folders))
    with ThreadPoolExecutor(READERS) as pool:
        for done, row in enumerate(pool.map(_run_row, folders), 1):
            rows += [row] if row else []
            if progress:
                progress(done, len(folders))
    dated = sorted(rows, key=lambda row: row.get("started") or "", reverse=True)
    return pd.DataFrame(dated)


def _run_row(store: RunStore) -> dict[str, Any] | None:
    """What is known of a folder; None: it is no run."""
    try:
        names = {entry.name for entry in store.listed()}
        if CONFIG not in names:
            drafts = [name for name in names if name.startswith(f"{CONFIG}.") and name.endswith(TEMPORARY)]
            half = GENERATIONS in names or drafts
            return {"run": store.name, "state": "half-written", "note": f"it has no {CONFIG}"} if half else None
        return run_row(read_run(store))
    except (UserError, OSError) as error:
        return {"run": store.name, "state": "unreadable", "note": first_line(error)}


def read_facts(store: RunStore) -> RunFacts:
    """`read_run`, with progress on the error stream if that takes longer than a moment."""
    with reading() as progress:
        return read_run(store, progress)


def run_row(facts: RunFacts) -> dict[str, Any]:
    """A run in one line."""
    config, best = facts.config, facts.best
    test = facts.result["test"] if facts.result else {}
    score = scored(test, config.reward.metric)
    started = facts.started
    return {
        "run": facts.store.name,
        "state": facts.state,
        "done": len(facts.contents),
        "generations": config.generations,
        "mode": config.mode,
        "loss": config.loss.name or ("replay" if config.schedule else config.space.name),
        "candidates": sum(summary["candidates"] for summary in facts.summaries),
        "best_reward": best and best["best_reward"],
        "best_reward_se": best and best["best_reward_se"],
        "reward_metric": config.reward.metric,
        "test_score": test.get(score),
        "test_score_se": test.get(f"{score}_se"),
        "test_metric": score,
        "test_accuracy": test.get(ACCURACY),
        "test_accuracy_se": test.get(f"{ACCURACY}_se"),
        "started": started.isoformat(timespec="seconds") if started else None,
        "age_s": facts.age_s,
        "size_bytes": facts.store.size(),
        "num_images": facts.num_images,
        "note": "; ".join(facts.notes),
    }


def scored(test: Mapping[str, float], metric: str) -> str | None:
    """The test score that a run is known by: the metric that was rewarded, else accuracy, of the first set."""
    for wanted in (metric, ACCURACY):
        for name in test:
            if name == wanted or name.endswith(f"/{wanted}"):
                return name
    return None


def generations_table(facts: RunFacts) -> pd.DataFrame:
    """Every committed generation that can be read, one row each."""
    table = pd.DataFrame(facts.summaries)
    for name in ("winner_loss", "winner_parameters"):
        if name in table:
            table[name] = [json.dumps(value) for value in table[name]]
    if len(table):
        table["weights"] = [WINNER in facts.contents[generation] for generation in table["generation"]]
    return table


def candidates_table(store: RunStore) -> pd.DataFrame:
    """Every candidate of every committed generation, one row each.

    Raises:
        UserError: one of them cannot be read.
    """
    table, faults = read_candidates(store)
    if faults:
        raise UserError(faults[0])
    return table


def read_candidates(store: RunStore, progress: Progress | None = None) -> tuple[pd.DataFrame, list[str]]:
    """Every candidate of those generations whose table can be read, and a line for each of the others.

    Args:
        progress: called with (generations read, generations in all) now and then.
    """
    loaded = store.load_tables(store.contents(), progress)
    faults = [str(table) for table in loaded if isinstance(table, UserError)]
    tables = [table for table in loaded if isinstance(table, pa.Table)]
    if not tables:
        return pd.DataFrame(), faults
    try:
        joined = pa.concat_tables(tables, promote_options="permissive")
        return joined.to_pandas(ignore_metadata=True), faults
    except pa.ArrowException as error:
        raise UserError(
            f"{store.uri}: {CANDIDATES} of its generations do not fit together: {first_line(error)}"
        ) from None
