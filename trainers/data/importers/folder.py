"""A folder per identity: ROOT/IDENTITY/.../PICTURE.jpg."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from search_space.errors import UserError, shown
from trainers.data.importers.source import (
    MAX_PICTURE_BYTES,
    Batch,
    Catalogue,
    CatalogueBuilder,
    Progress,
)
from trainers.untrusted import read_file

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png"})
MAX_DEPTH = 16
OF_ONE_PICTURE = frozenset({errno.EACCES, errno.EINVAL, errno.EISDIR, errno.EFBIG})
"""Why one picture cannot be read: it may not be, is no file, or too large. All else is the source's failure."""

LEADS_NOWHERE = frozenset({errno.ENOENT, errno.ELOOP, errno.EACCES})
MISSING = (-1, 0)
"""In place of size and time: a link that leads nowhere."""


class FolderSource:
    """Pictures are all `.jpg`, `.jpeg` and `.png` below the folder of an identity, at any depth; other files and what
    begins with a dot are left out. Symbolic links to folders are followed at the first level only."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def scan(self, progress: Progress) -> Catalogue:
        """See `Source`. Order: by the bytes of the names."""
        builder = CatalogueBuilder(2, self.root, progress)
        entries = _listing(str(self.root), builder)
        folders = [entry for entry in entries if _is_folder(_status(entry))]
        if len(folders) < len(entries):
            builder.ignored["files that are in no identity's folder"] = len(entries) - len(folders)
        for folder in folders:
            for path, place in _pictures(folder.path, folder.name, builder, MAX_DEPTH):
                builder.add(folder.name, path.partition("/")[2], place, text=path)
        return builder.build(())  # size and time of each picture are in the places

    def read(self, batch: Batch) -> Iterator[bytes | UserError]:
        """See `Source`."""
        for path, place in zip(batch.texts, batch.places.tolist(), strict=True):
            if tuple(place) == MISSING:
                yield UserError("expected a file, got a link that leads nowhere")
                continue
            try:
                yield read_file(self.root / path, MAX_PICTURE_BYTES)
            except OSError as error:
                if error.errno not in OF_ONE_PICTURE:
                    raise UserError(f"{self.root / path}: cannot be read any more: {error.strerror}") from None
                yield UserError(f"cannot be read: {error.strerror}")

    def place(self, batch: Batch, row: int) -> str:
        """See `Source`."""
        return str(self.root / batch.texts[row])


def _pictures(folder: str, below: str, builder: CatalogueBuilder, depth: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """(path from the root, its size and time) of the pictures in a folder, sorted by names, folders after files."""
    if not depth:
        raise UserError(f"{folder}: expected folders nested at most {MAX_DEPTH} deep")
    inner = []
    for entry in _listing(folder, builder):
        status = _status(entry)
        if _is_folder(status) and entry.is_symlink():
            builder.ignored["links to folders"] += 1
        elif _is_folder(status):
            inner.append(entry)
        elif os.path.splitext(entry.name)[1].lower() not in EXTENSIONS:
            builder.ignored["files of other kinds"] += 1
        else:
            yield f"{below}/{entry.name}", (status.st_size, status.st_mtime_ns) if status else MISSING
    for entry in inner:
        yield from _pictures(entry.path, f"{below}/{entry.name}", builder, depth - 1)


def _is_folder(status: os.stat_result | None) -> bool:
    return status is not None and stat.S_ISDIR(status.st_mode)


def _status(entry: "os.DirEntry[str]") -> os.stat_result | None:
    """Of what it is, or links to; None: a link that leads nowhere."""
    try:
        return entry.stat()
    except OSError as error:
        if entry.is_symlink() and error.errno in LEADS_NOWHERE:
            return None
        raise UserError(f"{entry.path}: cannot be read: {error.strerror}") from None


def _listing(folder: str, builder: CatalogueBuilder) -> "list[os.DirEntry[str]]":
    """What is in a folder, by the bytes of the names."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise UserError(f"{folder}: expected a folder of pictures, got: {error.strerror}") from None
    for entry in entries:
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{folder}: expected names in UTF-8, got {shown(os.fsencode(entry.name))}; rename it"
            ) from None
    hidden = sum(entry.name.startswith(".") for entry in entries)
    if hidden:
        builder.ignored["hidden names"] += hidden
    return [entry for entry in entries if not entry.name.startswith(".")]
