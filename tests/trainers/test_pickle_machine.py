"""The pickle reader: values as Python writes them and byte by byte; everything else refused by name, in bounds."""

import contextlib
import os
import pickle
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_space.errors import UserError
from tests.trainers.bin_files import array, bytes3, dtype, flags, latin2, listed, pickled, string2, text
from trainers.data.pickle_machine import read_pickle
from trainers.data.pickled_values import Array, Text, as_bytes, as_flags

PICTURES = [bytes([number]) * (number * 90) for number in range(1, 7)]
SAME = [True, False, True]
PROTOCOLS = [2, 3, 4, 5]


def arrays(pictures: list[bytes], *shape: int) -> list[Any]:
    return [np.frombuffer(picture, np.uint8).reshape(shape).copy() for picture in pictures]


WRITTEN = {
    "bytes and bools": (PICTURES, SAME),
    "tuples": (tuple(PICTURES), tuple(SAME)),
    "a list of both": [PICTURES, SAME],
    "arrays": (arrays(PICTURES, -1), np.array(SAME)),
    "columns, as OpenCV encodes": (arrays(PICTURES, -1, 1), [np.bool_(flag) for flag in SAME]),
    "Fortran rows": ([np.asfortranarray(a) for a in arrays(PICTURES, 1, -1)], [1, 0, 1]),
    "read-only": ([np.frombuffer(picture, np.uint8) for picture in PICTURES], np.array(SAME, np.int64)),
    "big-endian": (PICTURES, np.array(SAME, ">i4")),
    "numbers": (PICTURES, [np.int64(flag) for flag in SAME]),
    "shared": ([PICTURES[0], *PICTURES[1:5], PICTURES[5]], SAME),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", WRITTEN)
def test_what_python_writes(name: str, protocol: int) -> None:
    pictures, same = read_pickle(pickle.dumps(WRITTEN[name], protocol))
    assert [bytes(as_bytes(picture) or b"") for picture in pictures] == PICTURES
    assert as_flags(same) == SAME


def test_python_2_style() -> None:
    old = listed([string2(picture) for picture in PICTURES]) + flags(SAME) + b"\x86"
    pictures, same = read_pickle(pickled(b"(" + old[:-1] + b"t", 2))
    assert [bytes(as_bytes(picture) or b"") for picture in pictures] == PICTURES
    assert as_flags(same) == SAME
    made = [array(picture, [len(picture)]).replace(text("u1"), string2(b"u1")) for picture in PICTURES]
    of_arrays = listed(made)
    assert [bytes(as_bytes(picture) or b"") for picture in read_pickle(pickled(of_arrays, 2))] == PICTURES


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_byte_by_byte(core: str) -> None:
    made = read_pickle(pickled(listed([bytes3(b"ab"), latin2(b"\xff\x00"), array(b"abc", [3, 1], core=core)])))
    assert [bytes(as_bytes(value) or b"") for value in made] == [b"ab", b"\xff\x00", b"abc"]
    assert as_flags(read_pickle(pickled(array(b"\1\0", [2], "b1", core)))) == [True, False]


@pytest.mark.parametrize(
    ("instructions", "value"),
    [
        (b"N", None),
        (b"\x88", True),
        (b"J\xfe\xff\xff\xff", -2),
        (b"K\xff", 255),
        (b"M\x00\x01", 256),
        (b"\x8a\x02\x00\x80", -32768),
        (b"\x8a\x00", 0),
        (b"\x8b\x01\x00\x00\x00\x05", 5),
        (b")", ()),
        (b"K\x01\x85", (1,)),
        (b"K\x01K\x02\x86", (1, 2)),
        (b"K\x01K\x02K\x03\x87", (1, 2, 3)),
        (b"(K\x01t", (1,)),
        (b"(K\x01l", [1]),
        (b"]K\x01a", [1]),
        (b"]q\x07K\x01ah\x070", [1]),
        (b"]r\x00\x00\x00\x80j\x00\x00\x00\x800", []),
        (b"]\x94h\x000", []),
        (b"K\x01(K\x02K\x031", 1),
        (b"K\x01K\x020", 1),
        (b"K\x012\x86", (1, 1)),
        (b"\x95\x02\x00\x00\x00\x00\x00\x00\x00K\x01", 1),
    ],
)
def test_instructions(instructions: bytes, value: Any) -> None:
    read = read_pickle(pickled(instructions, 4))
    assert read == value
    assert type(read) is type(value)
    if b"r" not in instructions:  # Python's own makes room for every number up to that of an entry
        assert pickle.loads(pickled(instructions, 4)) == value  # noqa: S301


class Planted:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_is_called(protocol: int, tmp_path: Path) -> None:
    mark = tmp_path / "called"
    for function, arguments, name in (
        (os.system, (f"touch {mark}",), "posix.system"), (eval, (f"open({str(mark)!r}, 'w')",), "eval"),
        (Path.touch, (mark,), "(touch|getattr)"), (getattr, (1, "x"), "getattr"), (bytearray, (9,), "bytearray"),
    ):  # fmt: skip
        data = pickle.dumps(([Planted(function, *arguments)], [True]), protocol)
        with pytest.raises(UserError, match=rf"expected nothing but lists.*it asks for .*{name}") as error:
            read_pickle(data)
        assert "\n" not in str(error.value)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("instructions", "message"),
    [
        (b"cos\nsystem\n", "byte 2: expected nothing but lists, tuples, bytes, bools, ints and .*asks for os.system"),
        (b"cnumpy\nload\n", "asks for numpy.load"),
        (b"cnumpy.core.multiarray\nndarray\n", "asks for numpy.core"),
        (text("os") + text("system") + b"\x93", "asks for os.system"),
        (b"(ios\nsystem\n", "asks for os.system"),
        (b"c" + b"o" * 500 + b"\nx\n", "a name that ends with its line"),
        (b"cos\nsys\x1btem\n", r"os\.sys\\x1btem"),
        (b"c_codecs\nencode\n" + text("x") + text("utf-7") + b"\x86R", "calls encode with tuple"),
        (b"c_codecs\nencode\n" + b"K\x01" + text("latin1") + b"\x86R", "calls encode"),
        (b"cnumpy\nndarray\nK\x01\x85R", "calls array"),
        (dtype("O8"), "numpy array of type O8"),
        (dtype("V9"), "type V9"),
        (dtype("u1", "numpy.random"), "numpy.random"),
        (array(b"x", [1], "O8"), "numpy array of type O8"),
        (array(b"", [1] * 5), r"of shape \(1, 1, 1, 1, 1\)"),
        (array(b"", [-1]), r"of shape \(-1,\)"),
        (dtype("b1") + b"]b", "sets the state of a numpy type"),
        (b"]}b", "EMPTY_DICT"),
        (b"]Nb", "sets the state of a list"),
        (b"K\x01)R", "it calls a int"),
        (b"cnumpy\ndtype\n]R", "a call without its arguments"),
        (b"\x82\x01", "EXT1"),
        (b")\x81", "NEWOBJ"),
        (b"Vx\n", "UNICODE"),
        (b"I01\n", "INT"),
        (b"G" + bytes(8), "BINFLOAT"),
        (b"Px\n", "PERSID"),
        (b"Q", "BINPERSID"),
        (b"o", "OBJ"),
        (b"\x97", "NEXT_BUFFER"),
        (b"\x8f", "EMPTY_SET"),
        (b"\xff", "the byte 0xff"),
        (b"\x8a\x09" + bytes(9), "an int of 9 bytes"),
        (b"\x8b\xff\xff\xff\x7f", "an int of 2,147,483,647 bytes"),
        (b"\x8b\xff\xff\xff\xff", "an int of -1 bytes"),
        (b"K\x01h\x00", "refers to value 0"),
        (b"h", "truncated|refers"),
        (b"]K\x01K\x02aa", "adds to a int"),
        (b"t", "a mark is missing"),
        (b"(", "missing"),
        (b"", "a value is missing"),
        (b"K\x01K\x02", "left over"),
        (b"(" * 65, "nested deeper"),
        (b"]" * 65, "more lists"),
        (b"K\x01\x85" * 10_000, "more small values"),
        (b"K\x01" + b"\x94" * 10_000, "more small values"),
        (b"M\x00\x10" * 10_000, "more small values"),
        (b"C\x00" * 10_000, "more small values"),
        (b"\x80\x03", "protocol 2 to 5, got 3"),
        (b"\x95" + b"\xff" * 8, "truncated: 18,446,744,073,709,551,615"),
        (b"\x8e" + struct.pack("<Q", 2**62) + b"x", "byte 2: truncated: 4,611,686,018,427,387,904 bytes are"),
        (b"B\xff\xff\xff\xff", "truncated"),
        (b"T\xff\xff\xff\x7f", "truncated"),
        (b"\x96" + b"\xff" * 8, "truncated"),
    ],
)
def test_refused(instructions: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read_pickle(pickled(instructions, 4))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "another file"),
        (b"(lp0\n.", "or an older protocol"),
        (b"\x89PNG", "another file"),
        (b"\x80", "truncated"),
        (b"\x80\x06N.", "protocol 2 to 5, got 6"),
        (b"\x80\x01N.", "got 1"),
        (b"\x80\x04N.N", "the end of the file, got 1"),
        (b"\x80\x04N", "truncated: 1 bytes are to follow, 0 do"),
    ],
)
def test_other_files(data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_pickle(data)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_cut_off_anywhere(protocol: int) -> None:
    for name in ("arrays", "bytes and bools"):
        data = pickle.dumps(WRITTEN[name], protocol)
        for end in range(0, len(data), 3):
            with pytest.raises(UserError, match=r"truncated|another file|ends with its line|missing"):
                read_pickle(data[:end])


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_damaged_bytes_give_values_or_a_refusal(data: st.DataObject) -> None:
    name, protocol = data.draw(st.sampled_from(sorted(WRITTEN))), data.draw(st.sampled_from(PROTOCOLS))
    spoiled = bytearray(pickle.dumps(WRITTEN[name], protocol))
    for _ in range(data.draw(st.integers(1, 4))):
        spoiled[data.draw(st.integers(0, min(len(spoiled), 400) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(UserError):
        value = read_pickle(bytes(spoiled))
        for item in value if isinstance(value, list | tuple) else ():
            for inner in item if isinstance(item, list | tuple) else [item]:
                as_bytes(inner)
            as_flags(item)


@pytest.mark.parametrize(
    "instructions",
    [
        b"K\x01" + b"\x85" * 150_000,
        b"]\x94" + b"h\x00a" * 60_000,
        b"](" + b"\x88" * 150_000 + b"e",
        b"N" + b"r\xff\xff\xff\xff" * 60_000,
        b"N" + b"\x94" * 150_000,
        b"K\x01" + b"2" * 150_000,
        text("é" * 100_000),
        b"C\x00" * 100_000,
        b"M\xff\xff" * 60_000,
        b"K\x01" + b"q\x00\x85" * 60_000,
    ],
    ids=["tuples", "list in itself", "flags", "far memo", "memo", "copies", "text", "empty bytes", "ints", "both"],
)
def test_memory_is_bounded_by_the_file(instructions: bytes) -> None:
    data = pickled(instructions, 4)
    tracemalloc.start()
    try:
        read_pickle(data)
    except UserError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 10 * len(data) + 6 * 2**20


def test_what_is_no_bytes_and_no_flags() -> None:
    pixels, wrong = read_pickle(pickled(array(bytes(12), [2, 2, 3]) + array(b"abc", [4]) + b"\x86"))
    assert isinstance(pixels, Array)
    assert as_bytes(pixels) is None
    assert as_bytes(wrong) is None
    assert as_bytes(3) is None
    broken = read_pickle(pickled(b"c_codecs\nencode\n" + text("\u20ac") + text("latin1") + b"\x86R"))
    assert as_bytes(broken) is None
    for value in ([2], [None], [b"x"], 3, (1, "x"), Text(memoryview(b""))):
        assert as_flags(value) is None
    assert as_flags(read_pickle(pickled(array(b"\1\0", [2, 1], "b1")))) is None
    assert as_flags(read_pickle(pickled(array(b"\1\0\1", [2], "b1")))) is None
