"""All pairs of labelled pictures: their scores in blocks, and what metrics need of them, in bounded memory.

Scores are cosines: products of unit embeddings in float32, then rounded to multiples of 2^-20, which is more than the
error of the products. Scores that are equal by law (of equal pictures, of a collapsed model) are ties, then; a score is
one of 2^21 + 1 *codes*; everything after that is exact. No array is as large as the number of impostor pairs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from trainers.verification.pairs import BLOCK, Floats, Ints

Singles = npt.NDArray[np.float32]

STEPS_PER_UNIT = 2**20
NUM_CODES = 2 * STEPS_PER_UNIT + 2
"""Code 0 stands for no pair, code c > 0 for the cosine (c - 1) / 2^20 - 1."""

NO_PAIR = np.float32(-2.0)
SAMPLE_KEY = 0x1A9E


def codes_of(scores: Singles) -> Ints:
    """Codes of cosines, same shape; NO_PAIR becomes 0."""
    codes: Ints = np.rint(scores * np.float32(STEPS_PER_UNIT)).astype(np.int64)
    codes += STEPS_PER_UNIT + 1
    np.clip(codes, 0, NUM_CODES - 1, out=codes)
    return codes


def cosines_of_codes() -> Floats:
    """[NUM_CODES] the cosine of each code; 0 for code 0."""
    cosines = (np.arange(NUM_CODES) - 1) / STEPS_PER_UNIT - 1
    cosines[0] = 0
    return cosines


@dataclass(frozen=True, eq=False)
class Block:
    """Scores of some impostor pairs."""

    scores: Singles
    """[rows, columns], or [pairs] where `left` and `right` name the pictures; NO_PAIR at what is no impostor pair."""

    row: int = 0
    """Picture of the first row, and below of the first column."""

    column: int = 0
    left: Ints | None = None
    right: Ints | None = None

    def pictures(self, places: Ints) -> tuple[Ints, Ints]:
        """Both pictures at places of the flattened scores."""
        if self.left is not None and self.right is not None:
            return self.left[places], self.right[places]
        rows, columns = np.divmod(places, self.scores.shape[1])
        return self.row + rows, self.column + columns

    def add_to(self, sums: Floats, values: Floats) -> None:
        """Add values, of the shape of the scores, to the [n] sums of both pictures of each pair."""
        if self.left is not None and self.right is not None:
            for side in (self.left, self.right):
                sums += np.bincount(side, values, minlength=len(sums))
        else:
            rows, columns = values.shape
            sums[self.row : self.row + rows] += values.sum(axis=1)
            sums[self.column : self.column + columns] += values.sum(axis=0)


class AllPairs:
    """All pairs of n labelled pictures, grouped by identity; which pairs there are, not how they score.

    Inside, pictures are in the order of their identity, so the impostor pairs of a picture with those after it are one
    run of columns, and no mask is needed.

    Args:
        labels: [n] int, who is on each picture.
        max_impostors: use only so many impostor pairs, one from each of so many equal stretches of their list, always
            the same ones; 0: all.
    Raises:
        ValueError: no genuine or no impostor pair.
    """

    def __init__(self, labels: npt.ArrayLike, max_impostors: int = 0) -> None:
        given = np.asarray(labels, dtype=np.int64)
        self.order: Ints = np.argsort(given, kind="stable")
        self.identity: Ints = np.unique(given[self.order], return_inverse=True)[1].reshape(-1).astype(np.int64)
        self.counts: Ints = np.bincount(self.identity)
        ends = np.cumsum(self.counts)
        self.ends: Ints = ends[self.identity]  # [n] first picture after those of the same person
        starts = (ends - self.counts).tolist()
        corners = [np.triu_indices(count, 1) for count in self.counts.tolist()]
        sides = zip(*((a + start, b + start) for start, (a, b) in zip(starts, corners, strict=True)), strict=True)
        self.genuine: tuple[Ints, ...] = tuple(np.concatenate(side) for side in sides)  # left, right: [num_genuine]
        self.sample = self._draw(max_impostors)
        if not self.num_genuine or not self.num_impostor:
            raise ValueError(
                f"genuine and impostor pairs are needed, got {self.num_genuine} genuine of {len(given)} pictures of "
                f"{len(self.counts)} people"
            )

    @property
    def num_identities(self) -> int:
        return len(self.counts)

    @property
    def num_genuine(self) -> int:
        return len(self.genuine[0])

    @property
    def num_impostor(self) -> int:
        """Impostor pairs that are used."""
        return self._num_all if self.sample is None else len(self.sample[0])

    @property
    def _num_all(self) -> int:
        return int((len(self.identity) - self.ends).sum())

    def _draw(self, num: int) -> tuple[Ints, Ints] | None:
        """The sample of `num` impostor pairs in memory for that many, however many there are; None: all are used."""
        total = self._num_all
        if not num or num >= total:
            return None
        numbers = np.arange(num + 1)
        bounds = numbers * (total // num) + numbers * (total % num) // num
        places = np.random.Generator(np.random.Philox(SAMPLE_KEY)).integers(bounds[:-1], bounds[1:])
        before = np.concatenate(([0], np.cumsum(len(self.identity) - self.ends)))
        left = np.searchsorted(before, places, "right") - 1
        return left, self.ends[left] + places - before[left]

    @cached_property
    def genuine_identity(self) -> Ints:
        """[num_genuine] the person of each genuine pair."""
        return self.identity[self.genuine[0]]

    @cached_property
    def genuine_counts(self) -> Ints:
        """[num_identities] genuine pairs of each person."""
        return np.bincount(self.genuine_identity, minlength=self.num_identities)

    @cached_property
    def impostor_counts(self) -> Ints:
        """[num_identities] impostor pairs that each person is part of."""
        if self.sample is None:
            return self.counts * (len(self.identity) - self.counts)
        sides = (np.bincount(self.identity[side], minlength=self.num_identities) for side in self.sample)
        return np.asarray(sum(sides), np.int64)

    def impostor_weight(self, weights: npt.NDArray[np.integer[Any]]) -> Ints:
        """[rows] sum of w_i * w_j over the impostor pairs, for rows [rows, num_identities] of weights of people."""
        if self.sample is None:
            pictures = weights.astype(np.int64) * self.counts
            return np.asarray((pictures.sum(axis=1) ** 2 - (pictures**2).sum(axis=1)) // 2, np.int64)
        left, right = (self.identity[side] for side in self.sample)
        totals = np.zeros(len(weights), np.int64)
        for row, weight in enumerate(weights):
            totals[row] = np.dot(weight[left], weight[right].astype(np.int64))
        return totals

    def units(self, embeddings: npt.ArrayLike) -> torch.Tensor:
        """[n, d] float32 unit embeddings in the order of identity; a vector of zeros stays one.

        Raises:
            ValueError: an embedding is not finite (the first one is named), or not one per picture.
        """
        vectors = np.asarray(embeddings)
        if vectors.ndim != 2 or len(vectors) != len(self.identity):
            raise ValueError(f"embeddings must be [{len(self.identity)}, d], got {list(vectors.shape)}")
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            raise ValueError(f"embeddings must be finite, got a row that is not: {int(np.argmin(finite))}")
        units = np.empty(vectors.shape, np.float32)
        step = max(1, BLOCK // max(1, vectors.shape[1]))
        for start in range(0, len(units), step):
            part = vectors[self.order[start : start + step]].astype(np.float64)
            norms = np.linalg.norm(part, axis=1, keepdims=True)
            units[start : start + step] = part / np.where(norms > 0, norms, 1.0)
        return torch.from_numpy(units)

    def genuine_codes(self, units: torch.Tensor) -> Ints:
        """[num_genuine] codes of the genuine pairs."""
        return codes_of(_products(units, *self.genuine))

    def blocks(self, units: torch.Tensor) -> Iterator[Block]:
        """Every impostor pair once; the scores of a block are only good until the next one."""
        if self.sample is not None:
            for start in range(0, self.num_impostor, BLOCK):
                left, right = (side[start : start + BLOCK] for side in self.sample)
                yield Block(_products(units, left, right), left=left, right=right)
            return
        num, row = len(self.identity), 0
        memory = torch.empty(max(BLOCK, num))
        while row < num and (column := int(self.ends[row])) < num:
            stop = min(row + max(1, BLOCK // (num - column)), num)
            shape = (stop - row, num - column)
            out = memory[: shape[0] * shape[1]].view(shape)
            scores = torch.mm(units[row:stop], units[column:].T, out=out).numpy()
            for line, end in zip(scores, (self.ends[row:stop] - column).tolist(), strict=True):
                line[:end] = NO_PAIR
            yield Block(scores, row=row, column=column)
            row = stop

    def top(self, units: torch.Tensor, num: int) -> tuple[Ints, Ints, Ints]:
        """The `num` most alike impostor pairs: codes, falling, and both people of each."""
        scores, left, right = np.empty(0, np.float32), np.empty(0, np.int64), np.empty(0, np.int64)
        cut = NO_PAIR
        for block in self.blocks(units):
            flat = block.scores.reshape(-1)
            if cut == NO_PAIR and len(sample := flat[::16]) > num:
                # the num-th of a part is at most the num-th of all, and saves partitioning the whole block
                cut = max(cut, np.partition(sample, -num)[-num])
                places = np.flatnonzero((flat >= cut) & (flat > NO_PAIR))
            else:
                places = np.flatnonzero(flat > cut)
            scores = np.concatenate((scores, flat[places]))
            left, right = (np.concatenate(p) for p in zip((left, right), block.pictures(places), strict=True))
            if len(scores) > num:
                kept = np.argpartition(scores, -num)[-num:]
                scores, left, right = scores[kept], left[kept], right[kept]
                cut = scores.min()
        order = np.argsort(-scores, kind="stable")
        return codes_of(scores[order]), self.identity[left[order]], self.identity[right[order]]

    def histogram(self, units: torch.Tensor) -> Ints:
        """[NUM_CODES] impostor pairs of each code."""
        counts = np.zeros(NUM_CODES, np.int64)
        for block in self.blocks(units):
            counts += np.bincount(codes_of(block.scores.reshape(-1)), minlength=NUM_CODES)
        counts[0] = 0
        return counts

    def sums(self, units: torch.Tensor, tables: Sequence[Floats]) -> list[Floats]:
        """For each table [NUM_CODES] of a value by code: [num_identities] its sum over the person's impostor pairs."""
        by_picture = [np.zeros(len(self.identity)) for _ in tables]
        for block in self.blocks(units):
            codes = codes_of(block.scores)
            for total, table in zip(by_picture, tables, strict=True):
                block.add_to(total, table[codes])
        return [np.asarray(np.bincount(self.identity, t, self.num_identities), np.float64) for t in by_picture]


def _products(units: torch.Tensor, left: Ints, right: Ints) -> Singles:
    """[pairs] float32 cosines of pairs of rows."""
    scores = np.empty(len(left), np.float32)
    step = max(1, BLOCK // max(1, units.shape[1]))
    for start in range(0, len(left), step):
        ends = (units[torch.from_numpy(side[start : start + step])] for side in (left, right))
        scores[start : start + step] = torch.linalg.vecdot(*ends).numpy()
    return scores
