"""Pictures per second and core from LMDB to the network's input, against the obvious OpenCV loop.

    python benchmarks/data_path.py                                   # pictures made by the script itself
    python benchmarks/data_path.py --lmdb faces.lmdb --list faces.txt

All sides run in one process on one thread, in turn, with the decoded cache off, and are timed in CPU time. The loop is
given twice: as it is mostly written (`(picture - 127.5) / 128`, which numpy does in float64), and with the float32 cast
first. A round of each is thrown away.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import torch

from trainers.data.datum import decode_datum, encode_datum
from trainers.data.decode import normalise
from trainers.data.lists import read_list
from trainers.data.lmdb_source import write_lmdb
from trainers.data.sets import TrainingSet

SIZE = 112

Batches = Callable[[], Iterator[torch.Tensor]]


def make_faces(folder: Path, count: int) -> tuple[Path, Path]:
    """An LMDB of smooth, slightly noisy JPEGs of about 4 KB (as aligned faces are), and its list."""
    rng = np.random.default_rng(0)

    def records() -> Iterator[tuple[str, bytes]]:
        for index in range(count):
            coarse = rng.integers(40, 216, (8, 8, 3), dtype=np.uint8)
            smooth = cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
            noisy = np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)
            _, jpeg = cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 90])
            yield f"{index % 10}/{index}.jpg", encode_datum(jpeg.tobytes(), index % 10)

    write_lmdb(folder / "faces.lmdb", records())
    lines = "".join(f"{index % 10}/{index}.jpg {index % 10}\n" for index in range(count))
    (folder / "faces.txt").write_text(lines)
    return folder / "faces.lmdb", folder / "faces.txt"


def to_float_as_written(picture: Any) -> Any:
    """float64 in between, because 127.5 is."""
    return ((picture.transpose(2, 0, 1) - 127.5) / 128).astype(np.float32)


def to_float32_first(picture: Any) -> Any:
    return (picture.transpose(2, 0, 1).astype(np.float32) - 127.5) / 128


def obvious_batches(
    env: lmdb.Environment, keys: list[str], num_steps: int, batch_size: int, to_float: Callable[[Any], Any]
) -> Iterator[torch.Tensor]:
    """One sample at a time: transaction, parse, decode, flip, transpose, float; stacked at the end."""
    rng = np.random.default_rng(1)
    order = rng.permutation(len(keys))
    for step in range(num_steps):
        samples = []
        for index in order[step * batch_size : (step + 1) * batch_size]:
            with env.begin() as transaction:
                value: Any = transaction.get(keys[index].encode())
            picture: Any = cv2.imdecode(np.frombuffer(decode_datum(value).data, np.uint8), cv2.IMREAD_COLOR)
            if rng.random() < 0.5:
                picture = cv2.flip(picture, 1)
            samples.append(torch.from_numpy(to_float(picture)))
        yield torch.stack(samples)


def our_batches(training_set: TrainingSet, num_steps: int, batch_size: int) -> Iterator[torch.Tensor]:
    """Batches of the training set, normalised into one output that is used again and again."""
    output = None
    for pictures, _ in training_set.batches(0, num_steps, batch_size, seed=1):
        output = normalise(pictures, out=output)
        yield output


def pictures_per_s(batches: Batches) -> float:
    start = time.process_time()
    count = sum(len(batch) for batch in batches())
    return count / (time.process_time() - start)


def measure(sides: dict[str, Batches], num_rounds: int) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for index in range(num_rounds + 1):
        for name, batches in sides.items():
            rate = pictures_per_s(batches)
            if index:  # the first round fills the page cache
                rates[name].append(rate)
    return rates


def report(rates: dict[str, list[float]]) -> None:
    *_, ours = rates.values()
    for name, values in rates.items():
        ratios = [our / value for our, value in zip(ours, values, strict=True)]
        rate = f"{statistics.median(values):7,.0f} pictures/s and core ({min(values):,.0f} to {max(values):,.0f})"
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{name:24} {rate}" + (f"; ours is {ratio} times as fast" if values is not ours else ""))


def run(folder: Path, lmdb_path: Path, list_path: Path, args: argparse.Namespace) -> None:
    copy = folder / "copy.lmdb"  # for the loop: LMDB opens a file only once in a process
    shutil.copyfile(lmdb_path / "data.mdb" if lmdb_path.is_dir() else lmdb_path, copy)
    env = lmdb.open(str(copy), subdir=False, readonly=True, lock=False, readahead=False)
    training_set = TrainingSet([lmdb_path], [list_path], SIZE, cache_bytes=0)
    num_steps = min(args.steps, training_set.num_batches(args.batch_size))
    loop = partial(obvious_batches, env, list(read_list(list_path)[0]), num_steps, args.batch_size)
    sides: dict[str, Batches] = {
        "loop, as mostly written": partial(loop, to_float_as_written),
        "loop, float32 first": partial(loop, to_float32_first),
        "trainers.data": partial(our_batches, training_set, num_steps, args.batch_size),
    }
    print(f"medians of {args.rounds} rounds of {num_steps} x {args.batch_size} pictures, {SIZE} x {SIZE}")
    report(measure(sides, args.rounds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lmdb", type=Path, help="LMDB with faces of 112 x 112; without it the script makes its own")
    parser.add_argument("--list", type=Path, help="its list file")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=16, help="batches of a round")
    parser.add_argument("--batch-size", type=int, default=128)
    args = parser.parse_args()
    if (args.lmdb is None) != (args.list is None):
        parser.error("--lmdb and --list go together")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lmdb_path, list_path = (args.lmdb, args.list) if args.lmdb else make_faces(folder, args.steps * args.batch_size)
        run(folder, lmdb_path, list_path, args)


if __name__ == "__main__":
    main()
