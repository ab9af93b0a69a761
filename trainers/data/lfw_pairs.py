"""The pairs files that Labeled Faces in the Wild is published with, as pairs of keys.

Format (Huang et al. 2007, README of the data set). The first line holds two numbers, folds and pairs (view 2: 10 and
300), or one number of pairs (the development sets of view 1: one fold). Then each fold has so many lines
`name number1 number2` of genuine pairs and as many lines `name1 number1 name2 number2` of impostor pairs. Pictures of a
person are numbered from 1.
"""

import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from search_space.errors import UserError, shown
from trainers.untrusted import read_file

DEFAULT_KEY = "{name}/{name}_{number:04d}.jpg"
"""Where the published archive has a picture."""

MAX_PAIRS_BYTES = 2**30
MAX_NUMBER_DIGITS = 9


class NamedPair(NamedTuple):
    """One line of an official file."""

    left: tuple[str, int]
    """Name and number of a picture, as `right`."""

    right: tuple[str, int]
    same: bool
    line: int
    """In the file, from 1."""


class OfficialPairs(NamedTuple):
    """An official file: `num_folds` times `per_fold` genuine and `per_fold` impostor pairs, in its order."""

    pairs: list[NamedPair]
    num_folds: int
    per_fold: int


def read_official_pairs(path: str | Path) -> OfficialPairs:
    """Read an official pairs file.

    Raises:
        UserError: the first line holds no counts, the lines are not those that it announces, a genuine pair of one
            picture with itself, an impostor pair of one person. The line is named.
    """
    lines = _lines(Path(path))
    num_folds, per_fold = _counts(path, lines[0] if lines else (1, []))
    expected, found = 2 * num_folds * per_fold, len(lines) - 1
    if found != expected:
        raise UserError(f"{path}: expected {expected:,} pairs, as its first line says, got {found:,}")
    pairs = []
    for index, (line, fields) in enumerate(lines[1:]):
        read = _genuine if index % (2 * per_fold) < per_fold else _impostor
        pairs.append(read(path, line, fields))
    return OfficialPairs(pairs, num_folds, per_fold)


def key_pattern(pattern: str) -> Callable[[str, int], str]:
    """The key of a picture from its name and number.

    Args:
        pattern: as `str.format` takes it, with the fields `name` and `number`: `{name}/{name}_{number:04d}.jpg`.
    Raises:
        UserError: other fields, one of the two missing, or a key with white space.
    """
    law = f"a key pattern must hold {{name}} and {{number}}, such as {DEFAULT_KEY!r}"
    try:
        parts = [(field, spec, conversion) for _, field, spec, conversion in string.Formatter().parse(pattern)]
        fields = {field for field, _, _ in parts if field is not None}
        if fields != {"name", "number"} or any("{" in (spec or "") or len(spec or "") > 4 for _, spec, _ in parts):
            raise ValueError
        made = pattern.format(name="Some_One", number=1)
    except (ValueError, LookupError, AttributeError):
        raise UserError(f"{law}, got {shown(pattern)}") from None
    if made.split() != [made]:
        raise UserError(f"{law}, without white space, got {shown(pattern)}")
    return lambda name, number: pattern.format(name=name, number=number)


def pair_lines(official: OfficialPairs, key_of: Callable[[str, int], str]) -> Iterator[str]:
    """`key1 key2 1|0`, in the order of the official file."""
    for pair in official.pairs:
        yield f"{key_of(*pair.left)} {key_of(*pair.right)} {int(pair.same)}"


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """(number, fields) of every line that is not blank."""
    try:
        text = read_file(path, MAX_PAIRS_BYTES).removeprefix(b"\xef\xbb\xbf").decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected a readable text file, got: {error}") from None
    split = ((number, line.split()) for number, line in enumerate(text.split("\n"), 1))
    return [(number, fields) for number, fields in split if fields]


def _counts(path: str | Path, first: tuple[int, list[str]]) -> tuple[int, int]:
    line, fields = first
    if not 1 <= len(fields) <= 2:
        _refuse(path, line, "`folds pairs` or `pairs`, such as `10 300`", fields)
    numbers = [_number(path, line, field, fields) for field in fields]
    return (1, numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])


def _genuine(path: str | Path, line: int, fields: list[str]) -> NamedPair:
    law = "a genuine pair, `name number1 number2`"
    if len(fields) != 3:
        _refuse(path, line, law, fields)
    name, first, second = fields
    left, right = (name, _number(path, line, first, fields)), (name, _number(path, line, second, fields))
    if left == right:
        _refuse(path, line, f"{law} of two pictures", fields)
    return NamedPair(left, right, True, line)


def _impostor(path: str | Path, line: int, fields: list[str]) -> NamedPair:
    law = "an impostor pair, `name1 number1 name2 number2`"
    if len(fields) != 4:
        _refuse(path, line, law, fields)
    name, first, other, second = fields
    if name == other:
        _refuse(path, line, f"{law} of two people", fields)
    return NamedPair(
        (name, _number(path, line, first, fields)), (other, _number(path, line, second, fields)), False, line
    )  # fmt: skip


def _number(path: str | Path, line: int, field: str, fields: list[str]) -> int:
    if not (field.isascii() and field.isdigit() and len(field) <= MAX_NUMBER_DIGITS and int(field) >= 1):
        _refuse(path, line, "whole numbers from 1", fields)
    return int(field)


def _refuse(path: str | Path, line: int, law: str, fields: list[str]) -> NoReturn:
    raise UserError(f"line {line} of {path}: expected {law}, got {shown(' '.join(fields)[:200])}")
