"""Files that a command leaves behind: never in place of others unawares, and there whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from search_space.errors import UserError
from trainers.checkpoint import sync_path


def refuse_existing(paths: list[Path], overwrite: bool) -> None:
    """Raise `UserError` for the first output that is there already, unless it may be replaced, and for folders."""
    for path in paths:
        if path.is_dir():
            raise UserError(f"{path}: expected the name of a file to write, got a folder")
        if path.exists() and not overwrite:
            raise UserError(f"{path} is there already; choose another name, or replace it with --overwrite")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which gets its name when the block ends well, and is gone when it does not.

    Raises:
        UserError: it cannot be written, with the reason.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(partial, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync_path(path.parent)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Failures to write as one line that names what was to be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}; check space and permissions") from None


def write_file(path: Path, data: bytes) -> None:
    """One file, whole or not at all; see `whole_file`."""
    with whole_file(path) as file:
        file.write(data)
