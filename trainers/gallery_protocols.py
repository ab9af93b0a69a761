"""MegaFace and Trillion-Pairs as evaluation protocols: from their files to `trainers.identification`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from search_space.errors import UserError, require
from trainers.data.lists import Integers, Keys, line_of_row, read_keys, read_list, refuse_repeated
from trainers.identification import (
    Distractors,
    FarPoint,
    GalleryResult,
    IdentificationReport,
    megaface,
    trillion_pairs,
)
from trainers.metrics import Metric
from trainers.protocol import Embedded, Measure, PictureSet, Progress, ProtocolResult, held

Bools = npt.NDArray[np.bool_]

RANKS = (1, 10)
MEGAFACE_FAR = 1e-6
SEARCH_FAR, PAIR_FAR = 1e-3, 1e-9


@dataclass(frozen=True, kw_only=True)
class GalleryFiles:
    """Who is looked for, and among whom."""

    lmdb: Path
    """Pictures of the probes."""

    probes: Path
    """`key label` per line."""

    distractors: Path
    """`key` or `key label` per line; the first N of them are the gallery of N."""

    distractors_lmdb: Path
    probe_noise: Path | None = None
    """One key per line, of pictures that do not show whom they should: left out before anything is counted. Lines that
    begin with # say something else."""

    distractor_noise: Path | None = None


@dataclass(frozen=True, eq=False)
class _Lists:
    probes: Keys
    labels: Integers
    distractors: Keys
    clean_probes: Bools
    """[probes] False for noise."""

    clean_distractors: Bools
    unknown: dict[str, int]
    """Noise that is none of the pictures, by the field of its file."""

    notes: tuple[str, ...]


class GalleryProtocol(ABC):
    """Probes among distractors.

    Args:
        name: its sets are `NAME/probes` and `NAME/distractors`.
    """

    has_curve = False

    def __init__(self, name: str, files: GalleryFiles) -> None:
        self.name, self.files = name, files

    @cached_property
    def _lists(self) -> _Lists:
        files = self.files
        probes, labels = read_list(files.probes, gaps=True)
        distractors = read_keys(files.distractors)
        refuse_repeated(files.probes, probes)
        refuse_repeated(files.distractors, distractors)
        if files.lmdb == files.distractors_lmdb:
            _refuse_shared(files, probes, distractors)
        clean_probes, unknown_probes = _clean(files.probe_noise, probes)
        clean_distractors, unknown_distractors = _clean(files.distractor_noise, distractors)
        if not (np.unique(labels[clean_probes], return_counts=True)[1] > 1).any():
            number = int(clean_probes.sum())
            raise UserError(f"{files.probes}: expected two probes of one label, got {number:,}, each of its own")
        if not clean_distractors.any():
            raise UserError(f"{files.distractor_noise}: expected some of the distractors, got all of them")
        self.check_counts(int(clean_distractors.sum()))
        unknown = {"probe_noise": unknown_probes, "distractor_noise": unknown_distractors}
        notes = [
            f"{number:,} keys of {getattr(files, field)} are none of the {field.partition('_')[0]}s of {self.name}, "
            "and change nothing"
            for field, number in unknown.items()
            if number
        ]
        return _Lists(probes, labels, distractors, clean_probes, clean_distractors, unknown, tuple(notes))

    def check_counts(self, num: int) -> None:  # noqa: B027
        """Refuse numbers of distractors that are above `num`, as many as there are without noise."""

    def needs(self) -> tuple[PictureSet, PictureSet]:
        """Probes, then distractors.

        Raises:
            UserError: a file cannot be used, names a key twice, or leaves nobody to look for.
        """
        files, lists = self.files, self._lists
        return (
            PictureSet(name=f"{self.name}/probes", lmdb=files.lmdb, keys=lists.probes),
            PictureSet(
                name=f"{self.name}/distractors", lmdb=files.distractors_lmdb, keys=lists.distractors, tested=False
            ),
        )

    def clean_keys(self) -> tuple[list[str], list[str]]:
        """Probes and distractors that are no noise."""
        lists = self._lists
        probes = lists.probes.take(np.flatnonzero(lists.clean_probes))
        return probes, lists.distractors.take(np.flatnonzero(lists.clean_distractors))

    def notes(self) -> tuple[str, ...]:
        """Noise lists that name other pictures."""
        return self._lists.notes

    def where(self, name: str, row: int) -> str:
        """The line of a list."""
        path = self.files.probes if name == f"{self.name}/probes" else self.files.distractors
        return f"line {line_of_row(path, row)} of {path}"

    def evaluate(self, embeddings: Mapping[str, Embedded], progress: Progress | None = None) -> ProtocolResult:
        """Probes are held, distractors are not. What is noise or skipped is left out, and counted.

        Raises:
            UserError: nothing is left to look for, or to look among.
        """
        lists = self._lists
        probes, others = embeddings[f"{self.name}/probes"], embeddings[f"{self.name}/distractors"]
        usable, usable_others = probes.usable, others.usable
        keep, keep_others = lists.clean_probes & usable, lists.clean_distractors & usable_others
        try:
            report = self.report(held(probes), lists.labels, others, keep, keep_others, progress)
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from None
        counts = {
            "probes": report.num_probes,
            "identities": report.num_identities,
            "probes_without_mate": report.num_without_mate,
            "searches": report.num_pairs,
            "distractors": report.galleries[-1].num_distractors,
            "noise_probes": int((~lists.clean_probes).sum()),
            "noise_distractors": int((~lists.clean_distractors).sum()),
            "unknown_probe_noise": lists.unknown["probe_noise"],
            "unknown_distractor_noise": lists.unknown["distractor_noise"],
            "skipped_probes": int((~usable).sum()),
            "skipped_distractors": int((~usable_others).sum()),
        }
        return ProtocolResult(measures=tuple(self.measures(report)), counts=counts)

    @abstractmethod
    def report(
        self, probes: npt.NDArray[Any], labels: Integers, others: Distractors, keep: Bools, keep_others: Bools,
        progress: Progress | None,
    ) -> IdentificationReport:  # fmt: skip
        """Who is found."""

    @abstractmethod
    def measures(self, report: IdentificationReport) -> list[Measure]:
        """What a report comes to."""


class MegafaceProtocol(GalleryProtocol):
    """Rank 1 (and 10) among growing numbers of distractors, TAR at a FAR of 1e-6 among all of them.

    Args:
        counts: numbers of distractors; empty: 10, 100, ... up to 10^6, and all if they are fewer.
    """

    def __init__(
        self, name: str, files: GalleryFiles, *, counts: Sequence[int] = (), far: float = MEGAFACE_FAR
    ) -> None:
        super().__init__(name, files)
        self.counts, self.far = tuple(counts), far

    def check_counts(self, num: int) -> None:
        law = f"counts of {self.name} must be from 1 to {num:,}, its distractors without noise"
        require(all(1 <= count <= num for count in self.counts), law, list(self.counts))

    def report(
        self, probes: npt.NDArray[Any], labels: Integers, others: Distractors, keep: Bools, keep_others: Bools,
        progress: Progress | None,
    ) -> IdentificationReport:  # fmt: skip
        """`megaface`; a number of distractors that skipped ones leave too few for becomes that of those that are."""
        num = int(keep_others.sum())
        counts = [min(count, num) for count in self.counts or _usual_counts(num)]
        return megaface(
            probes, labels, others, counts=counts or None, ranks=RANKS, fars=(self.far,), keep_probes=keep,
            keep_distractors=keep_others, progress=progress,
        )  # fmt: skip

    def measures(self, report: IdentificationReport) -> list[Measure]:
        last = report.galleries[-1]
        found = [rank_measure(last, 1, headline=True), *far_measures("tar", last.verification[0])]
        found += [rank_measure(gallery, 1) for gallery in report.galleries[:-1]]
        return found + [rank_measure(gallery, rank) for rank in RANKS[1:] for gallery in report.galleries]


class TrillionPairsProtocol(GalleryProtocol):
    """Identification at a FAR of 1e-3 of searches, verification at a FAR of 1e-9 of comparisons."""

    def __init__(
        self, name: str, files: GalleryFiles, *, search_far: float = SEARCH_FAR, far: float = PAIR_FAR
    ) -> None:
        super().__init__(name, files)
        self.search_far, self.far = search_far, far

    def report(
        self, probes: npt.NDArray[Any], labels: Integers, others: Distractors, keep: Bools, keep_others: Bools,
        progress: Progress | None,
    ) -> IdentificationReport:  # fmt: skip
        """`trillion_pairs`."""
        return trillion_pairs(
            probes, labels, others, search_far=self.search_far, far=self.far, keep_probes=keep,
            keep_distractors=keep_others, progress=progress,
        )  # fmt: skip

    def measures(self, report: IdentificationReport) -> list[Measure]:
        last = report.galleries[-1]
        return [*far_measures("id", last.open_set[0]), *far_measures("tar", last.verification[0])]


def rank_measure(gallery: GalleryResult, rank: int, *, headline: bool = False) -> Measure:
    """`rank1@1000000`."""
    rate = next(found.rate for found in gallery.ranks if found.rank == rank)
    return Measure(name=f"rank{rank}@{gallery.num_distractors}", value=rate, headline=headline)


def far_measures(kind: str, point: FarPoint, *, headline: bool = True, threshold: bool = True) -> list[Measure]:
    """`tar@far=1e-06` or `id@far=0.001`, and its threshold; none where the rate stands for less than one comparison."""
    told = point.far * point.comparisons >= 1 - 1e-9
    name = str(Metric(kind="tar", far=point.far)).replace("tar", kind, 1)
    found = [Measure(name=name, value=point.rate if told else None, headline=headline)]
    if threshold:
        found.append(Measure(name=f"{kind}_threshold@far={point.far}", value=point.threshold if told else None))
    return found


def _usual_counts(num: int) -> list[int]:
    powers = [10**power for power in range(1, 7) if 10**power <= num]
    return powers if powers and powers[-1] == 10**6 else [*powers, num] * (num > 0)


def _clean(noise: Path | None, keys: Keys) -> tuple[Bools, int]:
    """Which keys are no noise, and how much noise is none of them."""
    if noise is None:
        return np.ones(len(keys), np.bool_), 0
    named = set(read_keys(noise, comments=True))
    clean = np.fromiter((key not in named for key in keys), np.bool_, len(keys))
    return clean, len(named) - int((~clean).sum())


def _refuse_shared(files: GalleryFiles, probes: Keys, distractors: Keys) -> None:
    mine = set(probes)
    for row, key in enumerate(distractors):
        if key in mine:
            line = line_of_row(files.distractors, row)
            raise UserError(f"line {line} of {files.distractors}: expected no probe, got {key!r}: it is in both lists")
