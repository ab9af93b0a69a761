"""Look at the data before anything is trained, so that bad input is refused in seconds and not in the night."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from search_space.errors import UserError
from trainers.config import DataConfig, PairsConfig, RewardConfig
from trainers.data.lists import line_of_row
from trainers.data.sets import TrainingSet, resolve
from trainers.data.verification_set import VerificationSet, verification_sets
from trainers.validation import false_accepts, named_metrics, require_comparisons, require_data, sets_of

MAX_KEYS_LOOKED_UP = 500_000
"""More keys than these (about two seconds) are only sampled."""

NUM_DECODED = 64
"""Records of each set that are decoded."""

FEW_FALSE_ACCEPTS = 10
"""A threshold that rests on fewer of them is mostly luck."""


@dataclass(frozen=True, kw_only=True)
class SetReport:
    """What one set holds."""

    name: str
    """`train`, `reward` or `test`; the latter two with the name of the set where there are several."""

    num_pictures: int
    num_identities: int = 0
    """0 where the files do not say, as the numbers of pairs."""

    num_pairs: int = 0
    """Listed pairs."""

    num_genuine: int = 0
    """Among all pairs, as `num_impostor`."""

    num_impostor: int = 0
    num_records: int
    """Records in the LMDBs, used or not."""

    num_keys_looked_up: int

    def __str__(self) -> str:
        counts = (
            (self.num_pictures, "pictures"), (self.num_identities, "identities"), (self.num_pairs, "pairs"),
            (self.num_genuine, "genuine"), (self.num_impostor, "impostor pairs in all"),
        )  # fmt: skip
        text = f"{self.name}: " + ", ".join(f"{count:,} {what}" for count, what in counts if count)
        sampled = self.num_keys_looked_up < self.num_pictures
        return text + (f" (a sample of {self.num_keys_looked_up:,} keys looked up)" if sampled else "")


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """What all sets hold; `str()` is one line per set."""

    train: SetReport
    reward: tuple[SetReport, ...]
    test: tuple[SetReport, ...]
    """Empty without test sets."""

    warnings: tuple[str, ...] = ()
    """What is allowed but hardly wanted, one line each."""

    def __str__(self) -> str:
        return "\n".join(map(str, (self.train, *self.reward, *self.test)))


def check_data(config: DataConfig, batch_size: int = 1, reward: RewardConfig | None = None) -> DataReport:
    """Read every list, look up every key and decode a sample of records.

    Args:
        config: training list and reward sets are required, test sets are not.
        batch_size: the training set must fill at least one batch.
        reward: metrics that the sets must be able to give; None: whatever they can give.
    Raises:
        UserError: what is wrong with the lists, the keys or the sample, one line with file and line or key; people who
            are in a reward set and a test set; a metric that the data cannot give.
    """
    if not config.train:
        raise UserError("expected training pictures in data.train and data.train_list, got none")
    config = replace(config, cache_bytes=0)
    train = _check_train(config, batch_size)
    rewarded = _check_sets("reward", config, reward)
    has_test = config.test.lmdb or config.test.pairs or config.test.labels
    tested = _check_sets("test", config, reward) if has_test else _Checked()
    _refuse_shared_people(rewarded.sets, tested.sets)
    return DataReport(
        train=train, reward=rewarded.reports, test=tested.reports, warnings=rewarded.warnings + tested.warnings
    )


def overlap_warning(config: DataConfig) -> str | None:
    """One line if reward and test share pairs: the test score would then flatter whatever the reward chose."""
    reward, test = config.reward, config.test
    found = [[os.path.realpath(resolve(config.root, path)) for path in part.pairs] for part in (reward, test)]
    shared = [path for path in found[0] if path in found[1]]
    if not shared:
        return None
    if not any(a < d and c < b for a, b in _spans(reward, test.num_folds) for c, d in _spans(test, reward.num_folds)):
        return None
    return (
        f"reward and test use the same pairs of {shared[0]}: the test score will be too good; "
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


@dataclass(frozen=True, kw_only=True)
class _Checked:
    """The sets of one purpose and what is to be said about them."""

    sets: tuple[VerificationSet, ...] = ()
    reports: tuple[SetReport, ...] = ()
    warnings: tuple[str, ...] = ()


def _check_sets(purpose: str, config: DataConfig, reward: RewardConfig | None) -> _Checked:
    part = sets_of(config, purpose)
    metrics = named_metrics(purpose, reward) if reward else []
    for metric in metrics:
        require_data(metric, purpose, part)
    sets = verification_sets(part, config.root, config.input_size)
    reports = tuple(_check_set(f"{purpose} {one.name}" if len(sets) > 1 else purpose, one) for one in sets)
    warnings = []
    for metric in metrics:
        require_comparisons(metric, sets)
        expected = false_accepts(metric, sets)
        if expected < FEW_FALSE_ACCEPTS:
            warnings.append(
                f"metric {metric} on the {purpose} sets rests on about {expected:.1f} false accepts: expect noise; "
                "take a higher far or more people"
            )
    return _Checked(sets=sets, reports=reports, warnings=tuple(warnings))


def _check_set(name: str, one: VerificationSet) -> SetReport:
    pictures, listed, labelled = one.pictures, one.listed, one.labelled
    looked_up = _sample(len(pictures), MAX_KEYS_LOOKED_UP)
    missing = pictures.first_missing(looked_up.tolist())
    if missing is not None:
        source, _, key = pictures.locate(missing)
        path, line = _place(one, missing)
        raise UserError(f"line {line} of {path}: key {key!r} is not in {source.path}; check that both belong together")
    pictures.read(_sample(len(pictures), NUM_DECODED))
    return SetReport(
        name=name,
        num_pictures=len(pictures),
        num_identities=labelled.num_identities if labelled else 0,
        num_pairs=len(listed) if listed else 0,
        num_genuine=labelled.num_genuine if labelled else 0,
        num_impostor=labelled.num_impostor if labelled else 0,
        num_records=len(pictures.sources[0]),
        num_keys_looked_up=len(looked_up),
    )


def _place(one: VerificationSet, number: int) -> tuple[Path, int]:
    """File and line that named a picture of a set."""
    if one.listed:
        named = (one.listed.left == number) | (one.listed.right == number)
        if named.any():
            return one.listed.path, int(one.listed.lines[named.argmax()])
    assert one.labelled
    row = int(one.labelled.file_rows[(one.labelled.rows == number).argmax()])
    return one.labelled.path, line_of_row(one.labelled.path, row)


def _refuse_shared_people(reward: tuple[VerificationSet, ...], test: tuple[VerificationSet, ...]) -> None:
    """Whoever is rewarded must not be tested on: the test would flatter what the reward chose."""
    for a in reward:
        for b in test:
            if not (
                a.labelled and b.labelled and os.path.realpath(a.labelled.path) == os.path.realpath(b.labelled.path)
            ):
                continue
            shared = np.intersect1d(a.labelled.labels, b.labelled.labels)
            if len(shared):
                raise UserError(
                    f"reward and test must not share people, got {len(shared):,} of {a.labelled.path} in both (one is "
                    f"label {shared[0]}); take other folds (data.reward.folds, data.test.folds) or other lists"
                )


def _sample(count: int, limit: int) -> npt.NDArray[np.int64]:
    """All numbers below `count`, or the same `limit` of them every time."""
    if count <= limit:
        return np.arange(count)
    return np.sort(np.random.Generator(np.random.Philox(0)).choice(count, limit, replace=False))
