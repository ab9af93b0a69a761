"""RecordIO as MXNet writes it: records of any bytes, one after the other, and the header of a picture in them.

Format (dmlc-core `recordio.h`, mxnet `image_recordio.h`), little endian:

    record   uint32 magic 0xced7230a | uint32 flag << 29 | length | data | zeros up to a multiple of 4
             flag 0: whole; 1, 2, 3: first, middle, last part of data that had the magic in it where a part ends
    data     uint32 n | float32 label | uint64 id | uint64 id2 | n x float32 labels | the picture's file
"""

import os
import struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from search_space.errors import UserError
from trainers.data.importers.source import MAX_PICTURE_BYTES

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)
FRAME = struct.Struct("<II")
HEADER = struct.Struct("<IfQQ")
LENGTH_BITS = 29
WHOLE, FIRST, MIDDLE, LAST = range(4)
MAX_LABELS = 4096
"""Of one picture; usual are none and two."""

CHUNK = 2**16
_HEAD_BYTES = FRAME.size + HEADER.size + 4


class Heads(NamedTuple):
    """What records say before their pictures, [n] each."""

    labels: Floats
    """The label, or the first of several."""

    num_labels: Integers
    """How many stand behind the header; 0: the label is in it."""

    num_bytes: Integers
    """Of the picture."""

    ends: Integers
    """Where in the file a record ends, padding included."""


class Record(NamedTuple):
    """One record in full."""

    labels: tuple[float, ...]
    picture: bytes
    num_labels: int
    end: int


def read_record(descriptor: int, offset: int, size: int) -> Record:
    """The record that begins at `offset` of a file of `size` bytes.

    Raises:
        UserError: there is none, or it leaves the file. Names neither file nor record.
    """
    parts: list[bytes] = []
    at, total = offset, 0
    while True:
        flag, length = _frame(_pread(descriptor, FRAME.size, at, size), at)
        if flag not in ((WHOLE, FIRST) if not parts else (MIDDLE, LAST)):
            raise UserError(
                f"expected the {'next part' if parts else 'start'} of a record at byte {at:,}, got flag {flag}"
            )
        total += length
        if total > MAX_PICTURE_BYTES:
            raise UserError(f"expected at most {MAX_PICTURE_BYTES:,} bytes, got a record that claims {total:,}")
        parts.append(_pread(descriptor, length, at + FRAME.size, size))
        at += FRAME.size + length + -length % 4
        if flag in (WHOLE, LAST):
            return _parse(MAGIC_BYTES.join(parts), at)


def _parse(data: bytes, end: int) -> Record:
    if len(data) < HEADER.size:
        raise UserError(f"expected a header of {HEADER.size} bytes, got a record of {len(data)}")
    num_labels, label, _, _ = HEADER.unpack_from(data)
    start = HEADER.size + 4 * num_labels
    if num_labels > MAX_LABELS or start > len(data):
        raise UserError(f"expected a record with room for its labels, got {num_labels:,} labels in {len(data):,} bytes")
    labels = struct.unpack_from(f"<{num_labels}f", data, HEADER.size) if num_labels else (label,)
    return Record(labels, data[start:], num_labels, end)


def _pread(descriptor: int, count: int, at: int, size: int) -> bytes:
    data = os.pread(descriptor, count, at) if at + count <= size else b""
    if len(data) < count:
        raise UserError(f"expected {count:,} bytes at byte {at:,}, got a file of {size:,}: it is cut off")
    return data


def _frame(data: bytes, at: int) -> tuple[int, int]:
    magic, word = FRAME.unpack(data)
    if magic != MAGIC:
        raise UserError(f"expected a record at byte {at:,}, got 0x{magic:08x} for the magic number")
    return word >> LENGTH_BITS, word & (1 << LENGTH_BITS) - 1


def read_heads(descriptor: int, whole: npt.NDArray[np.uint8], offsets: Integers) -> tuple[Heads, dict[int, str]]:
    """The heads of many records, without their pictures.

    Args:
        descriptor: the open file.
        whole: [size] the same file, mapped.
        offsets: [n] where the records begin.
    Returns:
        (heads, what is wrong with a record, by its row; its other values are 0).
    """
    size, count = len(whole), len(offsets)
    heads = Heads(np.zeros(count, np.float32), *(np.zeros(count, np.int64) for _ in range(3)))
    inside = (offsets >= 0) & (offsets + FRAME.size + HEADER.size <= size)
    columns = np.arange(_HEAD_BYTES)
    at = np.minimum(np.where(inside, offsets, 0)[:, None] + columns, size - 1)
    words = np.ascontiguousarray(whole[at]).view("<u4")  # [n, words of a head]
    flag, length = words[:, 1] >> LENGTH_BITS, (words[:, 1] & (1 << LENGTH_BITS) - 1).astype(np.int64)
    num_labels = words[:, 2].astype(np.int64)
    rest = length - HEADER.size - 4 * num_labels
    plain = inside & (words[:, 0] == MAGIC) & (flag == WHOLE) & (num_labels <= MAX_LABELS) & (rest >= 0)
    plain &= (offsets + FRAME.size + length <= size) & (length <= MAX_PICTURE_BYTES)
    floats = words.view("<f4")
    heads.labels[:] = np.where(num_labels > 0, floats[:, 8], floats[:, 3])
    heads.num_labels[:], heads.num_bytes[:] = num_labels, rest
    heads.ends[:] = offsets + FRAME.size + length + -length % 4
    wrong: dict[int, str] = {}
    for row in np.flatnonzero(~plain).tolist():  # in parts, or damaged: the slow way says what
        heads.labels[row] = heads.num_labels[row] = heads.num_bytes[row] = heads.ends[row] = 0
        try:
            record = read_record(descriptor, int(offsets[row]), size)
        except UserError as error:
            wrong[row] = str(error)
            continue
        heads.labels[row], heads.num_labels[row] = record.labels[0], record.num_labels
        heads.num_bytes[row], heads.ends[row] = len(record.picture), record.end
    return heads, wrong
