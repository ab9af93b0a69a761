"""The fault machine over many seeds: small searches on a cluster of several nodes, killed with -9 at seeded moments.

    python -m benchmarks.faults --runs 100 --seed 0 --folder F [--out benchmarks/results/faults]

Each run is a search that a trainer, the controller, a node, the driver or the whole cluster is taken from, one to three
times (tests/fault/). It must end, with every generation once, to the last bit like the undisturbed search.

Every run is one line of runs.jsonl, in OUT (or F); seeds that are there are not run again. What breaks a law is kept,
F/run-SEED and the logs of its cluster, and does not stop the others.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from tests.fault.machine import Machine
from tests.fault.plan import VICTIMS
from tests.lfs.conftest import small_recipe

Run = dict[str, Any]
DIFFERS = "differs"


def runs_of(file: Path) -> list[Run]:
    """Runs that are done."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def campaign(folder: Path, seeds: Sequence[int], file: Path) -> None:
    """Run what is missing."""
    done = {run["seed"] for run in runs_of(file)}
    with Machine(folder, small_recipe(folder / "faces")) as machine:
        machine.prepare()
        for seed in [seed for seed in seeds if seed not in done]:
            began = time.monotonic()
            outcome = machine.run(seed)
            line = outcome.to_dict() | {
                "date": str(date.today()),
                "wall_s": time.monotonic() - began,
                "load": os.getloadavg()[0],
            }
            with file.open("a") as lines:
                lines.write(json.dumps(line) + "\n")
            hits = ", ".join(f"{s.victim} ({s.state} of generation {s.generation})" for s in outcome.strikes)
            print(f"seed {seed}: {hits or 'no fault hit'}: {'; '.join(outcome.broken) or 'ok'}, {line['wall_s']:.0f} s",
                  flush=True)  # fmt: skip


def rows(runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """A row for each kind of victim."""
    for victim in VICTIMS:
        held = [run for run in runs if any(strike["victim"] == victim for strike in run["strikes"])]
        waited = [wait["waited_s"] for run in held for wait in run["waits"] if wait["victim"] == victim]
        back = [
            seconds for run in held for strike, seconds in zip(run["strikes"], run["recovered_s"], strict=False)
            if strike["victim"] == victim and seconds is not None
        ]  # fmt: skip
        yield {
            "victim": victim,
            "faults": sum(strike["victim"] == victim for run in held for strike in run["strikes"]),
            "runs": len(held),
            "finished": sum(run["finished"] for run in held),
            "bit-identical": sum(run["finished"] and not any(DIFFERS in b for b in run["broken"]) for run in held),
            "all laws kept": sum(not run["broken"] for run in held),
            "waits": len(waited),
            "longest wait, s": f"{max(waited):.1f}" if waited else "-",
            "next outcome after, s": f"{statistics.median(back):.1f} (most {max(back):.1f})" if back else "-",
        }


def table(runs: Sequence[Run]) -> str:
    """The runs in one table of Markdown, and what was hit when."""
    made = list(rows(runs))
    lines = ["| " + " | ".join(made[0]) + " |", "|" + "---|" * len(made[0])]
    lines += ["| " + " | ".join(str(value) for value in row.values()) + " |" for row in made]
    states = Counter(strike["state"] for run in runs for strike in run["strikes"])
    good = sum(not run["broken"] for run in runs)
    total = sum(len(run["strikes"]) for run in runs)
    took = statistics.median(run["wall_s"] for run in runs)
    lines += ["", f"{len(runs)} runs, {good} without a broken law, {total} faults, median {took:.0f} s a run."]
    lines += ["Hit while: " + ", ".join(f"{state} {number}" for state, number in states.most_common()) + "."]
    lines += [f"Seed {run['seed']}: {'; '.join(run['broken'])}" for run in runs if run["broken"]]
    return "\n".join(lines)


def main() -> int:
    """Run, print the table, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--folder", type=Path, required=True, help="to work in; keeps what broke a law")
    parser.add_argument("--out", type=Path, help="for the table and runs.jsonl; FOLDER if not given")
    options = parser.parse_args()
    seeds = range(options.seed, options.seed + options.runs)
    out = options.out or options.folder
    for folder in (options.folder, out):
        folder.mkdir(parents=True, exist_ok=True)
    file = out / "runs.jsonl"
    campaign(options.folder.absolute(), seeds, file)
    runs = [run for run in runs_of(file) if run["seed"] in seeds]
    text = table(runs)
    print(text)
    dates = sorted({run["date"] for run in runs})
    head = f"{' to '.join(sorted({dates[0], dates[-1]}))}, {os.cpu_count()} cores, seeds {seeds[0]} to {seeds[-1]}."
    (out / "table.md").write_text(f"{head}\n\n{text}\n")
    return 0 if all(not run["broken"] for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
