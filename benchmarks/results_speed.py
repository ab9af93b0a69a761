"""How long it takes to open a run of 10,000 candidates, beside the import alone.

    python -m benchmarks.results_speed [--folder DIR] [--times 5]

Two runs are made by the product's own store, of 100 generations of 100 candidates and of 1,250 of 8, with rewards that
are calculated. Each command is a process of its own; the figures are medians of its wall and CPU time.
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

SHAPES = {"100 x 100": (100, 100), "1,250 x 8": (1250, 8)}
"""Generations and candidates of each."""


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


def timed(command: list[str], times: int) -> tuple[float, float]:
    """Seconds of a Python command: on the wall, and of the CPU."""
    walls, cpus = [], []
    for _ in range(times):
        began, before = time.monotonic(), os.times()
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        walls.append(time.monotonic() - began)
        cpus.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return statistics.median(walls), statistics.median(cpus)


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
            commands |= {name: show, f"{name} --candidates": [*show, "--candidates"]}
            where = ["--where", "reward > 0.99 and not diverged", "--sort", "reward:desc", "--json", os.devnull]
            commands[f"{name} --candidates --where --json"] = [*show, "--candidates", *where]
        for name, command in commands.items():
            wall, cpu = timed(command, options.times)
            print(f"{name:40} {wall:6.2f} s, {cpu:6.2f} s of CPU", flush=True)


if __name__ == "__main__":
    main()
