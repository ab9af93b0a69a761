"""Pictures per second of `lfs.data import` and `verify`, beside a bare read of the same bytes in the same run.

    python -m benchmarks.import_faces                       # pictures made by the script itself
    python -m benchmarks.import_faces --folder CASIA-WebFace --rounds 5

Sides, in turn in every round: a bare read of all picture files; an import that copies; an import that resizes; a bare
read of the LMDB file; `verify` of it. Imports include everything from the scan to the renamed folder, the start of the
processes and fsync too. Files are in the page cache, so the bare reads are the fastest that any import could be.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from trainers.data.datum import decode_datum
from trainers.data.examine import examine_set
from trainers.data.importers.convert import Conversion
from trainers.data.importers.engine import import_faces
from trainers.data.importers.folder import FolderSource
from trainers.data.importers.pool import num_cores
from trainers.data.lists import read_list
from trainers.data.lmdb_source import LmdbSource

SIZE = 112
CHUNK_BYTES = 2**24


def make_folder(root: Path, count: int) -> None:
    """A folder per identity of pictures of about 4 KB."""
    from benchmarks.data_path import make_faces  # with torch, which every new process would load, too

    lmdb_path, list_path = make_faces(root.parent, count)
    source = LmdbSource(lmdb_path)
    for key in read_list(list_path)[0]:
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(decode_datum(source.get(key)).data)


def read_files(root: Path) -> None:
    """Every file of a folder of folders, one after the other."""
    for folder in sorted(root.iterdir()):
        for path in sorted(folder.iterdir()):
            path.read_bytes()


def read_file(path: Path) -> None:
    """One file from front to back."""
    with open(path, "rb", buffering=0) as file:
        while file.read(CHUNK_BYTES):
            pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a folder per identity, of 112 x 112 JPEGs")
    parser.add_argument("--pictures", type=int, default=20_000, help="how many the script makes without --folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=num_cores())
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        root = args.folder or work / "faces"
        if args.folder is None:
            make_folder(root, args.pictures)
        count = import_faces(FolderSource(root), work / "set", Conversion(size=SIZE), workers=args.workers).num_pictures
        lmdb_path = work / "set" / "faces.lmdb"

        def imported(size: int) -> None:
            import_faces(FolderSource(root), work / "again", Conversion(size=size), workers=args.workers)
            shutil.rmtree(work / "again")

        sides: dict[str, Callable[[], object]] = {
            "bare read of the files": lambda: read_files(root),
            "import, copied": lambda: imported(SIZE),
            "import, resized": lambda: imported(SIZE - 16),
            "bare read of the LMDB": lambda: read_file(lmdb_path),
            "verify": lambda: examine_set(lmdb_path, workers=args.workers),
        }
        rates: dict[str, list[float]] = {side: [] for side in sides}
        for number in range(args.rounds + 1):
            for side, run in sides.items():
                began = time.perf_counter()
                run()
                if number:  # the first round fills the page cache
                    rates[side].append(count / (time.perf_counter() - began))
    print(f"{count:,} pictures, {args.workers} processes, medians of {args.rounds} rounds")
    for side, bare in (
        ("bare read of the files", "bare read of the files"), ("import, copied", "bare read of the files"),
        ("import, resized", "bare read of the files"), ("bare read of the LMDB", "bare read of the LMDB"),
        ("verify", "bare read of the LMDB"),
    ):  # fmt: skip
        share = statistics.median(one / other for one, other in zip(rates[side], rates[bare], strict=True))
        median = statistics.median(rates[side])
        span = f"{min(rates[side]):,.0f} to {max(rates[side]):,.0f}"
        print(f"{side:24} {median:11,.0f} pictures/s ({span}), {share:.3f} of the bare read")
    if args.json:
        figures = {"pictures": count, "workers": args.workers, "pictures_per_s": rates}
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
