"""Pictures per second and core from LMDB to the network's input, against the obvious OpenCV loop.

    python benchmarks/data_path.py                                   # pictures made by the script itself
    python benchmarks/data_path.py --lmdb faces.lmdb --list faces.txt

Both sides run in one process on one thread, in turn, with the decoded cache off. A round of each is thrown away.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

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


def make_faces(folder: Path, count: int) -> tuple[Path, Path]:
    """An LMDB of smooth, slightly noisy JPEGs of about 4 KB (as aligned faces are), and its list."""
    rng = np.random.default_rng(0)

    def records() -> Iterator[tuple[str, bytes]]:
        for index in range(count):
            smooth = cv2.resize(
                rng.integers(40, 216, (8, 8, 3), dtype=np.uint8), (SIZE, SIZE), interpolation=cv2.INTER_CUBIC
            )
            noisy = np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)
            _, jpeg = cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 90])
            yield f"{index % 10}/{index}.jpg", encode_datum(jpeg.tobytes(), index % 10)

    write_lmdb(folder / "faces.lmdb", records())
    lines = "".join(f"{index % 10}/{index}.jpg {index % 10}\n" for index in range(count))
    (folder / "faces.txt").write_text(lines)
    return folder / "faces.lmdb", folder / "faces.txt"


def obvious_batches(env: lmdb.Environment, keys: list[str], num_steps: int, batch_size: int) -> Iterator[torch.Tensor]:
    """One sample at a time: transaction, parse, decode, flip, transpose, float; stacked at the end."""
    rng = np.random.default_rng(1)
    order = rng.permutation(len(keys))
    for step in range(num_steps):
        samples = []
        for index in order[step * batch_size : (step + 1) * batch_size]:
            with env.begin() as transaction:
                datum = decode_datum(transaction.get(keys[index].encode()))
            picture = cv2.imdecode(np.frombuffer(datum.data, np.uint8), cv2.IMREAD_COLOR)
            if rng.random() < 0.5:
                picture = cv2.flip(picture, 1)
            picture = (picture.transpose(2, 0, 1).astype(np.float32) - 127.5) / 128
            samples.append(torch.from_numpy(picture))
        yield torch.stack(samples)


def our_batches(training_set: TrainingSet, num_steps: int, batch_size: int) -> Iterator[torch.Tensor]:
    """What a trainer does."""
    output = None
    for pictures, _ in training_set.batches(0, num_steps, batch_size, seed=1):
        output = normalise(pictures, out=output)
        yield output


def pictures_per_s(batches: Callable[[], Iterator[torch.Tensor]]) -> float:
    start = time.process_time()
    count = sum(len(batch) for batch in batches())
    return count / (time.process_time() - start)


def run(folder: Path, lmdb_path: Path, list_path: Path, rounds: int, num_steps: int, batch_size: int) -> None:
    copy = folder / "copy.lmdb"  # for the loop: LMDB opens a file only once in a process
    shutil.copyfile(lmdb_path / "data.mdb" if lmdb_path.is_dir() else lmdb_path, copy)
    training_set = TrainingSet([lmdb_path], [list_path], SIZE, cache_bytes=0)
    num_steps = min(num_steps, training_set.num_batches(batch_size))
    keys = list(read_list(list_path)[0])
    env = lmdb.open(str(copy), subdir=False, readonly=True, lock=False, readahead=False)
    sides: dict[str, Callable[[], Iterator[torch.Tensor]]] = {
        "one-sample loop": lambda: obvious_batches(env, keys, num_steps, batch_size),
        "trainers.data": lambda: our_batches(training_set, num_steps, batch_size),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for round_index in range(rounds + 1):
        for name, batches in sides.items():
            rate = pictures_per_s(batches)
            if round_index:  # the first round fills the page cache
                rates[name].append(rate)
    for name, values in rates.items():
        print(
            f"{name:16} {statistics.median(values):8,.0f} pictures/s  (min {min(values):,.0f}, max {max(values):,.0f})"
        )
    obvious, ours = rates.values()
    ratios = [b / a for a, b in zip(obvious, ours, strict=True)]
    print(
        f"ratio            {statistics.median(ratios):8.2f}             (min {min(ratios):.2f}, max {max(ratios):.2f}), "
        f"{rounds} rounds of {num_steps} x {batch_size} pictures"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lmdb", type=Path, help="LMDB with faces; without it the script makes its own")
    parser.add_argument("--list", type=Path, help="its list file")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=16, help="batches of a round")
    parser.add_argument("--batch-size", type=int, default=128)
    args = parser.parse_args()
    if (args.lmdb is None) != (args.list is None):
        parser.error("--lmdb and --list go together")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = (args.lmdb, args.list) if args.lmdb else make_faces(Path(folder), args.steps * args.batch_size)
        run(Path(folder), *paths, args.rounds, args.steps, args.batch_size)


if __name__ == "__main__":
    main()
