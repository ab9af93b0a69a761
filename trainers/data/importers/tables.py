"""Parquet files with a column of pictures and one of labels, as Hugging Face's data sets and many others have them."""

import mmap
import weakref
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from search_space.errors import UserError, first_line, shown
from trainers.data.importers.source import (
    MAX_PICTURE_BYTES,
    Batch,
    Catalogue,
    CatalogueBuilder,
    Progress,
    Stamp,
    stamp,
)
from trainers.parquet_structure import Limits, check_parquet
from trainers.untrusted import open_file, parse_json

PICTURE_NAMES = ("image", "img", "jpg", "jpeg", "png", "picture", "face", "bytes", "image_bytes")
LABEL_NAMES = ("label", "labels", "identity", "id", "person", "person_id", "name", "class", "cls")
"""What the columns are usually called, first come first served."""

MAX_EXPANSION = 16
"""JPEG and PNG do not get smaller when they are compressed again; what else is in the file hardly matters."""

SMALL_BYTES = 64 * 2**20
MAX_BATCH_BYTES = 256 * 2**20
MAX_BATCH_ROWS = 64
NOTHING = pa.array([])


class TableSource:
    """
    Args:
        paths: the files; their rows are numbered on from one to the next.
        picture_column: None: the first of the usual names. Binary, or the struct {bytes, path} of Hugging Face.
        label_column: integers or texts. Names that Hugging Face's metadata gives to integers are the identities.
    """

    def __init__(
        self, paths: Sequence[str | Path], picture_column: str | None = None, label_column: str | None = None
    ) -> None:
        self.paths = [Path(path) for path in paths]
        self.picture_column, self.label_column = picture_column, label_column

    def scan(self, progress: Progress) -> Catalogue:
        """See `Source`. Order: that of files and rows; name: the number of the row in 9 digits."""
        builder = CatalogueBuilder(4, self.paths[0].parent, progress)
        stamps, total = [stamp(path) for path in self.paths], 0
        for number, path in enumerate(self.paths):
            table = _opened(path)
            column, label_column = self._columns(table)
            for group in range(table.file.num_row_groups):
                for row, label in enumerate(_labels(table, label_column, group)):
                    if label is None:
                        raise UserError(f"{path}: row {row} of group {group}: expected a label, got none")
                    builder.add(label, f"{total:09d}", (number, column, group, row))
                    total += 1
        return builder.build(stamps)

    def read(self, batch: Batch) -> Iterator[bytes | UserError]:
        """See `Source`."""
        for (number, column, group), places in groupby(batch.places.tolist(), lambda place: place[:3]):
            table = _opened(self.paths[number])
            for *_, row in places:
                yield _picture(table.cell(column, group, row))

    def place(self, batch: Batch, row: int) -> str:
        """See `Source`."""
        number, _, group, inner = batch.places[row].tolist()
        return f"{self.paths[number]}: row {inner} of group {group}"

    def _columns(self, table: "_Table") -> tuple[int, int]:
        """Numbers of the columns of pictures and labels."""
        schema, path = table.file.schema_arrow, table.path
        if len(set(schema.names)) < len(schema.names):
            raise UserError(f"{path}: expected columns with names of their own, got two of one name")
        picture = _column(schema, self.picture_column, PICTURE_NAMES, _holds_pictures, "pictures (binary)", path)
        label = _column(schema, self.label_column, LABEL_NAMES, _holds_labels, "labels (integers or texts)", path)
        return picture, label


class _Table:
    """An open file that has been looked over."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            stream = open_file(path)
            weakref.finalize(self, stream.close)
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                largest = check_parquet(data, Limits(len(data), MAX_EXPANSION * len(data) + SMALL_BYTES))
            self.file = pyarrow.parquet.ParquetFile(
                stream, buffer_size=2**20, pre_buffer=False,
                thrift_string_size_limit=2**26, thrift_container_size_limit=2**22,
            )  # fmt: skip
        except (ValueError, OSError, pa.ArrowException) as error:
            raise UserError(f"{path}: expected a Parquet file, got: {first_line(error)[:200]}") from None
        self._batch_rows = max(1, min(MAX_BATCH_ROWS, MAX_BATCH_BYTES // max(1, largest)))
        """One page may repeat a large value in every row."""
        self._place, self._base, self._values = (-1, -1), 0, NOTHING
        self._rest: Iterator[pa.Array] = iter(())

    def batches(self, column: int, group: int) -> Iterator[pa.Array]:
        """The values of a column in a group of rows, a few at a time."""
        batches = self.file.iter_batches(
            self._batch_rows, [group], [self.file.schema_arrow.names[column]], use_threads=False
        )
        while True:
            try:
                batch = next(batches, None)
                if batch is None:
                    return
                batch.validate(full=True)
            except (pa.ArrowException, OSError, MemoryError) as error:
                raise UserError(f"{self.path}: group {group} cannot be read: {first_line(error)[:200]}") from None
            yield batch.column(0)

    def cell(self, column: int, group: int, row: int) -> Any:
        """One value. A group can only be read from its start: whoever asks for rising rows has it read once."""
        if self._place != (column, group) or row < self._base:
            self._place, self._base, self._values = (column, group), 0, NOTHING
            self._rest = self.batches(column, group)
        while row >= self._base + len(self._values):
            self._base += len(self._values)
            self._values = next(self._rest, NOTHING)
            if not len(self._values):
                raise UserError(f"{self.path}: group {group} cannot be read: it ends before row {row}")
        return self._values[row - self._base]


def _opened(path: Path) -> _Table:
    """A file, and how far it has been read: from one call to the next, while it is the same."""
    return _looked_over(path, stamp(path))


@lru_cache(maxsize=1)
def _looked_over(path: Path, _: Stamp) -> _Table:
    return _Table(path)


def _picture(value: Any) -> bytes | UserError:
    """The file in a cell, binary or {bytes, path}."""
    if isinstance(value, pa.StructScalar):
        value = value["bytes"]
    size = 0 if not value.is_valid else value.as_buffer().size
    if not 0 < size <= MAX_PICTURE_BYTES:
        return UserError(f"expected a picture of up to {MAX_PICTURE_BYTES:,} bytes, got {size:,}")
    return bytes(value.as_buffer())


def _labels(table: _Table, column: int, group: int) -> list[str | None]:
    """The identities of a group of rows."""
    classes = _class_names(table.file.schema_arrow, column, table.path)
    found: list[str | None] = []
    for values in table.batches(column, group):
        for value in values.to_pylist():
            if classes and isinstance(value, int) and 0 <= value < len(classes):
                value = classes[value]
            found.append(None if value is None else str(value))
    return found


def _class_names(schema: pa.Schema, column: int, path: Path) -> list[str]:
    """What Hugging Face's `ClassLabel` calls the integers of a column; empty: nothing."""
    text = (schema.metadata or {}).get(b"huggingface")
    if not text:
        return []
    try:
        found = parse_json(text)["info"]["features"][schema.names[column]]["names"]
    except (ValueError, LookupError, TypeError):
        return []
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise UserError(f"{path}: expected texts for the names of {schema.names[column]}, got {shown(found)}")
    return found


def _column(schema: pa.Schema, asked: str | None, usual: Sequence[str], fits: Any, what: str, path: Path) -> int:
    known = {field.name: field.type for field in schema}
    for name in (asked,) if asked is not None else usual:
        if name in known and fits(known[name]):
            return int(schema.get_field_index(name))
    listed = ", ".join(f"{name} ({str(kind)[:40]})" for name, kind in list(known.items())[:20])
    option = "--image-column" if usual is PICTURE_NAMES else "--label-column"
    wanted = f"a column {shown(asked)} of {what}" if asked is not None else f"a column of {what}"
    raise UserError(f"{path}: expected {wanted}, got {listed or 'no columns'}; name one with {option}")


def _holds_pictures(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_pictures(kind.field(index).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _holds_labels(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(fits(kind) for fits in (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string))
