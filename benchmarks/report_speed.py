"""Time, memory and size of a report: makes a run of 200 generations of 16 candidates without training, and lets the
command report it, in a process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.lfs.report_runs import MadeRun


def main() -> None:
    """Print what one report of such a run took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generations", type=int, default=200)
    parser.add_argument("--population", type=int, default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shape = {"generations": options.generations, "population_size": options.population}
        uri = MadeRun(Path(folder) / "run", **shape).done().uri
        out = Path(folder) / "report.html"
        began = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "lfs.report", uri, "--out", str(out)], check=True, stdout=subprocess.DEVNULL
        )
        took_s = time.monotonic() - began
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        figures = {
            "wall_s": round(took_s, 2), "cpu_s": round(used.ru_utime + used.ru_stime, 2),
            "peak_mb": round(used.ru_maxrss / 1024), "file_mb": round(out.stat().st_size / 2**20, 2),
        }  # fmt: skip
        print(json.dumps(shape | figures))


if __name__ == "__main__":
    main()
