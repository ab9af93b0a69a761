"""YAML and Parquet from elsewhere: what stands for gigabytes is refused before it takes them."""

import struct
import tracemalloc

import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml

from lfs.untrusted import read_table, read_yaml
from tests.fuzz.runs import base_files
from tests.fuzz.thrift import empty_page, parquet_of, varint, with_footer
from trainers.parquet_structure import MAX_VALUES, Thrift, check_parquet

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}, *a{i}, *a{i}]\n" for i in range(40))
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}]\n" for i in range(100))
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
        ("a: " + "9" * 5000, "a number of more than 1,000 characters"),
        ("a: 1" + ":1" * 2**20, "a number of more than 1,000 characters"),
        ("a: 1" + ":1" * 2**20 + ".5", "a number of more than 1,000 characters"),
        ("a: !!timestamp " + "x" * 5000, "a number of more than 1,000 characters"),
        ("{" + ", ".join(f"{i * (2**61 - 1)}: " for i in range(40_000)) + "}", "100 keys that are no texts"),
        ("".join(f"%TAG !t{i}! x\n" for i in range(250_000)) + "--- a", "100 %TAG directives"),
        ("[" + "a," * 2_000_000 + "]", "YAML of more than 100,000 values"),
        (b"a: \xff", "can't decode byte 0xff"),
        ("a: !!int ''", "does not fit its tag"),
        ("a: !!bool x", "does not fit its tag"),
        ("a: !!timestamp x", "does not fit its tag"),
        ("x" * (5 * 2**20), "bytes of YAML"),
    ],
)
def test_yaml_that_makes_no_sense(text: bytes | str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_yaml(text)


def test_long_texts_and_many_keys_are_fine() -> None:
    text = {"a": "9" * 5000, **{f"k{i}": i for i in range(1000)}, **{i: i for i in range(100)}}
    assert read_yaml(yaml.safe_dump(text))[0] == text
    merges = "a: &a {x: 1}\n" + "".join(f"b{i}: {{<<: *a}}\n" for i in range(200))
    assert read_yaml(merges)[0]["b199"] == {"x": 1}


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


def test_one_long_text_in_many_rows_of_a_small_file() -> None:
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), pa.array(["x" * 2**24]))
    data = parquet(pa.table({"s": texts}), store_schema=False, compression="zstd", write_statistics=False)
    assert len(data) < 10_000
    before = pa.total_allocated_bytes()
    with pytest.raises(ValueError, match="a table of more than"):
        read_table(data)
    assert pa.default_memory_pool().max_memory() - before < 2**31


def test_a_page_that_is_too_long_for_so_many_rows() -> None:
    texts = pa.DictionaryArray.from_arrays(pa.array([0] + [1] * 50_000, pa.int32()), pa.array(["x" * 2**26, ""]))
    data = parquet(pa.table({"s": texts}), store_schema=False, compression="zstd", write_statistics=False)
    with pytest.raises(ValueError, match="a table of 50,001 rows with a page of 67,1"):
        read_table(data)


EMPTY_PAGES = empty_page() * 1000


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("pages", "chunks", "message"),
    [
        (EMPTY_PAGES, [(4, len(EMPTY_PAGES))] * 1000, "a column outside the file, or inside another one"),
        (EMPTY_PAGES, [(4, 500), (500, 100)], "a column outside the file, or inside another one"),
        (EMPTY_PAGES * 200, [(4, 200 * len(EMPTY_PAGES))], "more than 1,000,000 values in the footer and the heads"),
        (b"", [(4, 0)] * 10_001, "a table of 10,002 columns"),
    ],
    ids=["one for all", "overlapping", "many pages", "many columns"],
)
def test_pages_that_stand_for_nothing(pages: bytes, chunks: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_table(parquet_of(pages, chunks))


def test_pages_that_stand_for_nothing_and_are_few() -> None:
    assert check_parquet(parquet_of(EMPTY_PAGES, [(4, len(EMPTY_PAGES))])) == 0


@pytest.mark.parametrize(
    "nested", [b"\x19" * 3000, b"\x1b\x01\xbb" + b"\x01\xbb" * 3000, b"\x1c" * 3000], ids=lambda b: b[:1]
)
def test_a_footer_that_is_nested_too_deep(nested: bytes) -> None:
    with pytest.raises(ValueError, match="values nested too deep"):
        read_table(with_footer(b"", nested))


def test_a_footer_of_many_values() -> None:
    with pytest.raises(ValueError, match="more than 1,000,000 values"):
        read_table(with_footer(b"", b"\x19\xf3" + varint(2_000_000) + bytes(2_000_000)))


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
