"""The two text files of a face set: `key label` per picture and `key1 key2 1|0` per verification pair."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple, NoReturn, overload

import numpy as np
import numpy.typing as npt

from search_space.errors import UserError
from trainers.untrusted import read_file

Integers = npt.NDArray[np.int64]

MAX_LIST_BYTES = 4 * 2**30
"""About a hundred million pictures; reading takes several times as much memory."""


class Keys(Sequence[str]):
    """Keys of a list file as slices of the file: millions of them cost a tenth of a Python list of strings."""

    def __init__(self, text: bytes, starts: Integers, ends: Integers) -> None:
        self._text = text
        self._starts, self._ends = (
            np.ascontiguousarray(starts),
            np.ascontiguousarray(ends),
        )  # a view would keep its base

    @classmethod
    def of(cls, keys: Iterable[str]) -> "Keys":
        """Keys from strings."""
        parts = [key.encode() for key in keys]
        ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        return cls(b"".join(parts), np.concatenate(([0], ends[:-1])), ends)

    @classmethod
    def join(cls, parts: Sequence["Keys"]) -> "Keys":
        """The keys of several lists, one after the other."""
        shifts = np.cumsum([0] + [len(part._text) for part in parts[:-1]])
        starts = [part._starts + shift for part, shift in zip(parts, shifts, strict=True)]
        ends = [part._ends + shift for part, shift in zip(parts, shifts, strict=True)]
        return cls(b"".join(part._text for part in parts), np.concatenate(starts), np.concatenate(ends))

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "Keys": ...
    def __getitem__(self, index: int | slice) -> "str | Keys":
        if isinstance(index, slice):
            return Keys(self._text, self._starts[index], self._ends[index])
        return self._text[self._starts[index] : self._ends[index]].decode()

    def take(self, numbers: Integers) -> list[str]:
        """Keys by number, faster than one by one."""
        text = self._text
        bounds = zip(self._starts[numbers].tolist(), self._ends[numbers].tolist(), strict=True)
        return [text[start:end].decode() for start, end in bounds]

    def __iter__(self) -> Iterator[str]:
        for start, end in zip(self._starts.tolist(), self._ends.tolist(), strict=True):
            yield self._text[start:end].decode()


class _Fields(NamedTuple):
    """Fields of a text file, [num_lines, num_fields] each; blank lines are left out."""

    text: bytes
    starts: Integers
    ends: Integers
    lines: Integers
    """[num_lines] number of each line in the file, from 1."""


def read_list(path: str | Path, *, gaps: bool = False) -> tuple[Keys, Integers]:
    """Read `lmdb_key label` lines.

    Args:
        gaps: labels need not be without gaps, as those of a classification head must.
    Returns:
        (keys [n], labels [n] int64); unless `gaps`, every label from 0 to the highest occurs.
    Raises:
        UserError: not two fields, a label that is no integer >= 0, a label that no picture has, an empty file.
    """
    law = "`lmdb_key label`"
    fields = _read_fields(Path(path), 2, law)
    labels = _parse_labels(Path(path), fields, law)
    if not gaps:
        _check_contiguous(Path(path), labels, fields.lines)
    return Keys(fields.text, fields.starts[:, 0], fields.ends[:, 0]), labels


def read_keys(path: str | Path) -> Keys:
    """Read the keys of a file of `lmdb_key` or `lmdb_key label` lines, all of one kind; labels may be anything.

    Raises:
        UserError: neither one nor two fields in a line, an empty file.
    """
    text = _read_text(Path(path))
    num_fields = len((text.lstrip()[:10_000].splitlines() or [b""])[0].split())
    fields = _split(Path(path), text, 2 if num_fields == 2 else 1, "`lmdb_key` or `lmdb_key label`")
    return Keys(fields.text, fields.starts[:, 0], fields.ends[:, 0])


@dataclass(frozen=True)
class Pairs:
    """Verification pairs of one file, in its order."""

    left: Keys
    right: Keys
    same: npt.NDArray[np.bool_]
    """[num_pairs] whether both pictures show one person."""

    fold: Integers
    """[num_pairs] from 0, in file order."""

    lines: Integers
    """[num_pairs] line of each pair in the file, from 1."""


def read_pairs(path: str | Path, num_folds: int) -> Pairs:
    """Read `key1 key2 1|0` lines and cut them into equal folds in file order.

    Raises:
        UserError: not three fields, a third that is neither 1 nor 0, a count that `num_folds` does not divide, a fold
            with only one kind of pair (no threshold could be chosen on it), an empty file.
    """
    path, law = Path(path), "`key1 key2 1|0`"
    text, starts, ends, lines = fields = _read_fields(path, 3, law)
    flags = np.frombuffer(text, np.uint8)[starts[:, 2]]
    wrong = (ends[:, 2] - starts[:, 2] != 1) | ((flags != ord("0")) & (flags != ord("1")))
    if wrong.any():
        _refuse_line(path, fields, int(wrong.argmax()), law)
    if len(lines) % num_folds:
        raise UserError(
            f"{path}: expected a number of pairs that num_folds = {num_folds} divides, got {len(lines)} pairs"
        )
    same = flags == ord("1")
    _check_folds(path, same.reshape(num_folds, -1), lines.reshape(num_folds, -1))
    fold = np.repeat(np.arange(num_folds), len(lines) // num_folds)
    return Pairs(Keys(text, starts[:, 0], ends[:, 0]), Keys(text, starts[:, 1], ends[:, 1]), same, fold, lines)


def line_of_row(path: str | Path, row: int) -> int:
    """Line in the file of a row, both counted as people and programs do: lines from 1, rows from 0, no blank ones."""
    with open(path, "rb") as file:
        numbers = (number for number, line in enumerate(file, 1) if line.strip())
        return next(islice(numbers, row, None))


def _check_folds(path: Path, same: npt.NDArray[np.bool_], lines: Integers) -> None:
    num_folds, num_pairs = same.shape
    num_same = same.sum(axis=1)
    for fold in np.flatnonzero((num_same == 0) | (num_same == num_pairs)):
        kind = "1 (same)" if num_same[fold] == 0 else "0 (different)"
        raise UserError(
            f"{path}: expected both kinds of pairs in each of {num_folds} folds, got no {kind} in fold {fold} "
            f"(lines {lines[fold, 0]} to {lines[fold, -1]}); mix the kinds over the file or set another num_folds"
        )


def _read_fields(path: Path, num_fields: int, law: str) -> _Fields:
    """The fields of a whole file; see `_split`."""
    return _split(path, _read_text(path), num_fields, law)


def _split(path: Path, text: bytes, num_fields: int, law: str) -> _Fields:
    """Split a text at white space, vectorised, and insist on `num_fields` in every line that is not blank."""
    buffer = np.frombuffer(text, np.uint8)
    is_field = np.concatenate(([False], buffer > ord(" "), [False]))
    edges = np.flatnonzero(is_field[1:] != is_field[:-1])
    starts, ends = edges[0::2], edges[1::2]
    if not len(starts):
        raise UserError(f"{path}: expected lines of {law}, got an empty file")
    line_ends = np.concatenate((np.flatnonzero(buffer == ord("\n")), [len(buffer)]))
    counts = np.diff(np.searchsorted(starts, line_ends), prepend=0)  # [num_lines] fields in each
    wrong = (counts != num_fields) & (counts != 0)
    if wrong.any():
        number = int(wrong.argmax())
        raise UserError(f"line {number + 1} of {path}: expected {law}, got {_line(text, number + 1)!r}")
    shape = (-1, num_fields)
    return _Fields(text, starts.reshape(shape), ends.reshape(shape), np.flatnonzero(counts) + 1)


def _read_text(path: Path) -> bytes:
    try:
        text = read_file(path, MAX_LIST_BYTES)
    except OSError as error:
        raise UserError(f"{path}: expected a readable text file, got: {error.strerror}") from None
    text = text.removeprefix(b"\xef\xbb\xbf")  # a byte order mark would become part of the first key
    try:
        text.decode()
    except UnicodeDecodeError as error:
        number = text.count(b"\n", 0, error.start) + 1
        raise UserError(f"line {number} of {path}: expected UTF-8 text, got byte 0x{text[error.start]:02x}") from None
    return text


def _parse_labels(path: Path, fields: _Fields, law: str) -> Integers:
    buffer = np.frombuffer(fields.text, np.uint8)
    starts, ends = fields.starts[:, 1], fields.ends[:, 1]
    lengths = ends - starts
    labels = np.zeros(len(starts), np.int64)
    wrong = lengths > 9  # also keeps the sum below from overflowing
    for position in range(min(int(lengths.max()), 9)):
        here = lengths > position
        digits = buffer[starts[here] + position].astype(np.int64) - ord("0")
        wrong[here] |= (digits < 0) | (digits > 9)
        labels[here] = labels[here] * 10 + digits
    if wrong.any():
        _refuse_line(path, fields, int(wrong.argmax()), f"{law} with an integer label >= 0")
    return labels


def _check_contiguous(path: Path, labels: Integers, lines: Integers) -> None:
    present = np.unique(labels)
    if present[-1] == len(present) - 1:
        return
    missing = int((present != np.arange(len(present))).argmax())
    line = lines[(labels == present[missing]).argmax()]
    raise UserError(
        f"line {line} of {path}: expected labels without gaps from 0, got {present[missing]} but no {missing} "
        f"anywhere; number the {len(present)} identities 0 to {len(present) - 1}"
    )


def _refuse_line(path: Path, fields: _Fields, row: int, law: str) -> NoReturn:
    number = int(fields.lines[row])
    raise UserError(f"line {number} of {path}: expected {law}, got {_line(fields.text, number)!r}")


def _line(text: bytes, number: int) -> str:
    line = text.split(b"\n")[number - 1].decode().strip()
    return line if len(line) <= 100 else line[:97] + "..."
