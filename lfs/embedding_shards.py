"""Embeddings of a long list, made shard by shard: what is finished stays finished, whatever ends the work.

    X.npy.shards/settings.json       what is embedded, by what, and how; shards of other settings are not taken
    X.npy.shards/000007.safetensors  rows of one shard, and which of its pictures are bad
    X.npy.shards/whole/              files of the output that are all complete, and not yet where they belong
    X.npy.shards/lock                held while one process works on it

When all are there they are put together, in order, into X.npy or X.parquet (see lfs/embedding_file.py), and the folder
goes. A list of the pictures that were skipped, `key reason`, is X.npy.bad.txt or X.parquet.bad.txt.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet
from filelock import FileLock, Timeout

from lfs.embedding_file import METADATA, description_file, keys_file
from lfs.outputs import refuse_existing
from lfs.terminal import printable
from search_space.errors import UserError
from trainers.checkpoint import load_checkpoint, save_checkpoint
from trainers.data.lists import Integers, Keys
from trainers.embedder import EmbeddedShard, Shard
from trainers.untrusted import parse_json, read_file
from trainers.whole_file import output_file, sync_path, write_bytes, write_lines, writing

SETTINGS, LOCK, MAKING, WHOLE = "settings.json", "lock", "making", "whole"
NAME = re.compile(r"[0-9]{6,}\.safetensors")
DTYPES = ("float32", "float16")
SHARD_ROWS = 4096


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What is to be embedded and written."""

    out: Path
    lmdb: Path
    keys: Keys
    labels: Integers | None
    dim: int
    dtype: str
    made_by: dict[str, Any]
    """The model and how it is used; with the pictures, what the numbers depend on."""

    pictures: str
    """Digest of the LMDB."""

    shard_rows: int = SHARD_ROWS

    @property
    def num_shards(self) -> int:
        """Of `shard_rows` rows each, the last one maybe fewer."""
        return -(-len(self.keys) // self.shard_rows)

    def rows_of(self, number: int) -> int:
        """Rows of one shard."""
        return min(self.shard_rows, len(self.keys) - number * self.shard_rows)

    def shard(self, number: int) -> Shard:
        """The work of one shard."""
        first = number * self.shard_rows
        rows = np.arange(first, first + self.rows_of(number))
        return Shard(number=number, lmdb=str(self.lmdb.resolve()), keys=tuple(self.keys.take(rows)))

    def settings(self) -> dict[str, Any]:
        """Everything that the bytes of a shard depend on: not on how the place of the model is spelled."""
        made_by = {name: value for name, value in self.made_by.items() if name != "source"}
        listed = sha256()
        for line in self.lines(np.arange(len(self.keys))):
            listed.update(f"{line}\n".encode())
        return {
            "made_by": made_by, "lmdb": self.pictures, "list_sha256": listed.hexdigest(), "rows": len(self.keys),
            "shard_rows": self.shard_rows, "dtype": self.dtype,
        }  # fmt: skip

    def lines(self, rows: Integers) -> Iterator[str]:
        """`key label` of some rows, or `key` if there are no labels."""
        for start in range(0, len(rows), SHARD_ROWS):
            part = rows[start : start + SHARD_ROWS]
            keys = self.keys.take(part)
            yield from keys if self.labels is None else map("{} {}".format, keys, self.labels[part].tolist())


class ShardStore:
    """The folder of shards of one output.

    Args:
        overwrite: begin anew where there are shards of other settings.
        skip_bad: shards with bad pictures count as finished.
    Raises:
        UserError: there are shards of other settings, or another process works here.
    """

    def __init__(self, plan: Plan, *, overwrite: bool = False, skip_bad: bool = False) -> None:
        self.plan, self.folder, self._skip_bad = plan, shards_of(plan.out), skip_bad
        self._settings = json.dumps(plan.settings(), sort_keys=True)
        self._tag = sha256(self._settings.encode()).hexdigest()
        self._overwrite = overwrite

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """This process alone works here until the block ends."""
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / LOCK, timeout=0)
            try:
                lock.acquire()
            except Timeout:
                raise UserError(f"{self.plan.out}: another process is writing it; wait for it, or end it") from None
        try:
            self._claim()
            yield
        finally:
            lock.release()

    def _claim(self) -> None:
        path = self.folder / SETTINGS
        try:
            there = parse_json(read_file(path, 2**20))
        except FileNotFoundError:
            there = None
        except (OSError, ValueError):
            there = {}
        if there is not None and there != json.loads(self._settings):
            if not self._overwrite:
                differing = _differing(there, json.loads(self._settings))
                law = f"{self.folder} holds shards of other settings ({differing})"
                raise UserError(f"{law}; finish those with the command that made them, or begin anew with --overwrite")
            for old in self.folder.iterdir():
                if NAME.fullmatch(old.name):
                    old.unlink()
            shutil.rmtree(self.folder / WHOLE, ignore_errors=True)
        write_bytes(path, self._settings.encode())

    def missing(self) -> list[int]:
        """Shards that are not there whole, or have bad pictures that are not to be skipped."""
        found = map(self._load, range(self.plan.num_shards))
        return [number for number, one in enumerate(found) if one is None or (one[1] and not self._skip_bad)]

    def put(self, result: EmbeddedShard) -> None:
        """Keep a finished shard.

        Raises:
            UserError: it cannot be written; what is there already stays.
        """
        shutil.rmtree(self.folder / WHOLE, ignore_errors=True)  # made of what was there before
        embeddings = result.embeddings.astype(self.plan.dtype)
        largest = np.finfo(self.plan.dtype).max
        if (np.abs(result.embeddings[~np.isnan(result.embeddings)]) > largest).any():
            raise UserError(f"embeddings must be within {largest:g} to be written as {self.plan.dtype}, take float32")
        try:
            save_checkpoint(
                self.folder / f"{result.number:06d}.safetensors",
                {"embeddings": embeddings},
                {"settings": self._tag, "bad": [list(entry) for entry in result.bad]},
            )
        except UserError as error:
            raise UserError(f"{error}; finished shards are kept: run the same command again to go on") from None

    def _load(self, number: int) -> tuple[npt.NDArray[Any], list[tuple[int, str]]] | None:
        path = self.folder / f"{number:06d}.safetensors"
        if not path.exists():
            return None
        try:
            arrays, facts = load_checkpoint(path)
            embeddings = arrays["embeddings"]
            bad = [(int(row), str(reason)) for row, reason in facts["bad"]]
        except (UserError, KeyError, ValueError, TypeError):
            return None
        fits = (
            embeddings.shape == (self.plan.rows_of(number), self.plan.dim) and embeddings.dtype.name == self.plan.dtype
        )
        return (embeddings, bad) if fits and facts.get("settings") == self._tag else None

    def _whole(self, number: int) -> tuple[npt.NDArray[Any], list[tuple[int, str]]]:
        found = self._load(number)
        if found is None:
            raise UserError(f"{self.folder}: shard {number} has gone or changed; run the same command again")
        return found

    def put_together(self) -> list[tuple[str, str]]:
        """Write the output from all shards, in the memory of one, and remove the folder.

        Until all files are complete, what was there before stays as it is.

        Returns:
            (key, reason) of the pictures that were skipped.
        Raises:
            UserError: it cannot be written, or no picture decodes; the shards stay.
        """
        plan, skipped = self.plan, self._bad()
        bad = [(plan.keys[row], reason) for row, reason in skipped]
        if len(bad) == len(plan.keys):
            raise UserError(f"{plan.lmdb}: expected pictures, got {len(bad):,} none of which decodes: {bad[0][1]}")
        if not (self.folder / WHOLE).is_dir():
            self._make(np.setdiff1d(np.arange(len(plan.keys)), [row for row, _ in skipped]), bad)
        self._move(keep_list=bool(bad))
        shutil.rmtree(self.folder, ignore_errors=True)
        return bad

    def _make(self, rows: Integers, bad: Sequence[tuple[str, str]]) -> None:
        plan, making = self.plan, self.folder / MAKING
        shutil.rmtree(making, ignore_errors=True)  # of a process that was killed
        out = making / plan.out.name
        if bad:
            write_lines(bad_file(out), (f"{key} {printable(' '.join(reason.split()))}" for key, reason in bad))
        made_by = plan.made_by | {"rows": len(rows), "dtype": plan.dtype}
        if out.suffix == ".parquet":
            self._write_parquet(out, made_by)
        else:
            self._write_npy(out, rows, made_by)
        with writing(plan.out):
            making.rename(self.folder / WHOLE)
            sync_path(self.folder)

    def _move(self, *, keep_list: bool) -> None:
        """The array or table last: who finds it finds what belongs to it."""
        out, whole = self.plan.out, self.folder / WHOLE
        with writing(out):
            if out.suffix == ".npy" and (whole / out.name).exists():
                out.unlink(missing_ok=True)  # never beside the keys of another
            for path in reversed(outputs_of(out)):
                if (whole / path.name).exists():
                    os.replace(whole / path.name, path)
            if not keep_list:
                bad_file(out).unlink(missing_ok=True)
            sync_path(out.parent)

    def _bad(self) -> list[tuple[int, str]]:
        found = []
        for number in range(self.plan.num_shards):
            first = number * self.plan.shard_rows
            found += [(first + row, reason) for row, reason in self._whole(number)[1]]
        return found

    def _parts(self) -> Iterator[tuple[Integers, npt.NDArray[Any]]]:
        """(rows of the list, their embeddings) of each shard, without bad pictures."""
        for number in range(self.plan.num_shards):
            embeddings, bad = self._whole(number)
            kept = np.setdiff1d(np.arange(len(embeddings)), [row for row, _ in bad])
            yield kept + number * self.plan.shard_rows, embeddings[kept]

    def _write_npy(self, out: Path, rows: Integers, made_by: dict[str, Any]) -> None:
        plan = self.plan
        write_lines(keys_file(out), plan.lines(rows))
        write_bytes(description_file(out), json.dumps(made_by, indent=1, sort_keys=True).encode() + b"\n")
        header = {"descr": np.dtype(plan.dtype).str, "fortran_order": False, "shape": (len(rows), plan.dim)}
        with output_file(out) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for _, part in self._parts():
                file.write(np.ascontiguousarray(part).data)

    def _write_parquet(self, out: Path, made_by: dict[str, Any]) -> None:
        """A row group per shard."""
        plan = self.plan
        kind = {"float32": pa.float32(), "float16": pa.float16()}[plan.dtype]
        labels = [] if plan.labels is None else [("label", pa.int64())]
        fields = [("key", pa.string()), *labels, ("embedding", pa.list_(kind, plan.dim))]
        schema = pa.schema(fields, {METADATA: json.dumps(made_by, sort_keys=True).encode()})
        with (
            output_file(out) as file,
            pyarrow.parquet.ParquetWriter(file, schema, use_dictionary=False, compression="none") as writer,
        ):
            for rows, part in self._parts():
                flat = pa.array(np.ascontiguousarray(part).reshape(-1), kind)
                columns = [
                    pa.array(plan.keys.take(rows), pa.string()),
                    *([] if plan.labels is None else [pa.array(plan.labels[rows], pa.int64())]),
                    pa.FixedSizeListArray.from_arrays(flat, plan.dim),
                ]
                if len(rows):
                    writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def shards_of(out: Path) -> Path:
    """The folder of shards of an output."""
    return out.with_name(f"{out.name}.shards")


def bad_file(out: Path) -> Path:
    """The list of the pictures that were skipped."""
    return out.with_name(f"{out.name}.bad.txt")


def outputs_of(out: Path) -> list[Path]:
    """Files that belong to an output, itself first."""
    beside = [] if out.suffix == ".parquet" else [keys_file(out), description_file(out)]
    return [out, *beside, bad_file(out)]


def refuse_outputs(out: Path, overwrite: bool) -> None:
    """`refuse_existing`, but for files that a process which was killed has brought to their places already."""
    whole = shards_of(out) / WHOLE
    refuse_existing([path for path in outputs_of(out) if not whole.is_dir() or (whole / path.name).exists()], overwrite)


def _differing(there: Any, wanted: dict[str, Any]) -> str:
    if not isinstance(there, dict):
        return "damaged"
    flat = [_flat(values) for values in (there, wanted)]
    names = [name for name in {**flat[0], **flat[1]} if flat[0].get(name) != flat[1].get(name)]
    return ", ".join(names)[:300] or "damaged"


def _flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{before}{name}.") if isinstance(value, dict) else {f"{before}{name}": value}
    return found
