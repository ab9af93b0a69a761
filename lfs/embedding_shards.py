"""Embeddings of a long list, made shard by shard: what is finished stays finished, whatever ends the work.

    X.npy.shards/settings.json       what is embedded, by what, and how; shards of other settings are not taken
    X.npy.shards/000007.safetensors  rows of one shard, and which of its pictures are bad
    X.npy.shards/lock                held while one process works on it

When all are there they are put together, in order, into X.npy or X.parquet (see lfs/embedding_file.py), and the folder
goes. A list of the pictures that were skipped, `key reason`, is X.bad.txt.
"""

import contextlib
import json
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
from lfs.terminal import printable
from search_space.errors import UserError
from trainers.checkpoint import load_checkpoint, save_checkpoint
from trainers.data.lists import Integers, Keys
from trainers.embedder import EmbeddedShard, Shard
from trainers.untrusted import parse_json, read_file
from trainers.whole_file import output_file, write_bytes, write_lines, writing

SETTINGS, LOCK = "settings.json", "lock"
NAME = re.compile(r"[0-9]{6,}\.safetensors")
DTYPES = ("float32", "float16")
SHARD_ROWS = 4096


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What is to be embedded and written."""

    out: Path
    lmdb: Path
    keys: Keys
    labels: Integers
    dim: int
    dtype: str
    made_by: dict[str, Any]
    """The model and how it is used; with the pictures, what the numbers depend on."""

    pictures: dict[str, Any]
    """What tells the pictures from others."""

    shard_rows: int = SHARD_ROWS

    @property
    def num_shards(self) -> int:
        """Of `shard_rows` rows each, the last one maybe fewer."""
        return -(-len(self.keys) // self.shard_rows)

    def shard(self, number: int) -> Shard:
        """The work of one shard."""
        first = number * self.shard_rows
        rows = np.arange(first, min(first + self.shard_rows, len(self.keys)))
        return Shard(number=number, lmdb=str(self.lmdb.resolve()), keys=tuple(self.keys.take(rows)))

    def settings(self) -> dict[str, Any]:
        """Everything that the bytes of a shard depend on."""
        rows = {"rows": len(self.keys), "shard_rows": self.shard_rows, "dtype": self.dtype}
        return {"made_by": self.made_by, "pictures": self.pictures, **rows}


class ShardStore:
    """The folder of shards of one output.

    Args:
        overwrite: begin anew where there are shards of other settings.
    Raises:
        UserError: there are shards of other settings, or another process works here.
    """

    def __init__(self, plan: Plan, *, overwrite: bool = False) -> None:
        self.plan, self.folder = plan, plan.out.with_name(f"{plan.out.name}.shards")
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
        write_bytes(path, self._settings.encode())

    def missing(self) -> list[int]:
        """Shards that are not there whole."""
        return [number for number in range(self.plan.num_shards) if self._load(number) is None]

    def put(self, result: EmbeddedShard) -> None:
        """Keep a finished shard.

        Raises:
            UserError: it cannot be written; what is there already stays.
        """
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
        rows = min(self.plan.shard_rows, len(self.plan.keys) - number * self.plan.shard_rows)
        fits = embeddings.shape == (rows, self.plan.dim) and embeddings.dtype.name == self.plan.dtype
        return (embeddings, bad) if fits and facts.get("settings") == self._tag else None

    def _whole(self, number: int) -> tuple[npt.NDArray[Any], list[tuple[int, str]]]:
        found = self._load(number)
        if found is None:
            raise UserError(f"{self.folder}: shard {number} has gone or changed; run the same command again")
        return found

    def put_together(self) -> list[tuple[str, str]]:
        """Write the output from all shards, in the memory of one, and remove the folder.

        Returns:
            (key, reason) of the pictures that were skipped.
        Raises:
            UserError: it cannot be written; the shards stay.
        """
        plan, skipped = self.plan, self._bad()
        rows = np.setdiff1d(np.arange(len(plan.keys)), [row for row, _ in skipped])
        bad = [(plan.keys[row], reason) for row, reason in skipped]
        bad_file = plan.out.with_suffix(".bad.txt")
        with writing(plan.out):
            for old in (plan.out, bad_file):  # it would be another output's
                old.unlink(missing_ok=True)
        if bad:
            write_lines(bad_file, (f"{key} {printable(' '.join(reason.split()))}" for key, reason in bad))
        made_by = plan.made_by | {"rows": len(rows), "dtype": plan.dtype}
        if plan.out.suffix == ".parquet":
            self._write_parquet(made_by)
        else:
            self._write_npy(rows, made_by)
        shutil.rmtree(self.folder, ignore_errors=True)
        return bad

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

    def _write_npy(self, rows: Integers, made_by: dict[str, Any]) -> None:
        """The array last: who finds it finds the others too."""
        plan = self.plan
        blocks = (rows[start : start + plan.shard_rows] for start in range(0, len(rows), plan.shard_rows))
        pairs = (pair for part in blocks for pair in zip(plan.keys.take(part), plan.labels[part].tolist(), strict=True))
        write_lines(keys_file(plan.out), (f"{key} {label}" for key, label in pairs))
        write_bytes(description_file(plan.out), json.dumps(made_by, indent=1, sort_keys=True).encode() + b"\n")
        header = {"descr": np.dtype(plan.dtype).str, "fortran_order": False, "shape": (len(rows), plan.dim)}
        with output_file(plan.out) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for _, part in self._parts():
                file.write(np.ascontiguousarray(part).data)

    def _write_parquet(self, made_by: dict[str, Any]) -> None:
        """A row group per shard."""
        plan = self.plan
        kind = {"float32": pa.float32(), "float16": pa.float16()}[plan.dtype]
        fields = [("key", pa.string()), ("label", pa.int64()), ("embedding", pa.list_(kind, plan.dim))]
        schema = pa.schema(fields, {METADATA: json.dumps(made_by, sort_keys=True).encode()})
        with (
            output_file(plan.out) as file,
            pyarrow.parquet.ParquetWriter(file, schema, use_dictionary=False, compression="none") as writer,
        ):
            for rows, part in self._parts():
                flat = pa.array(np.ascontiguousarray(part).reshape(-1), kind)
                columns = [
                    pa.array(plan.keys.take(rows), pa.string()),
                    pa.array(plan.labels[rows], pa.int64()),
                    pa.FixedSizeListArray.from_arrays(flat, plan.dim),
                ]
                if len(rows):
                    writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def outputs_of(out: Path) -> Sequence[Path]:
    """Files that belong to an output, itself first."""
    return [out] if out.suffix == ".parquet" else [out, keys_file(out), description_file(out)]


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
