"""The long run of the fuzz targets: a hundred thousand hostile files and more, each read under limits.

    python -m benchmarks.fuzz --cases 120000
    python -m benchmarks.fuzz --targets lmdb,table --cases 20000 --engine random --seed 7

Every target runs in a process of its own, whose address space may grow by 512 MiB over what it is when the valid files
have been read, and in which a case may take 384 MiB, 2 s of CPU time (5 s if it has more than 256 kB) and 20 s in all:
a crash of a library, an abort, a hang or a blow-up ends that process, the case that did it is kept, and the next
process goes on behind it. A case must be read or refused with `UserError`; it may not start a program, unpickle or
connect to anything. `atheris` (pip install -e '.[fuzz]') looks for cases that reach new code of this project; without
it cases come from a seeded generator alone. Three in ten are built from the parts of a format
(`tests/fuzz/shapes.py`), the others are valid files spoiled.
"""

import argparse
import hashlib
import json
import math
import os
import platform
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results" / "fuzz"
MEMORY_BYTES = 512 * 2**20
PEAK_BYTES = 384 * 2**20
"""What a case may take at most: libraries swallow that there was no memory. The largest picture takes 128 MiB and its
copy, and a table may hold 256 MiB."""
SMALL_BYTES = 256 * 1000
SMALL_CPU_S, CASE_CPU_S, CASE_S = 2.0, 5.0, 20.0
WEIGHTS = {"config": 0.2, "run": 0.15}
"""Share of the cases of slow targets, beside 1 of the others."""

FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "pickle.find_class",
    "socket.connect",
)
EXIT_DONE = 0
SEEN_IN = re.compile(r" \(see [^)]*\)")
MAX_DEATHS = 50
OUTCOMES = ("accepted", "refused", "exception", "memory", "lines", "forbidden", "died")


class Guard:
    """Runs cases in this process, notes what became of them where the parent looks, and lets nothing pass.

    Args:
        folder: where the case under way, the counts and the findings are kept.
    """

    def __init__(self, target: str, folder: Path, cases: int) -> None:
        from tests.fuzz.targets import TARGETS

        self.target, self.folder, self.cases = TARGETS[target], folder, cases
        self.work = folder / "work"
        self.work.mkdir(exist_ok=True)
        self.current = open(folder / "current", "r+b" if (folder / "current").exists() else "w+b", buffering=0)  # noqa: SIM115
        self.counts = counters(folder)  # shared memory: it outlives this process
        self.events: list[str] = []
        self.reading = False
        for seed in self.target.seeds():  # imports and caches are not the first case's
            self._read(seed)
        sys.addaudithook(self._audit)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_BYTES, size + MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def run(self, case: bytes) -> None:
        """One case; ends the process behind the last one."""
        self.current.seek(0)
        self.current.truncate()
        self.current.write(case)
        signal.setitimer(signal.ITIMER_PROF, case_cpu_s(case))  # their signals end the process
        signal.setitimer(signal.ITIMER_REAL, CASE_S)
        resting = memory("VmRSS")
        reset_peak()
        self.reading, self.events = True, []
        outcome, detail = self._read(case)
        self.reading = False
        if (grown := memory("VmHWM") - resting) > PEAK_BYTES:
            outcome, detail = "memory", f"{grown:,} bytes"
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if self.events:
            outcome, detail = "forbidden", str(self.events)
        self.counts[OUTCOMES.index(outcome)] += 1
        if outcome not in ("accepted", "refused"):
            keep(self.folder, outcome, detail, case)
        if self.counts.sum() >= self.cases:
            os._exit(EXIT_DONE)  # atheris would go on

    def _read(self, case: bytes) -> tuple[str, str]:
        from search_space.errors import UserError

        try:
            self.target.read(case, self.work)
        except UserError as error:
            if of_memory(error):
                return "memory", traceback.format_exc()
            return ("refused", "") if "\n" not in str(error) else ("lines", str(error))
        except BaseException:
            return "exception", traceback.format_exc()
        return "accepted", ""

    def _audit(self, event: str, arguments: object) -> None:
        if self.reading and event in FORBIDDEN:
            self.events.append(event)


def case_cpu_s(case: bytes) -> float:
    """CPU time, in seconds, that a case may take: little for a small one, or time grows with the square of its size."""
    return SMALL_CPU_S if len(case) <= SMALL_BYTES else CASE_CPU_S


def memory(kind: str) -> int:
    """Bytes of memory of this process: `VmRSS` now, `VmHWM` at most."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind))
    return int(line.split()[1]) * 1024


def reset_peak() -> None:
    """`VmHWM` begins anew, at what it is now."""
    Path("/proc/self/clear_refs").write_text("5")


def of_memory(error: BaseException | None) -> bool:
    """Whether an error came of too little memory, whatever it was turned into."""
    while error is not None:
        if isinstance(error, MemoryError) or "Insufficient memory" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def keep(folder: Path, kind: str, detail: str, case: bytes) -> None:
    """Keep a case and what it did; one example of each kind and place."""
    place = (detail.strip().splitlines() or [""])[-1][:300]
    lines = [line.strip() for line in detail.splitlines() if line.strip().startswith("File ")]
    name = hashlib.sha256(f"{kind}{lines[-1:]}{place[:60]}".encode()).hexdigest()[:12]
    if not (folder / f"{name}.json").exists():
        (folder / f"{name}.case").write_bytes(case)
        (folder / f"{name}.json").write_text(
            json.dumps({"kind": kind, "what": place, "detail": detail[-4000:]}, indent=1)
        )


def counters(folder: Path) -> Any:
    """How many cases had each of `OUTCOMES`, in a file that processes share."""
    path = folder / "counts"
    if not path.exists():
        path.write_bytes(bytes(8 * len(OUTCOMES)))
    return np.memmap(path, np.int64, "r+")


def child(target: str, folder: Path, cases: int, engine: str, seed: int) -> None:
    """Read cases until there are enough; the parent starts another process if this one dies."""
    if engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=["search_space", "trainers", "lfs", "yaml"]):
            import tests.fuzz.targets  # noqa: F401
    guard = Guard(target, folder, cases)
    done = int(guard.counts.sum())
    if engine == "atheris":
        _atheris(guard, folder, seed + done)
    for number in range(done, cases):
        guard.run(guard.target.case(random.Random(seed * 10**9 + number)))


def _atheris(guard: Guard, folder: Path, seed: int) -> None:
    import atheris

    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, case in enumerate(guard.target.seeds()):
        (corpus / f"seed-{number}").write_bytes(case)

    def mutate(data: bytes, max_size: int, chance: int) -> bytes:
        rng = random.Random(chance)
        chance_of_kind = rng.random()
        if chance_of_kind < 0.2 and len(shape := guard.target.shape(rng)) <= max_size:
            return shape
        if not data or chance_of_kind < 0.4:
            data = rng.choice(guard.target.seeds())
        try:
            return guard.target.mutate(data, rng)[:max_size]
        except (
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
        ):  # spoiled too much to be taken apart
            return bytes(atheris.Mutate(data, max_size))
        except Exception:
            return bytes(atheris.Mutate(data, max_size))

    options = [
        f"-seed={seed % 2**31}",
        "-max_len=700000",
        "-rss_limit_mb=0",
        "-timeout=0",
        "-detect_leaks=0",
        "-verbosity=0",
    ]
    atheris.Setup(["fuzz", *options, str(corpus)], guard.run, custom_mutator=mutate)
    atheris.Fuzz()


def fuzz(target: str, cases: int, engine: str, seed: int, folder: Path) -> dict[str, Any]:
    """All cases of one target: counts and findings."""
    folder.mkdir(parents=True)
    began, counts = time.monotonic(), counters(folder)
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "benchmarks.fuzz", "--child", target, str(folder), str(cases), "--engine", engine]
    while counts.sum() < cases and counts[-1] < MAX_DEATHS:
        with open(folder / "log", "w") as log:
            done = subprocess.run([*command, "--seed", str(seed)], stdout=log, stderr=log, env=environment, check=False)
        if done.returncode != EXIT_DONE:
            counts[-1] += 1
            code = -done.returncode
            name = signal.Signals(code).name if code > 0 else f"exit {done.returncode}"
            last = (folder / "log").read_text(errors="replace")[-2000:]
            keep(folder, "died", f"{last}\n{name}: {' '.join(last.split()[-12:])}", (folder / "current").read_bytes())
    found = {name: int(count) for name, count in zip(OUTCOMES, counts, strict=True) if count}
    findings = [json.loads(p.read_text()) | {"case": p.stem} for p in sorted(folder.glob("*.json"))]
    seconds = round(time.monotonic() - began, 1)
    return {"target": target, "cases": int(counts.sum()), "seconds": seconds, "outcomes": found, "findings": findings}


def shares(targets: list[str], cases: int) -> Iterator[tuple[str, int]]:
    """How many cases each target gets."""
    total = sum(WEIGHTS.get(name, 1) for name in targets)
    for name in targets:
        yield name, math.ceil(cases * WEIGHTS.get(name, 1) / total)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", default="", help="names with commas between them [all]")
    parser.add_argument("--cases", type=int, default=120_000)
    parser.add_argument(
        "--engine", choices=("atheris", "random"), default="atheris" if find_spec("atheris") else "random"
    )
    parser.add_argument("--seed", type=int, default=date.today().toordinal())
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument(
        "--keep", default="", metavar="FOLDER", help="where cases that did harm are kept [a new folder]"
    )
    options = parser.parse_args()
    if options.child:
        target, folder, cases = options.child
        child(target, Path(folder), int(cases), options.engine, options.seed)
        return
    from tests.fuzz.targets import TARGETS  # not before: the child imports them with instruments

    names = options.targets.split(",") if options.targets else list(TARGETS)
    kept = Path(options.keep or tempfile.mkdtemp(prefix="lfs-fuzz-"))
    rows = []
    for name, cases in shares(names, options.cases):
        rows.append(fuzz(name, cases, options.engine, options.seed, kept / name))
        print(json.dumps({key: value for key, value in rows[-1].items() if key != "findings"}), flush=True)
        for finding in rows[-1]["findings"]:
            print(f"  {finding['kind']}: {finding['what']} ({kept / name}/{finding['case']}.case)", flush=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{date.today()}-{options.engine}.json"
    machine = {"python": platform.python_version(), "cpus": os.cpu_count(), "machine": platform.machine()}
    settings = {"engine": options.engine, "seed": options.seed, "memory_bytes": MEMORY_BYTES, "case_cpu_s": CASE_CPU_S}
    settings |= {"peak_bytes": PEAK_BYTES, "small_bytes": SMALL_BYTES, "small_cpu_s": SMALL_CPU_S}
    total = sum(row["cases"] for row in rows)
    for row in rows:  # their tracebacks stay with the cases
        row["findings"] = [f"{finding['kind']}: {SEEN_IN.sub('', finding['what'])}" for finding in row["findings"]]
    path.write_text(
        json.dumps({"date": str(date.today()), **settings, **machine, "cases": total, "targets": rows}, indent=1) + "\n"
    )
    print(f"{total:,} cases in {sum(row['seconds'] for row in rows):.0f} s; {path}")


if __name__ == "__main__":
    main()
