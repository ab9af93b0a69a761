"""Finished parts of an import: some pictures, converted, in one file that is there whole or not at all.

File: the pictures one after the other | JSON {"sizes": [n] bytes or -1, "bad": {row: what}, "doubtful": [what], ...} |
length of the JSON in 8 bytes, little endian.
"""

import json
import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from search_space.errors import UserError
from trainers.data.decoder_noise import DecoderNoise
from trainers.data.importers.convert import Conversion, convert
from trainers.data.importers.source import Batch, Source
from trainers.untrusted import parse_json
from trainers.whole_file import whole_file

TAIL_BYTES = 8
SKIPPED = -1
MAX_OPEN = 64


@dataclass(frozen=True, kw_only=True)
class Shard:
    """What is in a shard's file."""

    sizes: list[int]
    """[n] bytes of each picture; `SKIPPED`: it is bad."""

    bad: dict[int, str] = field(default_factory=dict)
    """What is wrong with which picture, place included."""

    doubtful: list[str] = field(default_factory=list)
    """The same, of pictures that decode, but of which the decoder says that they are damaged."""

    copied: int = 0
    stretched: int = 0


class BadPictureError(UserError):
    """A picture that does not decode."""


def shard_path(folder: Path, number: int) -> Path:
    """The file of a shard."""
    return folder / f"{number:07d}.shard"


def make_shard(source: Source, batch: Batch, conversion: Conversion, path: Path, skip_bad: bool) -> Shard:
    """Read, convert and write some pictures.

    Raises:
        BadPictureError: one is bad and bad ones are not to be skipped.
        UserError: a part of the source cannot be read.
        OSError: it cannot be written.
    """
    shard = Shard(sizes=[])
    copied = stretched = 0
    with whole_file(path) as file, DecoderNoise() as noise:
        for row, data in enumerate(source.read(batch)):
            try:
                if isinstance(data, UserError):
                    raise data
                made = convert(data, conversion)
            except UserError as error:
                what = f"{source.place(batch, row)}: {error}"
                if not skip_bad:
                    raise BadPictureError(what) from None
                shard.bad[row] = what
                shard.sizes.append(SKIPPED)
                noise.complaint()
                continue
            if said := noise.complaint():
                shard.doubtful.append(f"{source.place(batch, row)}: {said}")
            file.write(made.data)
            shard.sizes.append(len(made.data))
            copied, stretched = copied + made.copied, stretched + made.stretched
        shard = replace(shard, copied=copied, stretched=stretched)
        index = json.dumps(vars(shard)).encode()
        file.write(index + len(index).to_bytes(TAIL_BYTES, "little"))
    return shard


def read_shard(path: Path) -> Shard | None:
    """What is in a shard's file; None: there is none that is whole."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - TAIL_BYTES))
            length = int.from_bytes(file.read(), "little")
            start = size - TAIL_BYTES - length
            if start < 0:
                return None
            file.seek(start)
            values = parse_json(file.read(length))
        shard = Shard(**{**values, "bad": {int(row): what for row, what in values["bad"].items()}})
        return shard if sum(max(0, size) for size in shard.sizes) == start else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


class ShardReader:
    """Pictures of finished shards, by shard and place in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: OrderedDict[int, int] = OrderedDict()
        """Descriptors by shard, the one used last at the end: a source in another order than its keys needs many."""

    def __enter__(self) -> "ShardReader":
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def read(self, number: int, offset: int, size: int) -> bytes:
        """Some bytes of a shard."""
        if number not in self._open:
            if len(self._open) == MAX_OPEN:
                os.close(self._open.popitem(last=False)[1])
            self._open[number] = os.open(shard_path(self._folder, number), os.O_RDONLY | os.O_CLOEXEC)
        self._open.move_to_end(number)
        return os.pread(self._open[number], size, offset)


def offsets(sizes: list[int]) -> Iterator[int]:
    """Where each picture begins."""
    at = 0
    for size in sizes:
        yield at
        at += max(0, size)
