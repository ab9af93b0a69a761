"""What a search costs on top of training: a steady generation against two plain processes, and a trainer's memory.

    python -m benchmarks.search_overhead [--rounds 3] [--idle-ray]

Each round runs a search of the built-in recipe with two trainers, then trains and validates the candidates of its last
generations again, half of them in each of two plain processes with one thread (no Ray, network and data ready before
the clock starts, as in a steady search). Both times are of the same round; the ratio is of their medians.
"""

import argparse
import contextlib
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lfs.config import SearchConfig
from lfs.run_store import RunStore
from search_space.spaces import get_space
from trainers.candidate import Candidate, Weights

NUM_TRAINERS = 2
STEADY = (2, 3)
"""Generations that are timed: the warm-up (one candidate) and the first full one are not steady."""


def search(folder: str, name: str, arguments: list[str]) -> tuple[RunStore, float]:
    """Run a search; its store, and the largest resident memory of a trainer in MiB."""
    sizes = ["--num-workers", str(NUM_TRAINERS), "--population-size", "8", "--generations", str(STEADY[-1] + 1)]
    command = [sys.executable, "-m", "lfs.search", *sizes, "--storage", folder, "--name", name, *arguments]
    peak, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            peak[0] = max([peak[0], *trainer_memory_mib()])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    finally:
        over.set()
        watcher.join()
    return RunStore(f"{folder}/{name}"), peak[0]


def trainer_memory_mib() -> list[float]:
    """Peak resident memory of every Ray process that runs a trainer."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if b"ray::ResourceTrainable" in (entry / "cmdline").read_bytes():
                found.append(field_mib(entry / "status", "VmHWM"))
        except OSError:
            continue
    return found


def field_mib(status: Path, name: str) -> float:
    """A memory field of /proc/PID/status."""
    [line] = [line for line in status.read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) / 1024


def plain(config: SearchConfig, tasks: list[Candidate], bases: dict[int, Weights], start: Any, done: Any) -> None:
    """One plain process: make the trainer, wait for the start, train its share."""
    from trainers.trainer import CandidateTrainer

    trainer = CandidateTrainer(config.trainer, config.data, config.reward, seed=config.seed)
    trainer.run(replace_generation(tasks[0]), None)  # decoded pictures in memory, kernels chosen: steady
    start.wait()
    rewards = [trainer.run(task, bases[task.generation]).reward for task in tasks]
    done.put((rewards, field_mib(Path("/proc/self/status"), "VmHWM")))


def replace_generation(task: Candidate) -> Candidate:
    """The candidate as of the first generation: for a run whose result nobody wants."""
    return replace(task, generation=0)


def plain_time(store: RunStore, generation: int) -> tuple[float, float]:
    """Seconds that two plain processes take for a generation's candidates, and their peak memory in MiB."""
    config = store.load_config()
    space = get_space(config.space)
    table = store.load_candidates(generation)
    tasks = [Candidate(generation=generation, index=i, loss=space.decode(x)) for i, x in enumerate(table["action"])]
    bases = {generation: store.load_weights(generation - 1)}
    context = multiprocessing.get_context("spawn")
    start, done = context.Barrier(NUM_TRAINERS + 1), context.SimpleQueue()
    shares = [tasks[k::NUM_TRAINERS] for k in range(NUM_TRAINERS)]
    workers = [context.Process(target=plain, args=(config, share, bases, start, done)) for share in shares]
    for worker in workers:
        worker.start()
    start.wait()
    began = time.perf_counter()
    results = [done.get() for _ in workers]
    took_s = time.perf_counter() - began
    for worker in workers:
        worker.join()
    assert sorted(r for rewards, _ in results for r in rewards) == sorted(table["reward"]), "not the same candidates"
    return took_s, max(memory for _, memory in results)


@contextlib.contextmanager
def idle_ray() -> Iterator[None]:
    """A Ray head that runs nothing, in the background; ends with the block."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port=0"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    options = [f"--num-cpus={NUM_TRAINERS}", "--include-dashboard=false", "--disable-usage-stats"]
    head = subprocess.Popen([*command, *options], start_new_session=True, **quiet)  # type: ignore[call-overload]
    time.sleep(8)
    try:
        yield
    finally:
        head.terminate()
        head.wait()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idle-ray", action="store_true", help="also: plain processes beside Ray daemons that idle")
    options, search_arguments = parser.parse_known_args()
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            store, trainer_mib = search(folder, f"round-{number}", search_arguments)
            walls = {s["generation"]: s["wall_s"] for s in store.summaries()}
            for generation in STEADY:
                plain_s, plain_mib = plain_time(store, generation)
                row = {"search": walls[generation], "plain": plain_s, "search MiB": trainer_mib, "plain MiB": plain_mib}
                if options.idle_ray:
                    with idle_ray():
                        row["plain beside idle Ray"] = plain_time(store, generation)[0]
                rows.append(row)
                print(", ".join(f"{name} {value:.2f}" for name, value in row.items()), flush=True)
    for name in rows[0]:
        if name.startswith("plain") and not name.endswith("MiB"):
            ratios = [row["search"] / row[name] for row in rows]
            middle = statistics.median(ratios)
            print(f"search / {name}: median {middle:.3f}, {min(ratios):.3f} to {max(ratios):.3f}, n = {len(rows)}")
    for name in ("search MiB", "plain MiB"):
        print(f"peak resident memory of a process, {name}: {max(row[name] for row in rows):.0f}")


if __name__ == "__main__":
    main()
