"""Files that are there whole or not at all, whatever is killed or loses power when."""

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO

from search_space.errors import UserError

BATCH = 10_000
"""Lines that are written in one piece."""


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which gets its name when the block ends well, and is gone when it does not.

    Until then `path` holds what was there before.

    Raises:
        OSError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        with open(partial, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_path(path.parent)  # the rename itself must survive a loss of power


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Failures to write as one line that names what was to be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}; check space and permissions") from None


@contextlib.contextmanager
def output_file(path: str | Path) -> Iterator[IO[bytes]]:
    """`whole_file`, for what a user asked for: in a folder that is made if need be, and through links. A pipe or a
    device is written to as it is.

    Raises:
        UserError: it cannot be written, with the reason.
    """
    path = Path(path)
    with writing(path):
        if path.exists() and not path.is_file():
            with open(path, "wb") as file:
                yield file
            return
        path = Path(os.path.realpath(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            yield file


def write_bytes(path: str | Path, data: bytes) -> None:
    """A file in one piece; see `output_file`."""
    with output_file(path) as file:
        file.write(data)


def write_lines(path: str | Path, lines: Iterable[str]) -> None:
    """A text file of lines, each with its line end; see `output_file`."""
    rest = iter(lines)
    with output_file(path) as file:
        while block := list(islice(rest, BATCH)):
            file.write("".join(f"{line}\n" for line in block).encode())


def sync_path(path: str | Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
