"""Embeddings of pictures by key: an .npy file with a list beside it, or a Parquet file.

    X.npy            [n, dim] float16, float32 or float64; X.keys.txt beside it has `key` or `key label` per line
    X.parquet        columns key (text), label (may be missing), embedding (list of floats, all of one length)

Both are written by `python -m lfs.evaluate embed`, with a description of the model (X.model.json, or the table's
metadata). Files may be larger than memory: they are read a few rows at a time, and never mapped, since a map of a file
that is cut short ends the process.
"""

import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet

from search_space.errors import UserError, first_line, shown
from trainers.data.lists import Integers, Keys, read_keys
from trainers.identification import NpyDistractors
from trainers.parquet_structure import MAX_BYTES, MAX_VALUES, Limits, check_parquet
from trainers.protocol import Keyed
from trainers.untrusted import open_file, parse_json, read_file

METADATA = b"lfs"
MAX_DIM = 2**16
BLOCK_VALUES = 2**22
"""Numbers of a file that are held at a time: 16 MB."""

BLOCK_KEYS = 2**16
TEXTS = ("string", "large_string", "string_view")


def keys_file(path: Path) -> Path:
    """The list beside an .npy file."""
    return path.with_suffix(".keys.txt")


def description_file(path: Path) -> Path:
    """The description of the model beside an .npy file."""
    return path.with_suffix(".model.json")


class EmbeddingFile:
    """Embeddings in a file, by key or in order. Made by `open_embeddings`."""

    path: Path
    dim: int
    made_by: dict[str, Any]
    """What is known of the model: `sha256`, `flip`, ...; empty for a file from elsewhere."""

    def __len__(self) -> int:
        raise NotImplementedError

    def chunks(self, rows: int) -> Iterator[npt.NDArray[Any]]:
        """[m, dim] in order, m at most `rows`."""
        raise NotImplementedError

    def blocks(self) -> Iterator[tuple[list[str], npt.NDArray[Any]]]:
        """(keys, [m, dim]) in order."""
        raise NotImplementedError

    def names(self) -> Iterator[str]:
        """The keys in order."""
        raise NotImplementedError

    def spread(self, keys: Keyed, put: Callable[[Integers, npt.NDArray[Any]], None]) -> npt.NDArray[np.bool_]:
        """Hand over embeddings by key, in one pass over the file.

        Args:
            put: is given numbers of keys [m] and embeddings [m, dim], several times.
        Returns:
            [len(keys)] which of them the file has.
        Raises:
            UserError: a key that the file has twice, an embedding that is not finite.
        """
        place = {key: row for row, key in enumerate(keys)}
        seen = np.zeros(len(place), np.bool_)
        for block, embeddings in self.blocks():
            here = [(place[key], row) for row, key in enumerate(block) if key in place]
            if not here:
                continue
            to, source = (np.array(side) for side in zip(*here, strict=True))
            names = [block[row] for row in source.tolist()]
            if seen[to].any() or len(np.unique(to)) < len(to):
                rows, counts = np.unique(to, return_counts=True)
                twice = int(to[seen[to]][0] if seen[to].any() else rows[counts > 1][0])
                raise UserError(f"{self.path}: expected each key once, got {names[to.tolist().index(twice)]!r} twice")
            put(to, self.in_float32(embeddings[source], "key", names))
            seen[to] = True
        return seen

    def in_float32(self, values: npt.NDArray[Any], what: str, names: Sequence[str | int]) -> npt.NDArray[np.float32]:
        """Embeddings [m, dim] as they are used.

        Args:
            what: `key` or `row`, of which `names` are [m].
        Raises:
            UserError: one is not finite, or beyond float32.
        """
        with np.errstate(over="ignore"):
            found: npt.NDArray[np.float32] = values.astype(np.float32, copy=False)
        finite = np.isfinite(found).all(axis=1)
        if not finite.all():
            name = names[int(finite.argmin())]
            raise UserError(f"{self.path}: embeddings must be finite, in float32, got {what} {name!r}")
        return found

    def refuse_missing(self, keys: Keyed, seen: npt.NDArray[np.bool_]) -> None:
        """Raise `UserError` unless all keys were seen."""
        if not seen.all():
            key = next(islice(keys, int(seen.argmin()), None))
            law = f"{self.path}: key {key!r} has no embedding here"
            raise UserError(f"{law} ({int((~seen).sum()):,} of {len(keys):,} have none); embed this set too")


def open_embeddings(path: str | Path) -> EmbeddingFile:
    """Embeddings of a file, whatever its kind.

    Raises:
        UserError: no such file, another kind of file, or one that contradicts itself.
    """
    file = Path(path).expanduser()
    kinds = {".npy": NpyEmbeddings, ".parquet": ParquetEmbeddings}
    if file.suffix.lower() not in kinds:
        raise UserError(f"{path}: expected embeddings in a .npy or .parquet file, got {file.suffix or 'no suffix'!r}")
    try:
        return kinds[file.suffix.lower()](file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or first_line(error)}") from None


class NpyEmbeddings(EmbeddingFile):
    """See the module."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows = NpyDistractors(path)
        self.dim = self._rows.dim
        _refuse_dim(path, self.dim)
        self.keys: Keys = read_keys(keys_file(path))
        if len(self.keys) != len(self):
            law = f"{keys_file(path)}: expected a key for each of {len(self):,} rows of {path.name}"
            raise UserError(f"{law}, got {len(self.keys):,}")
        self.made_by = _description(description_file(path))

    def __len__(self) -> int:
        return len(self._rows)

    def chunks(self, rows: int) -> Iterator[npt.NDArray[Any]]:
        """See `EmbeddingFile`."""
        return self._rows.chunks(rows)

    def names(self) -> Iterator[str]:
        """See `EmbeddingFile`."""
        return iter(self.keys)

    def blocks(self) -> Iterator[tuple[list[str], npt.NDArray[Any]]]:
        """See `EmbeddingFile`."""
        row = 0
        for part in self._rows.chunks(max(1, BLOCK_VALUES // self.dim)):
            yield self.keys.take(np.arange(row, row + len(part))), part
            row += len(part)


class ParquetEmbeddings(EmbeddingFile):
    """See the module."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise UserError(f"{path}: expected a Parquet file, got an empty file")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                try:
                    check_parquet(data, Limits(max(size, MAX_VALUES), max(4 * size, MAX_BYTES)))
                except (ValueError, IndexError) as error:
                    raise UserError(f"{path}: expected a Parquet file of embeddings: {first_line(error)}") from None
        try:
            with self._open() as table:
                schema, self._rows = table.schema_arrow, table.metadata.num_rows
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: expected a Parquet file: {first_line(error)[:200]}") from None
        self._kinds = self._plain_kinds(schema)
        self.dim = self._first_dim(schema.field("embedding").type)
        _refuse_dim(path, self.dim)
        self.made_by = _metadata(schema.metadata or {})

    def _open(self) -> pyarrow.parquet.ParquetFile:
        return pyarrow.parquet.ParquetFile(
            self.path, thrift_string_size_limit=2**24, thrift_container_size_limit=2**20,
            buffer_size=2**20, pre_buffer=False,  # by itself it reads all ahead, and holds it
        )  # fmt: skip

    def _plain_kinds(self, schema: pa.Schema) -> dict[str, pa.DataType]:
        """What texts and lists of floats become: writers differ in which of their kinds they take."""
        names = schema.names
        kinds = {name: schema.field(name).type for name in names if names.count(name) == 1}
        key, embedding = (kinds.get(name, pa.null()) for name in ("key", "embedding"))
        text = getattr(key, "value_type", key) if pa.types.is_dictionary(key) else key
        value = embedding.value_type if embedding.num_fields == 1 and hasattr(embedding, "value_type") else pa.null()
        if str(text) not in TEXTS or not pa.types.is_floating(value):
            got = ", ".join(f"{name} {kind}" for name, kind in kinds.items())[:300]
            raise UserError(f"{self.path}: expected columns key (string) and embedding (list of floats), got {got}")
        return {"key": pa.large_string(), "embedding": pa.large_list(value)}

    def _first_dim(self, kind: pa.DataType) -> int:
        if pa.types.is_fixed_size_list(kind):
            return int(kind.list_size)
        if not self._rows:
            raise UserError(f"{self.path}: expected embeddings, got an empty table")
        [[first]] = next(self._batches(["embedding"], 1))
        return len(first) if first.is_valid else 0

    def __len__(self) -> int:
        return int(self._rows)

    def chunks(self, rows: int) -> Iterator[npt.NDArray[Any]]:
        """See `EmbeddingFile`."""
        for [column] in self._batches(["embedding"], rows):
            yield self._matrix(column)

    def names(self) -> Iterator[str]:
        """See `EmbeddingFile`."""
        for [column] in self._batches(["key"], BLOCK_KEYS):
            yield from self._keys(column)

    def blocks(self) -> Iterator[tuple[list[str], npt.NDArray[Any]]]:
        """See `EmbeddingFile`."""
        for key, embedding in self._batches(["key", "embedding"], max(1, BLOCK_VALUES // self.dim)):
            yield self._keys(key), self._matrix(embedding)

    def _keys(self, column: pa.Array) -> list[str]:
        if column.null_count:
            raise UserError(f"{self.path}: expected a key in every row, got a row without")
        keys: list[str] = column.to_pylist()
        return keys

    def _batches(self, columns: list[str], rows: int) -> Iterator[list[pa.Array]]:
        try:
            with self._open() as table:
                for batch in table.iter_batches(batch_size=rows, columns=columns, use_threads=False):
                    batch.validate(full=True)  # texts that are none, lists that leave their values
                    yield [batch.column(name).cast(self._kinds[name]) for name in columns]
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self.path}: damaged: {first_line(error)[:200]}") from None

    def _matrix(self, column: Any) -> npt.NDArray[Any]:
        values, lengths = column.flatten(), np.diff(column.offsets.to_numpy())
        if column.null_count or values.null_count or not (lengths == self.dim).all():
            found = sorted(set(lengths.tolist()))
            raise UserError(f"{self.path}: embeddings must all have {self.dim} numbers, got rows of {shown(found)}")
        matrix: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False).reshape(len(column), self.dim)
        return matrix


def _refuse_dim(path: Path, dim: int) -> None:
    if not 1 <= dim <= MAX_DIM:
        raise UserError(f"{path}: embeddings must have 1..{MAX_DIM} numbers, got {dim}")


def _description(path: Path) -> dict[str, Any]:
    try:
        values = parse_json(read_file(path, 2**20))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected the description of a model: {first_line(error)}") from None
    return values if isinstance(values, dict) else {}


def _metadata(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    try:
        values = parse_json(metadata.get(METADATA, b"{}"))
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}
