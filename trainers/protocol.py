"""What an evaluation protocol is: the pictures that it needs embeddings of, and what it makes of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trainers.verification.roc_curve import RocCurve

Progress = Callable[[int, int], None]
"""Called with (done, total)."""

READ_ROWS = 2**14
"""Embeddings that are read at a time where all are wanted."""


class Keyed(Protocol):
    """Keys by number, in the order of their pictures; a tuple of texts is one, and so is `trainers.data.lists.Keys`."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[str]: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class PictureSet:
    """Pictures in an order that counts."""

    name: str
    """Unlike that of any other set of an evaluation: `lfw`, or `megaface/distractors`."""

    lmdb: Path
    keys: Keyed
    """[n] distinct."""

    tested: bool = True
    """Its people are looked for, by the folders of its keys; False: distractors, or keys that do not name them."""


class Embedded(Protocol):
    """Embeddings of a set, in the order of its keys; maybe too many to hold at once."""

    def __len__(self) -> int:
        """n, that of the set."""
        ...

    @property
    def usable(self) -> npt.NDArray[np.bool_]:
        """[n] False where a picture is skipped."""
        ...

    def chunks(self, rows: int) -> Iterator[npt.NDArray[Any]]:
        """[m, dim] in order, m at most `rows`, not normalised; good until the next are asked for.

        A row of NaN stands for a picture that is skipped.
        """
        ...


class InMemory:
    """Embeddings [n, dim] that are held."""

    def __init__(self, embeddings: npt.NDArray[np.float32]) -> None:
        self.embeddings = embeddings

    def __len__(self) -> int:
        return len(self.embeddings)

    @property
    def usable(self) -> npt.NDArray[np.bool_]:
        """See `Embedded`."""
        parts = [~np.isnan(part).any(axis=1) for part in self.chunks(READ_ROWS)]
        return np.concatenate([np.empty(0, np.bool_), *parts])

    def chunks(self, rows: int) -> Iterator[npt.NDArray[Any]]:
        """See `Embedded`."""
        for start in range(0, len(self), rows):
            yield self.embeddings[start : start + rows]


def held(embedded: Embedded) -> npt.NDArray[np.float32]:
    """All of them at once, [n, dim]; not copied if they are held already."""
    if isinstance(embedded, InMemory):
        return embedded.embeddings
    made = np.empty((0, 0), np.float32)
    row = 0
    for part in embedded.chunks(READ_ROWS):
        if not row:
            made = np.empty((len(embedded), part.shape[1]), np.float32)
        made[row : row + len(part)] = part
        row += len(part)
    return made


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number that a protocol comes to."""

    name: str
    """As metrics are named elsewhere: `accuracy`, `tar@far=0.001`, `threshold`."""

    value: float | None
    """None: the set is too small to tell."""

    standard_error: float | None = None
    """None: not known."""

    headline: bool = False
    """It stands in the first table, where methods are compared set by set."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ProtocolResult:
    """What one model comes to in one protocol."""

    measures: tuple[Measure, ...]
    counts: dict[str, int]
    """Pairs, pictures, what was skipped: whatever says how much the measures rest on."""

    curve: RocCurve | None = field(default=None, repr=False)
    """Of its pairs, if it has them one by one."""


class EvaluationProtocol(Protocol):
    """One protocol on one set of files."""

    @property
    def name(self) -> str:
        """The name that it was asked for by."""
        ...

    @property
    def has_curve(self) -> bool:
        """Whether its results have a ROC curve."""
        ...

    def needs(self) -> Sequence[PictureSet]:
        """The pictures that must be embedded; files are read, and refused, here."""
        ...

    def notes(self) -> Sequence[str]:
        """What is allowed in the files but hardly wanted, one line each."""
        ...

    def where(self, name: str, row: int) -> str:
        """What names the picture of a row of a set: `line 3 of pairs.txt`."""
        ...

    def evaluate(self, embeddings: Mapping[str, Embedded], progress: Progress | None = None) -> ProtocolResult:
        """The result, from the embeddings of each set by the set's name."""
        ...
