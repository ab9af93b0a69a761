"""Seconds of one commit of a generation, over one plain write of the same weights that is synced.

    python -m benchmarks.commit                     # 200 MB, and MobileFaceNet with 10,000 classes and its momentum
    python -m benchmarks.commit --folder /mnt/nfs

Both sides in turn, first one and then the other in front; the ratio is the median of the rounds. The plain side has the
bytes ready in one piece and neither hashes them nor syncs the folder. What a commit adds: the layout of the checkpoint,
SHA-256, a table of candidates, a state, COMMIT, the syncs of the folder.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from lfs.config import SearchConfig
from lfs.generation import first_state
from lfs.messages import GenerationRecord
from lfs.run_store import RunStore
from trainers.backbones import build_backbone
from trainers.candidate import Weights
from trainers.checkpoint import to_bytes

RESULTS = Path(__file__).parent / "results" / "commit"
LIMIT = 1.3


def large(num_bytes: int) -> Weights:
    """A few large arrays and many small ones, as a network with a large head has."""
    rng = np.random.default_rng(0)
    head = {"head.weight": rng.random((num_bytes // 2 // 2048, 512), dtype=np.float32)}
    body = {f"backbone.{i}.weight": rng.random((num_bytes // 2 // 100 // 4,), dtype=np.float32) for i in range(100)}
    return head | body


def mobilefacenet(num_classes: int) -> Weights:
    """MobileFaceNet's weights and buffers, a head, and momentum of all that is trained."""
    backbone = build_backbone("mobilefacenet", 512, 112)
    weights = {f"backbone.{name}": tensor.numpy() for name, tensor in backbone.state_dict().items()}
    weights["head.weight"] = np.random.default_rng(0).random((num_classes, 512), dtype=np.float32)
    trained = [f"backbone.{name}" for name, _ in backbone.named_parameters()] + ["head.weight"]
    return weights | {f"momentum.{name}": weights[name] for name in trained}


def record(generation: int, candidates: int) -> GenerationRecord:
    """The outcome of a generation, as large as one of `candidates` is."""
    replicates = np.random.default_rng(generation).random(200).tolist()
    rows: list[dict[str, Any]] = [
        {"candidate": i, "reward": 0.5, "replicates": replicates, "action": [0.2] * 10} for i in range(candidates)
    ]
    state = first_state(SearchConfig(), generation + 1)
    return GenerationRecord(generation=generation, winner=0, rows=rows, summary={"winner": 0}, state=state)


def plain(path: Path, data: bytes) -> None:
    """One write that is synced."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def timed(action: Callable[[], None]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def measure(folder: Path, weights: Weights, rounds: int) -> dict[str, Any]:
    """Both sides in turn."""
    data = to_bytes(weights, {"generation": 0, "candidate": 0})
    store = RunStore(str(folder / "run"))
    store.create(SearchConfig())
    written, committed = [], []
    for number in range(rounds + 1):
        outcome = record(number, 8)
        sides = {
            "plain": lambda: plain(folder / "plain", data),
            "commit": lambda outcome=outcome: store.commit(outcome, weights),
        }
        took = {name: timed(sides[name]) for name in sorted(sides, reverse=bool(number % 2))}
        (folder / "plain").unlink()
        store.prune(number, 1)
        if number:  # the first round is thrown away
            written.append(took["plain"])
            committed.append(took["commit"])
    shutil.rmtree(folder / "run")
    ratios = [c / w for c, w in zip(committed, written, strict=True)]
    return {
        "megabytes": len(data) / 1e6, "plain_s": statistics.median(written), "commit_s": statistics.median(committed),
        "ratio": statistics.median(ratios), "ratios": ratios,
    }  # fmt: skip


def main() -> None:
    """Measure, print, and write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default=".", help="folder on the disk to measure")
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--classes", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result as JSON")
    options = parser.parse_args()
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        cases = {
            f"{options.megabytes} MB": large(options.megabytes * 10**6),
            f"MobileFaceNet, {options.classes:,} classes": mobilefacenet(options.classes),
        }
        results = {name: measure(Path(folder), weights, options.rounds) for name, weights in cases.items()}
    for name, result in results.items():
        figures = f"plain {result['plain_s']:.3f} s, commit {result['commit_s']:.3f} s, ratio {result['ratio']:.2f}"
        print(f"{name}: {result['megabytes']:.0f} MB, {figures} (at most {LIMIT} wanted for the first)")
    about = {"date": f"{date.today()}", "cores": os.cpu_count(), "machine": platform.processor()}
    about |= {"python": platform.python_version(), "load_before": before, "load_after": os.getloadavg()[0]}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "commit.json").write_text(json.dumps(about | {"cases": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
