"""A long search of tiny generations: what grows with their number, in memory, descriptors, threads and on disk.

    python -m benchmarks.soak [--generations 2000] [--every 5] [--out benchmarks/results/soak]

A real search with a small network, two candidates a generation of two steps each, on trainers of its own Ray. Every
few seconds the driver, the controller, the trainers and Ray's own daemons are looked at, and the disk use of the run
and of Ray's logs. Slopes are of straight lines through the second half of the samples, per 1,000 generations, with
their standard errors, which take the samples for independent. `anon_mib` is resident memory that no file is behind:
what a process has allocated, whoever else has its libraries in memory.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import psutil
import scipy.stats
import yaml

from benchmarks.search_overhead import field_mib
from trainers.data.builtin import FaceSetSpec, ensure_builtin_faces

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FACES = FaceSetSpec(
    num_train_people=8, num_train_pictures=8, num_pair_people=20, num_pair_pictures=3, num_same=4, side=32
)  # fmt: skip
ROLES = {"ray::Controller": "controller", "ray::ResourceTrainable": "trainer", "raylet/raylet": "raylet",
         "gcs_server": "gcs"}  # fmt: skip
MIB = 2**20
KEPT = 5
"""Generations whose weights stay."""
Sample = dict[str, float]


def recipe(folder: Path, generations: int) -> str:
    """The search; its file."""
    data = ensure_builtin_faces(folder / "faces", spec=FACES).data_config()
    sets = {
        name: {"lmdb": p.lmdb[0], "pairs": p.pairs[0]} for name, p in (("reward", data.reward), ("test", data.test))
    }
    values = {
        "generations": generations, "population_size": 2, "seed": 1,
        "data": {"train": list(data.train), "train_list": list(data.train_list), "input_size": 16, **sets},
        "trainer": {"backbone": "small", "embedding_dim": 8, "batch_size": 8, "generation_length": 2,
                    "generation_unit": "steps", "lr": 0.001},
        "reward": {"metric": "auc", "num_bootstrap": 10},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    return str(folder / "recipe.yaml")


def role(process: psutil.Process, driver: int) -> str:
    """What a process is; empty: nothing that is watched."""
    if process.pid == driver:
        return "driver"
    line = " ".join(process.cmdline())
    return next((name for mark, name in ROLES.items() if mark in line), "")


def memory(driver: psutil.Process) -> Sample:
    """Resident and anonymous memory, descriptors and threads by role; the largest where several have one."""
    found: Sample = {}
    for process in [driver, *driver.children(recursive=True)]:
        try:
            name = role(process, driver.pid)
            if name:
                status = Path(f"/proc/{process.pid}/status")
                values = {"rss_mib": field_mib(status, "VmRSS"), "anon_mib": field_mib(status, "RssAnon")}
                values["fds"] = process.num_fds()
                for key, value in (values | {"threads": process.num_threads()}).items():
                    found[f"{name} {key}"] = max(value, found.get(f"{name} {key}", 0))
        except (psutil.Error, OSError, ValueError):
            continue  # it has ended
    return found


def size_mib(paths: Iterable[Path]) -> float:
    """Of all files under some paths; one that goes meanwhile counts as nothing."""
    total = 0
    for path in paths:
        for folder, _, names in os.walk(path) if path.is_dir() else [(str(path.parent), [], [path.name])]:
            for name in names:
                try:
                    total += os.lstat(os.path.join(folder, name)).st_blocks * 512
                except OSError:
                    continue
    return total / MIB


def disk(run: Path, ray: Path) -> Sample:
    """MiB of the run's parts and of Ray's own files."""
    known = {"generations", "tune", "driver.log"}
    rest = [path for path in run.iterdir() if path.name not in known] if run.exists() else []
    parts = {"generations": [run / "generations"], "tune": [run / "tune"], "driver.log": [run / "driver.log"]}
    parts |= {"rest of the run": rest, "Ray's logs": ray.glob("ray/session_[0-9]*/logs")}
    parts |= {"Ray's artifacts": ray.glob("ray/session_[0-9]*/artifacts")}
    return {f"{name} disk_mib": size_mib(paths) for name, paths in parts.items()}


def soak(folder: Path, options: argparse.Namespace) -> list[Sample]:
    """Run the search and look at it until it ends; what was found."""
    ray = Path(tempfile.mkdtemp(prefix="soak-"))  # short: paths of sockets have at most 107 bytes
    sizes = ["--num-workers", str(options.trainers), "--storage", str(folder), "--name", "run"]
    sizes += ["--keep-generations", str(KEPT)]
    command = [sys.executable, "-m", "lfs.search", "--config", recipe(folder, options.generations), *sizes]
    environment = os.environ | {"RAY_TMPDIR": str(ray), "CUDA_VISIBLE_DEVICES": ""}
    samples: list[Sample] = []
    with (folder / "out.txt").open("wb") as out:
        process = subprocess.Popen(command, stdout=out, env=environment, start_new_session=True)
    try:
        driver, began = psutil.Process(process.pid), time.monotonic()
        while process.poll() is None:
            folders = folder / "run" / "generations"
            done = len(list(folders.iterdir())) if folders.exists() else 0
            found = memory(driver)
            if done and "controller rss_mib" in found and "trainer rss_mib" in found:
                at = time.monotonic() - began
                samples.append({"generation": done, "at_s": at} | found | disk(folder / "run", ray))
            time.sleep(options.every)
        if process.returncode:
            raise SystemExit(f"the search ended with {process.returncode}")
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        keep = folder / "ray-logs"
        for logs in ray.glob("ray/session_[0-9]*/logs"):
            shutil.copytree(logs, keep, dirs_exist_ok=True)
        shutil.rmtree(ray, ignore_errors=True)
    return samples


def slopes(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Each quantity at half time and in the end, and its slope per 1,000 generations over the second half."""
    half = table[table["generation"] >= table["generation"].max() / 2]
    found = {}
    for name in table.columns.drop(["generation", "at_s"]):
        line = scipy.stats.linregress(half["generation"] / 1000, half[name])
        found[name] = {"half": half[name].iloc[0], "end": half[name].iloc[-1], "slope": line.slope, "se": line.stderr}
    half_s, end_s = half["at_s"].iloc[0], half["at_s"].iloc[-1]
    each = (end_s - half_s) / (half["generation"].iloc[-1] - half["generation"].iloc[0])
    first = table[table["generation"] <= table["generation"].max() / 2]
    early = (first["at_s"].iloc[-1] - first["at_s"].iloc[0]) / np.ptp(first["generation"])
    return found | {"generation_s": {"half": early, "end": each, "slope": 0.0, "se": 0.0}}


def markdown(found: dict[str, dict[str, float]]) -> str:
    """The slopes as a table."""
    lines = ["| what | at half | at the end | slope per 1,000 generations |", "|---|---|---|---|"]
    for name, x in found.items():
        lines.append(f"| {name} | {x['half']:.3g} | {x['end']:.3g} | {x['slope']:+.3g} ± {x['se']:.2g} |")
    return "\n".join(lines)


def draw(table: pd.DataFrame, file: Path) -> None:
    """Everything over generations."""
    kinds = ("anon_mib", "fds", "threads", "disk_mib")
    figure, axes = plt.subplots(1, len(kinds), figsize=(20, 5))
    for axis, kind in zip(axes, kinds, strict=True):
        columns: Sequence[Any] = [column for column in table.columns if column.endswith(kind)]
        for column in columns:
            axis.plot(table["generation"], table[column], label=column.removesuffix(kind))
        axis.set(title=kind, xlabel="generation")
        axis.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(file, dpi=80)


def main() -> None:
    """Measure, print, and write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generations", type=int, default=2000)
    parser.add_argument("--trainers", type=int, default=1)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two looks")
    parser.add_argument("--folder", type=Path, help="where the run is kept; default: removed in the end")
    parser.add_argument("--out", type=Path, help="folder for the samples, the picture and the table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        table = pd.DataFrame(soak(folder, options))
    found = slopes(table)
    text = markdown(found)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        about = {"date": f"{date.today()}", "cores": os.cpu_count(), "generations": options.generations}
        about |= {"trainers": options.trainers}
        samples = json.loads(table.round(3).to_json(orient="split", index=False))
        facts = json.dumps(about | {"slopes": found, "samples": samples}, default=float)
        (options.out / "soak.json").write_text(facts + "\n")
        (options.out / "table.md").write_text(f"{json.dumps(about)}\n\n{text}\n")
        draw(table, options.out / "soak.png")


if __name__ == "__main__":
    main()
