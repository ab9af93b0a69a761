"""Time without training between two generations: from the last outcome of one to the first batch of the next.

    python -m benchmarks.generation_gap [--generations 8] [--classes 10000] [--out benchmarks/results/generation_gap]

A real search of MobileFaceNet on two trainers. Controller and trainers are those of `lfs`, with a clock around each
part of the way: the last candidate is validated -> its weights are put -> reported -> policy step -> the winner is
fetched and put again -> the next candidates are sampled -> a lease -> through Tune -> the base is fetched -> loaded ->
first batch begins. Beside it, in the same run of this script,
the bare copy of the same weights into and out of Ray's object store: put, get, and a copy of every array.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import lfs.controller
import lfs.controller_start
import lfs.crew
from lfs.controller import Controller
from lfs.messages import Lease
from lfs.rank_actors import BaseWeights
from lfs.run_store import RunStore
from lfs.trainable import Trainer
from trainers.data.builtin import FaceSetSpec, ensure_builtin_faces

FACES = FaceSetSpec(
    num_train_people=40, num_train_pictures=8, num_pair_people=20, num_pair_pictures=6, num_same=20, side=112
)  # fmt: skip
FOLDER = "LFS_GAP_FOLDER"
"""Environment of all processes: where they write down what they timed."""
STEPS = 4
COPIES = 15
CLOSING = ("close", "winner is fetched", "winner is put", "prepare")


def note(what: str, generation: int, began: float) -> None:
    """Write down that something was done, from then to now, on the clock that all processes share."""
    line = {"what": what, "generation": generation, "began": began, "ended": time.monotonic(), "pid": os.getpid()}
    with open(f"{os.environ[FOLDER]}/{os.getpid()}.jsonl", "a") as lines:
        lines.write(json.dumps(line) + "\n")


def timed(what: str, function: Callable[..., Any], generation: Callable[[], int]) -> Callable[..., Any]:
    """The same function, each of its calls written down."""

    def call(*arguments: Any, **settings: Any) -> Any:
        began, of = time.monotonic(), generation()
        value = function(*arguments, **settings)
        note(what, of, began)
        return value

    return call


class TimedController(Controller):
    """The controller with a clock around what it does when a generation closes."""

    def __init__(self, run_uri: str) -> None:
        super().__init__(run_uri)
        here = lambda: self.search.state.generation  # noqa: E731
        for name in ("close", "prepare"):
            setattr(self.search, name, timed(name, getattr(self.search, name), here))
        lfs.controller.ray.put = timed("winner is put", lfs.controller.ray.put, here)
        fetch = lfs.controller._fetch

        async def timed_fetch(reference: Any) -> Any:
            began = time.monotonic()
            value = await fetch(reference)
            note("winner is fetched", here(), began)
            return value

        lfs.controller._fetch = timed_fetch

    async def _close(self) -> None:
        began, generation = time.monotonic(), self.search.state.generation
        await super()._close()
        note("controller closes", generation, began)


class TimedBase(BaseWeights):
    """The base weights with a clock around their fetch."""

    def of(self, lease: Lease) -> Any:
        """Those of a lease."""
        began = time.monotonic()
        value = super().of(lease)
        note("base is fetched", lease.generation, began)
        return value


class TimedTrainer(Trainer):
    """The trainer with a clock around the parts of a candidate."""

    def setup(self, config: dict[str, Any]) -> None:
        """As it is, and the clocks."""
        super().setup(config)
        self.base = TimedBase()
        run, generation = self.trainer.run, [0]
        model = self.trainer._model
        model.load = timed("base is loaded", model.load, lambda: generation[0])

        def timed_run(candidate: Any, base: Any, *, progress: Any) -> Any:
            began, generation[0] = time.monotonic(), candidate.generation
            result = run(candidate, base, progress=progress)
            note("candidate", candidate.generation, began)
            return result

        self.trainer.run = timed_run

    def step(self) -> dict[str, Any]:
        """When Tune asks for it."""
        note("step begins", self.next_lease.generation if self.next_lease else 0, time.monotonic())
        return super().step()

    def _train(self, lease: Lease) -> dict[str, Any]:
        began = time.monotonic()
        row = super()._train(lease)
        note("candidate is reported", lease.generation, began)
        return row

    def _next(self) -> Lease:
        began = time.monotonic()
        lease = super()._next()
        note("lease", lease.generation, began)
        return lease


def recipe(folder: Path, options: argparse.Namespace) -> str:
    """The search; its file. Its many identities share a few pictures: their number is what matters here."""
    data = ensure_builtin_faces(folder / "faces", spec=FACES).data_config()
    keys = [line.split()[0] for line in Path(data.train_list[0]).read_text().splitlines()]
    lines = (f"{keys[label % len(keys)]} {label}\n" for label in range(options.classes))
    (folder / "identities.txt").write_text("".join(lines))
    sets = {
        name: {"lmdb": p.lmdb[0], "pairs": p.pairs[0]} for name, p in (("reward", data.reward), ("test", data.test))
    }
    values = {
        "generations": options.generations, "population_size": 2, "num_workers": 2,
        "data": {"train": list(data.train), "train_list": [str(folder / "identities.txt")], "input_size": 112, **sets},
        "trainer": {"backbone": "mobilefacenet", "batch_size": 16, "generation_length": STEPS,
                    "generation_unit": "steps", "lr": 0.01},
        "reward": {"metric": "auc", "num_bootstrap": 20},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return str(folder / "recipe.yaml")


@contextmanager
def clocks(folder: Path) -> Any:
    """Searches of this process run with clocks while in the block."""
    os.environ[FOLDER] = str(folder)
    folder.mkdir()
    before = lfs.controller_start.Controller, lfs.crew.Trainer
    lfs.controller_start.Controller, lfs.crew.Trainer = TimedController, TimedTrainer  # type: ignore[misc]
    try:
        yield
    finally:
        lfs.controller_start.Controller, lfs.crew.Trainer = before  # type: ignore[misc]


def gaps(folder: Path, generations: int) -> list[dict[str, float]]:
    """Where the time goes between two generations, from the third on: until then processes still start."""
    notes = [json.loads(line) for file in folder.iterdir() for line in file.read_text().splitlines()]

    def of(what: str, generation: int, pid: int | None = None) -> list[dict[str, Any]]:
        """Notes of one kind, by their end."""
        own = [n for n in notes if n["what"] == what and n["generation"] == generation and pid in (None, n["pid"])]
        return sorted(own, key=lambda n: n["ended"])

    def took(what: str, generation: int, pid: int | None = None) -> float:
        return sum(n["ended"] - n["began"] for n in of(what, generation, pid)[:1])

    found = []
    for number in range(2, generations - 1):
        last, [close] = of("candidate", number)[-1], of("controller closes", number)
        first = of("base is loaded", number + 1)[0]
        pid = first["pid"]
        lease, begins = of("lease", number + 1, pid)[0], of("step begins", number + 1, pid)[0]
        parts = {
            "gap": first["ended"] - last["ended"],
            "weights are put, report": close["began"] - last["ended"],
            "controller closes": close["ended"] - close["began"],
            **{f"  of it {name}": took(name, number) for name in CLOSING},
            "lease": lease["ended"] - close["ended"],
            "through Tune": begins["ended"] - lease["ended"],
            "base is fetched": took("base is fetched", number + 1, pid),
            "base is loaded": first["ended"] - first["began"],
        }
        found.append(parts)
    return found


def bare_copy(store: RunStore) -> tuple[float, int]:
    """Median seconds of the winner's weights into and out of the object store, and their bytes."""
    import ray

    weights = store.load_weights(store.committed()[-1])
    ray.init("local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    took = []
    for _ in range(COPIES):
        began = time.perf_counter()
        kept = {name: np.array(array) for name, array in ray.get(ray.put(weights)).items()}
        took.append(time.perf_counter() - began)
    ray.shutdown()
    return statistics.median(took), sum(array.nbytes for array in kept.values())


def main() -> None:
    """Measure, print, and write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--classes", type=int, default=10_000)
    parser.add_argument("--out", type=Path, help="folder for the result as JSON")
    options = parser.parse_args()
    from lfs.search import main as search

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arguments = ["--config", recipe(folder, options), "--storage", str(folder), "--name", "run"]
        with clocks(folder / "notes"):
            if code := search(arguments):
                sys.exit(code)
        found = gaps(folder / "notes", options.generations)
        copy_s, size = bare_copy(RunStore(str(folder / "run")))
    medians = {part: statistics.median(row[part] for row in found) for part in found[0]}
    print(f"\n{size / 1e6:.0f} MB of weights; bare copy into and out of the object store {copy_s:.3f} s")
    all_of_them = [row["gap"] for row in found]
    spread = f"{min(all_of_them):.3f} to {max(all_of_them):.3f}, {len(found)} gaps"
    print(f"gap: median {medians['gap']:.3f} s ({spread}), {medians['gap'] - copy_s:.3f} s beside the bare copy")
    for part, seconds in medians.items():
        print(f"  {part:32} {seconds:.3f} s")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        about = {"date": f"{date.today()}", "cores": os.cpu_count(), "load": os.getloadavg()[0]}
        about |= {"classes": options.classes, "weights_bytes": size, "bare_copy_s": copy_s}
        text = json.dumps(about | {"medians": medians, "gaps": found}, indent=1)
        (options.out / "generation_gap.json").write_text(text + "\n")


if __name__ == "__main__":
    from benchmarks import generation_gap  # by this name the processes of Ray find the classes, too

    generation_gap.main()
