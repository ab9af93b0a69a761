"""A folder per identity: ROOT/IDENTITY/.../PICTURE.jpg."""

import os
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


class FolderSource:
    """Pictures are all `.jpg`, `.jpeg` and `.png` below the folder of an identity, at any depth; other files and what
    begins with a dot are left out. Symbolic links to folders are followed at the first level only."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def scan(self, progress: Progress) -> Catalogue:
        """See `Source`. Order: by the bytes of the names."""
        builder = CatalogueBuilder(2, self.root)
        entries = _listing(str(self.root), builder)
        folders = [entry for entry in entries if entry.is_dir()]
        if len(folders) < len(entries):
            builder.ignored["files that are in no identity's folder"] = len(entries) - len(folders)
        for done, folder in enumerate(folders):
            for path, status in _pictures(folder.path, folder.name, builder, MAX_DEPTH):
                name = path.partition("/")[2]
                builder.add(folder.name, name, (status.st_size, status.st_mtime_ns), text=path)
            progress(done + 1, len(folders))
        return builder.build(())  # size and time of each picture are in the places

    def read(self, batch: Batch) -> Iterator[bytes | UserError]:
        """See `Source`."""
        for path in batch.texts:
            try:
                yield read_file(self.root / path, MAX_PICTURE_BYTES)
            except OSError as error:
                yield UserError(f"cannot be read: {error.strerror}")

    def place(self, batch: Batch, row: int) -> str:
        """See `Source`."""
        return str(self.root / batch.texts[row])


def _pictures(folder: str, below: str, builder: CatalogueBuilder, depth: int) -> Iterator[tuple[str, os.stat_result]]:
    """(path from the root, status) of the pictures in a folder, sorted by names, folders after files."""
    if not depth:
        raise UserError(f"{folder}: expected folders nested at most {MAX_DEPTH} deep")
    inner = []
    for entry in _listing(folder, builder):
        if entry.is_dir(follow_symlinks=False):
            inner.append(entry)
        elif entry.is_dir():
            builder.ignored["links to folders"] += 1
        elif os.path.splitext(entry.name)[1].lower() not in EXTENSIONS:
            builder.ignored["files of other kinds"] += 1
        else:
            yield f"{below}/{entry.name}", _status(entry)
    for entry in inner:
        yield from _pictures(entry.path, f"{below}/{entry.name}", builder, depth - 1)


def _status(entry: "os.DirEntry[str]") -> os.stat_result:
    try:
        return entry.stat()
    except OSError as error:
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
