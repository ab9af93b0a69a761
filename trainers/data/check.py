"""Look at the data before anything is trained, so that bad input is refused in seconds and not in the night."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from search_space.errors import UserError
from trainers.config import DataConfig, PairsConfig
from trainers.data.lists import line_of_row
from trainers.data.sets import PairSet, Pictures, TrainingSet, resolve

MAX_KEYS_LOOKED_UP = 500_000
"""More keys than these (about two seconds) are only sampled."""

NUM_DECODED = 64
"""Records of each set that are decoded."""


@dataclass(frozen=True, kw_only=True)
class SetReport:
    """What one set holds."""

    name: str
    """`train`, `reward` or `test`."""

    num_pictures: int
    num_identities: int = 0
    """0 where the files do not say, as `num_pairs`."""

    num_pairs: int = 0
    num_records: int
    """Records in the LMDBs, used or not."""

    num_keys_looked_up: int

    def __str__(self) -> str:
        counts = ((self.num_pictures, "pictures"), (self.num_identities, "identities"), (self.num_pairs, "pairs"))
        text = f"{self.name}: " + ", ".join(f"{count:,} {what}" for count, what in counts if count)
        sampled = self.num_keys_looked_up < self.num_pictures
        return text + (f" (a sample of {self.num_keys_looked_up:,} keys looked up)" if sampled else "")


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """What all sets hold; `str()` is one line per set."""

    train: SetReport
    reward: SetReport
    test: SetReport | None
    """None without test pairs."""

    def __str__(self) -> str:
        return "\n".join(str(report) for report in (self.train, self.reward, self.test) if report)


def check_data(config: DataConfig, batch_size: int = 1) -> DataReport:
    """Read every list, look up every key and decode a sample of records.

    Args:
        config: training list and reward pairs are required, test pairs are not.
        batch_size: the training set must fill at least one batch.
    Raises:
        UserError: what is wrong with the lists, the keys or the sample; one line with file and line or key.
    """
    if not config.train:
        raise UserError("expected training pictures in data.train and data.train_list, got none")
    config = replace(config, cache_bytes=0)
    train = _check_train(config, batch_size)
    reward = _check_pairs("reward", config.reward, config)
    has_test = config.test.lmdb or config.test.pairs
    return DataReport(train=train, reward=reward, test=_check_pairs("test", config.test, config) if has_test else None)


def overlap_warning(config: DataConfig) -> str | None:
    """One line if reward and test share pairs: the test score would then flatter whatever the reward chose."""
    reward, test = config.reward, config.test
    paths = [os.path.realpath(resolve(config.root, part.pairs)) for part in (reward, test)]
    if not reward.pairs or paths[0] != paths[1]:
        return None
    if not any(a < d and c < b for a, b in _spans(reward, test.num_folds) for c, d in _spans(test, reward.num_folds)):
        return None
    return (
        f"reward and test use the same pairs of {paths[0]}: the test score will be too good; "
        "give them different files, or different folds (data.reward.folds, data.test.folds)"
    )


def _spans(config: PairsConfig, scale: int) -> Iterator[tuple[int, int]]:
    """First and end of each fold used, in units in which folds of another count are whole numbers too."""
    for fold in config.folds or range(config.num_folds):
        yield fold * scale, (fold + 1) * scale


def _check_train(config: DataConfig, batch_size: int) -> SetReport:
    training_set = TrainingSet.from_config(config)
    training_set.num_batches(batch_size)
    pictures = training_set.pictures
    looked_up = _sample(len(pictures), MAX_KEYS_LOOKED_UP)
    missing = pictures.first_missing(looked_up.tolist())
    if missing is not None:
        source, row, key = pictures.locate(missing)
        path = resolve(config.root, config.train_list[pictures.sources.index(source)])
        raise UserError(
            f"line {line_of_row(path, row)} of {path}: key {key!r} is not in {source.path}; "
            "check that list and LMDB belong together"
        )
    pictures.read(_sample(len(pictures), NUM_DECODED))
    return SetReport(
        name="train",
        num_pictures=len(pictures),
        num_identities=training_set.num_classes,
        num_records=sum(len(source) for source in pictures.sources),
        num_keys_looked_up=len(looked_up),
    )


def _check_pairs(name: str, pairs: PairsConfig, config: DataConfig) -> SetReport:
    if not (pairs.lmdb and pairs.pairs):
        raise UserError(f"expected data.{name}.lmdb and data.{name}.pairs, got {pairs.lmdb!r} and {pairs.pairs!r}")
    pair_set = PairSet(pairs, config.root, config.input_size)
    pictures: Pictures = pair_set.pictures
    looked_up = _sample(len(pictures), MAX_KEYS_LOOKED_UP)
    missing = pictures.first_missing(looked_up.tolist())
    if missing is not None:
        source, _, key = pictures.locate(missing)
        line = pair_set.lines[((pair_set.left == missing) | (pair_set.right == missing)).argmax()]
        path = resolve(config.root, pairs.pairs)
        raise UserError(f"line {line} of {path}: key {key!r} is not in {source.path}; check that both belong together")
    pictures.read(_sample(len(pictures), NUM_DECODED))
    return SetReport(
        name=name,
        num_pictures=len(pictures),
        num_pairs=len(pair_set),
        num_records=len(pictures.sources[0]),
        num_keys_looked_up=len(looked_up),
    )


def _sample(count: int, limit: int) -> npt.NDArray[np.int64]:
    """All numbers below `count`, or the same `limit` of them every time."""
    if count <= limit:
        return np.arange(count)
    return np.sort(np.random.Generator(np.random.Philox(0)).choice(count, limit, replace=False))
