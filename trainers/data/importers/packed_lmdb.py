"""An LMDB from records in the order of their keys: every page is full, and the file's order is that of the keys."""

import mmap
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import lmdb

from search_space.errors import UserError
from trainers.data.importers.source import Integers, Progress, no_progress

BATCH = 1000
LARGEST_INLINE = 2040
"""Bytes of a key with its value; what is larger gets pages of its own."""

MARGIN_BYTES = 2**24
DATUM_BYTES = 24
"""What a Datum needs besides the picture."""


def write_packed(
    path: Path, items: Iterable[tuple[str, bytes]], sizes: Integers, progress: Progress = no_progress
) -> None:
    """Write a single-file LMDB; the same items give the same bytes.

    Args:
        path: a file that is not there yet. It is not complete before this returns.
        items: (key, Datum) sorted by the keys' bytes, keys distinct.
        sizes: [n] bytes of the pictures in them, for the size of the map.
    Raises:
        UserError: the keys are not in order.
        OSError, lmdb.Error: it cannot be written.
    """
    with lmdb.open(str(path), subdir=False, map_size=_map_size(sizes), sync=False, lock=False) as env:
        done = 0
        for part in _batched(items):
            with env.begin(write=True) as transaction:
                for key, value in part:
                    if not transaction.put(key.encode(), value, append=True):
                        raise UserError(f"{path}: expected keys in order, got {key!r} after a later one")
            done += len(part)
            progress(done, len(sizes))
        env.sync(True)
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _map_size(sizes: Integers) -> int:
    """No less than the file will be, from nothing but its content."""
    page = mmap.PAGESIZE
    own = sizes + DATUM_BYTES + 16 > LARGEST_INLINE * page // 4096 - 511
    pages = int((-(-(sizes[own] + DATUM_BYTES + 16) // page)).sum()) * page
    leaves = 2 * int((sizes[~own] + DATUM_BYTES).sum()) + 2 * len(sizes) * 600
    return -(-(pages + leaves + MARGIN_BYTES) // 2**20) * 2**20


def _batched(items: Iterable[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    remaining = iter(items)
    while part := list(islice(remaining, BATCH)):
        yield part
