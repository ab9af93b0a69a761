"""What it costs to look through an LMDB and a Parquet table before a library that trusts them reads them.

    python -m benchmarks.structure [--records 1000000] [--rounds 5]

LMDBs of small records and of records of 5 kB (a tenth as many), in memory after the first round: the check of their
structure beside one walk over all keys by liblmdb. A table of 64 candidates: read with and without the check. Medians.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pyarrow as pa
import pyarrow.parquet

from lfs.untrusted import read_table
from trainers.data.lmdb_source import write_lmdb
from trainers.data.lmdb_structure import check_structure


def median_s(action: Callable[[], object], rounds: int) -> float:
    """Seconds that an action takes, after a first time that does not count."""
    times = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def records(number: int, size: int) -> Iterator[tuple[str, bytes]]:
    """Keys in order, values of one size."""
    return ((f"{index:010d}", bytes(size)) for index in range(number))


def walk(file: Path) -> int:
    """All keys, by liblmdb."""
    with lmdb.open(str(file), subdir=False, readonly=True, lock=False) as env, env.begin() as transaction:
        return sum(1 for _ in transaction.cursor().iternext(keys=True, values=False))


def table(rows: int) -> bytes:
    """A generation's table."""
    sink = pa.BufferOutputStream()
    columns = {f"metric {n}": [float(row) for row in range(rows)] for n in range(20)}
    lists = {"action": [[0.1] * 10] * rows, "loss": ["{}"] * rows}
    pyarrow.parquet.write_table(pa.table(columns | lists), sink)
    return bytes(sink.getvalue())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for number, size in ((options.records, 20), (options.records // 10, 5000)):
            file = Path(folder) / f"{size}"
            write_lmdb(file, records(number, size))
            check_s = median_s(lambda file=file: check_structure(file), options.rounds)  # type: ignore[misc]
            walk_s = median_s(lambda file=file: walk(file), options.rounds)  # type: ignore[misc]
            million = 1e6 / number
            print(f"{number:,} records of {size} bytes: {check_s * million:.3f} s a million (liblmdb's walk over the "
                  f"keys: {walk_s * million:.3f})")  # fmt: skip
            file.unlink()
    data = table(64)
    plain = median_s(lambda: pyarrow.parquet.read_table(pa.BufferReader(data)), 50)
    print(f"a table of 64 candidates: {median_s(lambda: read_table(data), 50) * 1e3:.2f} ms (Arrow: {plain * 1e3:.2f})")


if __name__ == "__main__":
    main()
