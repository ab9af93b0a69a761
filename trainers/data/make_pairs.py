"""Verification pairs from a label list: folds that share no person, as many genuine as impostor pairs in each.

Everything is drawn with Philox from (seed, purpose, fold): the same list and seed give the same pairs anywhere.

* Folds. People are put in order of their number of pictures and dealt out, one to each fold at random, so folds are
  alike in people and pictures.
* Genuine pairs. Every person of the fold gives one pair, then everyone who has another gives a second one, and so on
  until there are enough; who gives in the last, incomplete round is drawn. So a person with 530 pictures gives no more
  than others until those have none left. Which pictures of a person are paired is drawn evenly from all their pairs.
* Impostor pairs. Two people of the fold are drawn evenly, then one picture of each. Where that hardly finds new pairs,
  they are drawn evenly from all impostor pairs of the fold.
* No pair comes twice, in whichever order.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from search_space.errors import UserError

Ints = npt.NDArray[np.int64]

KEY = 0x9A125
_DEAL, _GENUINE, _IMPOSTOR = 1, 2, 3
"""What a random stream is for; part of its key."""

DENSE = 4
"""Where more than one in so many of all pairs is wanted, all are listed and the first of a random order taken."""

ROUNDS = 8
"""Tries to find new impostor pairs of evenly drawn people before pairs are drawn evenly."""

MAX_PICTURES = 2**31
"""Pairs of them still have a number of 64 bits."""


class MadePairs(NamedTuple):
    """Pairs in the order of a pairs file: fold by fold, each its genuine and then its impostor pairs."""

    left: Ints
    """[num_pairs] row of the list, lower than that of `right`."""

    right: Ints
    same: npt.NDArray[np.bool_]
    fold: Ints
    num_identities: Ints
    """[num_folds] people of each fold."""

    num_genuine_identities: Ints
    """[num_folds] people of each fold who are in a genuine pair."""


class _Fold(NamedTuple):
    """The pictures of a fold, grouped by person."""

    rows: Ints
    """[pictures] rows of the list."""

    starts: Ints
    """[people] first picture of each in `rows`."""

    counts: Ints

    @property
    def num_genuine(self) -> int:
        return int(_num_pairs(self.counts).sum())

    @property
    def num_impostor(self) -> int:
        return int(_num_pairs(self.counts.sum()) - _num_pairs(self.counts).sum())


def make_pairs(labels: npt.ArrayLike, num_folds: int = 10, per_fold: int = 300, seed: int = 0) -> MadePairs:
    """Balanced pairs of a labelled list.

    Args:
        labels: [n] int, who is on each picture.
        per_fold: genuine pairs in each fold, and as many impostor pairs.
        seed: not negative.
    Raises:
        UserError: the list holds too few people or pairs; the message says how many pairs it is good for.
    """
    folds = _deal(np.asarray(labels, np.int64), num_folds, seed)
    most = min(min(fold.num_genuine, fold.num_impostor) for fold in folds)
    if most < per_fold:
        way_out = f"take at most {most:,} pairs, or fewer folds" if most else "take fewer folds or more pictures"
        raise UserError(
            f"expected {per_fold:,} genuine and as many impostor pairs in each of {num_folds} folds, got a fold with "
            f"{min(fold.num_genuine for fold in folds):,} genuine and one with "
            f"{min(fold.num_impostor for fold in folds):,} impostor pairs; {way_out}"
        )
    left, right, givers = [], [], []
    for number, fold in enumerate(folds):
        for draw, purpose in ((_draw_genuine, _GENUINE), (_draw_impostor, _IMPOSTOR)):
            pairs = np.sort(fold.rows[draw(fold, per_fold, _random(seed, purpose, number))], axis=0)  # [2, per_fold]
            order = np.lexsort((pairs[1], pairs[0]))
            left.append(pairs[0, order])
            right.append(pairs[1, order])
        givers.append(len(np.unique(np.asarray(labels)[left[-2]])))
    same = np.tile(np.repeat([True, False], per_fold), num_folds)
    people = np.array([len(fold.counts) for fold in folds])
    return MadePairs(
        np.concatenate(left), np.concatenate(right), same, np.repeat(np.arange(num_folds), 2 * per_fold), people,
        np.array(givers),
    )  # fmt: skip


def _random(seed: int, purpose: int, fold: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([KEY, seed, purpose, fold])))


def _num_pairs(counts: Ints) -> Ints:
    return counts * (counts - 1) // 2


def _deal(labels: Ints, num_folds: int, seed: int) -> list[_Fold]:
    """The people of each fold, and their pictures."""
    order = np.argsort(labels, kind="stable")
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    num = len(counts)
    if num < 2 * num_folds or len(labels) >= MAX_PICTURES:
        law = f"expected at least two people in each of {num_folds} folds and fewer than {MAX_PICTURES:,} pictures"
        raise UserError(f"{law}, got {num:,} people and {len(labels):,} pictures; take fewer folds")
    random = _random(seed, _DEAL)
    shuffled = random.permutation(num)
    ranked = shuffled[np.argsort(-counts[shuffled], kind="stable")]  # [people] most pictures first, ties at random
    hands = -(-num // num_folds)
    fold_of = np.argsort(random.random((hands, num_folds)), axis=1).reshape(-1)[:num]
    return [_gather(order, starts, counts, np.sort(ranked[fold_of == fold])) for fold in range(num_folds)]


def _gather(order: Ints, starts: Ints, counts: Ints, people: Ints) -> _Fold:
    starts, counts = starts[people], counts[people]
    ends = np.cumsum(counts)
    places = np.arange(ends[-1]) + np.repeat(starts - (ends - counts), counts)
    return _Fold(order[places], ends - counts, counts)


def _draw_genuine(fold: _Fold, num: int, random: np.random.Generator) -> Ints:
    """[2, num] places in the fold of both pictures of each pair."""
    available = _num_pairs(fold.counts)
    shares = _shares(available, num, random)
    few = available <= DENSE * shares  # of these people all pairs are listed
    person = np.repeat(np.flatnonzero(few), available[few])
    number = np.arange(len(person)) - np.repeat(np.cumsum(available[few]) - available[few], available[few])
    shuffled = np.lexsort((random.random(len(person)), person))
    rank = np.arange(len(person)) - np.searchsorted(person, person)
    taken = rank < shares[person]
    person, number = person[taken], number[shuffled][taken]
    others = np.repeat(np.flatnonzero(~few), shares[~few])
    drawn = _distinct_numbers(others, available, random)
    return _places(fold, np.concatenate((person, others)), np.concatenate((number, drawn)))


def _shares(available: Ints, num: int, random: np.random.Generator) -> Ints:
    """[people] how many pairs each gives: full rounds, then a last one of drawn people."""
    low, high = 0, num  # the number of full rounds: the most that need no more than `num` pairs
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if int(np.minimum(available, middle).sum()) <= num else (low, middle - 1)
    shares = np.minimum(available, low)
    more = np.flatnonzero(available > low)
    shares[random.permutation(more)[: num - int(shares.sum())]] += 1
    return shares


def _distinct_numbers(person: Ints, available: Ints, random: np.random.Generator) -> Ints:
    """A number below `available` of its person for each entry, no two equal for one person."""
    numbers = np.zeros(len(person), np.int64)
    todo = np.arange(len(person))
    while len(todo):
        numbers[todo] = random.integers(available[person[todo]])
        order = np.lexsort((numbers, person))  # stable: of equal ones the first stays
        equal = (np.diff(person[order]) == 0) & (np.diff(numbers[order]) == 0)
        todo = np.sort(order[1:][equal])
    return numbers


def _places(fold: _Fold, person: Ints, number: Ints) -> Ints:
    """[2, n] both pictures of a person's pair by its number: 0 is (0, 1), then (0, 2), (1, 2), (0, 3), ..."""
    high = ((1 + np.sqrt(8.0 * number + 1)) / 2).astype(np.int64)
    high -= _num_pairs(high) > number
    high += _num_pairs(high + 1) <= number
    pair: Ints = np.stack([number - _num_pairs(high), high])
    return fold.starts[person] + pair


def _draw_impostor(fold: _Fold, num: int, random: np.random.Generator) -> Ints:
    """[2, num] places in the fold of both pictures of each pair."""
    total, size = fold.num_impostor, len(fold.rows)
    if total <= DENSE * num:
        return _unrank(fold, random.permutation(total)[:num])
    found = np.empty(0, np.int64)
    tries = 0
    while len(found) < num:
        missing = num - len(found)
        pairs = _even_people(fold, missing, random) if tries < ROUNDS else _even_pairs(fold, total, missing, random)
        low, high = np.sort(pairs, axis=0)
        found = np.concatenate((found, low * size + high))
        _, first = np.unique(found, return_index=True)
        found = found[np.sort(first)]
        tries += 1
    return np.stack(np.divmod(found, size))


def _even_people(fold: _Fold, num: int, random: np.random.Generator) -> Ints:
    """[2, num] one picture each of two people, every two people equally likely."""
    first = random.integers(len(fold.counts), size=num)
    second = (first + 1 + random.integers(len(fold.counts) - 1, size=num)) % len(fold.counts)
    people = np.stack([first, second])
    return fold.starts[people] + random.integers(fold.counts[people])


def _even_pairs(fold: _Fold, total: int, num: int, random: np.random.Generator) -> Ints:
    return _unrank(fold, random.integers(total, size=num))


def _unrank(fold: _Fold, numbers: Ints) -> Ints:
    """[2, n] impostor pairs by number: those of the first picture with all after its person, of the second, ..."""
    ends = np.repeat(fold.starts + fold.counts, fold.counts)  # [pictures] first picture of the next person
    before = np.concatenate(([0], np.cumsum(len(ends) - ends)))
    left = np.searchsorted(before, numbers, "right") - 1
    return np.stack([left, ends[left] + numbers - before[left]])
