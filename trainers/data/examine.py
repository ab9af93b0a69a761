"""What is in a face set: every record read and decoded, in parallel; counts, sizes, and what is damaged."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from search_space.errors import UserError
from trainers.data.datum import Datum, decode_datum
from trainers.data.decoder_noise import DecoderNoise
from trainers.data.importers.convert import require_end
from trainers.data.importers.pool import in_order, num_cores
from trainers.data.importers.source import Integers, Progress, no_progress
from trainers.data.lists import Keys, read_list
from trainers.data.lmdb_source import LmdbSource
from trainers.data.picture_file import decode_file, file_kind
from trainers.data.picture_header import header_size

AT_AN_EIGHTH = cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_ANYCOLOR
"""All of a JPEG is read and its coefficients are decoded, but only an eighth of the pixels is made of them."""

CHUNK = 1024
AHEAD = 16
"""Chunks of the file that the system is asked to read before they are needed."""

BOUNDS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Where the bars of the histogram of pictures per identity begin."""

RAW = "pixels"


class Shape(NamedTuple):
    """What a picture is."""

    kind: str
    """`JPEG`, `PNG`, or `pixels`: no file."""

    width: int
    height: int
    grey: bool


@dataclass(frozen=True, kw_only=True)
class SetFacts:
    """What is in a set."""

    num_records: int
    shapes: dict[Shape, int]
    """Pictures by what they are, most frequent first; those that are bad are not among them."""

    sizes: Integers
    """[num_records] bytes of each record."""

    bad: tuple[str, ...]
    """`key 'K': what`, one per record that is no picture or does not decode."""

    doubtful: tuple[str, ...]
    """The same for records that decode, but of which the decoder says that they are damaged."""

    num_listed: int | None = None
    """Lines of the list; None: there is none, and what follows is empty."""

    per_identity: Integers = field(default_factory=lambda: np.empty(0, np.int64))
    """[num_identities] pictures of each label that occurs."""

    missing: tuple[str, ...] = ()
    """Keys of the list that are not in the LMDB."""

    num_unlisted: int = 0
    num_repeated: int = 0
    """Lines whose key an earlier line has."""

    num_gaps: int = 0
    """Labels below the highest that no picture has."""

    def histogram(self) -> list[tuple[int, int | None, int]]:
        """(from, to, identities with so many pictures), `to` None in the last."""
        ends: list[int | None] = [following - 1 for following in BOUNDS[1:]] + [None]
        counts = np.histogram(self.per_identity, [*BOUNDS, np.iinfo(np.int64).max])[0]
        return [(low, high, int(count)) for low, high, count in zip(BOUNDS, ends, counts, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        sizes, counts = self.sizes, self.per_identity
        return {
            "num_records": self.num_records,
            "num_bad": len(self.bad),
            "bad": list(self.bad),
            "num_doubtful": len(self.doubtful),
            "doubtful": list(self.doubtful),
            "bytes": _spread(sizes) | {"total": int(sizes.sum())},
            "shapes": [{**shape._asdict(), "count": count} for shape, count in self.shapes.items()],
            "num_listed": self.num_listed,
            "num_identities": len(counts),
            "pictures_per_identity": _spread(counts),
            "histogram": [{"from": low, "to": high, "identities": n} for low, high, n in self.histogram()],
            "num_missing": len(self.missing),
            "missing": list(self.missing),
            "num_unlisted": self.num_unlisted,
            "num_repeated": self.num_repeated,
            "num_gaps": self.num_gaps,
        }


def _spread(values: Integers) -> dict[str, float]:
    if not len(values):
        return {}
    return {"min": int(values.min()), "median": float(np.median(values)), "max": int(values.max())}


def keys_of(source: LmdbSource) -> Keys:
    """All keys of an LMDB; `UserError` if there is none."""
    if not len(source):
        raise UserError(f"{source.path}: expected pictures, got an LMDB without records")
    return Keys.of(source.keys())


class _Part(NamedTuple):
    """What is in some records."""

    shapes: Counter[Shape]
    sizes: npt.NDArray[np.int64]
    bad: list[str]
    doubtful: list[str]


def examine_set(
    lmdb: str | Path,
    list_path: str | Path | None = None,
    *,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> SetFacts:
    """Read and decode every record of an LMDB, and hold its list, if there is one, against it.

    Args:
        workers: processes; None: one per core.
    Raises:
        UserError: LMDB or list cannot be read. What is wrong with a record is in the result.
    """
    listed = None if list_path is None else read_list(list_path, gaps=True)
    source = LmdbSource(lmdb)  # and it stays open: opening it is a pass over all its pages
    keys = keys_of(source)
    chunks = range(0, len(keys), CHUNK)
    tasks = ((Path(lmdb), list(keys[start : start + CHUNK])) for start in _read_ahead(Path(lmdb), chunks))
    shapes, sizes, bad, doubtful = Counter[Shape](), [np.empty(0, np.int64)], list[str](), list[str]()
    workers = min(num_cores() if workers is None else workers, len(chunks) or 1)
    done = 0
    for part in in_order(_examine, tasks, workers):
        shapes += part.shapes
        sizes.append(part.sizes)
        bad += part.bad
        doubtful += part.doubtful
        progress(done := done + len(part.sizes), len(keys))
    found = {} if listed is None else _against_list(source, *listed, len(keys))
    return SetFacts(
        num_records=len(keys), shapes=dict(sorted(shapes.items(), key=lambda item: (-item[1], item[0]))),
        sizes=np.concatenate(sizes), bad=tuple(bad), doubtful=tuple(doubtful), **found,
    )  # fmt: skip


def _read_ahead(path: Path, chunks: range) -> Iterator[int]:
    """The chunks, and ahead of them the file's bytes: they lie in the order of the keys, if the LMDB is packed."""
    file = path / "data.mdb" if path.is_dir() else path
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        step = -(-os.fstat(descriptor).st_size // max(1, len(chunks)))
        for number, start in enumerate(chunks):
            if hasattr(os, "posix_fadvise"):
                first = number + AHEAD - 1 if number else 0
                os.posix_fadvise(descriptor, first * step, (number + AHEAD - first) * step, os.POSIX_FADV_WILLNEED)
            yield start
    finally:
        os.close(descriptor)


def _examine(path: Path, keys: list[str]) -> _Part:
    source, sizes = LmdbSource(path), np.zeros(len(keys), np.int64)
    part = _Part(Counter(), sizes, [], [])
    with DecoderNoise() as noise:
        for row, key in enumerate(keys):
            try:
                value = source.get(key)
                sizes[row] = len(value)
                part.shapes[_shape(decode_datum(value))] += 1
            except UserError as error:
                part.bad.append(f"key {key!r}: {str(error).removeprefix(f'{path}: ')}")
                noise.complaint()
                continue
            if said := noise.complaint():
                part.doubtful.append(f"key {key!r}: {said}")
    return part


def _shape(datum: Datum) -> Shape:
    """What a picture is, once it has been decoded."""
    if not datum.encoded:
        return Shape(RAW, datum.width, datum.height, datum.channels == 1)
    picture = decode_file(datum.data, AT_AN_EIGHTH)
    require_end(datum.data)
    height, width = header_size(datum.data)
    return Shape(file_kind(datum.data), width, height, picture.ndim == 2)


def _against_list(source: LmdbSource, keys: Keys, labels: Integers, num_records: int) -> dict[str, Any]:
    """How list and LMDB fit."""
    present = np.fromiter((key in source for key in keys), np.bool_, len(keys))
    distinct = len(set(keys))
    counts = np.unique(labels, return_counts=True)[1]
    missing = dict.fromkeys(keys[number] for number in np.flatnonzero(~present).tolist())
    return {
        "num_listed": len(keys),
        "per_identity": counts,
        "missing": tuple(missing),
        "num_unlisted": num_records - (distinct - len(missing)),
        "num_repeated": len(keys) - distinct,
        "num_gaps": int(labels.max()) + 1 - len(counts),
    }
