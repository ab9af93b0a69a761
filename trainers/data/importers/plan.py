"""Which pictures of a catalogue are imported, and under which labels."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from search_space.errors import UserError, shown
from trainers.data.importers.convert import Conversion
from trainers.data.importers.identity_file import in_label_order
from trainers.data.importers.source import Batch, Catalogue, Integers

FORMAT = 2
"""Raise it whenever the same source and settings give other bytes."""

SHARD_PICTURES = 1024


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which identities are kept: all, or those of `only`; and none of `but`."""

    only: Collection[str] | None = None
    but: Collection[str] = ()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The pictures to import, in the order of the source."""

    catalogue: Catalogue
    rows: Integers
    """[n] which of the catalogue's pictures."""

    identities: tuple[str, ...]
    """In the order of their labels."""

    labels: Integers
    """[n] of each picture, from 0 without gaps."""

    starts: Integers
    """[num_shards + 1] first picture of each shard, and n."""

    unknown: tuple[str, ...]
    """Identities that were named and are not in the source."""

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, shard: int) -> Batch:
        """The pictures of one shard."""
        rows = self.rows[self.starts[shard] : self.starts[shard + 1]]
        catalogue = self.catalogue
        return Batch(catalogue.keys.take(rows), catalogue.places[rows], catalogue.texts.take(rows))

    def fingerprint(self, kind: str, conversion: Conversion) -> str:
        """Differs where source, choice or settings do; not for what else may change between two tries."""
        digest = hashlib.sha256(repr((FORMAT, kind, conversion, self.catalogue.stamps)).encode())
        for array in (self.rows, self.labels, self.starts, self.catalogue.places):
            digest.update(np.ascontiguousarray(array).tobytes())
        for texts in (self.catalogue.keys, self.catalogue.texts, self.identities):
            for text in texts:
                digest.update(f"{text}\n".encode())
        return digest.hexdigest()


def plan_import(catalogue: Catalogue, choice: Choice) -> Plan:
    """Choose identities and number them, by number where all are whole numbers, else by the bytes of their names.

    Raises:
        UserError: nothing is left.
    """
    known = set(catalogue.identities)
    named = [*(choice.only or ()), *choice.but]
    unknown = tuple(dict.fromkeys(name for name in named if name not in known))
    only, but = (set(choice.only) if choice.only is not None else known), set(choice.but)
    kept = np.array([name in only and name not in but for name in catalogue.identities], np.bool_)
    rows = np.flatnonzero(kept[catalogue.owners])
    if not len(rows):
        some = shown(catalogue.identities[0])
        raise UserError(f"expected some of the {len(known):,} identities (one is {some}) to be kept, got none")
    identities = tuple(in_label_order(name for name, keep in zip(catalogue.identities, kept, strict=True) if keep))
    label_of = {name: label for label, name in enumerate(identities)}
    renumbered = np.array([label_of.get(name, -1) for name in catalogue.identities], np.int64)
    return Plan(
        catalogue=catalogue, rows=rows, identities=identities, labels=renumbered[catalogue.owners[rows]],
        starts=np.append(np.arange(0, len(rows), SHARD_PICTURES), len(rows)), unknown=unknown,
    )  # fmt: skip
