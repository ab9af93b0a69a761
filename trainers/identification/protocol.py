"""Identification of probes among distractors, and verification of the same pairs, in one pass over the distractors."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from search_space.errors import UserError, require
from trainers.identification.distractors import Distractors
from trainers.identification.mates import MateRanks, Mates
from trainers.identification.sieve import Sieve, full_float32
from trainers.identification.thresholds import (
    FarPoint,
    Highest,
    check_fars,
    false_accepts,
    kth_highest,
    verification_point,
)
from trainers.identification.units import (
    LOWEST,
    Bools,
    Ints,
    Scores,
    Singles,
    check_shape,
    cosine_of,
    unit_embeddings,
)

Progress = Callable[[int, int], None]

TILE = 2048
"""Distractors whose products with the probes are made at a time."""

FIRST_TILE = 64
"""Tiles begin with so few and double: bars rise with what has been seen, and only what is above them costs time."""


@dataclass(frozen=True, kw_only=True)
class RankRate:
    rank: int
    rate: float
    """Share of pairs (probe, mate) with fewer than `rank` distractors before the mate."""


@dataclass(frozen=True, kw_only=True)
class GalleryResult:
    """With the first `num_distractors` of the list."""

    num_distractors: int
    ranks: tuple[RankRate, ...]
    verification: tuple[FarPoint, ...]
    """Rate: share of pairs (probe, mate) that is accepted. Comparisons: of every probe with every distractor."""

    open_set: tuple[FarPoint, ...]
    """Rate: share of pairs whose mate is both accepted and before every distractor. Comparisons: one search of each
    probe among the distractors alone, which is a false accept if the highest score of it is accepted."""


@dataclass(frozen=True, kw_only=True)
class IdentificationReport:
    num_probes: int
    """Without those that are left out, as are all counts."""

    num_identities: int
    num_without_mate: int
    """Probes whose identity has no other probe: they are in no pair, but are compared with the distractors."""

    num_pairs: int
    """Ordered pairs (probe, mate)."""

    galleries: tuple[GalleryResult, ...]
    """By rising number of distractors."""

    def to_dict(self) -> dict[str, Any]:
        """As dictionaries, lists and numbers, for JSON."""
        return asdict(self)


def megaface(
    probes: npt.NDArray[Any],
    identities: npt.ArrayLike,
    distractors: Distractors,
    *,
    counts: Sequence[int] | None = None,
    ranks: Sequence[int] = (1, 10),
    fars: Sequence[float] = (1e-6,),
    keep_probes: npt.ArrayLike | None = None,
    keep_distractors: npt.ArrayLike | None = None,
    progress: Progress | None = None,
) -> IdentificationReport:
    """The MegaFace form: `identify` among growing numbers of distractors; rank 1 at the last is the number reported.

    The noise lists that are published for it go into `keep_probes` and `keep_distractors`.

    Source: Kemelmacher-Shlizerman et al. 2016 (arXiv 1512.00596). Each picture of an identity is the probe in turn, and
    each other picture of it is added to the distractors in turn; the share of these searches that the mate wins is
    rank 1. Verification is over these pairs, and the pairs of all probes and distractors (3,530 x 10^6 in the paper).
    Differs: a distractor that scores just as high as the mate comes before it, so that a model which tells nobody from
    anybody identifies nobody; the threshold is that of exact scores.
    """
    return identify(
        probes,
        identities,
        distractors,
        counts=counts,
        ranks=ranks,
        fars=fars,
        keep_probes=keep_probes,
        keep_distractors=keep_distractors,
        progress=progress,
    )


def trillion_pairs(
    probes: npt.NDArray[Any],
    identities: npt.ArrayLike,
    distractors: Distractors,
    *,
    search_far: float = 1e-3,
    far: float = 1e-9,
    keep_probes: npt.ArrayLike | None = None,
    keep_distractors: npt.ArrayLike | None = None,
    progress: Progress | None = None,
) -> IdentificationReport:
    """The Trillion-Pairs form: identification at a FAR of searches, verification at a FAR of comparisons.

    Its `Id` is `galleries[-1].open_set[0].rate`, its `Ver` `galleries[-1].verification[0].rate`.

    Source: the challenge's data (274,000 probes of 5,700 identities of LFW, 1.58 x 10^6 distractors, all pairs between
    the two compared) and the names of its two numbers, TPR at FPR = 1e-3 and at FPR = 1e-9; its owners published no
    more of how they are made. That the 1e-3 is of searches, not of comparisons, follows from published results, which
    are alike in both numbers: one search in 10^3 is 6 x 10^-10 of the comparisons.
    """
    return identify(
        probes,
        identities,
        distractors,
        counts=[_num_kept(distractors, keep_distractors)],
        ranks=(1,),
        fars=(far,),
        search_fars=(search_far,),
        keep_probes=keep_probes,
        keep_distractors=keep_distractors,
        progress=progress,
    )


def identify(
    probes: npt.NDArray[Any],
    identities: npt.ArrayLike,
    distractors: Distractors,
    *,
    counts: Sequence[int] | None = None,
    ranks: Sequence[int] = (1,),
    fars: Sequence[float] = (),
    search_fars: Sequence[float] = (),
    keep_probes: npt.ArrayLike | None = None,
    keep_distractors: npt.ArrayLike | None = None,
    progress: Progress | None = None,
) -> IdentificationReport:
    """Search probes in a gallery of one mate and the first N distractors, for several N, in one pass.

    Scores are as in `units`: exact, so nothing depends on tiles, threads or machine. The laws:

    * Each ordered pair of two probes of one identity is one search. The mate is of rank 1 + the number of distractors
      that score *at least* as high. Other pictures of the identity are not in its gallery.
    * A threshold at a FAR is the (k + 1)-th highest score of the n impostor comparisons, k the largest count with
      k / n <= FAR, as in `trainers.verification.roc`: what scores above it is accepted. A FAR below 1 / n puts it at
      the highest. Probes of two identities are not compared.
    * Order among distractors is that of the list; what is left out is left out before the first N are counted, and is
      not looked at.
    * An embedding of zeros has cosine 0 with everything. Lengths do not matter.

    Args:
        probes: [p, d] embeddings.
        identities: [p] whom each shows, of any type that sorts.
        counts: numbers of distractors; None: 10, 100, ... and all.
        ranks: ranks to report.
        fars: false-accept rates of comparisons of a probe with a distractor.
        search_fars: false-accept rates of searches of a probe among all N distractors.
        keep_probes, keep_distractors: [p] and [len(distractors)] bool, which to use; None: all.
        progress: is called with distractors done, and in all.
    Raises:
        UserError: arrays that do not fit, an embedding that is not finite (its row is named), no identity with two
            probes, no distractors, a count above their number, a rank below 1, a FAR outside [0, 1) or one that allows
            too many false accepts to hold (`Highest.MAX_KEPT`).
    """
    probes, people = np.asarray(probes), np.asarray(identities)
    check_shape(probes, "probes")
    if people.shape != (len(probes),):
        raise UserError(f"identities must be [{len(probes)}], one for each probe, got {list(people.shape)}")
    kept = _mask(keep_probes, len(probes), "keep_probes")
    rows = np.arange(len(probes)) if kept is None else np.flatnonzero(kept)
    wanted = _checked_counts(counts, _num_kept(distractors, keep_distractors))
    require(bool(ranks) and min(ranks) >= 1, "ranks must be at least 1", list(ranks))
    units = unit_embeddings(probes[rows], "probes", rows)
    search = _Search(Mates(units, people[rows]), wanted[-1], max(ranks), check_fars(fars), check_fars(search_fars))
    sieve, results = Sieve(units, TILE), []
    with full_float32():
        for done, tile in _tiles(distractors, probes.shape[1], keep_distractors, wanted):
            for block in sieve.blocks(len(units)):
                search.add(*sieve.at_least(block, tile, search.bars(block)))
            if done in wanted:
                results.append(search.result(done, ranks))
            if progress:
                progress(done, wanted[-1])
    return IdentificationReport(
        num_probes=len(units),
        num_identities=search.mates.num_identities,
        num_without_mate=search.mates.num_without_mate,
        num_pairs=len(search.mates),
        galleries=tuple(results),
    )


class _Search:
    """What is known of the distractors so far."""

    def __init__(
        self, mates: Mates, num_distractors: int, depth: int, fars: tuple[float, ...], search_fars: tuple[float, ...]
    ) -> None:
        self.mates, self._fars, self._search_fars = mates, fars, search_fars
        self._num_probes = len(mates.starts) - 1
        self._ranks = MateRanks(mates, depth)
        allowed = [false_accepts(far, self._num_probes * num_distractors) for far in fars]
        self._highest = Highest(max(allowed) + 1) if fars else None
        self._best = np.full(self._num_probes, LOWEST - 1, np.int32)

    def bars(self, block: slice) -> Scores:
        """For each probe of a block, the lowest score that changes anything."""
        bars = self._ranks.bars[block].copy()
        if self._search_fars:
            np.minimum(bars, self._best[block] + 1, out=bars)
        if self._highest:
            np.minimum(bars, LOWEST if self._highest.bar is None else self._highest.bar + 1, out=bars)
        return bars

    def add(self, probes: Ints, scores: Scores) -> None:
        """Take note of scores of probes with new distractors, all that are not below `bars`."""
        self._ranks.add(probes, scores)
        np.maximum.at(self._best, probes, scores)
        if self._highest:
            self._highest.add(scores)

    def result(self, num_distractors: int, ranks: Sequence[int]) -> GalleryResult:
        before, genuine, num_pairs = self._ranks.before(), self.mates.scores, len(self.mates)
        comparisons = self._num_probes * num_distractors
        highest = self._highest.scores() if self._highest else np.empty(0, np.int32)
        return GalleryResult(
            num_distractors=num_distractors,
            ranks=tuple(RankRate(rank=k, rate=float(np.count_nonzero(before < k) / num_pairs)) for k in ranks),
            verification=tuple(verification_point(far, comparisons, highest, genuine) for far in self._fars),
            open_set=tuple(self._open_set(far, before == 0) for far in self._search_fars),
        )

    def _open_set(self, far: float, first: Bools) -> FarPoint:
        allowed = false_accepts(far, self._num_probes)
        bar = kth_highest(self._best, allowed + 1)
        rate = float(np.count_nonzero(first & (self.mates.scores > bar)) / len(self.mates))
        return FarPoint(
            far=far, comparisons=self._num_probes, false_accepts=allowed, threshold=cosine_of(bar), rate=rate
        )


def _tiles(
    distractors: Distractors, dim: int, keep: npt.ArrayLike | None, counts: Sequence[int]
) -> Iterator[tuple[int, Singles]]:
    """Unit embeddings [m, d] of distractors in order, and how many there are up to them; a tile ends at each count."""
    mask, num = _mask(keep, len(distractors), "keep_distractors"), len(distractors)
    row = done = 0
    for chunk in distractors.chunks(TILE):
        check_shape(chunk, f"distractors from row {row} on", dim)
        rows = np.arange(row, row + len(chunk))
        row += len(chunk)
        if row > num:
            break
        if mask is not None:
            rows, chunk = rows[mask[rows]], chunk[mask[rows]]
        start = 0
        while start < len(chunk):
            next_count = next(count for count in counts if count > done)
            end = min(len(chunk), start + min(next_count - done, max(FIRST_TILE, done), TILE))
            units = unit_embeddings(chunk[start:end], "distractors", rows[start:end])
            done, start = done + end - start, end
            yield done, units
            if done == counts[-1]:
                return
    raise UserError(f"distractors must be {num:,} as their source says, got {row:,}{' or more' * (row > num)}")


def _mask(keep: npt.ArrayLike | None, num: int, what: str) -> Bools | None:
    if keep is None:
        return None
    mask = np.asarray(keep)
    if mask.shape != (num,) or mask.dtype != np.bool_:
        raise UserError(f"{what} must be [{num}] bool, got {list(mask.shape)} {mask.dtype}")
    return mask


def _num_kept(distractors: Distractors, keep: npt.ArrayLike | None) -> int:
    mask = _mask(keep, len(distractors), "keep_distractors")
    return len(distractors) if mask is None else int(np.count_nonzero(mask))


def _checked_counts(counts: Sequence[int] | None, num: int) -> tuple[int, ...]:
    """Rising numbers of distractors."""
    if num < 1:
        raise UserError("at least one distractor is needed, got none")
    if counts is None:
        counts = [10**power for power in range(1, len(str(num))) if 10**power <= num] + [num]
    rising = tuple(sorted({int(count) for count in counts}))
    require(
        bool(rising) and rising[0] >= 1 and rising[-1] <= num,
        f"numbers of distractors must be from 1 to {num}, as many as there are",
        list(counts),
    )
    return rising
