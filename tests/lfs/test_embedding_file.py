"""Embeddings from elsewhere, made byte by byte, and all that can be wrong with them."""

import os
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from lfs.embedding_file import open_embeddings
from lfs.embedding_room import FileRows
from search_space.errors import UserError
from tests.lfs.evaluation_files import by_key


def npy_bytes(header: str, data: bytes) -> bytes:
    """Version 1.0 of numpy's format: magic, version, length of the header, header padded to 64, data."""
    text = header.encode() + b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def test_an_npy_file_byte_by_byte(tmp_path: Path) -> None:
    numbers = struct.pack("<6f", 1, 2, 3, 4, 5, 6)
    (tmp_path / "e.npy").write_bytes(npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }", numbers))
    (tmp_path / "e.keys.txt").write_text("b\na\n\nc\n")
    file = open_embeddings(tmp_path / "e.npy")
    assert (len(file), file.dim, file.made_by) == (3, 2, {})
    np.testing.assert_array_equal(by_key(open_embeddings(tmp_path / "e.npy"), ["a", "b"]), [[3, 4], [1, 2]])
    assert [part.tolist() for part in file.chunks(2)] == [[[1, 2], [3, 4]], [[5, 6]]]
    with pytest.raises(UserError, match=r"key 'd' has no embedding here \(1 of 2 have none\)"):
        by_key(open_embeddings(tmp_path / "e.npy"), ["a", "d"])


@pytest.mark.parametrize(
    ("header", "data", "line"),
    [
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }", b"\0" * 20, "expected 152 bytes for"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 2), }", b"\0" * 24, "expected 800,"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (3, 2), }", b"\0" * 24, r"got \[3, 2\] object"),
        ("{'descr': '<i4', 'fortran_order': False, 'shape': (3, 2), }", b"\0" * 24, r"got \[3, 2\] int32"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }", b"\0" * 24, r"got \[6\] float32"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 0), }", b"", r"got \[3, 0\] float32"),
        ("nonsense(", b"", "expected a .npy file"),
    ],
)  # fmt: skip
def test_bad_npy_files(header: str, data: bytes, line: str, tmp_path: Path) -> None:
    (tmp_path / "e.npy").write_bytes(npy_bytes(header, data))
    (tmp_path / "e.keys.txt").write_text("a\nb\nc\n")
    with pytest.raises(UserError, match=line):
        open_embeddings(tmp_path / "e.npy")


def test_keys_must_fit_and_numbers_be_finite(tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", np.array([[1, 2], [np.nan, 4], [5, 6]], np.float64))
    with pytest.raises(UserError, match=r"e.keys.txt: expected a readable text file"):
        open_embeddings(tmp_path / "e.npy")
    (tmp_path / "e.keys.txt").write_text("a 0\nb 0\n")
    with pytest.raises(UserError, match=r"expected a key for each of 3 rows of e.npy, got 2"):
        open_embeddings(tmp_path / "e.npy")
    (tmp_path / "e.keys.txt").write_text("a 0\nb 0\na 1\n")
    with pytest.raises(UserError, match="expected each key once, got 'a' twice"):
        by_key(open_embeddings(tmp_path / "e.npy"), ["a"])
    with pytest.raises(UserError, match="must be finite, in float32, got key 'b'"):
        by_key(open_embeddings(tmp_path / "e.npy"), ["b"])
    (tmp_path / "e.model.json").write_text("{")
    with pytest.raises(UserError, match="expected the description of a model"):
        open_embeddings(tmp_path / "e.npy")


def write(path: Path, **columns: pa.Array) -> Path:
    pyarrow.parquet.write_table(pa.table(columns), path, row_group_size=2)
    return path


KEYS = pa.array(["a", "b", "c"])


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32()), pa.list_(pa.float64(), 2), pa.list_(pa.float16(), 2)], ids=str
)
def test_parquet_lists_of_any_float(kind: pa.DataType, tmp_path: Path) -> None:
    rows = [[np.float16(x) for x in row] for row in ([1, 2], [3, 4], [5, 6])]
    file = open_embeddings(write(tmp_path / "e.parquet", key=KEYS, embedding=pa.array(rows, kind)))
    assert (len(file), file.dim) == (3, 2)
    np.testing.assert_array_equal(by_key(open_embeddings(tmp_path / "e.parquet"), ["c", "a"]), [[5, 6], [1, 2]])
    assert [part.tolist() for part in file.chunks(2)] == [[[1, 2], [3, 4]], [[5, 6]]]


@pytest.mark.parametrize("text", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str)
@pytest.mark.parametrize("kind", [pa.large_list(pa.float32()), pa.list_view(pa.float64())], ids=str)
def test_texts_and_lists_as_other_programs_write_them(text: pa.DataType, kind: pa.DataType, tmp_path: Path) -> None:
    rows = pa.array([[1, 2], [3, 4], [5, 6]], kind)
    file = open_embeddings(write(tmp_path / "e.parquet", key=KEYS.cast(text), embedding=rows))
    assert (list(file.names()), file.dim) == (["a", "b", "c"], 2)
    np.testing.assert_array_equal(by_key(file, ["c", "a"]), [[5, 6], [1, 2]])
    assert [part.tolist() for part in file.chunks(2)] == [[[1, 2], [3, 4]], [[5, 6]]]


@pytest.mark.parametrize("group", [2**10, 2**17], ids=["many row groups", "one row group"])
def test_a_parquet_file_is_never_held(group: int, tmp_path: Path) -> None:
    path, size = tmp_path / "e.parquet", 32 * 2**20
    rows = pa.FixedSizeListArray.from_arrays(pa.array(np.random.default_rng(0).random(size // 4, np.float32)), 64)
    table = pa.table({"key": [str(number) for number in range(2**17)], "embedding": rows})
    pyarrow.parquet.write_table(table, path, group, use_dictionary=False, compression="none")
    del rows, table
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in open_embeddings(path).chunks(2**10)]
    assert len(held) == 2**7
    assert 0 < max(held) < size / 4


@pytest.mark.filterwarnings("error")
def test_numbers_beyond_float32_are_not_finite(tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", np.array([[1, 2], [1e300, 4]]))
    (tmp_path / "e.keys.txt").write_text("a\nb\n")
    file = open_embeddings(tmp_path / "e.npy")
    assert by_key(file, ["a"]).tolist() == [[1, 2]]
    with pytest.raises(UserError, match="must be finite, in float32, got key 'b'"):
        by_key(file, ["b"])
    with pytest.raises(UserError, match="must be finite, in float32, got row 1"):
        list(FileRows(file).chunks(1))


def test_bad_parquet_files(tmp_path: Path) -> None:
    floats = pa.list_(pa.float32())
    cases = {
        "expected columns key": {"embedding": pa.array([[1.0]] * 3, floats)},
        "got key int64": {"key": pa.array([1, 2, 3]), "embedding": pa.array([[1.0]] * 3, floats)},
        "embedding list<element: int64>|embedding list<item: int64>": {"key": KEYS, "embedding": pa.array([[1]] * 3)},
        "all have 1 numbers, got rows of": {"key": KEYS, "embedding": pa.array([[1.0], [1.0, 2.0], [3.0]], floats)},
        "all have 1 numbers, got": {"key": KEYS, "embedding": pa.array([[1.0], None, [3.0]], floats)},
        "a row without": {"key": pa.array(["a", None, "c"]), "embedding": pa.array([[1.0]] * 3, floats)},
        "must have 1..65536 numbers, got 0": {"key": KEYS, "embedding": pa.array([[]] * 3, floats)},
        "got an empty table": {"key": KEYS[:0], "embedding": pa.array([], floats)},
    }
    for line, columns in cases.items():
        path = write(tmp_path / "e.parquet", **columns)
        with pytest.raises(UserError, match=line):
            by_key(open_embeddings(path), ["a", "b", "c"])


def test_texts_that_are_none_in_parquet_files(tmp_path: Path) -> None:
    """A key, and the name of a column."""
    floats = pa.array([[1.0]] * 3, pa.list_(pa.float32()))
    sink = tmp_path / "good.parquet"
    pyarrow.parquet.write_table(pa.table({"key": ["aaa", "b", "c"], "embedding": floats}), sink, use_dictionary=False,
                                compression="none", write_statistics=False, store_schema=False)  # fmt: skip
    good = sink.read_bytes()
    for old, new in ((b"aaa", b"a\xb0a"), (b"key", b"k\xb6y")):
        assert old in good
        (tmp_path / "e.parquet").write_bytes(good.replace(old, new))
        with pytest.raises(UserError, match="damaged: In column 0: Invalid: Invalid UTF8|expected a Parquet file"):
            by_key(open_embeddings(tmp_path / "e.parquet"), ["b"])


def test_what_is_no_file_of_embeddings(tmp_path: Path) -> None:
    good = write(tmp_path / "good.parquet", key=KEYS, embedding=pa.array([[1.0]] * 3)).read_bytes()
    for data in (b"", b"PAR1", good[:-1], good[:40] + good[60:], b"\0" * 100):
        (tmp_path / "e.parquet").write_bytes(data)
        with pytest.raises(UserError, match="expected a Parquet file|damaged"):
            by_key(open_embeddings(tmp_path / "e.parquet"), ["a"])
    with pytest.raises(UserError, match="got '.bin'"):
        open_embeddings(tmp_path / "e.bin")
    with pytest.raises(UserError, match="cannot be read: No such file"):
        open_embeddings(tmp_path / "none.npy")
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(UserError, match="not a regular file"):
        open_embeddings(tmp_path / "pipe.npy")
