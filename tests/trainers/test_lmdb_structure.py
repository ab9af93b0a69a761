"""Whatever LMDB writes is accepted; whatever would make it read elsewhere, run in circles or abort is refused."""

import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search_space.errors import UserError
from tests.fuzz.lmdb_file import LmdbFile
from trainers.data.lmdb_source import LmdbSource
from trainers.data.lmdb_structure import MAX_VALUE_BYTES, check_structure

SIZE = 512
Change = Callable[[bytearray], object]


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32))
def test_everything_that_lmdb_writes_is_accepted(tmp_path: Path, seed: int) -> None:
    path, copy = tmp_path / "data", tmp_path / "copy"
    for file in (path, copy):
        file.unlink(missing_ok=True)
    chance = random.Random(seed)
    expected: dict[bytes, bytes] = {}
    with lmdb.open(
        str(path), subdir=False, map_size=2**27, sync=False, lock=False, writemap=chance.random() < 0.3
    ) as environment:
        for _ in range(chance.randint(0, 6)):
            change_at_random(environment, expected, chance)
        environment.copy(str(copy), compact=chance.random() < 0.5)
    for file in (path, copy):
        check_structure(file)
        source = LmdbSource(file)
        assert len(source) == len(expected)
        assert dict(zip(expected, source.get_many(key.decode() for key in expected), strict=True)) == expected


def change_at_random(environment: lmdb.Environment, expected: dict[bytes, bytes], chance: random.Random) -> None:
    """One transaction of puts and deletions, which may be thrown away: all of them leave free pages behind."""
    after = dict(expected)
    with environment.begin(write=True) as transaction:
        for _ in range(chance.choice((1, 10, 300))):
            if after and chance.random() < 0.35:
                key = chance.choice(list(after))
                transaction.delete(key)
                del after[key]
            else:
                key = b"%d" % chance.randrange(10**6) * chance.choice((1, 2, 40))
                after[key] = chance.randbytes(
                    chance.choice((0, 1, 100, 2030, 2040, 9000, 40_000, chance.randrange(3000)))
                )
                transaction.put(key, after[key])
        if chance.random() < 0.05:
            for key in after:
                transaction.delete(key)
            after = {}
        if chance.random() < 0.1:
            transaction.abort()
            return
    expected.clear()
    expected.update(after)


@pytest.mark.parametrize("page_size", [512, 4096, 16384, 32768])
@pytest.mark.parametrize("count", [0, 1, 500])
def test_pages_of_other_machines(tmp_path: Path, page_size: int, count: int) -> None:
    items = {b"key %d" % i: bytes(i * 37 % (2 * page_size)) for i in range(count)}
    path = LmdbFile(items, page_size).write(tmp_path / "data")
    check_structure(path)
    source = LmdbSource(path)
    assert {key.encode(): source.get(key) for key in source.keys()} == items  # noqa: SIM118


def put(page: int, offset: int, form: str, value: int) -> Change:
    """Writes a number into a page."""
    return lambda data: struct.pack_into(form, data, page * SIZE + offset, value)


def node(page: int, number: int, offset: int, form: str, value: int) -> Change:
    """Writes a number into a node of a page."""

    def change(data: bytearray) -> None:
        at = struct.unpack_from("<H", data, page * SIZE + 16 + 2 * number)[0]
        struct.pack_into(form, data, page * SIZE + at + offset, value)

    return change


@pytest.fixture
def tree() -> LmdbFile:
    """A root, branches, leaves; the value of key 0 has two pages of its own, 2 and 3."""
    return LmdbFile({b"%04d" % i: bytes(1000 if i == 0 else 20) for i in range(1500)}, SIZE)


LEAF_PAGE = 4
META, MAIN = 1, 88


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(META, 16, "<I", 0), "no LMDB"),
        (put(META, 20, "<I", 999), "another version"),
        (put(META, 40, "<I", 513), "another version"),
        (put(META, 40, "<I", 1024), "page size"),
        (put(META, 44, "<H", 0x4009), "unknown settings"),  # a map at an address of the file's choice
        (put(META, MAIN + 4, "<H", 4), "sorted duplicates"),
        (put(META, MAIN + 6, "<H", 0), "depth 0"),
        (put(META, MAIN + 6, "<H", 1), "damaged"),
        (put(META, MAIN + 6, "<H", 200), "depth 200"),
        (put(META, MAIN + 32, "<Q", 1501), "1,500 keys where the file says 1,501"),
        (put(META, MAIN + 40, "<Q", 1), "link to a meta page"),
        (put(META, MAIN + 40, "<Q", 2**63), "truncated"),
        (put(META, MAIN + 40, "<Q", 2**64 - 1), "0 keys where the file says 1,500"),
        (put(META, 136, "<Q", 2**50), "truncated"),
        (put(LEAF_PAGE, 0, "<Q", 5), "page 4 damaged"),
        (put(LEAF_PAGE, 10, "<H", 1), "page 4 damaged"),
        (put(LEAF_PAGE, 10, "<H", 0x22), "page 4 damaged"),
        (put(LEAF_PAGE, 12, "<H", 16), "page 4 damaged"),  # no keys
        (put(LEAF_PAGE, 12, "<H", 17), "page 4 damaged"),
        (put(LEAF_PAGE, 12, "<H", 0), "page 4 damaged"),
        (put(LEAF_PAGE, 12, "<H", 65534), "page 4 damaged"),
        (put(LEAF_PAGE, 12, "<I", 0x7000_7000), "page 4 damaged"),  # both ends behind the page
        (put(LEAF_PAGE, 14, "<H", 1024), "page 4 damaged"),
        (put(LEAF_PAGE, 16, "<H", 65534), "page 4 damaged"),
        (put(LEAF_PAGE, 16, "<H", SIZE - 6), "page 4 damaged"),
        (put(LEAF_PAGE, 16, "<H", 18), "page 4 damaged"),
        (node(LEAF_PAGE, 1, 6, "<H", 600), "leaves its page"),
        (node(LEAF_PAGE, 1, 0, "<H", 600), "leaves its page"),
        (node(LEAF_PAGE, 1, 4, "<H", 2), "databases or duplicates"),
        (node(LEAF_PAGE, 1, 4, "<H", 4), "databases or duplicates"),
        (node(LEAF_PAGE, 1, 4, "<H", 1), "link to a meta page"),  # the zeros of a small value as a page
        (node(LEAF_PAGE, 0, 12, "<Q", 2**40), "truncated"),
        (node(LEAF_PAGE, 0, 12, "<Q", 0), "link to a meta page"),
        (node(LEAF_PAGE, 0, 0, "<H", 65535), "truncated"),
        (node(LEAF_PAGE, 0, 0, "<I", MAX_VALUE_BYTES + 1), "more than the"),
    ],
)
def test_refused(tmp_path: Path, tree: LmdbFile, change: Change, message: str) -> None:
    data = bytearray(b"".join(tree.pages))
    change(data)
    (tmp_path / "data").write_bytes(data)
    with pytest.raises(UserError, match=message):
        check_structure(tmp_path / "data")


def branch_of(tree: LmdbFile) -> int:
    """The root, which is the last page written."""
    return len(tree.pages) - 1


@pytest.mark.parametrize("kind", ["itself", "a leaf twice", "one link"])
def test_branches_that_run_in_circles(tmp_path: Path, tree: LmdbFile, kind: str) -> None:
    root, data = branch_of(tree), bytearray(b"".join(tree.pages))
    change, message = {
        "itself": (node(root, 0, 0, "<I", root), "twice"),
        "a leaf twice": (node(root - 1, 1, 0, "<I", LEAF_PAGE), "damaged|twice"),
        "one link": (put(root, 12, "<H", 18), f"page {root} damaged"),
    }[kind]
    change(data)
    (tmp_path / "data").write_bytes(data)
    with pytest.raises(UserError, match=message):
        check_structure(tmp_path / "data")


def test_lmdb_itself_would_have_died(tmp_path: Path, tree: LmdbFile) -> None:
    data = bytearray(b"".join(tree.pages))
    put(branch_of(tree), 12, "<H", 18)(data)
    path = tmp_path / "data"
    path.write_bytes(data)
    read = "import lmdb, sys; lmdb.open(sys.argv[1], subdir=False, readonly=True, lock=False).begin().get(b'0001')"
    assert subprocess.run([sys.executable, "-c", read, str(path)], capture_output=True).returncode < 0
    with pytest.raises(UserError, match="damaged"):
        LmdbSource(path).get("0001")


def test_large_values_whose_page_is_none_are_refused_when_read(tmp_path: Path, tree: LmdbFile) -> None:
    data = bytearray(b"".join(tree.pages))
    put(2, 10, "<H", 1)(data)  # the one head that the check does not read: there is one for each picture
    path = tmp_path / "data"
    path.write_bytes(data)
    source = LmdbSource(path)
    with pytest.raises(UserError, match="data: reading the keys failed"):
        list(source.keys())
    with pytest.raises(UserError, match="data: reading key '0000' failed"):
        source.get("0000")


def test_keys_that_are_no_text_are_spelled_out(tmp_path: Path) -> None:
    path = LmdbFile({b"\xff\xfe": b"value"}, SIZE).write(tmp_path / "data")
    assert list(LmdbSource(path).keys()) == ["\\xff\\xfe"]
