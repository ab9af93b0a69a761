"""How long after a kill -9 the first new batch is trained: a trainer beside another, the only one, the controller.

    python -m benchmarks.recovery [--times 5] [--out benchmarks/results/recovery]

One long search for each case on a real cluster (tests/fault/), in which the victim is killed again and again, a while
after the last time. For a trainer, the batch is the first one of the very candidate that it had, trained anew; where
another trainer lives, that one's own candidate comes first, which `from_free_s` leaves out. For the controller, it is
the first batch of a candidate that was begun after its death; trainers go on with what they have.
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from lfs.run_store import RunStore
from tests.fault.cluster import Cluster, kill, label_of
from tests.fault.observer import Look, Lookout
from tests.lfs.conftest import Command, small_recipe

CASES = {"trainer, another lives": 2, "the only trainer": 1, "controller": 2}
"""And how many trainers."""
PAUSE_S = 18.0
"""Between two kills: the trainer that was started again is at work by then."""
WARM_GENERATIONS = 2
TICK_S = 0.01


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One death."""

    at: float
    trainer: str = ""
    """Its name; of the controller, none."""


def batches(looks: Sequence[Look], store: RunStore, steps: int) -> pd.DataFrame:
    """When each candidate that was committed was begun, and had its first batch and its outcome."""
    rows = []
    for generation in store.committed():
        table = store.load_candidates(generation)
        for index, (train_s, validate_s) in enumerate(zip(table["train_s"], table["validate_s"], strict=True)):
            undone = [k.at for k in looks if k.generation == generation and index not in k.done]
            done = next((k.at for k in looks if k.at > max(undone, default=0.0) and k.generation >= generation), None)
            if undone and done is not None:
                began = done - train_s - validate_s
                first = began + train_s / steps
                rows.append(
                    {"generation": generation, "candidate": index, "began": began, "first": first, "done": done}
                )
    return pd.DataFrame(rows)


def recovery(death: Kill, looks: Sequence[Look], table: pd.DataFrame) -> dict[str, float] | None:
    """Seconds from a death to the first new batch, and from the moment that somebody was free to train it."""
    before = [look for look in looks if look.at <= death.at][-1]
    free = death.at
    if death.trainer:
        lost = before.held_by(frozenset({death.trainer}))
        same = table[(table["generation"] == before.generation) & (table["began"] > death.at)]
        new = same[same["candidate"].isin(lost)]
        busy = [i for i, (state, who) in enumerate(before.candidates) if state == "running" and who != death.trainer]
        ends = table[(table["generation"] == before.generation) & table["candidate"].isin(busy)]["done"]
        free = max([free, *ends])
    else:
        new = table[table["began"] > death.at]
    if new.empty:
        return None
    first = float(new["first"].min())
    return {"first_batch_s": first - death.at, "from_free_s": first - max(free, death.at)}


def killed(cluster: Cluster, case: str, chance: random.Random, looks: list[Look]) -> Kill | None:
    """Kill the victim of a case, if it is at work; whom, and when."""
    if case == "controller":
        at = time.monotonic()
        return Kill(at=at) if kill(cluster.controllers()) else None
    at_work = [(pid, label) for pid in cluster.trainers() if (label := label_of(pid))]
    if not looks or len(at_work) < CASES[case]:
        return None
    pid, label = chance.choice(at_work)
    at = time.monotonic()
    return Kill(at=at, trainer=label) if looks[-1].held_by(frozenset({label})) and kill([pid]) else None


def measure(cluster: Cluster, case: str, recipe: Path, folder: Path, times: int) -> list[dict[str, float]]:
    """A search in which the victim of a case dies so many times; what each time took."""
    folder.mkdir(parents=True)
    chance, lookout, looks, deaths = random.Random(case), Lookout(cluster.observed, only_new=True), [], []
    arguments = ("--config", str(recipe), "--storage", str(folder), "--name", "run", "--num-workers", str(CASES[case]))
    search = Command(folder, "lfs.search", *arguments, "--address", cluster.address)
    store, next_at = RunStore(str(folder / "run")), 0.0
    try:
        while len(deaths) < times or time.monotonic() < next_at:
            if search.process.poll() is not None:
                raise RuntimeError(f"the search ended: {search.err.read_text()}")
            time.sleep(TICK_S)
            looks += lookout.news()
            ready = len(deaths) < times and looks and looks[-1].generation >= WARM_GENERATIONS
            if ready and time.monotonic() >= next_at and (death := killed(cluster, case, chance, looks)):
                deaths.append(death)
                next_at = time.monotonic() + PAUSE_S + chance.random()
        looks += lookout.news()
        table = batches(looks, store, store.load_config().trainer.generation_length)
    finally:
        search.clean()
        cluster.settle()
    return [found for death in deaths if (found := recovery(death, looks, table))]


def main() -> None:
    """Measure, print, and write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5, help="deaths in each case")
    parser.add_argument("--out", type=Path, help="folder for the result as JSON")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = folder / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(small_recipe(folder / "faces") | {"generations": 10_000}))
        with Cluster(folder / "cluster", (1, 1)) as cluster:
            for number, case in enumerate(CASES):
                rows = measure(cluster, case, recipe, folder / f"case-{number}", options.times)
                medians = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
                found[case] = {"medians": medians, "each": rows}
                most = max(row["first_batch_s"] for row in rows)
                shown = ", ".join(f"{key} {value:.2f}" for key, value in medians.items())
                print(f"{case}: median {shown} (most {most:.2f}, {len(rows)} deaths)", flush=True)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        about = {"date": f"{date.today()}", "cores": os.cpu_count(), "load": os.getloadavg()[0]}
        (options.out / "recovery.json").write_text(json.dumps(about | {"cases": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
