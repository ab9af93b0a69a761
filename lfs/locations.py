"""Places on any file system that pyarrow knows: a local path, or a URI."""

from pathlib import Path

import pyarrow as pa
import pyarrow.fs

from search_space.errors import UserError


def open_root(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """File system and path of a storage root: a local path (made absolute) or a URI."""
    try:
        if "://" in uri:
            filesystem, path = pyarrow.fs.FileSystem.from_uri(uri)
            return filesystem, path
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise UserError(f"storage {uri!r}: not a usable location: {first_line(error)}") from None
    return pyarrow.fs.LocalFileSystem(), str(Path(uri).expanduser().resolve())


def under(root: str, *parts: str) -> str:
    """A place below a root; the options of a URI (`s3://bucket/runs?region=eu-west-1`) stay at its end."""
    place, question, options = root.partition("?") if "://" in root else (root, "", "")
    return "/".join((place.rstrip("/"), *parts)) + question + options


def first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
