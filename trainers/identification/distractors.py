"""Where the embeddings of a gallery of distractors come from, a part at a time."""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from search_space.errors import UserError, shown
from trainers.identification.units import check_shape
from trainers.untrusted import open_file

VERSIONS = (b"\x01\0", b"\x02\0", b"\x03\0")
MAX_HEADER_BYTES = 10_000
MAX_BRACKETS = 20
"""In a header, which Python's own parser reads: nested deep, they end in a lack of memory."""


class Distractors(Protocol):
    """Embeddings [n, d] of distractors in the order of their list, too many to hold at once."""

    def __len__(self) -> int:
        """n."""
        ...

    def chunks(self, rows: int) -> Iterator[npt.NDArray[Any]]:
        """[m, d] embeddings, all in order, m at most `rows`; good until the next are asked for."""
        ...


class ArrayDistractors:
    """Embeddings [n, d] of an array, in memory or mapped."""

    def __init__(self, embeddings: npt.NDArray[Any], what: str = "distractors") -> None:
        check_shape(embeddings, what)
        self._embeddings = embeddings

    def __len__(self) -> int:
        return len(self._embeddings)

    def chunks(self, rows: int) -> Iterator[npt.NDArray[Any]]:
        for start in range(0, len(self), rows):
            yield self._embeddings[start : start + rows]


class NpyDistractors:
    """Embeddings [n, d] of a .npy file, read a part at a time: neither held nor mapped, so in the memory of one part.

    Args:
        path: float16, float32 or float64 in C order, of either byte order.
    Raises:
        UserError: no such file, or shorter or longer than its header says.
    Source: numpy.lib.format, versions 1 to 3.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        try:
            with open_file(self._path) as file:
                _refuse_header(file)
                first = np.lib.format.read_magic(file) == (1, 0)
                read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
                shape, fortran, self._dtype = read(file, max_header_size=MAX_HEADER_BYTES)
                self._offset, size = file.tell(), os.fstat(file.fileno()).st_size
        except OSError as error:
            raise UserError(f"{self._path}: cannot be read: {error.strerror or error}") from error
        except Exception as error:  # numpy's parser of headers raises whatever Python's does
            raise UserError(f"{self._path}: expected a .npy file, got {shown(str(error))}") from error
        if (
            len(shape) != 2
            or min(shape) < 0
            or shape[1] < 1
            or fortran
            or self._dtype.kind != "f"
            or self._dtype.itemsize not in (2, 4, 8)
        ):
            order = "Fortran" if fortran else "C"
            raise UserError(
                f"{self._path}: expected [n, d] float16, float32 or float64 in C order, got {shown(list(shape))} "
                f"{self._dtype} in {order} order"
            )
        self._num, self._dim = (int(number) for number in shape)
        expected = self._offset + self._num * self._dim * self._dtype.itemsize
        if size != expected:
            raise UserError(f"{self._path}: expected {expected:,} bytes for {list(shape)} {self._dtype}, got {size:,}")

    def __len__(self) -> int:
        return self._num

    @property
    def dim(self) -> int:
        return self._dim

    def chunks(self, rows: int) -> Iterator[npt.NDArray[Any]]:
        """As `Distractors.chunks`; raises `UserError` if the file has become shorter, or cannot be read."""
        memory = np.empty((min(rows, self._num), self._dim), self._dtype)
        try:
            with open_file(self._path) as file:
                file.seek(self._offset)
                for start in range(0, self._num, rows):
                    part = memory[: min(rows, self._num - start)]
                    if file.readinto(part.view(np.uint8).data) != part.nbytes:
                        raise UserError(f"{self._path}: expected {self._num:,} rows, got less: it has been cut short")
                    yield part
        except OSError as error:
            raise UserError(f"{self._path}: cannot be read: {error.strerror or error}") from error


def _refuse_header(file: io.BufferedReader) -> None:
    """Raise `ValueError` for a header that numpy would ask for as much memory for as it claims."""
    head = file.read(12 + MAX_HEADER_BYTES)
    if head[6:8] not in VERSIONS:
        raise ValueError(f"version {head[6:8].hex('.')}")
    length = int.from_bytes(head[8:10] if head[6:8] == VERSIONS[0] else head[8:12], "little")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"a header of {length:,} bytes")
    if sum(head[:length].count(bracket) for bracket in (b"(", b"[", b"{")) > MAX_BRACKETS:
        raise ValueError("a header of many brackets")
    file.seek(0)
