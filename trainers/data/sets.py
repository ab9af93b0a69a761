"""Training pictures by step, as uint8 batches; and pictures by number, for whoever needs them."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from search_space.errors import UserError
from trainers.config import DataConfig
from trainers.data.decode import decode_picture
from trainers.data.lists import Keys, read_list
from trainers.data.lmdb_source import LmdbSource
from trainers.data.picture_file import Picture

Integers = npt.NDArray[np.int64]

WHOLE = slice(None)

_ORDER, _FLIP = 1, 2
"""What a random stream is for; part of its key."""


def resolve(root: str | Path, path: str | Path) -> Path:
    """`path` as the configuration means it: relative to `root`, `~` expanded."""
    return Path(os.path.expanduser(root), os.path.expanduser(path))


class Pictures:
    """Decoded pictures by number, read from one or several LMDBs, kept in memory if all of them fit.

    Safe to use from several threads: each fills its own rows, and two that fill the same row write the same bytes.
    """

    def __init__(
        self, sources: Sequence[LmdbSource], first: Sequence[int], keys: Keys, size: int, cache_bytes: int
    ) -> None:
        """
        Args:
            sources: where the pictures are.
            first: number of the first picture of each source.
            keys: [n] key of each picture in its source.
            cache_bytes: the pictures are kept if all of them fit into this.
        """
        self._keys, self.size = keys, size
        self.sources, self._first = tuple(sources), np.asarray(first, np.int64)
        num_bytes = len(keys) * size * size * 3
        self._cache: Picture | None = None
        if num_bytes <= cache_bytes:
            self._cache = np.empty((len(keys), size, size, 3), np.uint8)  # pages are only taken when filled
            self._cached = np.zeros(len(keys), np.bool_)

    def __len__(self) -> int:
        return len(self._keys)

    def read(self, numbers: Integers, flips: npt.NDArray[np.bool_] | None = None) -> Picture:
        """Pictures by number, [len(numbers), size, size, 3] uint8 BGR, those of `flips` mirrored left to right."""
        if self._cache is None:
            return self._decode(numbers, flips)
        todo = numbers[~self._cached[numbers]]
        if len(todo):
            self._cache[todo] = self._decode(todo, None)
            self._cached[todo] = True
        batch = self._cache[numbers]
        for row in () if flips is None else np.flatnonzero(flips).tolist():
            cv2.flip(self._cache[numbers[row]], 1, dst=batch[row])  # five times as fast as a reversed view
        return batch

    def first_missing(self, numbers: Iterable[int]) -> int | None:
        """The first of `numbers` whose key its source does not have."""
        for number in numbers:
            source, _, key = self.locate(number)
            if key not in source:
                return number
        return None

    def locate(self, number: int) -> tuple[LmdbSource, int, str]:
        """(source, row in the list of that source, key) of a picture."""
        index = int(np.searchsorted(self._first, number, side="right")) - 1
        return self.sources[index], number - int(self._first[index]), self._keys[number]

    def _decode(self, numbers: Integers, flips: npt.NDArray[np.bool_] | None) -> Picture:
        batch = np.empty((len(numbers), self.size, self.size, 3), np.uint8)
        owner = np.searchsorted(self._first, numbers, side="right") - 1
        for index, source in enumerate(self.sources):
            rows = np.flatnonzero(owner == index)
            keys = self._keys.take(numbers[rows])
            for row, key, value in zip(rows.tolist(), keys, source.get_many(keys), strict=True):
                picture = _decode_named(source, key, value, self.size)
                if flips is not None and flips[row]:
                    cv2.flip(picture, 1, dst=batch[row])
                else:
                    batch[row] = picture
        return batch


def _decode_named(source: LmdbSource, key: str, value: bytes, size: int) -> Picture:
    try:
        return decode_picture(value, size)
    except UserError as error:
        raise UserError(f"{source.path}: key {key!r}: {error}") from None


class TrainingSet:
    """Labelled pictures; which batch a step sees depends on (seed, step) alone."""

    def __init__(
        self, lmdbs: Sequence[str | Path], lists: Sequence[str | Path], input_size: int, cache_bytes: int = 0
    ) -> None:
        """
        Args:
            lmdbs: LMDBs with pictures.
            lists: one list file per LMDB; the labels of each are raised by the number of labels before it.
            input_size: side of the pictures of a batch.
            cache_bytes: decoded pictures are kept in memory if all of them fit into this.
        """
        if len(lmdbs) != len(lists) or not lists:
            raise UserError(f"expected one list file per LMDB, got {len(lmdbs)} LMDBs and {len(lists)} lists")
        keys, labels, first, self.num_classes = [], [], [0], 0
        for path in lists:
            keys_here, labels_here = read_list(path)
            keys.append(keys_here)
            labels.append(labels_here + self.num_classes)
            first.append(first[-1] + len(keys_here))
            self.num_classes += int(labels_here.max()) + 1
        self.labels: Integers = np.concatenate(labels)
        sources = [LmdbSource(path) for path in lmdbs]
        self.pictures = Pictures(sources, first[:-1], Keys.join(keys), input_size, cache_bytes)

    @classmethod
    def from_config(cls, config: DataConfig) -> "TrainingSet":
        """The training set that a configuration names."""
        lmdbs, lists = ([resolve(config.root, path) for path in paths] for paths in (config.train, config.train_list))
        return cls(lmdbs, lists, config.input_size, config.cache_bytes)

    def __len__(self) -> int:
        return len(self.labels)

    def num_batches(self, batch_size: int) -> int:
        """Batches of an epoch; pictures that fill no whole batch sit it out."""
        if len(self) < batch_size:
            raise UserError(f"expected at least one batch of pictures (batch_size = {batch_size}), got {len(self)}")
        return len(self) // batch_size

    def batch_at(
        self, step: int, batch_size: int, seed: int, flip: bool = True, part: slice = WHOLE
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The batch of a step: (uint8 [batch_size, size, size, 3] BGR, int64 labels [batch_size]).

        Args:
            part: rows of the batch whose pictures are wanted; the labels are always those of all rows.
        """
        epoch, index = divmod(step, self.num_batches(batch_size))
        rows = slice(index * batch_size, (index + 1) * batch_size)
        numbers = _permutation(len(self), seed, epoch)[rows]
        flips = _flips(len(self), seed, epoch)[rows][part] if flip else None
        return torch.from_numpy(self.pictures.read(numbers[part], flips)), torch.from_numpy(self.labels[numbers])

    def batches(
        self, first_step: int, num_steps: int, batch_size: int, seed: int, *, flip: bool = True,
        decode_threads: int = 0, part: slice = WHOLE,
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:  # fmt: skip
        """Batches of consecutive steps in order; with `decode_threads`, decoded ahead by so many threads."""
        steps = iter(range(first_step, first_step + num_steps))
        if not decode_threads:
            for step in steps:
                yield self.batch_at(step, batch_size, seed, flip, part)
            return
        with ThreadPoolExecutor(decode_threads, "decode") as pool:
            ahead: deque[Future[tuple[torch.Tensor, torch.Tensor]]] = deque()
            try:
                for step in islice(steps, 2 * decode_threads):
                    ahead.append(pool.submit(self.batch_at, step, batch_size, seed, flip, part))
                while ahead:
                    batch = ahead.popleft().result()
                    for step in islice(steps, 1):
                        ahead.append(pool.submit(self.batch_at, step, batch_size, seed, flip, part))
                    yield batch
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def _stream(seed: int, purpose: int, epoch: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, purpose, epoch])))


@lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> Integers:
    return _stream(seed, _ORDER, epoch).permutation(count)


@lru_cache(maxsize=2)
def _flips(count: int, seed: int, epoch: int) -> npt.NDArray[np.bool_]:
    return _stream(seed, _FLIP, epoch).integers(0, 2, count, dtype=np.uint8).astype(np.bool_)
