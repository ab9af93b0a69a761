"""Text files that are there whole or not at all."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from search_space.errors import UserError
from trainers.checkpoint import replace_file

BATCH = 10_000


def write_lines(path: str | Path, lines: Iterable[str]) -> None:
    """Write lines, each with its line end, so that `path` holds the old content or all of the new.

    Raises:
        UserError: the file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, _parts(lines))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); check space and permissions") from error


def _parts(lines: Iterable[str]) -> Iterator[bytes]:
    rest = iter(lines)
    while part := list(islice(rest, BATCH)):
        yield "".join(f"{line}\n" for line in part).encode()
