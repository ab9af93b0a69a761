"""Looks over a Parquet file before Arrow does: what it says of itself in its footer and at the head of every page.

A few bytes of run lengths can stand for billions of values, which Arrow makes room for; and it aborts the process when
it is asked for statistics that contradict each other. So the numbers are read here. Format: the Thrift compact protocol
and `parquet.thrift` of the Parquet project; field numbers below are those of that file.
"""

import mmap
from collections.abc import Iterator
from typing import Any, NamedTuple

MAX_COLUMNS = 10_000
MAX_VALUES = 2**24
MAX_BYTES = 256 * 2**20

MAX_ITEMS = 1_000_000
"""Values of the footer and of the heads of all pages together: a page has ten to twenty, however empty it is."""

MAX_DEPTH = 16
MAGIC = b"PAR1"
TAIL_BYTES = 8  # length of the footer, magic

Data = bytes | mmap.mmap


class Limits(NamedTuple):
    """How much a file may claim to hold."""

    values: int
    num_bytes: int
    """Of all pages, decompressed."""


TABLE = Limits(MAX_VALUES, MAX_BYTES)
"""For a table of figures."""

TRUE, FALSE, BYTE, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
INTEGERS = (4, 5, 6)
DATA_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2 = 0, 2, 3
HEADER_OF_PAGE = {DATA_PAGE: 5, DICTIONARY_PAGE: 7, DATA_PAGE_V2: 8}


class Thrift:
    """Reads structs as {field number: value}; `ValueError` or `IndexError` where there is none.

    Args:
        at: position of the next byte.
        left: number of values that may be read.
    """

    def __init__(self, data: Data, at: int = 0, left: int = MAX_ITEMS) -> None:
        self.data, self.at, self.left = data, at, left

    def struct(self, depth: int = MAX_DEPTH) -> dict[int, Any]:
        """The struct that begins here; lists, maps and structs in it are at most `depth` deep."""
        fields: dict[int, Any] = {}
        number = 0
        while kind := self._byte():
            number = number + (kind >> 4) if kind >> 4 else self._integer()
            fields[number] = self._value(kind & 15, depth, kind & 15 == TRUE)
        return fields

    def _value(self, kind: int, depth: int, flag: bool) -> Any:
        if depth < 0:
            raise ValueError("values nested too deep")
        self._count(1)
        if kind in INTEGERS:
            return self._integer()
        match kind:
            case 1 | 2:
                return flag
            case 3:
                return self._byte()
            case 7:
                return self._skip(8)
            case 8:
                return self._skip(self._varint())
            case 9 | 10:
                return self._list(depth - 1)
            case 11:
                return self._map(depth - 1)
            case 12:
                return self.struct(depth - 1)
        raise ValueError(f"unknown type {kind}")

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        count = self._count(head >> 4 if head >> 4 < 15 else self._varint())
        return [self._element(head & 15, depth) for _ in range(count)]

    def _map(self, depth: int) -> None:
        count = self._count(self._varint())
        kinds = self._byte() if count else 0
        for _ in range(count):
            self._element(kinds >> 4, depth)
            self._element(kinds & 15, depth)

    def _element(self, kind: int, depth: int) -> Any:
        return self._byte() == TRUE if kind in (TRUE, FALSE) else self._value(kind, depth, False)

    def _count(self, count: int) -> int:
        self.left -= count
        if self.left < 0:
            raise ValueError(f"more than {MAX_ITEMS:,} values in the footer and the heads of pages")
        return count

    def _skip(self, count: int) -> None:
        self.at += count
        if self.at > len(self.data):
            raise ValueError("a value behind the end")

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 0x80:
            value |= (byte & 0x7F) << shift
            shift += 7
            if shift > 63:
                raise ValueError("a number of more than 64 bits")
        return value | byte << shift

    def _integer(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)


def check_parquet(data: Data, limits: Limits = TABLE) -> int:
    """Refuse a Parquet file that claims, anywhere, more than the limits, or that contradicts itself.

    Returns:
        Bytes of the largest page, decompressed.
    Raises:
        ValueError: so it is, or this is no Parquet file.
    """
    length = int.from_bytes(data[-TAIL_BYTES:-4], "little")
    start = len(data) - TAIL_BYTES - length
    if data[: len(MAGIC)] != MAGIC or data[-len(MAGIC) :] != MAGIC or start < len(MAGIC):
        raise ValueError("no Parquet file")
    thrift = Thrift(data[start:-TAIL_BYTES])
    try:
        chunks = _chunks(thrift.struct(), limits)
        return _check_pages(chunks, Thrift(data, left=thrift.left), limits)
    except (LookupError, TypeError, AttributeError):
        raise ValueError("a Parquet file without something that it must have") from None


def _chunks(footer: dict[int, Any], limits: Limits) -> list[dict[int, Any]]:
    """What the footer says of each column of each group of rows."""
    num_rows, groups = footer[3], footer[4]
    chunks = [chunk[3] for group in groups for chunk in group[1]]
    if len(footer[2]) > MAX_COLUMNS or len(chunks) > MAX_COLUMNS:
        raise ValueError(f"a table of {max(len(footer[2]), len(chunks)):,} columns")
    rows = [group[3] for group in groups]
    if sum(rows) != num_rows or min(rows, default=0) < 0 or num_rows > limits.values:
        raise ValueError(f"a table that claims {num_rows:,} rows in groups of {shortened(rows)}")
    return chunks


def _check_pages(chunks: list[dict[int, Any]], thrift: Thrift, limits: Limits) -> int:
    total_values = total_bytes = largest = free = 0
    for start, end, chunk in sorted(((*_span(chunk), chunk) for chunk in chunks), key=lambda placed: placed[:2]):
        if not free <= start <= end <= len(thrift.data):
            raise ValueError("a column outside the file, or inside another one")
        free = end
        for values, num_bytes in _pages(chunk, start, end, thrift):
            total_values, total_bytes = total_values + values, total_bytes + num_bytes
            largest = max(largest, num_bytes)
            if total_values > limits.values or total_bytes > limits.num_bytes:
                raise ValueError(f"a table that claims {total_values:,} values of {total_bytes:,} bytes")
    return largest


def _span(chunk: dict[int, Any]) -> tuple[int, int]:
    """Where a column begins and ends in the file."""
    starts = [chunk[field] for field in (9, 11) if field in chunk]  # of data, of a dictionary
    start = min(start for start in starts if start > 0)
    return start, start + chunk[7]


def _pages(chunk: dict[int, Any], start: int, end: int, thrift: Thrift) -> Iterator[tuple[int, int]]:
    """Values and bytes, decompressed, that each page of a column claims; all of them lie in the chunk."""
    thrift.at, seen = start, 0
    while thrift.at < end:
        header = thrift.struct()
        kind, num_bytes, stored = header[1], header[2], header[3]
        values = header[HEADER_OF_PAGE[kind]][1]
        thrift.at += stored
        if min(values, num_bytes, stored) < 0 or thrift.at > end:
            raise ValueError("a page outside its column")
        seen += values if kind != DICTIONARY_PAGE else 0
        yield values, num_bytes
    if seen != chunk[5]:
        raise ValueError(f"a column of {seen:,} values that claims {chunk[5]:,}")


def shortened(values: list[int]) -> str:
    """The first few of a list."""
    return ", ".join(f"{value:,}" for value in values[:3]) + (" ..." if len(values) > 3 else "")
