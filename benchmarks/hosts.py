"""What a search over several hosts sends between them, and how long its trainers wait, generation by generation.

    python -m benchmarks.hosts [--hosts 2] [--trainers 2] [--rate 100mbit] [--csv FILE] [arguments of lfs.search]

Needs root: the hosts are network namespaces of this machine (tests/hosts.py), whose trainers share its cores, so that
seconds are not those of real hosts; bytes are. One more host is the head, with the controller and no trainer. A row is
a generation: its times, and what crossed the network from its middle to the middle of the next one, that is its winner
on its way out, and the same weights on their way to those who train on from them.

    in/W    bytes into a host over bytes of the winner; ideal: 1, as every host needs it, and only the winner goes home
            to the head (host 0)
    out/W   bytes out of all hosts with trainers over bytes of the winner; at least 1, the winner itself, and 1 more for
            each host that took its copy from another one with trainers and not from the head
    wall/ideal   wall time of the generation over sum of (train + validate) of its candidates / trainers; ideal: 1
    idle    trainers' seconds that went into neither, over all of their seconds
    waits_s longest time that a candidate took beyond train and validate: weights that come, weights and report that go
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from lfs.run_store import RunStore
from tests.hosts import Hosts, why_not
from trainers.data.builtin import FaceSetSpec, ensure_builtin_faces

FACES = FaceSetSpec(
    num_train_people=40, num_train_pictures=8, num_pair_people=20, num_pair_pictures=6, num_same=20, side=112
)  # fmt: skip
SAMPLE_S = 0.05
Sample = tuple[float, list[tuple[int, int]]]


def recipe(folder: Path) -> str:
    """A short search of a network whose weights are large for the time that its steps take; its file."""
    data = ensure_builtin_faces(folder / "faces", spec=FACES).data_config()
    sets = {
        name: {"lmdb": p.lmdb[0], "pairs": p.pairs[0]} for name, p in (("reward", data.reward), ("test", data.test))
    }
    values = {
        "generations": 5,
        "data": {"train": list(data.train), "train_list": list(data.train_list), "input_size": 112, **sets},
        "trainer": {"backbone": "mobilefacenet", "batch_size": 16, "generation_length": 4, "generation_unit": "steps"},
        "reward": {"metric": "auc", "num_bootstrap": 20},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return str(folder / "recipe.yaml")


def searched(hosts: Hosts, folder: Path, arguments: list[str]) -> tuple[RunStore, list[Sample]]:
    """Run a search over the hosts; its store, and the hosts' counters all along."""
    command = [sys.executable, "-m", "lfs.search", *arguments, "--storage", str(folder), "--name", "run"]
    search = hosts.popen(0, *command, "--address", hosts.address, stdout=subprocess.DEVNULL)
    samples = [(time.time(), hosts.traffic())]
    while search.poll() is None:
        time.sleep(SAMPLE_S)
        samples.append((time.time(), hosts.traffic()))
    if search.returncode:
        raise SystemExit(search.returncode)
    return RunStore(str(folder / "run")), samples


def generations(store: RunStore, samples: list[Sample], num_trainers: int) -> Iterator[dict[str, Any]]:
    """A row for each generation but the first, which starts from nothing, and the last, which nobody inherits."""
    folder = Path(store.path) / "generations"
    done = [(folder / f"{g:06d}" / "COMMIT").stat().st_mtime for g in store.committed()]
    middles = [(before + after) / 2 for before, after in pairwise(done)]  # of generations 1, 2, ...
    tune = [
        json.loads(line)
        for f in sorted(folder.parent.glob("tune/*/result.json"))
        for line in f.read_text().split("\n")
        if line
    ]
    for number, (begin, end) in enumerate(pairwise(middles), 1):
        first, last = (next(counters for at, counters in samples if at >= when) for when in (begin, end))
        moved = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(first, last, strict=True)]
        size = (folder / f"{number:06d}" / "winner.safetensors").stat().st_size
        wall_s = store.load_state(number)[1]["wall_s"]
        table = store.load_candidates(number)
        work_s = float((table["train_s"] + table["validate_s"]).sum())
        yield {
            "generation": number + 1, "candidates": len(table), "winner_bytes": size,
            **{f"in/W host {i}": into / size for i, (into, _) in enumerate(moved)},
            "out/W": sum(out for _, out in moved[1:]) / size, "wall_s": wall_s,
            "wall/ideal": wall_s * num_trainers / work_s, "idle": 1 - work_s / (wall_s * num_trainers),
            "waits_s": max(row["overhead_s"] for row in tune if row.get("generation") == number),
        }  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=2, help="hosts with trainers")
    parser.add_argument("--trainers", type=int, default=2, help="trainers on each of them")
    parser.add_argument("--rate", default="", help="what the link of each host carries, each way, as tc writes it")
    parser.add_argument("--csv", default="", help="file to write the table to")
    options, arguments = parser.parse_known_args()
    if why_not():
        parser.error(why_not())
    trainers = options.hosts * options.trainers
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = ["--num-workers", str(trainers), "--population-size", str(2 * trainers)]
        with Hosts(folder / "shared", (0, *[options.trainers] * options.hosts)) as hosts:
            for number in range(options.hosts + 1) if options.rate else ():
                hosts.limit(number, options.rate)
            store, samples = searched(hosts, folder, ["--config", recipe(folder), *sizes, *arguments])
        table = pd.DataFrame(list(generations(store, samples, trainers)))
    print(table.to_string(index=False, float_format="{:.3f}".format))
    into = [x for column in table if column.startswith("in/W") for x in table[column]]
    rest = ", ".join(
        f"{name} {statistics.median(table[name]):.3f}" for name in ("out/W", "wall/ideal", "idle", "waits_s")
    )
    print(f"median: in/W {statistics.median(into):.3f} (most {max(into):.3f}), {rest}")
    if options.csv:
        table.to_csv(options.csv, index=False, float_format="%.4f")


if __name__ == "__main__":
    main()
