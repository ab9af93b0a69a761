"""Time, memory and size of a report, beside the import of the command alone: makes runs of some generations of 16
candidates without training, and lets the command report them, each in a process of its own, all in turn.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.lfs.report_runs import MadeRun

IMPORT = ["-c", "import lfs.report"]


def measured(command: list[str]) -> tuple[float, float]:
    """Seconds on the wall and peak MiB of a Python command."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} failed")
    return time.monotonic() - began, used.ru_maxrss / 1024


def main() -> None:
    """Print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generations", type=int, nargs="+", default=[1, 200, 625])
    parser.add_argument("--population", type=int, default=16)
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        commands = {"import lfs.report": IMPORT}
        for count in options.generations:
            shape = {"generations": count, "population_size": options.population}
            uri = MadeRun(Path(folder) / f"run{count}", **shape).done().uri
            out = str(Path(folder) / f"{count}.html")
            commands[f"{count:,} x {options.population}"] = ["-m", "lfs.report", uri, "--out", out, "--overwrite"]
        rounds = [{name: measured(command) for name, command in commands.items()} for _ in range(options.times)]
        alone = statistics.median(one["import lfs.report"][0] for one in rounds)
        for name, command in commands.items():
            wall, peak = (statistics.median(one[name][part] for one in rounds) for part in (0, 1))
            size = "" if command is IMPORT else f", {Path(command[4]).stat().st_size / 2**20:.1f} MiB of page"
            print(f"{name:18} {wall:6.2f} s, {wall / alone:5.2f} of the import, peak {peak:4.0f} MiB{size}")


if __name__ == "__main__":
    main()
