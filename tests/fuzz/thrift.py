"""Writes the Thrift of Parquet files, and files of columns that lie anywhere and hold nothing."""

from collections.abc import Iterable, Mapping
from typing import Any

INTEGER, BINARY, LIST, STRUCT = 6, 8, 9, 12


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*made, value))


def encoded(value: Any) -> tuple[int, bytes]:
    """Type and bytes of a number, a text, a list of one type, or a struct {field number: value}."""
    if isinstance(value, int):
        return INTEGER, varint((value << 1 ^ value >> 63) % 2**64)
    if isinstance(value, bytes):
        return BINARY, varint(len(value)) + value
    if isinstance(value, Mapping):
        return STRUCT, struct(value)
    parts = [encoded(part) for part in value]
    kind = parts[0][0] if parts else INTEGER
    return LIST, bytes((0xF0 | kind,)) + varint(len(parts)) + b"".join(part for _, part in parts)


def struct(fields: Mapping[int, Any]) -> bytes:
    """Every field with its whole number, which fits into 15 bits."""
    parts = [(number, *encoded(value)) for number, value in fields.items()]
    return b"".join(bytes((kind,)) + varint(number << 1) + part for number, kind, part in parts) + b"\0"


def with_footer(pages: bytes, footer: bytes) -> bytes:
    """A Parquet file."""
    return b"PAR1" + pages + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def empty_page(values: int = 0) -> bytes:
    """The head of a data page of no bytes."""
    return struct({1: 0, 2: 0, 3: 0, 5: {1: values, 2: 0, 3: 3, 4: 3}})


def parquet_of(pages: bytes, chunks: Iterable[tuple[int, int]], values: int = 0) -> bytes:
    """A file of `pages`, and a footer with one column for each (position, bytes) of `chunks`."""
    metadata = [
        {1: 2, 2: [0], 3: [b"c%d" % i], 4: 0, 5: values, 6: num_bytes, 7: num_bytes, 9: start}
        for i, (start, num_bytes) in enumerate(chunks)
    ]
    columns = [{1: 2, 3: 1, 4: b"c%d" % i} for i in range(len(metadata))]
    schema = [{4: b"schema", 5: len(columns)}, *columns]
    group = {1: [{2: 4, 3: column} for column in metadata], 2: 0, 3: values}
    return with_footer(pages, struct({1: 1, 2: schema, 3: values, 4: [group]}))
