"""Looks over a Parquet file before Arrow does: what it says of itself in its footer and at the head of every page.

A few bytes of run lengths can stand for billions of values, which Arrow makes room for; and it aborts the process when
it is asked for statistics that contradict each other. So the numbers are read here. Format: the Thrift compact protocol
and `parquet.thrift` of the Parquet project; field numbers below are those of that file.
"""

import mmap
from collections.abc import Iterator
from typing import Any

Buffer = bytes | mmap.mmap

MAX_COLUMNS = 10_000
MAX_VALUES = 2**24
MAX_BYTES = 256 * 2**20
"""Of all pages, decompressed."""

MAX_DEPTH = 16
MAGIC = b"PAR1"
TAIL_BYTES = 8  # length of the footer, magic

TRUE, FALSE, BYTE, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
INTEGERS = (4, 5, 6)
DATA_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2 = 0, 2, 3
HEADER_OF_PAGE = {DATA_PAGE: 5, DICTIONARY_PAGE: 7, DATA_PAGE_V2: 8}


class Thrift:
    """Reads structs as {field number: value}; `ValueError` or `IndexError` where there is none.

    Args:
        at: position of the next byte.
    """

    def __init__(self, data: Buffer, at: int = 0) -> None:
        self.data, self.at = data, at

    def struct(self, depth: int = MAX_DEPTH) -> dict[int, Any]:
        """The struct that begins here."""
        if not depth:
            raise ValueError("structs nested too deep")
        fields: dict[int, Any] = {}
        number = 0
        while kind := self._byte():
            number = number + (kind >> 4) if kind >> 4 else self._integer()
            fields[number] = self._value(kind & 15, depth, kind & 15 == TRUE)
        return fields

    def _value(self, kind: int, depth: int, flag: bool) -> Any:
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
                return self._list(depth)
            case 11:
                return self._map(depth)
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
        return self._byte() == TRUE if kind in (TRUE, FALSE) else self._value(kind, depth - 1, False)

    def _count(self, count: int) -> int:
        if count > len(self.data) - self.at:  # an element takes a byte at least
            raise ValueError(f"{count:,} elements in {len(self.data):,} bytes")
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


def check_parquet(data: Buffer, max_values: int = MAX_VALUES, max_bytes: int = MAX_BYTES) -> None:
    """Refuse a Parquet file that claims, anywhere, more than the limits, or that contradicts itself.

    Args:
        data: the whole file; mapped, if it is large.
        max_values: of all pages.
        max_bytes: of all pages, decompressed.
    Raises:
        ValueError: so it is, or this is no Parquet file.
    """
    length = int.from_bytes(data[-TAIL_BYTES:-4], "little")
    start = len(data) - TAIL_BYTES - length
    if data[: len(MAGIC)] != MAGIC or data[-len(MAGIC) :] != MAGIC or start < len(MAGIC):
        raise ValueError("no Parquet file")
    try:
        _check_footer(Thrift(data[start:-TAIL_BYTES]).struct(), data, max_values, max_bytes)
    except (LookupError, TypeError, AttributeError):
        raise ValueError("a Parquet file without something that it must have") from None


def _check_footer(footer: dict[int, Any], data: Buffer, max_values: int, max_bytes: int) -> None:
    num_rows, groups = footer[3], footer[4]
    chunks = [chunk[3] for group in groups for chunk in group[1]]
    if len(footer[2]) > MAX_COLUMNS or len(chunks) > MAX_COLUMNS:
        raise ValueError(f"a table of {max(len(footer[2]), len(chunks)):,} columns")
    rows = [group[3] for group in groups]
    if sum(rows) != num_rows or min(rows, default=0) < 0 or num_rows > max_values:
        raise ValueError(f"a table that claims {num_rows:,} rows in groups of {shortened(rows)}")
    total_values = total_bytes = 0
    for chunk in chunks:
        for values, num_bytes in _pages(chunk, data):
            total_values, total_bytes = total_values + values, total_bytes + num_bytes
            if total_values > max_values or total_bytes > max_bytes:
                raise ValueError(f"a table that claims {total_values:,} values of {total_bytes:,} bytes")


def _pages(chunk: dict[int, Any], data: Buffer) -> Iterator[tuple[int, int]]:
    """Values and bytes, decompressed, that each page of a column claims; all of them lie in the chunk."""
    starts = [chunk[field] for field in (9, 11) if field in chunk]  # of data, of a dictionary
    starts = [start for start in starts if start > 0]
    at, end, seen = min(starts), min(starts) + chunk[7], 0
    if not len(MAGIC) <= at <= end <= len(data):
        raise ValueError("a column outside the file")
    while at < end:
        thrift = Thrift(data, at)
        header = thrift.struct()
        kind, num_bytes, stored = header[1], header[2], header[3]
        values = header[HEADER_OF_PAGE[kind]][1]
        at = thrift.at + stored
        if min(values, num_bytes, stored) < 0 or at > end:
            raise ValueError("a page outside its column")
        seen += values if kind != DICTIONARY_PAGE else 0
        yield values, num_bytes
    if seen != chunk[5]:
        raise ValueError(f"a column of {seen:,} values that claims {chunk[5]:,}")


def shortened(values: list[int]) -> str:
    """The first few of a list."""
    return ", ".join(f"{value:,}" for value in values[:3]) + (" ..." if len(values) > 3 else "")
