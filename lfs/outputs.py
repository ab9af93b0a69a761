"""Files that a command leaves behind: never in place of others unawares."""

import tempfile
from pathlib import Path

from search_space.errors import UserError
from trainers.whole_file import writing


def refuse_existing(paths: list[Path], overwrite: bool) -> None:
    """Raise `UserError` for the first output that is there already, unless it may be replaced, and for what could not
    be written after hours of work: folders, and files where none can be made.
    """
    for path in paths:
        if path.is_dir():
            raise UserError(f"{path}: expected the name of a file to write, got a folder")
        if path.exists() and not overwrite:
            raise UserError(f"{path} is there already; choose another name, or replace it with --overwrite")
        above = next(folder for folder in path.absolute().parents if folder.exists())
        with writing(path), tempfile.TemporaryFile(dir=above):
            pass
