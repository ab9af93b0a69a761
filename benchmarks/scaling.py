"""Images per second of a search with 1 and with 2 trainers of one core each, on this machine.

    python -m benchmarks.scaling --folder runs/scaling [--rounds 3]

Each round runs the same real search of the built-in recipe with every number of trainers, in turn, and reads what the
runs recorded: images of all candidates over wall time, of the generations after the warm-up and the first full one,
where processes still start. The ratio to ideal, `rate(n) / (n * rate(1))`, is taken within a round. Two things lower
it: each trainer is slower beside the others (cores share caches, memory, power, and work of others), and trains less of
the time.

Started again with the same folder, it goes on where it was; runs that are complete are only read.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

from lfs.run_store import RunStore

FIRST = 2
"""Generations before the first that is timed."""


def complete(store: RunStore, generations: int) -> bool:
    """Whether a run has all its generations."""
    return store.exists("config.yaml") and len(store.committed()) == generations


def search(store: RunStore, trainers: int, options: argparse.Namespace) -> None:
    """Run a search, or go on with one that was cut off; note the machine's load before and after."""
    folder, name = store.uri.rsplit("/", 1)
    sizes = {"generations": options.generations, "population-size": options.population, "num-workers": trainers}
    sizes |= {"trainer.generation-unit": "steps", "trainer.generation-length": options.steps, "warmup-generations": 1}
    flags = [f"--{key}={value}" for key, value in sizes.items()]
    new = [*flags, "--storage", folder, "--name", name]
    arguments = ["--resume", store.uri] if store.exists("config.yaml") else new
    before = os.getloadavg()[0]
    subprocess.run([sys.executable, "-m", "lfs.search", *arguments], check=True, stdout=subprocess.DEVNULL)
    store.write(json.dumps({"before": before, "after": os.getloadavg()[0]}).encode(), "load.json")


def rates(store: RunStore, trainers: int) -> dict[str, float]:
    """Images per second of all trainers, and of one while it trains; shares of training and validation."""
    summaries = store.summaries()[FIRST:]
    tables = [store.load_candidates(summary["generation"]) for summary in summaries]
    wall_s = sum(summary["wall_s"] for summary in summaries)
    each = [float(rate) for table in tables for rate in table["num_images"] / table["train_s"]]
    return {
        "images_per_s": statistics.median(summary["images_per_s"] for summary in summaries),
        "images_per_s_training": statistics.median(each),
        "training_share": float(sum(table["train_s"].sum() for table in tables)) / (trainers * wall_s),
        "validation_share": float(sum(table["validate_s"].sum() for table in tables)) / (trainers * wall_s),
    }


def compare(rounds: list[dict[int, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Medians over rounds; ratios to one trainer of the same round."""
    found = {}
    for n in rounds[0]:
        medians = {name: statistics.median(r[n][name] for r in rounds) for name in rounds[0][n]}
        ratios = {
            "to_ideal": [r[n]["images_per_s"] / (n * r[1]["images_per_s"]) for r in rounds],
            "trainer_to_alone": [r[n]["images_per_s_training"] / r[1]["images_per_s_training"] for r in rounds],
        }
        found[str(n)] = medians | {name: statistics.median(values) for name, values in ratios.items()}
    return found


def main() -> None:
    """Measure what is missing, print, and write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trainers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--population", type=int, default=4)
    parser.add_argument("--generations", type=int, default=4)
    parser.add_argument("--steps", type=int, default=100, help="of each candidate")
    parser.add_argument("--out", type=Path, help="folder for the result as JSON")
    options = parser.parse_args()
    options.trainers = sorted({1, *options.trainers})
    rounds: list[dict[int, dict[str, float]]] = []
    loads: list[Any] = []
    for number in range(options.rounds):
        rounds.append({})
        for trainers in options.trainers:
            store = RunStore(f"{options.folder}/round-{number}-of-{trainers}")
            if not complete(store, options.generations):
                search(store, trainers, options)
            rounds[-1][trainers] = rates(store, trainers)
            loads.append(store.read_json("load.json") if store.exists("load.json") else {})
            print(
                f"round {number + 1}, {trainers}:", {k: round(v, 3) for k, v in rounds[-1][trainers].items()}, loads[-1]
            )
    found = compare(rounds)
    for trainers, values in found.items():
        print(f"{trainers} trainer(s):", "  ".join(f"{name} {value:.3f}" for name, value in values.items()))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        about = {"date": f"{date.today()}", "cores": os.cpu_count(), "machine": platform.processor(), "loads": loads}
        settings = {key: value for key, value in vars(options).items() if key not in ("out", "folder")}
        text = json.dumps(about | {"settings": settings, "rounds": rounds, "found": found}, indent=1)
        (options.out / "scaling.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
