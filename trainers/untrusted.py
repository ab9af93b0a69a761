"""Files that someone else may have written: read in bounds, and parsed into plain values or refused."""

import errno
import io
import json
import os
import stat
from pathlib import Path
from typing import Any

MAX_JSON_BYTES = 64 * 2**20
MAX_JSON_DEPTH = 64


def read_file(path: str | Path, max_bytes: int) -> bytes:
    """All bytes of a regular file.

    Raises:
        OSError: it cannot be read, is a pipe, a device or a folder (a pipe would hang whoever opens it), or is larger.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise OSError(errno.EFBIG, f"more than {max_bytes:,} bytes", str(path))
        return file.read(size)  # room is made for as many bytes as are asked for


def open_file(path: str | Path) -> io.BufferedReader:
    """A regular file, open for reading.

    Raises:
        OSError: it cannot be opened, or is a pipe, a device or a folder.
    """
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")  # noqa: SIM115
    try:
        require_regular(os.fstat(file.fileno()).st_mode, path)
    except OSError:
        file.close()
        raise
    return file


def require_regular(mode: int, path: str | Path) -> None:
    """Raise `OSError` unless `mode`, as `stat` gives it, is that of a regular file."""
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def parse_json(data: bytes | str, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """What a JSON text holds.

    Raises:
        ValueError: it is no JSON, too long, or nested more than `MAX_JSON_DEPTH` deep, which no recursive code bears.
    """
    if len(data) > max_bytes:
        raise ValueError(f"more than {max_bytes:,} bytes of JSON")
    try:
        value = json.loads(data)
        _refuse_depth(value, MAX_JSON_DEPTH)
    except RecursionError:
        raise ValueError("JSON that is nested too deep") from None
    return value


def _refuse_depth(value: Any, left: int) -> None:
    if not isinstance(value, dict | list):
        return
    if not left:
        raise ValueError("JSON that is nested too deep")
    for inner in value.values() if isinstance(value, dict) else value:
        _refuse_depth(inner, left - 1)
