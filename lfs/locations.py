"""Places on any file system that pyarrow knows: a local path, or a URI."""

import os
import re
from urllib.parse import parse_qsl, quote, urlsplit

import pyarrow as pa
import pyarrow.fs

from search_space.errors import UserError, first_line, require

SECRET = re.compile(r"access.?key|account.?key|secret|sas|token|passw|credential|signature", re.IGNORECASE)
"""Options of a URI that give access to whoever reads them."""
PLAIN = "~!$&'()*+,;=:@"
"""Signs that mean nothing in a path of a URI, besides letters, digits, `_`, `.` and `-`."""


def open_root(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """File system and path of a storage root: a local path (made absolute) or a URI.

    Raises:
        UserError: it is no usable location, or it holds a secret.
    """
    refuse_secrets(uri)
    try:
        if "://" in uri:
            filesystem, path = pyarrow.fs.FileSystem.from_uri(uri)
            return filesystem, path
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise UserError(f"storage {uri!r}: not a usable location: {first_line(error)}") from None
    return pyarrow.fs.LocalFileSystem(), os.path.realpath(os.path.expanduser(uri))


def refuse_secrets(uri: str) -> None:
    """Raise `UserError` for a URI with a password or a key in it, which the error does not repeat."""
    if "://" not in uri:
        return
    try:
        parts = urlsplit(uri)
    except ValueError:  # whoever opens it says what is wrong
        return
    _, at, place = parts.netloc.rpartition("@")
    names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True) if SECRET.search(name)]
    if parts.password is not None or names:
        what = f"the option {names[0]}" if names else "a password before the @"
        shown = f"{parts.scheme}://{at and '...@'}{place}{parts.path}"
        law = f"storage {shown}: must not hold {what}, which would be written into runs and logs"
        raise UserError(f"{law}; give it by the environment (AWS_..., GOOGLE_APPLICATION_CREDENTIALS) or a profile")


def under(root: str, *parts: str) -> str:
    """A place below a root; the options of a URI (`s3://bucket/runs?region=eu-west-1`) stay at its end.

    Args:
        parts: names of folders, the last one of what is in them; a URI quotes what would mean something else in it.
    Raises:
        UserError: a part is no name, but would lead elsewhere.
    """
    for part in parts:
        require(part not in ("", ".", "..") and "/" not in part, f"what is in {root} must have a plain name", part)
    if "://" not in root:
        return "/".join((root.rstrip("/"), *parts))
    place, question, options = root.partition("?")
    return "/".join((place.rstrip("/"), *(quote(part, safe=PLAIN) for part in parts))) + question + options
