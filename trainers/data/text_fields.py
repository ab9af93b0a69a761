"""Text files of fields with white space between them, taken apart without a loop over lines."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from search_space.errors import UserError
from trainers.untrusted import open_file, read_file

Integers = npt.NDArray[np.int64]

MAX_LIST_BYTES = 4 * 2**30
"""About a hundred million pictures; reading takes several times as much memory."""

BLOCK_BYTES = 2**23
"""Of a file of numbers, which need not be held as text."""

MAX_DIGITS = 9


class Fields(NamedTuple):
    """Fields of a text, [num_lines, num_fields] each; blank lines are left out."""

    text: bytes
    starts: Integers
    ends: Integers
    lines: Integers
    """[num_lines] number of each line in the text, from 1."""

    before: int
    """Lines of the file before the text."""


def read_fields(path: Path, num_fields: int, law: str) -> Fields:
    """The fields of a whole file; see `split_fields`, which adds that it has none."""
    fields = split_fields(path, read_text(path), num_fields, law)
    if not len(fields.lines):
        refuse_empty(path, law)
    return fields


def read_text(path: Path) -> bytes:
    """A file of UTF-8 text, without the mark of the order of bytes.

    Raises:
        UserError: it is none, or cannot be read.
    """
    try:
        text = read_file(path, MAX_LIST_BYTES)
    except OSError as error:
        raise UserError(f"{path}: expected a readable text file, got: {error.strerror}") from None
    text = text.removeprefix(b"\xef\xbb\xbf")  # a byte order mark would become part of the first key
    refuse_bytes(path, text, 0)
    return text


def refuse_bytes(path: Path, text: bytes, before: int) -> None:
    """Raise `UserError` at the first byte that is no UTF-8."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        number = before + text.count(b"\n", 0, error.start) + 1
        raise UserError(f"line {number} of {path}: expected UTF-8 text, got byte 0x{text[error.start]:02x}") from None


def split_fields(path: Path, text: bytes, num_fields: int, law: str, before: int = 0) -> Fields:
    """Split a text at white space; there may be none.

    Args:
        before: lines of the file before the text.
    Raises:
        UserError: a line has neither `num_fields` nor none.
    """
    buffer = np.frombuffer(text, np.uint8)
    is_field = np.concatenate(([False], buffer > ord(" "), [False]))
    edges = np.flatnonzero(is_field[1:] != is_field[:-1])
    starts, ends = edges[0::2], edges[1::2]
    line_ends = np.concatenate((np.flatnonzero(buffer == ord("\n")), [len(buffer)]))
    counts = np.diff(np.searchsorted(starts, line_ends), prepend=0)  # [num_lines] fields in each
    wrong = (counts != num_fields) & (counts != 0)
    if wrong.any():
        number = int(wrong.argmax()) + 1
        raise UserError(f"line {before + number} of {path}: expected {law}, got {_line(text, number)!r}")
    shape = (-1, num_fields)
    return Fields(text, starts.reshape(shape), ends.reshape(shape), np.flatnonzero(counts) + 1, before)


def parse_numbers(path: Path, fields: Fields, column: int, law: str) -> Integers:
    """[num_lines] one field of each line as an integer >= 0 of at most nine digits; `UserError` with `law` if not."""
    buffer = np.frombuffer(fields.text, np.uint8)
    starts, ends = fields.starts[:, column], fields.ends[:, column]
    lengths = ends - starts
    numbers = np.zeros(len(starts), np.int64)
    wrong = lengths > MAX_DIGITS  # also keeps the sum below from overflowing
    for position in range(min(int(lengths.max(initial=0)), MAX_DIGITS)):
        here = lengths > position
        digits = buffer[starts[here] + position].astype(np.int64) - ord("0")
        wrong[here] |= (digits < 0) | (digits > 9)
        numbers[here] = numbers[here] * 10 + digits
    if wrong.any():
        refuse_line(path, fields, int(wrong.argmax()), law)
    return numbers


def number_blocks(path: Path, num_fields: int, law: str) -> Iterator[tuple[Fields, Integers]]:
    """A file of integers >= 0, a part at a time: its fields, and their numbers [num_lines, num_fields].

    Raises:
        UserError: a line has not so many, or is too long for one; the file is empty, or cannot be read.
    """
    rest, before, some = b"", 0, False
    try:
        with open_file(path) as file:
            while part := file.read(BLOCK_BYTES):
                part = part.removeprefix(b"\xef\xbb\xbf") if not rest and not before else part
                whole, newline, rest = (rest + part).rpartition(b"\n")
                if len(rest) > BLOCK_BYTES:
                    number = before + (whole + newline).count(b"\n") + 1
                    raise UserError(f"line {number} of {path}: expected {law}, got {len(rest):,} bytes and more")
                block = _numbers(path, whole + newline, num_fields, law, before)
                some |= len(block[1]) > 0
                before += whole.count(b"\n") + len(newline)
                yield block
    except OSError as error:
        raise UserError(f"{path}: expected a readable text file, got: {error.strerror}") from None
    block = _numbers(path, rest, num_fields, law, before)
    if not some and not len(block[1]):
        refuse_empty(path, law)
    yield block


def _numbers(path: Path, text: bytes, num_fields: int, law: str, before: int) -> tuple[Fields, Integers]:
    refuse_bytes(path, text, before)
    fields = split_fields(path, text, num_fields, law, before)
    return fields, np.stack([parse_numbers(path, fields, column, law) for column in range(num_fields)], axis=1)


def refuse_line(path: Path, fields: Fields, row: int, law: str) -> NoReturn:
    """Raise `UserError` for a line that breaks the law."""
    number = int(fields.lines[row])
    raise UserError(f"line {fields.before + number} of {path}: expected {law}, got {_line(fields.text, number)!r}")


def refuse_empty(path: Path, law: str) -> NoReturn:
    """Raise `UserError` for a file without lines."""
    raise UserError(f"{path}: expected lines of {law}, got an empty file")


def _line(text: bytes, number: int) -> str:
    line = text.split(b"\n")[number - 1].decode().strip()
    return line if len(line) <= 100 else line[:97] + "..."
