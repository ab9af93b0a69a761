"""The MegaFace form against the bare matrix product of the same size: time, memory, and what each part costs.

    python -m benchmarks.identification [--probes 3530] [--distractors 1000000] [--dim 512] [--folder FOLDER]
                                        [--rounds 3] [--form megaface | trillion | comparisons] [--threads N]
                                        [--noise 1 4] [--cpu-time] [--output FOLDER]

Embeddings are made once, in `FOLDER/distractors.npy` (4 bytes x distractors x dim; 2.05 GB by default), and read from
there. Probes are pictures of 80 people, as those of the challenge; how alike two pictures of one person are is set by
`--noise`, each of which is measured: with 1 every mate is found first, with 4 mates are hard to tell from distractors,
so more comparisons must be made exactly.

Time: in one process, in turns: the bare product of the probes with the mapped file in chunks (`product`), the same with
one chunk that is in memory over and over, so without reading (`in memory`), and the whole protocol from the same file.
A round that is not counted comes first. Ratios are medians over rounds of the protocol's time by the product's of its
round. The chunk of the product is the fastest of some sizes on a few chunks, tried first. `--form trillion` takes
FAR = 1e-9 of comparisons and 1e-3 of searches; `comparisons` takes FAR = 1e-3 of comparisons, one score in a thousand.

Memory: the protocol alone in a process of its own, which imports, makes the probes and runs. `peak_bytes` is `VmHWM`
of that process (Linux), all of it, with the libraries; `ru_maxrss` would begin with what its parent had when it started
it.
"""

import argparse
import datetime
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from trainers.identification import IdentificationReport, NpyDistractors, identify, megaface, trillion_pairs

PEOPLE = 80
CHUNKS = (512, 1024, 2048, 4096, 8192)
ROWS = 2**14
MIB = 2**20

Array = npt.NDArray[np.float32]


def make_distractors(path: Path, num: int, dim: int) -> None:
    """A .npy of random directions, made in parts, unless it is there."""
    if path.exists() and (found := NpyDistractors(path)) and (len(found), found.dim) == (num, dim):
        return
    file = np.lib.format.open_memmap(path, "w+", np.float32, (num, dim))
    for start in range(0, num, ROWS):
        rows = min(ROWS, num - start)
        file[start : start + rows] = np.random.default_rng([1, start]).standard_normal((rows, dim), np.float32)
    file.flush()


def make_probes(num: int, dim: int, noise: float) -> tuple[Array, npt.NDArray[np.int64]]:
    """Pictures [num, dim] of `PEOPLE` people, and whom each shows."""
    rng = np.random.default_rng(0)
    people = np.arange(num) % PEOPLE
    centres = rng.standard_normal((PEOPLE, dim), np.float32)
    return centres[people] + np.float32(noise) * rng.standard_normal((num, dim), np.float32), people


def run_protocol(arguments: argparse.Namespace) -> IdentificationReport:
    """The form that was asked for."""
    probes, people = make_probes(arguments.probes, arguments.dim, arguments.noise)
    distractors = NpyDistractors(arguments.folder / "distractors.npy")
    if arguments.form == "trillion":
        return trillion_pairs(probes, people, distractors)
    if arguments.form == "comparisons":
        return identify(probes, people, distractors, counts=[len(distractors)], fars=(1e-3,))
    return megaface(probes, people, distractors)


def product(probes: torch.Tensor, file: Array, chunk: int, *, reading: bool) -> None:
    """The bare product of the probes with all rows of a file; or with its first chunk, as many times."""
    memory, held = torch.empty(len(probes) * chunk), torch.from_numpy(np.array(file[:chunk]))
    for start in range(0, len(file), chunk):
        rows = min(chunk, len(file) - start)
        part = torch.from_numpy(file[start : start + rows]) if reading else held[:rows]
        torch.mm(probes, part.T, out=memory[: len(probes) * rows].view(len(probes), rows))


def fastest_chunk(probes: torch.Tensor, file: Array) -> int:
    """The chunk with which the product of the first rows takes least time."""
    some = file[: 4 * max(CHUNKS)]
    times = dict.fromkeys(CHUNKS, float("inf"))
    for _ in range(3):
        for chunk in CHUNKS:
            times[chunk] = min(times[chunk], seconds(partial(product, probes, some, chunk, reading=False)))
    return min(times, key=lambda chunk: times[chunk])


def seconds(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    run()
    return clock() - start


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Times of the product and of the protocol, and their ratio."""
    probes = torch.from_numpy(make_probes(arguments.probes, arguments.dim, arguments.noise)[0])
    file = np.load(arguments.folder / "distractors.npy", mmap_mode="r+")  # torch warns of what cannot be written
    chunk = fastest_chunk(probes, file)
    runs: dict[str, Callable[[], object]] = {
        "product": lambda: product(probes, file, chunk, reading=True),
        "in_memory": lambda: product(probes, file, chunk, reading=False),
        "protocol": lambda: run_protocol(arguments),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(arguments.rounds + 1):
        for name, run in list(runs.items())[:: 1 if number % 2 else -1]:
            taken = seconds(run, time.process_time if arguments.cpu_time else time.perf_counter)
            if number:
                times[name].append(taken)
                print(f"  {name:>9} {taken:8.2f} s", flush=True)
    ratios = {
        f"ratio_to_{base}": [a / b for a, b in zip(times["protocol"], times[base], strict=True)]
        for base in ("product", "in_memory")
    }
    return {
        "chunk": chunk,
        "seconds": times,
        **{name: {"median": statistics.median(r), "lowest": min(r), "highest": max(r)} for name, r in ratios.items()},
    }


def measured_in_child(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the protocol gives in a process of its own, and the peak of its memory."""
    names = ["probes", "distractors", "dim", "noise", "form", *(["threads"] if arguments.threads else [])]
    sizes = [f"--{name}={getattr(arguments, name)}" for name in names]
    command = [sys.executable, "-m", "benchmarks.identification", "--child", f"--folder={arguments.folder}", *sizes]
    answer: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return answer


def child(arguments: argparse.Namespace) -> None:
    taken = time.perf_counter()
    report = run_protocol(arguments)
    taken = time.perf_counter() - taken
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    print(json.dumps({"peak_bytes": peak, "seconds": taken, "report": report.to_dict()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--probes", type=int, default=3530)
    parser.add_argument("--distractors", type=int, default=10**6)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument(
        "--noise", type=float, nargs="+", default=[1.0, 4.0], help="of a picture, in lengths of its person's direction"
    )
    parser.add_argument("--form", choices=("megaface", "trillion", "comparisons"), default="megaface")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of PyTorch (default: as many as it takes)")
    parser.add_argument("--cpu-time", action="store_true", help="compare CPU time, for a machine with other work")
    parser.add_argument("--folder", type=Path, help="for the embeddings, kept; none: a temporary one")
    parser.add_argument("--output", type=Path, help="folder for the results as JSON, dated")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    cases = [argparse.Namespace(**{**vars(arguments), "noise": noise}) for noise in arguments.noise]
    if arguments.child:
        child(cases[0])
        return
    with tempfile.TemporaryDirectory() as temporary:
        for case in cases:
            case.folder = arguments.folder or Path(temporary)
            case.folder.mkdir(parents=True, exist_ok=True)
            make_distractors(case.folder / "distractors.npy", case.distractors, case.dim)
            measure(case)


def measure(arguments: argparse.Namespace) -> None:
    """Time and memory with one noise, printed and written."""
    alone = measured_in_child(arguments)
    times = compare(arguments)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    threads = torch.get_num_threads()
    clock = "CPU time" if arguments.cpu_time else "wall time"
    machine = f"{today}, torch {torch.__version__}, {platform.machine()}, {threads} threads, float32, {clock}"
    size = {name: getattr(arguments, name) for name in ("form", "probes", "distractors", "dim", "noise")}
    print(f"{machine}\n{size}, product in chunks of {times['chunk']}")
    for name in ("ratio_to_product", "ratio_to_in_memory"):
        print(f"{name}: {times[name]['median']:.3f} ({times[name]['lowest']:.3f} to {times[name]['highest']:.3f})")
    print(f"peak memory: {alone['peak_bytes'] / MIB:,.0f} MiB", flush=True)
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        shape = f"{arguments.probes}x{arguments.distractors}x{arguments.dim}"
        name = f"{today}-{arguments.form}-{shape}-noise{arguments.noise:g}.json"
        result = {"machine": machine, **size, **times, "alone": alone}
        (arguments.output / name).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
