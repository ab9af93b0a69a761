"""Another LMDB with its list, or a set that was imported before."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from search_space.errors import UserError
from trainers.data.datum import decode_datum
from trainers.data.importers.identity_file import FILE_NAME, identity_of_key, read_identities
from trainers.data.importers.source import Batch, Catalogue, CatalogueBuilder, Integers, Progress, stamp
from trainers.data.lists import Keys, read_list
from trainers.data.lmdb_source import LmdbSource
from trainers.data.picture_file import PNG, decode_stored, encode_file

LMDB_NAME, LIST_NAME = "faces.lmdb", "labels.txt"
"""In the folder of an imported set."""


def files_of(path: str | Path, list_path: str | Path | None = None) -> tuple[Path, Path | None]:
    """The LMDB of a set, and its list if there is one.

    Args:
        path: an LMDB, or the folder of an imported set.
        list_path: a list to be taken instead of that folder's own.
    """
    path, listed = Path(path), Path(list_path) if list_path else None
    if (path / LMDB_NAME).exists():
        beside = path / LIST_NAME
        return path / LMDB_NAME, listed or (beside if beside.exists() else None)
    return path, listed


class LmdbListSource:
    """Keys stay as they are. Identities: those of `identities.txt` beside the list; else the part of the keys before
    the first `/`, if it and the labels go together one to one; else the labels.

    Args:
        path: an LMDB, or the folder of an imported set.
        list_path: `key label` lines; None: the folder has it.
    """

    def __init__(self, path: str | Path, list_path: str | Path | None = None) -> None:
        self.path, listed = files_of(path, list_path)
        if listed is None:
            raise UserError(f"{path}: expected a list of the LMDB's pictures (--list FILE), got none")
        self.list_path = listed
        self._source = LmdbSource(self.path)

    def scan(self, progress: Progress) -> Catalogue:
        """See `Source`. Order: that of the list."""
        keys, labels = read_list(self.list_path, gaps=True)
        names = self._identities(keys, labels)
        data = self.path / "data.mdb" if self.path.is_dir() else self.path
        builder = CatalogueBuilder(0, self.list_path, progress, len(keys))
        for key, label in zip(keys, labels.tolist(), strict=True):
            builder.add(names[label], "", key=key)
        unlisted = len(self._source) - len(keys)
        if unlisted > 0:
            builder.ignored["records that are not in the list"] = unlisted
        return builder.build([stamp(data), stamp(self.list_path)])

    def read(self, batch: Batch) -> Iterator[bytes | UserError]:
        """See `Source`. Pixels that are no file come as a PNG."""
        for key in batch.keys:
            try:
                datum = decode_datum(self._source.get(key))
                yield datum.data if datum.encoded else encode_file(decode_stored(datum), PNG)
            except UserError as error:
                yield UserError(str(error).removeprefix(f"{self.path}: "))

    def place(self, batch: Batch, row: int) -> str:
        """See `Source`."""
        return f"{self.path}: key {batch.keys[row]!r}"

    def _identities(self, keys: Keys, labels: Integers) -> dict[int, str]:
        """Name of each label."""
        beside = self.list_path.parent / FILE_NAME
        present = np.unique(labels)
        if beside.exists():
            names = read_identities(beside)
            if int(present[-1]) >= len(names):
                raise UserError(f"{beside}: expected a name for label {present[-1]}, got {len(names):,} identities")
            return {label: names[label] for label in present.tolist()}
        by_label: dict[int, str] = {}
        for key, label in zip(keys, labels.tolist(), strict=True):
            folder = identity_of_key(key)
            if not folder or by_label.setdefault(label, folder) != folder:
                return {label: str(label) for label in present.tolist()}
        if len(set(by_label.values())) < len(by_label):
            return {label: str(label) for label in present.tolist()}
        return by_label
