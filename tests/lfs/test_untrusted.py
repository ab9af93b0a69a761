"""YAML and Parquet from elsewhere: what stands for gigabytes is refused before it takes them."""

import struct
import tracemalloc

import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml

from lfs.untrusted import read_table, read_yaml
from tests.fuzz.runs import base_files
from trainers.parquet_structure import MAX_VALUES, Thrift, check_parquet

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}, *a{i}, *a{i}]\n" for i in range(40))
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}]\n" for i in range(500))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i + 1}: &a{i + 1} {{<<: [*a{i}, *a{i}, *a{i}]}}\n" for i in range(40))


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "stands for more than"),
        (MERGES, "stands for more than"),
        ("a: &a [*a]", "stands for more than"),
        (CHAIN, "nested too deep"),
        ("[" * 100_000, "nested too deep"),
        ("- " * 100_000, "nested too deep"),
        ("? " * 100_000, "nested too deep"),
        ("[" * 2000, "nested too deep"),
        ("[" * 70 + "]" * 70, "nested too deep"),
        ("a: 2024-99-99", "month must be in"),
        ("a: " + "9" * 5000, "4300"),
        ("a: !!int ''", "does not fit its tag"),
        ("a: !!bool x", "does not fit its tag"),
        ("a: !!timestamp x", "does not fit its tag"),
        ("x" * (5 * 2**20), "bytes of YAML"),
    ],
)
def test_yaml_that_makes_no_sense(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_yaml(text)


def test_yaml_makes_no_objects() -> None:
    with pytest.raises(yaml.YAMLError, match="could not determine a constructor"):
        read_yaml("a: !!python/object/apply:os.system ['true']")


def test_references_that_are_sane_are_replaced() -> None:
    values, node = read_yaml("a: &a {x: 1, y: [1, 2]}\nb: {<<: *a, x: 2}\nc: *a")
    assert values == {"a": {"x": 1, "y": [1, 2]}, "b": {"x": 2, "y": [1, 2]}, "c": {"x": 1, "y": [1, 2]}}
    assert node is not None
    assert read_yaml("") == (None, None)


def parquet(table: pa.Table, **settings: object) -> bytes:
    """A table as the bytes of a file."""
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink, **settings)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    "settings",
    [{}, {"data_page_version": "2.0"}, {"compression": "zstd"}, {"write_page_index": True}, {"row_group_size": 7}],
    ids=str,
)
def test_tables_as_arrow_writes_them(settings: dict[str, object]) -> None:
    table = pa.table(
        {"x": range(2000), "s": [str(i % 7) for i in range(2000)], "l": [[0.5] * (i % 3) for i in range(2000)]}
    )
    assert read_table(parquet(table, **settings)).equals(table)
    assert read_table(parquet(table.slice(0, 0), **settings)).num_rows == 0


def test_tables_of_runs() -> None:
    data = base_files()["generations/000002/candidates.parquet"]
    assert read_table(data).equals(pyarrow.parquet.read_table(pa.BufferReader(data)))


def test_a_few_bytes_that_claim_many_values() -> None:
    many = pa.table({"x": pa.array([[None] * (MAX_VALUES + 1)], pa.list_(pa.float64()))})
    data = parquet(many)
    assert len(data) < 1000
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    with pytest.raises(ValueError, match="claims 16,777,217 values"):
        read_table(data)
    assert pa.default_memory_pool().max_memory() >= before
    tracemalloc.stop()


def test_pages_that_claim_more_than_the_footer_does() -> None:
    data = bytearray(parquet(pa.table({"x": [1, 2, 3]}), compression="none", use_dictionary=False))
    check_parquet(bytes(data))
    header = Thrift(bytes(data), 4)
    page = header.struct()
    assert page[5][1] == 3
    at = data.index(b"\x15\x06", 4, header.at)  # field 1 of the page's header: zigzag 3
    data[at + 1] = 0x7E
    with pytest.raises(ValueError, match="a column of 63 values that claims 3"):
        read_table(bytes(data))


def test_one_long_text_in_many_rows() -> None:
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 300, pa.int32()), pa.array(["x" * 1_000_000]))
    with pytest.raises(ValueError, match="a table of more than"):
        read_table(parquet(pa.table({"s": texts}), store_schema=False))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"x": [b"bytes"]}), "a column of type binary"),
        (pa.table({"x": [{"y": 1}]}), "a column of type struct"),
        (pa.table([[1], [2]], names=["x", "x"]), "two columns of one name"),
    ],
)
def test_other_columns(table: pa.Table, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_table(parquet(table))


def test_texts_that_are_no_text() -> None:
    data = parquet(pa.table({"x": ["abcd"]}), compression="none", use_dictionary=False, write_statistics=False)
    assert data.count(b"abcd") == 1
    with pytest.raises(ValueError, match="UTF8"):
        read_table(data.replace(b"abcd", b"ab\xec\xff"))


def test_statistics_that_made_arrow_abort() -> None:
    """Level histograms that contradict the schema: asking pyarrow for them ends the process."""
    data = parquet(pa.table({"x": [[1, 2], []]}))
    length = struct.unpack("<I", data[-8:-4])[0]
    for at in range(len(data) - 8 - length, len(data) - 8):
        spoiled = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        try:
            read_table(spoiled)
        except ValueError:
            continue


@pytest.mark.parametrize(
    "data", [b"", b"PAR1", b"PAR1PAR1", b"PAR1\xff\xff\xff\xffPAR1", b"PAR1\x00\x01\x00\x00\x00PAR1"]
)
def test_no_parquet(data: bytes) -> None:
    with pytest.raises(ValueError, match="Parquet"):
        read_table(data)
