"""Where embeddings of a set lie while a protocol reads them: in memory, in a temporary file, or in the user's own."""

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from lfs.embedding_file import EmbeddingFile
from search_space.errors import UserError
from trainers.data.lists import Integers
from trainers.protocol import InMemory

HELD_BYTES = 2**30
"""Embeddings of a set that are more than this are kept in a temporary file."""

Floats = npt.NDArray[np.float32]


class Room:
    """Embeddings [n, dim] float32 that are put in row by row; each must be, before any is read."""

    def __init__(self, num: int, dim: int) -> None:
        self._shape = num, dim
        self._usable = np.ones(num, np.bool_)

    def __len__(self) -> int:
        return self._shape[0]

    @property
    def usable(self) -> npt.NDArray[np.bool_]:
        """See `trainers.protocol.Embedded`."""
        return self._usable

    def put(self, rows: Integers, embeddings: npt.NDArray[np.floating]) -> None:
        """Embeddings [m, dim] of some rows.

        Raises:
            UserError: there is no space left.
        """
        raise NotImplementedError

    def skip(self, rows: Integers) -> None:
        """Pictures that are skipped."""
        self._usable[rows] = False
        for start in range(0, len(rows), 1024):
            part = rows[start : start + 1024]
            self.put(part, np.full((len(part), self._shape[1]), np.nan, np.float32))


class HeldRoom(Room, InMemory):
    """In memory."""

    def __init__(self, num: int, dim: int) -> None:
        Room.__init__(self, num, dim)
        InMemory.__init__(self, np.empty((num, dim), np.float32))

    def put(self, rows: Integers, embeddings: npt.NDArray[np.floating]) -> None:
        """See `Room`."""
        self.embeddings[rows] = embeddings


class StoredRoom(Room):
    """In a file; neither held nor mapped."""

    def __init__(self, num: int, dim: int, file: io.BufferedRandom) -> None:
        super().__init__(num, dim)
        self._file, self._row_bytes = file, 4 * dim
        with _no_space(num * self._row_bytes):
            os.posix_fallocate(file.fileno(), 0, num * self._row_bytes)

    def put(self, rows: Integers, embeddings: npt.NDArray[np.floating]) -> None:
        """See `Room`."""
        values = np.ascontiguousarray(embeddings, np.float32)
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        with _no_space(values.nbytes):
            for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(rows)], strict=True):
                self._file.seek(int(rows[start]) * self._row_bytes)
                self._file.write(values[start:end].data)

    def chunks(self, rows: int) -> Iterator[Floats]:
        """See `trainers.protocol.Embedded`."""
        num, dim = self._shape
        memory = np.empty((min(rows, num), dim), np.float32)
        for start in range(0, num, rows):
            part = memory[: min(rows, num - start)]
            self._file.seek(start * self._row_bytes)
            if self._file.readinto(part.view(np.uint8).data) != part.nbytes:
                raise UserError(f"{tempfile.gettempdir()}: the temporary file of embeddings has been cut short")
            yield part


class FileRows:
    """Embeddings of a file whose keys are those of the set, in its order: read where they are."""

    def __init__(self, file: EmbeddingFile) -> None:
        self._file = file

    def __len__(self) -> int:
        return len(self._file)

    @property
    def usable(self) -> npt.NDArray[np.bool_]:
        """All: what is not finite is refused where it is read."""
        return np.ones(len(self), np.bool_)

    def chunks(self, rows: int) -> Iterator[Floats]:
        """See `trainers.protocol.Embedded`.

        Raises:
            UserError: an embedding that is not finite, or the file has changed.
        """
        first = 0
        for part in self._file.chunks(rows):
            yield self._file.in_float32(part, "row", range(first, first + len(part)))
            first += len(part)


@contextlib.contextmanager
def room(num: int, dim: int) -> Iterator[HeldRoom | StoredRoom]:
    """Room to fill: in memory, or in a file that goes at the end.

    Raises:
        UserError: there is no space for the file.
    """
    if 4 * num * dim <= HELD_BYTES:
        yield HeldRoom(num, dim)
        return
    with tempfile.TemporaryFile(prefix="lfs-embeddings-") as file:
        yield StoredRoom(num, dim, file)


@contextlib.contextmanager
def _no_space(num_bytes: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        law = f"{tempfile.gettempdir()}: no room for {num_bytes:,} bytes of embeddings ({error.strerror})"
        raise UserError(f"{law}; name another folder by TMPDIR, or --embeddings that are made already") from None
