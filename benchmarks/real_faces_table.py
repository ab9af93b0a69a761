"""The paper's table on real faces, in as many sittings as it takes.

    python -m benchmarks.real_faces_table /path/to/faces --num-workers 2
    python -m benchmarks.real_faces_table /path/to/faces --minutes 60       stop cleanly after an hour
    python -m benchmarks.real_faces_table /path/to/faces --results auc \\
        --set losses= searches=search reward.metric=all:auc                 other settings, in a folder of their own

The folder is laid out as `configs/real_faces.yaml` says. What earlier sittings measured is read from
benchmarks/results/NAME/cells.csv, where every cell stands with a digest of its settings: cells whose settings
are still the same are not trained again, those of changed settings are. Afterwards all results are written there.
"""

import argparse
import hashlib
import json
import math
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from lfs import compare
from lfs.cells import prepare
from lfs.commands import run_command
from lfs.config import CompareConfig
from lfs.driver import check, resolve
from lfs.options import build, leaves
from lfs.outcomes import OUTCOME, CellOutcome
from lfs.results_tables import candidates_table
from lfs.run_store import RunStore
from lfs.settings import load_settings, save_settings
from lfs.view import View
from search_space.errors import UserError, require

GRID = "am=0.2,0.3,0.4 am.scale=16,24,32"
"""The strongest hand-crafted loss gets a grid over the scale, too, since the search has it."""

RESULTS = Path(__file__).parent / "results"
NOT_SETTINGS = ("name", "storage", "num_workers", "cpus_per_worker", "gpus_per_worker", "address", "dashboard")


def digest(config: CompareConfig, cell: compare.Cell) -> str:
    """Of everything that decides what a cell computes."""
    values = asdict(compare.run_of(config, cell))
    values["data"].pop("root")
    kept = {name: value for name, value in values.items() if name not in NOT_SETTINGS}
    if not cell.searched:  # these only matter to a search
        kept = {n: v for n, v in kept.items() if n not in ("policy", "warmup_generations", "population_size")}
        kept["space"] = kept["space"]["scale"]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def known_outcomes(config: CompareConfig, results: Path) -> dict[str, CellOutcome]:
    """Outcomes of earlier sittings by cell, of those whose settings are the same."""
    path = results / "cells.csv"
    if not path.exists():
        return {}
    digests = {cell.name: digest(config, cell) for cell in compare.cells_of(config)}
    outcomes = {}
    for row in pd.read_csv(path, keep_default_na=False, na_values=["NaN"]).to_dict("records"):
        if digests.get(row["cell"]) == row["settings"]:
            test = {str(k)[5:]: float(v) for k, v in row.items() if str(k).startswith("test:") and v != ""}
            diverged = str(row["diverged"]) == "True"
            reward = math.nan if diverged else float(row["reward"])
            outcomes[row["cell"]] = CellOutcome(
                reward=reward, test=test, num_images=int(row["num_images"]), diverged=diverged, reason=row["reason"]
            )
    return outcomes


def opened(config: CompareConfig, results: Path, view: View) -> RunStore:
    """The comparison's folder, with every outcome that is known in its place.

    Raises:
        UserError: the data cannot be used, or the folder was made for data in another place.
    """
    marks = "".join(digest(config, cell) for cell in compare.cells_of(config))
    name = f"{config.name}-{hashlib.sha256(marks.encode()).hexdigest()[:8]}"  # of other settings, another folder
    root = RunStore(f"{config.storage}/{name}")
    compare.refuse_unused(config)
    compare.check_rows(config)
    resolved = resolve(config, view)
    check(resolved, view)
    if root.exists(compare.SETTINGS):
        stored = load_settings(root, compare.SETTINGS, CompareConfig)
        if stored.data != resolved.data:
            raise UserError(f"{root.uri} was made for {stored.data.train[0]}; remove it, or take another --storage")
    known = known_outcomes(config, results)
    runs = {cell.name: compare.run_of(resolved, cell) for cell in compare.cells_of(config) if cell.name in known}
    for name, store in prepare(root, runs).items():
        if not store.exists(OUTCOME):
            store.write(json.dumps(asdict(known[name])).encode(), OUTCOME)
    save_settings(root, compare.SETTINGS, resolved)
    return root


def keep(root: RunStore, config: CompareConfig, results: Path) -> None:
    """Copy the results, each cell with the digest of its settings; cells that are not compared now stay."""
    results.mkdir(parents=True, exist_ok=True)
    frame = pd.read_csv(f"{root.path}/cells.csv", keep_default_na=False)
    cells = {(c.method, c.point, c.seed, c.replicate): c for c in compare.cells_of(config)}
    found = [cells[row["method"], row["point"], row["seed"], row["replicate"]] for row in frame.to_dict("records")]
    frame.insert(0, "cell", [cell.name for cell in found])
    frame.insert(1, "settings", [digest(config, cell) for cell in found])
    if (results / "cells.csv").exists():
        before = pd.read_csv(results / "cells.csv", keep_default_na=False)
        frame = pd.concat([frame, before[~before["cell"].isin(frame["cell"])]])
    frame.to_csv(results / "cells.csv", index=False)
    keep_candidates(root, config, results)
    for path in Path(root.path).iterdir():
        if path.name in ("table.md", "table.csv", "grid.csv", "comparison.png") or path.name.startswith("loss-"):
            shutil.copy(path, results / path.name)


def keep_candidates(root: RunStore, config: CompareConfig, results: Path) -> None:
    """Copy every candidate of every finished search that was trained here; those of earlier sittings stay."""
    frames = []
    for cell in compare.cells_of(config):
        store = RunStore(f"{root.uri}/cells/{cell.name}")
        if cell.searched and store.exists(OUTCOME) and store.committed():
            table = candidates_table(store)
            columns = [n for n in table if n in OF_A_CANDIDATE or (n.startswith("all:") and not n.endswith("_se"))]
            frames.append(table[columns].assign(cell=cell.name, settings=digest(config, cell)))
    if not frames:
        return
    found, path = pd.concat(frames), results / "candidates.csv"
    if path.exists():
        before = pd.read_csv(path, keep_default_na=False)
        found = pd.concat([before[~before["cell"].isin(found["cell"])], found])
    found.to_csv(path, index=False)


OF_A_CANDIDATE = ("generation", "candidate", "winner", "reward", "paired_se", "accuracy", "auc", "diverged", "loss")


def main(argv: Sequence[str]) -> int:
    """Train what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="where train/ and lfw/ are")
    parser.add_argument("--storage", default="runs")
    parser.add_argument("--results", default="real_faces", help="folder in benchmarks/results (default: %(default)s)")
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=0, help="stop after so long, at the end of the generations")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of lfs.compare")
    options = parser.parse_args(argv)
    plain = options.results == Path(options.results).name not in ("", "..")
    require(plain, "--results must be a plain folder name", options.results)
    flags: dict[str, str] = {}
    for item in options.set:
        name, equals, value = item.partition("=")
        if not equals or name not in SETTINGS_OF_COMPARE:
            raise UserError(f"--set takes NAME=VALUE with a setting of lfs.compare, such as seeds=0,1; got {item!r}")
        flags[name] = value
    flags |= {"data.root": options.folder, "storage": options.storage, "name": f"{options.results}_table"}
    flags["num_workers"] = str(options.num_workers)
    config = build(CompareConfig, "real_faces", flags)
    if "am" in config.losses and "grid" not in flags:
        config = build(CompareConfig, "real_faces", flags | {"grid": GRID})
    results = RESULTS / options.results
    root = opened(config, results, View())
    command = [sys.executable, "-m", "lfs.compare", "--resume", root.path, "--num-workers", str(options.num_workers)]
    process = subprocess.Popen(command)
    try:
        finished(process, options.minutes * 60)
    finally:
        if Path(root.path, "cells.csv").exists():
            keep(root, config, results)
            print(f"results in {results}")
    return process.returncode


def finished(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    """Wait for the end, which is asked for after so many seconds. A Ctrl-C reaches the process, too."""
    asked = seconds
    while process.poll() is None:
        try:
            process.wait(asked or None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            asked = 0
        except KeyboardInterrupt:
            asked = 0


NOT_TO_SET = {"name", "storage", "num_workers", "data.root", "seed", "mode", "schedule"}
SETTINGS_OF_COMPARE = {n for n, _, _ in leaves(CompareConfig) if n not in NOT_TO_SET and not n.startswith("loss.")}


if __name__ == "__main__":
    sys.exit(run_command(main))
