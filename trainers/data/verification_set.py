"""Pictures to verify people on: listed pairs of them, labels of them, or both."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from search_space.errors import UserError
from trainers.config import PairsConfig
from trainers.data.lists import Keys, Pairs, line_of_row, read_list, read_pairs
from trainers.data.lmdb_source import LmdbSource
from trainers.data.sets import Integers, Pictures, resolve


@dataclass(frozen=True, eq=False)
class ListedPairs:
    """Pairs of the chosen folds of a pairs file."""

    path: Path
    left: Integers
    """[num_pairs] index into the keys of the set, as `right`."""

    right: Integers
    same: npt.NDArray[np.bool_]
    """[num_pairs] whether both pictures show one person."""

    fold: Integers
    """[num_pairs] chosen folds, numbered from 0 without gaps."""

    lines: Integers
    """[num_pairs] line of each pair in its file, from 1."""

    def __len__(self) -> int:
        return len(self.same)


@dataclass(frozen=True, eq=False)
class LabelledPictures:
    """Pictures of a label list whose people belong to the set, in the order of the list."""

    path: Path
    rows: Integers
    """[n] index into the keys of the set."""

    labels: Integers
    """[n] the person of each, numbered as in the file; at least two people, one of them with two pictures."""

    file_rows: Integers
    """[n] row of each in its file, from 0 and without blank lines (see `line_of_row`)."""

    num_identities: int
    num_genuine: int
    num_impostor: int
    """Impostor pairs among all pairs that are used."""

    def __len__(self) -> int:
        return len(self.rows)


class VerificationSet:
    """One verification set and the distinct pictures in it.

    Args:
        config: the sets of which this is one; all its settings but the files hold for each of them.
        number: which one.
        root: folder that relative paths start from.
    Raises:
        UserError: a file that cannot be used, or a pairs file and a label list that contradict each other.
    """

    name: str
    """Unlike that of any other set of the same configuration."""

    keys: tuple[str, ...]
    """Distinct pictures: first those of the listed pairs in the order of their first appearance, then the others."""

    listed: ListedPairs | None
    labelled: LabelledPictures | None
    pictures: Pictures

    def __init__(
        self, config: PairsConfig, number: int, root: str | Path, input_size: int, cache_bytes: int = 0
    ) -> None:
        self.name = config.names[number]
        index: dict[str, int] = {}
        self.listed = _listed(resolve(root, config.pairs[number]), config, index) if config.pairs else None
        self.labelled = None
        if config.labels:
            self.labelled = _labelled(resolve(root, config.labels[number]), config, self.listed, index)
        self.keys = tuple(index)
        source = LmdbSource(resolve(root, config.lmdb[number]))
        self.pictures = Pictures([source], [0], Keys.of(self.keys), input_size, cache_bytes)

    def rows(self, *, listed: bool, labelled: bool) -> Integers:
        """Rising indices of the keys that listed pairs, labelled pictures or both need."""
        needed = np.zeros(len(self.keys), np.bool_)
        if listed and self.listed:
            needed[self.listed.left] = needed[self.listed.right] = True
        if labelled and self.labelled:
            needed[self.labelled.rows] = True
        return np.flatnonzero(needed)

    def images(self, batch_size: int, rows: Integers | None = None) -> Iterator[torch.Tensor]:
        """Pictures of `rows` (None: all) in that order, [<= batch_size, size, size, 3] uint8 BGR."""
        numbers = np.arange(len(self.keys)) if rows is None else rows
        for start in range(0, len(numbers), batch_size):
            yield torch.from_numpy(self.pictures.read(numbers[start : start + batch_size]))


def verification_sets(
    config: PairsConfig, root: str | Path, input_size: int, cache_bytes: int = 0
) -> tuple[VerificationSet, ...]:
    """All sets of a configuration, which share the cache."""
    share = cache_bytes // max(1, len(config.lmdb))
    return tuple(VerificationSet(config, number, root, input_size, share) for number in range(len(config.lmdb)))


def _listed(path: Path, config: PairsConfig, index: dict[str, int]) -> ListedPairs:
    """The pairs of the chosen folds; new keys are added to `index`."""
    pairs: Pairs = read_pairs(path, config.num_folds)
    chosen = np.isin(pairs.fold, config.folds) if config.folds else np.ones(len(pairs.fold), np.bool_)
    fold = np.unique(pairs.fold[chosen], return_inverse=True)[1].astype(np.int64)
    rows = np.flatnonzero(chosen).tolist()
    ends = [[index.setdefault(side[row], len(index)) for side in (pairs.left, pairs.right)] for row in rows]
    left, right = np.array(ends, np.int64).T
    return ListedPairs(path, left, right, pairs.same[chosen], fold, pairs.lines[chosen])


def _labelled(path: Path, config: PairsConfig, listed: ListedPairs | None, index: dict[str, int]) -> LabelledPictures:
    """The labelled pictures of the people of the set; new keys are added to `index`."""
    keys, labels = read_list(path, gaps=True)
    row_of: dict[str, int] = {}
    for row, key in enumerate(keys):
        if row_of.setdefault(key, row) != row:
            raise UserError(f"line {line_of_row(path, row)} of {path}: expected each key once, got {key!r} again")
    chosen = np.arange(len(labels))
    if listed:
        chosen = np.flatnonzero(np.isin(labels, _people(listed, path, list(index), row_of, labels)))
    if config.max_per_identity:
        chosen = chosen[_rank_in_group(labels[chosen]) < config.max_per_identity]
    counts = np.unique(labels[chosen], return_counts=True)[1]
    if len(counts) < 2 or counts.max() < 2:
        raise UserError(
            f"{path}: all pairs need at least 2 people, one of them with 2 pictures, got {len(counts)} people with "
            f"at most {counts.max()}; take another label list or more folds"
        )
    rows = [index.setdefault(keys[row], len(index)) for row in chosen.tolist()]
    genuine, num = int((counts * (counts - 1) // 2).sum()), len(rows)
    impostor = num * (num - 1) // 2 - genuine
    return LabelledPictures(
        path, np.array(rows, np.int64), labels[chosen], chosen, len(counts), genuine,
        min(impostor, config.max_impostors or impostor),
    )  # fmt: skip


def _people(listed: ListedPairs, path: Path, keys: list[str], row_of: dict[str, int], labels: Integers) -> Integers:
    """Labels of the people in the listed pairs, which must say the same about who is who."""
    rows = np.array([row_of.get(key, -1) for key in keys], np.int64)
    ends = rows[np.stack([listed.left, listed.right])]  # [2, num_pairs]
    way_out = "check that both belong together"
    unknown = (ends < 0).any(axis=0)
    if unknown.any():
        pair = int(unknown.argmax())
        key = keys[listed.left[pair] if ends[0, pair] < 0 else listed.right[pair]]
        raise UserError(f"line {listed.lines[pair]} of {listed.path}: key {key!r} has no label in {path}; {way_out}")
    wrong = (labels[ends[0]] == labels[ends[1]]) != listed.same
    if wrong.any():
        pair = int(wrong.argmax())
        said, (a, b) = int(listed.same[pair]), labels[ends[:, pair]].tolist()
        raise UserError(
            f"line {listed.lines[pair]} of {listed.path}: expected what the labels in {path} say ({a} and {b}), "
            f"got {said}; {way_out}"
        )
    return np.unique(labels[ends])


def _rank_in_group(labels: Integers) -> Integers:
    """[n] how many earlier entries have the same label."""
    order = np.argsort(labels, kind="stable")
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = np.arange(len(labels)) - np.repeat(starts, counts)
    return ranks
