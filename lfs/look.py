"""What one node says of itself before a search starts. Sent to nodes by value, so that it also runs where this project
is missing: it may import nothing but the standard library on the way to what it reports."""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
from pathlib import Path
from typing import Any

DISTRIBUTIONS = ("torch", "ray", "lfs")
PACKAGES = ("search_space", "trainers", "lfs")
MISSING = "none"


def versions() -> dict[str, str]:
    """Versions here of what must be equal on every node; `code` stands for this project's files."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = MISSING
    found["code of lfs"] = code()
    return found


def code() -> str:
    """A short digest of this project's Python files; `none` where a package is missing."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        spec = None
        with contextlib.suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            return MISSING
        root = Path(next(iter(spec.submodule_search_locations)))
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{package}/{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:10]


def sizes(paths: list[str]) -> dict[str, int]:
    """Size in bytes of each file, or of an LMDB folder's data; -1: not there or not readable."""
    return {path: size(path) for path in paths}


def size(path: str) -> int:
    """Size of a file that can be read."""
    file = os.path.join(path, "data.mdb") if os.path.isdir(path) else path
    try:
        with open(file, "rb") as stream:
            stream.read(1)
            return os.fstat(stream.fileno()).st_size
    except OSError:
        return -1


def read_text(uri: str) -> str:
    """A small file of the storage, by path or URI; empty: it cannot be read here."""
    try:
        if "://" not in uri:
            return Path(uri).read_text()
        import pyarrow.fs

        filesystem, path = pyarrow.fs.FileSystem.from_uri(uri)
        with filesystem.open_input_stream(path) as stream:
            return str(stream.read().decode())
    except Exception:  # whatever it is, it cannot be read here
        return ""


def look(paths: list[str], mark: str) -> dict[str, Any]:
    """Everything at once: versions, sizes of the data's files, the text of the mark in the storage."""
    return {"versions": versions(), "sizes": sizes(paths), "mark": read_text(mark)}
