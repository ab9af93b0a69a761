"""What every importer hands over: a catalogue of its pictures, and their bytes in slices, in any process.

A catalogue is arrays, not objects: a set may have tens of millions of pictures.
"""

import contextlib
import io
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from search_space.errors import UserError, shown
from trainers.data.lists import Keys, first_repeated
from trainers.untrusted import open_file

Integers = npt.NDArray[np.int64]

MAX_KEY_BYTES = 511
"""LMDB's limit."""

MAX_PICTURE_BYTES = 64 * 2**20
"""Of one picture file: as much as an LMDB that is read here may hold in a record."""

Progress = Callable[[int, int], None]
"""Called with (pictures done, total); a total of 0: not known yet."""

PROGRESS_EVERY = 256


class Stamp(NamedTuple):
    """One file of a source, as far as it tells whether the source is still the same."""

    name: str
    num_bytes: int
    changed_ns: int


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """The pictures of a source, in its own order: the one in which reading them is cheap."""

    identities: tuple[str, ...]
    """Distinct, as they stand in keys."""

    owners: Integers
    """[n] which of the identities a picture shows."""

    keys: Keys
    """[n] the key that each picture gets."""

    places: Integers
    """[n, k] where its bytes are: another choice of the source's gives other numbers, or other `texts`. What
    they mean is the source's own affair."""

    texts: Keys
    """[n]"""

    stamps: tuple[Stamp, ...]
    ignored: dict[str, int] = field(default_factory=dict)
    """What is in the source and is no picture, by kind."""

    notes: tuple[str, ...] = ()
    """What is allowed but hardly wanted, one line each."""

    def __len__(self) -> int:
        return len(self.owners)


class Batch(NamedTuple):
    """A slice of a catalogue, small enough to send to another process."""

    keys: list[str]
    places: Integers
    """[m, k]"""

    texts: list[str]


class Source(Protocol):
    """A face set in one of its forms. Pickles to a few paths and settings; opens files where it reads them."""

    def scan(self, progress: Progress) -> Catalogue:
        """Everything but the pictures themselves.

        Raises:
            UserError: it cannot be read, or contradicts itself.
        """

    def read(self, batch: Batch) -> Iterator[bytes | UserError]:
        """The file of each picture, JPEG or PNG, in the order of the batch; the error in place of one that is bad.

        Raises:
            UserError: the source itself cannot be read any more.
        """

    def place(self, batch: Batch, row: int) -> str:
        """Where a picture of the batch is, for a message."""


def clean(text: str) -> str:
    """`text` as it stands in keys and lists, which are split at white space: `_` for every white space or control
    character, none at the ends."""
    text = text.strip()
    if text.isascii() and text.isprintable() and " " not in text:
        return text
    return "".join("_" if c.isspace() or not c.isprintable() else c for c in text)


def clean_identity(text: str) -> str:
    """An identity as the first part of a key: `clean`, and `_` for `/`.

    Raises:
        UserError: nothing is left.
    """
    name = clean(text).replace("/", "_")
    if not name:
        raise UserError(f"expected the name of an identity, got {shown(text)}")
    return name


class CatalogueBuilder:
    """Collects pictures one by one.

    Args:
        width: how many numbers say where a picture is.
        where: names the source in messages.
        total: pictures to come; 0: not known.
    """

    def __init__(self, width: int, where: str | Path, progress: Progress | None = None, total: int = 0) -> None:
        self._width, self._where = width, where
        self._progress, self._total = progress or no_progress, total
        self._owner_of: dict[str, int] = {}
        self._cleaned: dict[str, str] = {}
        self._names: list[str] = []
        self._owners, self._places = array("q"), array("q")
        self._keys, self._texts = _TextColumn(), _TextColumn()
        self.ignored: Counter[str] = Counter()

    def add(
        self, identity: str, name: str, place: Sequence[int] = (), *, text: str = "", key: str | None = None
    ) -> None:
        """One more picture.

        Args:
            identity: whom it shows, as the source says it.
            name: the rest of its key behind `IDENTITY/`.
            key: its whole key, where it has one already.
        """
        number = self._owner_of.get(identity)
        if number is None:
            number = self._new(identity)
        key = f"{self._names[number]}/{clean(name)}" if key is None else key
        data = key.encode()
        if len(data) > MAX_KEY_BYTES:
            raise UserError(f"{self._where}: expected keys of at most {MAX_KEY_BYTES} bytes, got {shown(key)}")
        self._owners.append(number)
        self._places.extend(place)
        self._keys.append(data)
        self._texts.append(text.encode())
        if len(self._owners) % PROGRESS_EVERY == 0:
            self._progress(len(self._owners), self._total)

    def build(self, stamps: Sequence[Stamp], notes: Sequence[str] = ()) -> Catalogue:
        """The catalogue; `UserError` if two pictures have one key, or there is none."""
        if not len(self._owners):
            ignored = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.ignored.items()))
            raise UserError(f"{self._where}: expected pictures (JPEG or PNG), got {ignored or 'none'}")
        self._progress(len(self._owners), len(self._owners))
        keys, texts = self._keys.build(), self._texts.build()
        refuse_duplicates(keys, self._where)
        owners = np.frombuffer(self._owners, np.int64)
        places = np.frombuffer(self._places, np.int64) if self._places else np.empty(0, np.int64)
        return Catalogue(
            identities=tuple(self._names), owners=owners, keys=keys, texts=texts, stamps=tuple(stamps),
            places=places.reshape(len(owners), self._width), notes=tuple(notes),
            ignored=dict(sorted(self.ignored.items())),
        )  # fmt: skip

    def _new(self, identity: str) -> int:
        name = clean_identity(identity)
        other = self._cleaned.setdefault(name, identity)
        if other != identity:
            raise UserError(
                f"{self._where}: expected identities that differ in keys, got {shown(other)} and {shown(identity)}, "
                f"both {shown(name)} without white space and `/`; rename one"
            )
        self._owner_of[identity] = len(self._names)
        self._names.append(name)
        return self._owner_of[identity]


class _TextColumn:
    """Texts as one string of bytes and their ends."""

    def __init__(self) -> None:
        self._data, self._ends = bytearray(), array("q")

    def append(self, text: bytes) -> None:
        self._data += text
        self._ends.append(len(self._data))

    def build(self) -> Keys:
        ends = np.frombuffer(self._ends, np.int64)
        return Keys(bytes(self._data), np.concatenate((np.zeros(1, np.int64), ends[:-1])), ends)


def refuse_duplicates(keys: Keys, where: str | Path) -> None:
    """Raise `UserError` naming the first key that comes twice."""
    number = first_repeated(keys)
    if number is not None:
        key = keys[number]
        before = next(other for other, found in enumerate(keys, 1) if found == key)
        raise UserError(
            f"{where}: expected pictures with keys of their own, got {shown(key)} for picture {before:,} and picture "
            f"{number + 1:,}; rename one"
        )


@contextlib.contextmanager
def reading(path: str | Path) -> Iterator[io.BufferedReader]:
    """A file of a source; whatever fails, to open it or to read from it, as a `UserError` that names it."""
    try:
        with open_file(path) as file:
            yield file
    except OSError as error:
        raise UserError(f"{path}: expected a readable file, got: {error.strerror or error}") from None


def stamp(path: str | Path) -> Stamp:
    """What tells whether a file is still the same; `UserError` if it is none that can be read."""
    with reading(path) as file:
        status = os.fstat(file.fileno())
    return Stamp(os.path.basename(path), status.st_size, status.st_mtime_ns)


def no_progress(done: int, total: int) -> None:
    """Says nothing."""
