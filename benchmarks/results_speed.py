"""How long it takes to open a run of 10,000 candidates, beside the import alone and a bare read of all its tables.

    python -m benchmarks.results_speed [--folder DIR] [--times 5]

Four runs are made by the product's own store, of 100 generations of 100 candidates to 10,000 of one, with rewards that
are calculated. Each command is a process of its own; in each round all take their turn. The figures are medians of wall
and CPU time.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from lfs.generation import Search
from lfs.run_store import RunStore
from tests.lfs.fakes import config, made_report

SHAPES = {"100 x 100": (100, 100), "625 x 16": (625, 16), "1,250 x 8": (1250, 8), "10,000 x 1": (10_000, 1)}
"""Generations and candidates of each."""
BARE = """
import pathlib, sys, pandas
paths = sorted(pathlib.Path(sys.argv[1]).glob("generations/*/candidates.parquet"))
print(pandas.concat(map(pandas.read_parquet, paths)))
"""
"""Reads the tables as a script would, without looking at COMMIT, checksums or claims."""


def make_run(folder: Path, generations: int, population: int) -> None:
    """A finished run, unless it is there."""
    if folder.exists():
        return
    settings = config(generations=generations, population_size=population, warmup_generations=0)
    store, search = RunStore(str(folder)), Search(settings)
    store.create(settings)
    weights = {"backbone.w": np.ones((64, 64), np.float32)}
    while (lease := search.lease("trainer-000")).kind == "train":
        search.report(made_report(search.space, lease, "trainer-000"), weights)
        if search.ready_to_close:
            record = search.close()
            store.commit(record, weights)
            search.advance(record, weights)
    store.write_result({"generation": generations - 1, "test": {"accuracy": 0.5, "accuracy_se": 0.01}})


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds of a Python command: on the wall, and of the CPU."""
    began, before = time.monotonic(), os.times()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.monotonic() - began, os.times()
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    """Make the runs, time the commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default="", help="where the runs are made, and stay [a temporary folder]")
    parser.add_argument("--times", type=int, default=5, help="how often each command is run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(options.folder or temporary)
        commands = {"import lfs.results": ["-c", "import lfs.results"]}
        for name, shape in SHAPES.items():
            run = root / "{}-{}".format(*shape)
            make_run(run, *shape)
            show = ["-m", "lfs.results", str(run)]
            commands[f"{name} bare read"] = ["-c", BARE, str(run)]
            commands |= {name: show, f"{name} --candidates": [*show, "--candidates"]}
            where = ["--where", "reward > 0.99 and not diverged", "--sort", "reward:desc", "--json", os.devnull]
            commands[f"{name} --candidates --where --json"] = [*show, "--candidates", *where]
        rounds = [{name: timed(command) for name, command in commands.items()} for _ in range(options.times)]
        for name in commands:
            wall, cpu = (statistics.median(taken[name][side] for taken in rounds) for side in (0, 1))
            print(f"{name:40} {wall:6.2f} s, {cpu:6.2f} s of CPU", flush=True)


if __name__ == "__main__":
    main()
