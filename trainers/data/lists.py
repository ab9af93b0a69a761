"""The two text files of a face set: `key label` per picture and `key1 key2 1|0` per verification pair."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt

from search_space.errors import UserError
from trainers.data.text_fields import (
    Fields,
    parse_numbers,
    read_fields,
    read_text,
    refuse_empty,
    refuse_line,
    split_fields,
)

Integers = npt.NDArray[np.int64]


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

    def order(self, numbers: Integers) -> Integers:
        """[n] places in `numbers`, in the order of their keys' bytes; without a string of each."""
        text, starts = np.frombuffer(self._text or b"\0", np.uint8), self._starts[numbers]
        lengths = self._ends[numbers] - starts
        longest = int(lengths.max(initial=0))
        order = np.argsort(lengths, kind="stable")  # only zeros at its end tell a key from a shorter one
        for first in reversed(range(0, longest, 8)):
            word = np.zeros(len(numbers), np.uint64)
            for at in range(first, first + 8):
                byte = np.where(at < lengths, text[np.minimum(starts + at, len(text) - 1)], 0)
                word = word << np.uint64(8) | byte.astype(np.uint64)
            order = order[np.argsort(word[order], kind="stable")]
        return order

    def __iter__(self) -> Iterator[str]:
        for start, end in zip(self._starts.tolist(), self._ends.tolist(), strict=True):
            yield self._text[start:end].decode()


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
    fields = read_fields(Path(path), 2, law)
    labels = parse_numbers(Path(path), fields, 1, f"{law} with an integer label >= 0")
    if not gaps:
        _check_contiguous(Path(path), labels, fields.lines)
    return Keys(fields.text, fields.starts[:, 0], fields.ends[:, 0]), labels


def read_keys(path: str | Path, *, comments: bool = False) -> Keys:
    """Read the keys of a file of `lmdb_key` or `lmdb_key label` lines, all of one kind; labels may be anything.

    Args:
        comments: lines that begin with # are none of them.
    Raises:
        UserError: neither one nor two fields in a line, an empty file.
    """
    fields = _key_fields(Path(path), comments=comments)
    return Keys(fields.text, fields.starts[:, 0], fields.ends[:, 0])


def read_keys_and_labels(path: str | Path) -> tuple[Keys, Integers | None]:
    """`read_keys`, and the labels [n] int64, which need not be without gaps; None where lines have none.

    Raises:
        UserError: a label that is no integer >= 0, too.
    """
    fields = _key_fields(Path(path))
    labelled = fields.starts.shape[1] == 2
    labels = parse_numbers(Path(path), fields, 1, f"{KEYS_LAW} with an integer label >= 0") if labelled else None
    return Keys(fields.text, fields.starts[:, 0], fields.ends[:, 0]), labels


KEYS_LAW = "`lmdb_key` or `lmdb_key label`"


def _key_fields(path: Path, *, comments: bool = False) -> Fields:
    text = read_text(path)
    if comments:
        text = re.sub(rb"^[ \t]*#.*", b"", text, flags=re.MULTILINE)  # their line ends stay: lines are counted
    num_fields = len((text.lstrip()[:10_000].splitlines() or [b""])[0].split())
    fields = split_fields(path, text, 2 if num_fields == 2 else 1, KEYS_LAW)
    if not len(fields.lines):
        refuse_empty(path, KEYS_LAW)
    return fields


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
    text, starts, ends, lines, _ = fields = read_fields(path, 3, law)
    flags = np.frombuffer(text, np.uint8)[starts[:, 2]]
    wrong = (ends[:, 2] - starts[:, 2] != 1) | ((flags != ord("0")) & (flags != ord("1")))
    if wrong.any():
        refuse_line(path, fields, int(wrong.argmax()), law)
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


def first_repeated(keys: Keys) -> int | None:
    """Number of the first key that was there before; None: all are distinct. Hashes are held, not texts."""
    hashes = np.fromiter(map(hash, keys), np.int64, len(keys))
    order = np.argsort(hashes, kind="stable")
    equal = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
    seen = set()
    for number in np.unique(np.concatenate((order[equal], order[equal + 1]))).tolist():
        if keys[number] in seen:
            return int(number)
        seen.add(keys[number])
    return None


def refuse_repeated(path: str | Path, keys: Keys) -> None:
    """Raise `UserError` for the first key of a list that was there before."""
    row = first_repeated(keys)
    if row is not None:
        raise UserError(f"line {line_of_row(path, row)} of {path}: expected each key once, got {keys[row]!r} again")


def _check_folds(path: Path, same: npt.NDArray[np.bool_], lines: Integers) -> None:
    num_folds, num_pairs = same.shape
    num_same = same.sum(axis=1)
    for fold in np.flatnonzero((num_same == 0) | (num_same == num_pairs)):
        kind = "1 (same)" if num_same[fold] == 0 else "0 (different)"
        raise UserError(
            f"{path}: expected both kinds of pairs in each of {num_folds} folds, got no {kind} in fold {fold} "
            f"(lines {lines[fold, 0]} to {lines[fold, -1]}); mix the kinds over the file or set another num_folds"
        )


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
