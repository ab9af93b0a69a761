"""WebDataset: tar files in which the members of one sample follow each other and share their name up to the first dot.

`000042.jpg` and `000042.cls` are one picture and its label. Nothing is extracted: members are read where they lie.
"""

import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from search_space.errors import UserError, shown
from trainers.data.importers.source import (
    MAX_PICTURE_BYTES,
    Batch,
    Catalogue,
    CatalogueBuilder,
    Progress,
    reading,
    stamp,
)
from trainers.data.importers.tables import LABEL_NAMES
from trainers.untrusted import parse_json

PICTURES = ("jpg", "jpeg", "png")
MAX_LABEL_BYTES = 2**20
BLOCK_BYTES = 512
"""Of a tar file, which ends with blocks of zeros."""

MAX_HEAD_BYTES = 2**20
"""Of what a tar file says of a member, long names included."""

Extent = tuple[int, int]
"""Where a member's bytes begin in the file, and how many they are."""


class WebDatasetSource:
    """
    Args:
        paths: the tar files, not compressed (pictures are already, and a member could not be found again).
        picture_extension: of the members that are pictures; None: jpg, jpeg or png.
        label: extension of the labels (`cls`, `txt`), or name of a value in `json`; None: `cls`, else a usual name in
            `json`.
    """

    def __init__(
        self, paths: Sequence[str | Path], picture_extension: str | None = None, label: str | None = None
    ) -> None:
        self.paths, self.label = [Path(path) for path in paths], label
        self.pictures = PICTURES if picture_extension is None else (picture_extension.lower().lstrip("."),)

    def scan(self, progress: Progress) -> Catalogue:
        """See `Source`. Order: that of the files; name: the sample's."""
        builder = CatalogueBuilder(3, self.paths[0].parent, progress)
        stamps = [stamp(path) for path in self.paths]
        for number, path in enumerate(self.paths):
            with reading(path) as file:
                for name, members in _samples(path, file, builder):
                    picture = next((members[kind] for kind in self.pictures if kind in members), None)
                    if picture is None:
                        builder.ignored["samples without a picture"] += 1
                        continue
                    identity = self._identity(path, name, members, file.fileno())
                    builder.add(identity, name, (number, *picture))
        return builder.build(stamps)

    def read(self, batch: Batch) -> Iterator[bytes | UserError]:
        """See `Source`."""
        start, numbers = 0, batch.places[:, 0].tolist()
        while start < len(numbers):
            end = start + 1
            while end < len(numbers) and numbers[end] == numbers[start]:
                end += 1
            with reading(self.paths[numbers[start]]) as file:
                for _, offset, size in batch.places[start:end].tolist():
                    data = os.pread(file.fileno(), size, offset) if size <= MAX_PICTURE_BYTES else b""
                    yield data if len(data) == size else UserError(f"expected a picture, got {size:,} bytes")
            start = end

    def place(self, batch: Batch, row: int) -> str:
        """See `Source`."""
        return f"{self.paths[batch.places[row, 0]]}: sample {batch.keys[row].partition('/')[2]!r}"

    def _identity(self, path: Path, name: str, members: dict[str, Extent], descriptor: int) -> str:
        wanted = [self.label] if self.label in members else ["json"] if self.label else ["cls", "json"]
        for kind in wanted:
            if kind not in members:
                continue
            offset, size = members[kind]
            if size > MAX_LABEL_BYTES:
                raise UserError(f"{path}: sample {shown(name)}: expected a label, got {size:,} bytes of {kind}")
            data = os.pread(descriptor, size, offset)
            found = self._value(data) if kind == "json" else data.decode(errors="replace").strip()
            if found:
                return found
        what = f"`{self.label}`, or `{self.label}` in `json`" if self.label else "`cls`, or a label in `json`"
        raise UserError(
            f"{path}: sample {shown(name)}: expected {what}, got {', '.join(sorted(members))}; "
            "name it with --label-column"
        )

    def _value(self, data: bytes) -> str:
        """The label in a JSON object; empty: none."""
        try:
            values = parse_json(data)
        except ValueError:
            return ""
        names = LABEL_NAMES if self.label is None else (self.label,)
        found = (values.get(name) for name in names) if isinstance(values, dict) else ()
        return next((str(value) for value in found if isinstance(value, int | str) and value is not True), "")


def _samples(path: Path, file: io.BufferedReader, builder: CatalogueBuilder) -> Iterator[tuple[str, dict[str, Extent]]]:
    """(name, members by extension) of each sample of a tar file."""
    name, members = "", dict[str, Extent]()
    for member, extent in _members(path, file, builder):
        folder, slash, base = member.rpartition("/")
        stem, _, extension = base.partition(".")
        found = f"{folder}{slash}{stem}".removeprefix("./")
        if found != name and members:
            yield name, members
            members = {}
        name = found
        if extension.lower() in members:
            raise UserError(f"{path}: expected members with names of their own, got {shown(member)} twice")
        members[extension.lower()] = extent
    if members:
        yield name, members


def _members(path: Path, file: io.BufferedReader, builder: CatalogueBuilder) -> Iterator[tuple[str, Extent]]:
    """Name and place of the plain files in a tar file."""
    try:
        size = os.fstat(file.fileno()).st_size
        with tarfile.open(fileobj=cast(Any, _Heads(file)), mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # or it would keep them all
                if not member.isreg() or member.issparse():
                    builder.ignored["members that are no plain files"] += not member.isdir()
                elif member.offset_data + member.size > size:
                    raise UserError(f"{path}: {shown(member.name)} leaves the file: it is cut off")
                else:
                    yield member.name, (member.offset_data, member.size)
            if any(block := os.pread(file.fileno(), BLOCK_BYTES, archive.offset)) or len(block) < BLOCK_BYTES:
                raise UserError(f"{path}: expected a block of zeros at byte {archive.offset:,}: it is cut off")
    except UserError:
        raise
    except (tarfile.TarError, EOFError, OSError, OverflowError, RecursionError, ValueError) as error:
        hint = "; unpack it first" if path.suffix in (".gz", ".tgz", ".xz", ".zst") else ""
        raise UserError(f"{path}: expected a tar file, got: {str(error).splitlines()[0][:200]}{hint}") from None


class _Heads:
    """A file of which `tarfile` gets the heads of members alone: it asks for as much as a head claims to have."""

    def __init__(self, file: io.BufferedReader) -> None:
        self.seek, self.tell, self._read = file.seek, file.tell, file.read

    def read(self, count: int) -> bytes:
        if not 0 <= count <= MAX_HEAD_BYTES:
            raise tarfile.ReadError(f"a head of {count:,} bytes")
        return self._read(count)
