"""insightface's `.bin` evaluation files: a pickle of (picture files, two for each pair; whether each pair is genuine).

Read by `pickle_machine`, which can run nothing. Pictures are bytes or uint8 arrays of them, flags are bools.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_space.errors import UserError, shown
from trainers.data.datum import IMAGE_SIGNATURES, encode_datum
from trainers.data.decoder_noise import DecoderNoise
from trainers.data.importers.convert import Conversion, convert
from trainers.data.pickle_machine import read_pickle
from trainers.data.pickled_values import Array, Latin, as_bytes, as_flags, kind
from trainers.data.picture_file import PNG
from trainers.untrusted import read_file

MAX_BIN_BYTES = 16 * 2**30


@dataclass(frozen=True)
class EvalBin:
    """What a file holds, equal pictures once."""

    pictures: list[memoryview | bytes]
    """Distinct picture files, in the order of their first use."""

    first: list[int]
    """[pictures] where each is first used, among 2 * num_pairs."""

    left: list[int]
    """[num_pairs] number of the picture, as `right`."""

    right: list[int]
    same: list[bool]

    @property
    def keys(self) -> list[str]:
        """[pictures] keys that files of this kind are given: the place of the first use, and the kind of file."""
        suffixes = (".jpg" if bytes(p[:3]) == IMAGE_SIGNATURES[0] else ".png" for p in self.pictures)
        return [f"{place:08d}{suffix}" for place, suffix in zip(self.first, suffixes, strict=True)]


def read_eval_bin(path: str | Path) -> EvalBin:
    """Read a `.bin` file.

    Raises:
        UserError: it cannot be read, is cut off, asks for anything but plain values (named), or does not hold two
            pictures for each pair.
    """
    try:
        data = read_file(path, MAX_BIN_BYTES)
    except OSError as error:
        raise UserError(f"{path}: expected a readable file, got: {error.strerror}") from None
    try:
        value = read_pickle(data)
        pictures, same = _parts(value)
        return _deduplicated(pictures, same, len(data))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def stored(
    held: EvalBin,
    size: int,
    bad: Callable[[int, str], None],
    doubtful: Callable[[int, str], None] = lambda number, complaint: None,
) -> Iterator[tuple[str, bytes]]:
    """(key, serialised Datum) of every picture, in order; bytes of the right size are unchanged.

    Args:
        bad: told the number and fault of each picture that does not decode, which is then left out.
        doubtful: told the number of each that does, and what the decoder complains of.
    """
    conversion = Conversion(size=size, unchanged=(PNG,))
    for number, (key, picture) in enumerate(zip(held.keys, held.pictures, strict=True)):
        with DecoderNoise() as noise:
            try:
                data, fault = convert(bytes(picture), conversion).data, ""
            except UserError as error:
                fault = str(error)
            complaint = noise.complaint()
        if fault:
            bad(number, fault)
            continue
        if complaint:
            doubtful(number, complaint)
        yield key, encode_datum(data)


def _parts(value: Any) -> tuple[list[Any] | tuple[Any, ...], list[bool]]:
    law = "expected (picture files, bools)"
    if not isinstance(value, tuple | list) or len(value) != 2 or not isinstance(value[0], list | tuple):
        raise UserError(f"{law}, got a {kind(value)} of another form")
    pictures, same = value[0], as_flags(value[1])
    if same is None:
        raise UserError(f"{law}, got flags that are no bools")
    if not same or len(pictures) != 2 * len(same):
        raise UserError(f"{law}, two pictures for each bool, got {len(pictures):,} pictures and {len(same):,} bools")
    return pictures, same


def _deduplicated(pictures: list[Any] | tuple[Any, ...], same: list[bool], bytes_left: int) -> EvalBin:
    """Equal pictures, which files repeat for every pair that they are in, once.

    Several values may stand for the same bytes of the file; a file of which they make more than it has is refused.
    """
    numbers: dict[int, int] = {}  # by identity of the value
    by_digest: dict[bytes, int] = {}
    distinct: list[memoryview | bytes] = []
    first: list[int] = []
    for place, value in enumerate(pictures):
        if id(value) in numbers:
            continue
        bytes_left -= _num_bytes(value)
        data = None if bytes_left < 0 else as_bytes(value)
        if data is None:
            found = "more bytes of pictures than the file has" if bytes_left < 0 else _described(value)
            raise UserError(f"picture {place}: expected the bytes of a JPEG or PNG, got {found}")
        number = by_digest.setdefault(hashlib.sha256(data).digest(), len(distinct))
        if number == len(distinct):
            distinct.append(data)
            first.append(place)
        numbers[id(value)] = number
    sides = [numbers[id(value)] for value in pictures]
    return EvalBin(distinct, first, sides[0::2], sides[1::2], same)


def _num_bytes(value: Any) -> int:
    data = value.data if isinstance(value, Array) else value
    data = data.text.data if isinstance(data, Latin) else data
    return len(data) if isinstance(data, memoryview) else 0


def _described(value: Any) -> str:
    if isinstance(value, Array):
        return f"a numpy array of shape {shown(value.shape)}, type {value.dtype.code if value.dtype else 'unknown'}"
    return f"a {kind(value)}"
