"""What one node says of itself before a search starts. Sent to nodes by value, so that it also runs where this project
is missing: it may import nothing but the standard library on the way to what it reports."""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DISTRIBUTIONS = ("torch", "ray", "lfs")
PACKAGES = ("search_space", "trainers", "lfs")
MISSING = "none"


def versions(modules: Sequence[str] = ()) -> dict[str, str]:
    """Versions here of what must be equal on every node; `code` stands for this project's files.

    Args:
        modules: top-level modules of plug-ins.
    """
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = MISSING
    found["code of lfs"] = code()
    return found | plugins(modules)


def plugins(modules: Sequence[str]) -> dict[str, str]:
    """Digest of each plug-in by its top-level module, after the version of the distribution of that name, if any.

    Nothing is imported.
    """
    found = {}
    for name in modules:
        release, digest = "", code((name,))
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            release = f"{importlib.metadata.version(name)} "
        found[f"plug-in {name}"] = MISSING if digest == MISSING else f"{release}code {digest}"
    return found


def code(modules: Sequence[str] = PACKAGES) -> str:
    """A short digest of the Python files of this project, or of others; `none` where one of them is missing."""
    digest = hashlib.sha256()
    for module in modules:
        spec = None
        with contextlib.suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(module)
        roots = [Path(root) for root in dict.fromkeys((spec and spec.submodule_search_locations) or ())]
        files = [(root, path) for root in roots for path in sorted(root.rglob("*.py"))]
        if not roots and spec and spec.origin and Path(spec.origin).is_file():
            files = [(Path(spec.origin).parent, Path(spec.origin))]
        if not files:
            return MISSING
        for root, path in files:
            digest.update(f"{module}/{path.relative_to(root)}\0".encode() + path.read_bytes())
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


def look(paths: list[str], mark: str, modules: Sequence[str] = ()) -> dict[str, Any]:
    """Everything at once: versions, sizes of the data's files, the text of the mark in the storage."""
    return {"versions": versions(modules), "sizes": sizes(paths), "mark": read_text(mark)}
