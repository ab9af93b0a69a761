"""The primitive operations that a run directory is made of: on this machine's files, and on any that pyarrow knows.

What is built of them (a file that is there whole or not at all, a commit) is in lfs/folder.py and lfs/run_store.py. A
test numbers them and lets each one fail.
"""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import pyarrow.fs

from lfs.locations import open_root
from trainers.untrusted import require_regular
from trainers.whole_file import sync_path

Part = bytes | memoryview
CHUNK_BYTES = 16 * 2**20
OBJECT_STORES = ("s3", "gcs", "abfs")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is under a name."""

    name: str
    """Relative to the folder that was listed."""

    is_folder: bool
    changed: float = 0.0
    """When, in seconds since 1970; 0: not known, as in the folders of a folder that is listed."""


class Files(Protocol):
    """Operations on absolute paths. Each raises `OSError` where it fails, and may leave half of its work behind."""

    whole: bool
    """A new file appears under its name only when it is complete, as in object stores."""

    def read(self, path: str) -> Iterator[bytes]:
        """A file's bytes, chunk by chunk."""

    def create(self, path: str, parts: Iterable[Part]) -> None:
        """A file of these bytes, safe from a loss of power as soon as its name is."""

    def rename(self, old: str, new: str) -> None:
        """Another name for a file, in the same folder; what had that name is replaced."""

    def sync_folder(self, path: str) -> None:
        """Wait until the names in a folder are safe from a loss of power."""

    def make_folder(self, path: str) -> None:
        """A folder in one that is there; it may be there itself."""

    def info(self, path: str) -> Entry | None:
        """What is there; None: nothing."""

    def list(self, path: str, *, deep: bool = False) -> list[Entry]:
        """What is in a folder (`deep`: and in its folders); nothing if there is no such folder."""

    def size(self, path: str) -> int:
        """Bytes of all files below a folder, as far as they can be looked at; links are not followed."""

    def delete_file(self, path: str) -> None:
        """Remove a file."""

    def delete_folder(self, path: str) -> None:
        """Remove a folder and all that is in it."""


class LocalFiles:
    """Files of this machine, or of what is mounted here.

    Args:
        root: no write leaves this folder, not even through a symbolic link.
    """

    whole = False

    def __init__(self, root: str) -> None:
        self.root, self.named = os.path.realpath(root), root

    def read(self, path: str) -> Iterator[bytes]:
        """See `Files`."""
        # A pipe would hang whoever opens it.
        with open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            require_regular(os.fstat(file.fileno()).st_mode, path)
            while data := file.read(CHUNK_BYTES):
                yield data

    def create(self, path: str, parts: Iterable[Part]) -> None:
        """See `Files`."""
        self._refuse_link(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with open(path, "wb", opener=lambda name, _: os.open(name, flags, 0o666)) as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())

    def rename(self, old: str, new: str) -> None:
        """See `Files`."""
        self._refuse_link(new)
        os.replace(old, new)

    def sync_folder(self, path: str) -> None:
        """See `Files`."""
        sync_path(path)

    def make_folder(self, path: str) -> None:
        """See `Files`."""
        self._refuse_link(path)
        os.makedirs(path, exist_ok=True)

    def info(self, path: str) -> Entry | None:
        """See `Files`."""
        try:
            found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Entry(name=os.path.basename(path), is_folder=os.path.isdir(path), changed=found.st_mtime)

    def list(self, path: str, *, deep: bool = False) -> list[Entry]:
        """See `Files`."""
        found = _scan(path)
        for folder in [entry for entry in found if entry.is_folder] if deep else ():
            found += _scan(os.path.join(path, folder.name), f"{folder.name}/", dated=False)
        return found

    def size(self, path: str) -> int:
        """See `Files`."""
        files = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
        return sum(map(_size, files))

    def delete_file(self, path: str) -> None:
        """See `Files`."""
        self._refuse_link(path)
        os.unlink(path)

    def delete_folder(self, path: str) -> None:
        """See `Files`."""
        self._refuse_link(path)
        shutil.rmtree(path)

    def _refuse_link(self, path: str) -> None:
        """Raise `OSError` if the folder of `path` is in truth elsewhere than below the root, unless `path` is the root,
        or a folder that it is in, by its very name: those have to be made.
        """
        if any(f"{root}/".startswith(f"{path.rstrip('/')}/") for root in (self.root, self.named)):
            return
        folder = os.path.realpath(os.path.dirname(path))
        if os.path.commonpath((folder, self.root)) != self.root:
            raise OSError(errno.ELOOP, f"a symbolic link leads out of {self.root}", path)


def _size(path: str) -> int:
    """Bytes of a file; 0: it is gone, or a link."""
    with contextlib.suppress(OSError):
        found = os.lstat(path)
        return found.st_size if stat.S_ISREG(found.st_mode) else 0
    return 0


def _scan(path: str, before: str = "", dated: bool = True) -> list[Entry]:
    """What is in a folder, whose files may come and go meanwhile.

    Args:
        dated: whether to ask when each was changed, which takes as long as all the rest.
    """
    try:
        return [_entry(item, before, dated) for item in os.scandir(path)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _entry(item: "os.DirEntry[str]", before: str, dated: bool) -> Entry:
    """One thing in a folder; what cannot be looked at, such as a link to itself, is no folder."""
    changed, is_folder = 0.0, False
    with contextlib.suppress(OSError):
        changed = item.stat(follow_symlinks=False).st_mtime if dated else 0.0
        is_folder = item.is_dir()
    return Entry(name=before + item.name, is_folder=is_folder, changed=changed)


class ArrowFiles:
    """Files of any file system that pyarrow knows; what it says is written is safe, nothing is synced."""

    def __init__(self, filesystem: pyarrow.fs.FileSystem) -> None:
        self.fs = filesystem
        self.whole = filesystem.type_name in OBJECT_STORES

    def read(self, path: str) -> Iterator[bytes]:
        """See `Files`."""
        with self.fs.open_input_stream(path) as stream:
            while data := stream.read(CHUNK_BYTES):
                yield bytes(data)

    def create(self, path: str, parts: Iterable[Part]) -> None:
        """See `Files`."""
        with self.fs.open_output_stream(path) as stream:
            for part in parts:
                stream.write(part)

    def rename(self, old: str, new: str) -> None:
        """See `Files`."""
        self.fs.move(old, new)

    def sync_folder(self, path: str) -> None:
        """See `Files`."""

    def make_folder(self, path: str) -> None:
        """See `Files`."""
        self.fs.create_dir(path, recursive=True)

    def info(self, path: str) -> Entry | None:
        """See `Files`."""
        found = self.fs.get_file_info(path)
        return None if found.type == pyarrow.fs.FileType.NotFound else _arrow_entry(found, found.base_name)

    def list(self, path: str, *, deep: bool = False) -> list[Entry]:
        """See `Files`."""
        selector = pyarrow.fs.FileSelector(path, allow_not_found=True, recursive=deep)
        before = len(path.rstrip("/")) + 1
        return [_arrow_entry(found, found.path[before:]) for found in self.fs.get_file_info(selector)]

    def size(self, path: str) -> int:
        """See `Files`."""
        selector = pyarrow.fs.FileSelector(path, allow_not_found=True, recursive=True)
        return sum(found.size or 0 for found in self.fs.get_file_info(selector))

    def delete_file(self, path: str) -> None:
        """See `Files`."""
        self.fs.delete_file(path)

    def delete_folder(self, path: str) -> None:
        """See `Files`."""
        self.fs.delete_dir(path)


def _arrow_entry(found: pyarrow.fs.FileInfo, name: str) -> Entry:
    changed = found.mtime.timestamp() if found.mtime else 0.0
    return Entry(name=name, is_folder=found.type == pyarrow.fs.FileType.Directory, changed=changed)


def open_files(uri: str) -> tuple[Files, str]:
    """The operations for a place, and its path among them.

    Raises:
        UserError: it is no usable location.
    """
    filesystem, path = open_root(uri)
    local = isinstance(filesystem, pyarrow.fs.LocalFileSystem)
    return LocalFiles(path) if local else ArrowFiles(filesystem), path
