"""insightface's `train.rec`, `train.idx` and `property`, without MXNet.

`train.idx` has a line `number<TAB>offset` per record. Two layouts are in use. With a header, record 0 has no picture
but two labels, `first` and `last`: pictures are records 1 to first - 1, and records first to last - 1 describe one
identity each. Without, every record is a picture. `property` is one line, `classes,height,width`.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from search_space.errors import UserError, shown
from trainers.data.importers.record_file import CHUNK, Heads, read_heads, read_record
from trainers.data.importers.source import (
    Batch,
    Catalogue,
    CatalogueBuilder,
    Integers,
    Progress,
    Stamp,
    reading,
    stamp,
)
from trainers.untrusted import read_file

MAX_EXACT = 2**24
"""A float32 is exact up to here; the numbers in larger headers are rounded."""

MAX_LABEL = 2**31
MAX_PROPERTY_BYTES = 4096
LINES = re.compile(rb"(?:[0-9]{1,18}[ \t]+[0-9]{1,18}[ \t\r]*(?:\n|\Z))*")
LAW = "`number<TAB>offset`"


class RecordSource:
    """
    Args:
        path: the `.rec` file, or the folder with the one that there is; the `.idx` and `property` stand beside it.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        if path.is_dir():
            found = sorted(path.glob("*.rec"))
            if len(found) != 1:
                raise UserError(
                    f"{path}: expected one .rec file in this folder, got {len(found)}; name the one to read"
                )
            path = found[0]
        self.rec, self.idx, self.property = path, path.with_suffix(".idx"), path.parent / "property"

    def scan(self, progress: Progress) -> Catalogue:
        """See `Source`. Order: that of the `.rec` file. Identity: the label; name: the record's number in 9 digits."""
        stamps = [stamp(self.rec), stamp(self.idx)]
        table = _read_index(self.idx)
        heads = self._heads(table, progress)
        _refuse_gaps(stamps[0], self.idx, table, heads)
        rows = self._pictures(table, heads)
        labels = self._labels(table, heads, rows)
        builder = CatalogueBuilder(1, self.rec)
        for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
            builder.add(str(label), f"{table.numbers[row]:09d}", (table.offsets[row],))
        if len(table.numbers) > len(rows):
            builder.ignored["records that describe the set"] = len(table.numbers) - len(rows)
        return builder.build(stamps, self._notes(len(np.unique(labels))))

    def read(self, batch: Batch) -> Iterator[bytes | UserError]:
        """See `Source`."""
        with reading(self.rec) as file:
            size = os.fstat(file.fileno()).st_size
            for offset in batch.places[:, 0].tolist():
                try:
                    yield read_record(file.fileno(), offset, size).picture
                except UserError as error:
                    yield error

    def place(self, batch: Batch, row: int) -> str:
        """See `Source`."""
        return f"{self.rec}: record {int(batch.keys[row].rpartition('/')[2])} at byte {batch.places[row, 0]:,}"

    def _heads(self, table: "_Index", progress: Progress) -> Heads:
        """Of all records; `UserError` at the first that is none."""
        parts = []
        with reading(self.rec) as file:
            if not os.fstat(file.fileno()).st_size:
                raise UserError(f"{self.rec}: expected records, got an empty file")
            whole = np.memmap(file, np.uint8, "r")
            for start in range(0, len(table.offsets), CHUNK):
                heads, wrong = read_heads(file.fileno(), whole, table.offsets[start : start + CHUNK])
                for row, what in sorted(wrong.items()):
                    raise UserError(f"{self.rec}: record {table.numbers[start + row]} of {self.idx.name}: {what}")
                parts.append(heads)
                progress(min(start + CHUNK, len(table.offsets)), len(table.offsets))
        return Heads(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _pictures(self, table: "_Index", heads: Heads) -> Integers:
        """Rows of the records that are pictures."""
        zero = np.flatnonzero(table.numbers == 0)
        if not len(zero) or heads.num_labels[zero[0]] < 2 or heads.num_bytes[zero[0]]:
            return np.arange(len(table.numbers))
        with reading(self.rec) as file:
            size = os.fstat(file.fileno()).st_size
            first, last = read_record(file.fileno(), int(table.offsets[zero[0]]), size).labels[:2]
        if not 1 <= first <= last < 2**53:
            raise UserError(f"{self.rec}: record 0: expected where pictures and identities end, got {first} and {last}")
        if last > MAX_EXACT:
            return np.flatnonzero((table.numbers > 0) & (heads.num_bytes > 0))
        for low, high, what in ((1, int(first), "pictures"), (int(first), int(last), "identities")):
            found = int(((table.numbers >= low) & (table.numbers < high)).sum())
            if found != high - low:
                raise UserError(
                    f"{self.idx}: expected {high - low:,} {what} (record 0 says {low} to {high - 1}), got {found:,}: "
                    "it is cut off, or belongs to another .rec"
                )
        return np.flatnonzero((table.numbers >= 1) & (table.numbers < int(first)))

    def _labels(self, table: "_Index", heads: Heads, rows: Integers) -> Integers:
        labels = heads.labels[rows].astype(np.float64)
        with np.errstate(invalid="ignore"):
            wrong = ~((labels >= 0) & (labels < MAX_LABEL) & (labels == np.floor(labels)))
        if wrong.any():
            row = int(wrong.argmax())
            number = table.numbers[rows[row]]
            raise UserError(f"{self.rec}: record {number}: expected an integer label >= 0, got {labels[row]}")
        return labels.astype(np.int64)

    def _notes(self, num_identities: int) -> list[str]:
        """What `property` says, where it is not what was found."""
        if not self.property.exists():
            return []
        try:
            text = read_file(self.property, MAX_PROPERTY_BYTES).decode(errors="replace").strip()
        except OSError as error:
            raise UserError(f"{self.property}: cannot be read: {error.strerror}") from None
        if not re.fullmatch(r"[0-9]{1,10}( *, *[0-9]{1,6}){2}", text, re.ASCII):
            raise UserError(f"{self.property}: expected `classes,height,width`, got {shown(text)}")
        classes = int(text.split(",")[0])
        if classes == num_identities:
            return []
        return [f"{self.property} says {classes:,} identities, the pictures have {num_identities:,}"]


class _Index(NamedTuple):
    """An `.idx`, sorted by offset, [n] each."""

    numbers: Integers
    offsets: Integers


def _read_index(path: Path) -> _Index:
    with reading(path) as file:
        data = file.read(os.fstat(file.fileno()).st_size)
    parts = []
    at = 0
    while at < len(data):
        end = data.find(b"\n", at + 2**22) + 1 or len(data)
        chunk = data[at:end]
        if not LINES.fullmatch(chunk):
            _refuse_line(path, data, at, chunk)
        parts.append(np.array(chunk.split()).astype(np.int64).reshape(-1, 2))
        at = end
    if not parts:
        raise UserError(f"{path}: expected lines of {LAW}, got an empty file")
    table = np.concatenate(parts)
    numbers, counts = np.unique(table[:, 0], return_counts=True)
    if (counts > 1).any():
        raise UserError(f"{path}: expected each record once, got record {numbers[(counts > 1).argmax()]} twice")
    table = table[np.argsort(table[:, 1], kind="stable")]
    return _Index(table[:, 0], table[:, 1])


def _refuse_line(path: Path, data: bytes, at: int, chunk: bytes) -> NoReturn:
    first = data.count(b"\n", 0, at) + 1
    for number, line in enumerate(chunk.split(b"\n"), first):
        if not line or not LINES.fullmatch(line):
            raise UserError(f"line {number} of {path}: expected {LAW}, got {shown(line.decode(errors='replace'))}")
    raise AssertionError("no line is wrong")


def _refuse_gaps(rec: Stamp, idx: Path, table: _Index, heads: Heads) -> None:
    """Each record must begin where the one before ends, and the last must end the file: else lines were lost."""
    starts = np.append(table.offsets, rec.num_bytes)
    ends = np.insert(np.minimum(heads.ends, rec.num_bytes), 0, 0)  # the zeros behind the last may lack
    wrong = np.flatnonzero(starts != ends)
    if len(wrong):
        start, end = starts[wrong[0]], ends[wrong[0]]
        raise UserError(
            f"{idx}: expected one record behind the other up to the end of {rec.name} ({rec.num_bytes:,} bytes), got "
            f"none from byte {end:,} to {start:,}: lines are lost, or it belongs to another .rec"
            if end < start
            else f"{idx}: expected one record behind the other, got one at byte {start:,} inside another"
        )
