"""Files that a command leaves behind: never in place of others unawares."""

from pathlib import Path

from search_space.errors import UserError


def refuse_existing(paths: list[Path], overwrite: bool) -> None:
    """Raise `UserError` for the first output that is there already, unless it may be replaced, and for folders."""
    for path in paths:
        if path.is_dir():
            raise UserError(f"{path}: expected the name of a file to write, got a folder")
        if path.exists() and not overwrite:
            raise UserError(f"{path} is there already; choose another name, or replace it with --overwrite")
