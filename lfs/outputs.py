"""What a command leaves behind: files, never in place of others unawares, and values in them."""

import math
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

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


def require_apart(outs: Iterable[str | Path | None], sources: Iterable[str | Path | None]) -> None:
    """Raise `UserError` for a result that would replace what it is made of, another result, or a folder.

    Args:
        sources: files, or folders of imported sets or LMDBs, whose parts are not replaced either.
    """
    from trainers.data.importers.engine import REPORT_NAME, SKIPPED_NAME  # with OpenCV, which most commands do without
    from trainers.data.importers.identity_file import FILE_NAME
    from trainers.data.importers.lmdb_list import LIST_NAME, LMDB_NAME

    parts = ("", LMDB_NAME, LIST_NAME, FILE_NAME, REPORT_NAME, SKIPPED_NAME, "data.mdb")
    taken = {_identity(Path(source, part)) for source in sources if source for part in parts}
    for out in [out for out in outs if out]:
        if (identity := _identity(out)) in taken:
            raise UserError(f"{out}: the result would replace what it is made of, or another; choose another file")
        if Path(out).is_dir():
            raise UserError(f"{out}: expected the name of a file to write, got a folder")
        taken.add(identity)


def _identity(path: str | Path) -> object:
    """The same for all names of a file that is there; of one that is to come, its path without links."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino


def json_value(value: Any) -> Any:
    """A value as JSON can hold it: null for what is missing or not finite, lists for arrays, texts for all else."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int):
        return value
    if isinstance(value, list | tuple):
        return [json_value(inner) for inner in value]
    if isinstance(value, Mapping):
        return {str(key): json_value(inner) for key, inner in value.items()}
    return None if value is None or value is pd.NA or value is pd.NaT else str(value)
