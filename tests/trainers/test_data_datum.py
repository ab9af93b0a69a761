"""Both dialects of `Datum`, byte by byte."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_space.errors import UserError
from trainers.data.datum import Datum, decode_datum, encode_datum

JPEG = b"\xff\xd8\xff\xe0 not much of a picture"
PNG = b"\x89PNG\r\n\x1a\n neither"


def varint(value: int) -> bytes:
    """Base-128 varint, low group first; negative int32 as ten bytes, as protobuf has it."""
    value &= 2**64 - 1
    groups = []
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def chunk(field: int, data: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(data)) + data


def test_caffe_dialect_with_encoded_picture() -> None:
    value = chunk(4, JPEG) + number(5, 300) + number(7, 1)
    assert decode_datum(value) == Datum(JPEG, 300, True, 0, 0, 0)


def test_caffe_dialect_with_raw_pixels() -> None:
    pixels = bytes(range(3 * 2 * 4))
    value = number(1, 3) + number(2, 2) + number(3, 4) + chunk(4, pixels) + number(5, 7)
    assert decode_datum(value) == Datum(pixels, 7, False, 3, 2, 4)


def test_one_field_dialect() -> None:
    assert decode_datum(chunk(1, JPEG)) == Datum(JPEG, 0, True, 0, 0, 0)
    assert decode_datum(chunk(1, PNG * 100)).data == PNG * 100  # a length of two bytes


@pytest.mark.parametrize("data", [JPEG, PNG])
def test_encoded_is_recognised_without_the_flag(data: bytes) -> None:
    assert decode_datum(chunk(4, data)).encoded
    assert decode_datum(number(1, 3) + number(2, 112) + number(3, 112) + chunk(4, data)).encoded


def test_raw_pixels_that_begin_like_a_jpeg_stay_raw() -> None:
    value = number(1, 1) + number(2, 1) + number(3, len(JPEG)) + chunk(4, JPEG)
    assert not decode_datum(value).encoded


def test_fields_in_any_order_and_others_ignored() -> None:
    value = number(7, 1) + chunk(6, b"\0" * 8) + chunk(99, b"later") + number(5, 1) + chunk(4, JPEG) + number(3, 0)
    assert decode_datum(value) == Datum(JPEG, 1, True, 0, 0, 0)


@given(data=st.binary(min_size=1, max_size=300), label=st.integers(-(2**31), 2**31 - 1))
@settings(max_examples=50, deadline=None)
def test_round_trip_is_what_the_byte_writer_writes(data: bytes, label: int) -> None:
    value = encode_datum(data, label)
    assert value == chunk(4, data) + number(5, label) + number(7, 1)
    assert decode_datum(value) == Datum(data, label, True, 0, 0, 0)


@given(data=st.binary(min_size=1, max_size=300))
@settings(max_examples=50, deadline=None)
def test_dialects_never_mix(data: bytes) -> None:
    assert decode_datum(chunk(1, data)).data == data
    assert decode_datum(chunk(4, data) + number(7, 1)).data == data


def test_raw_round_trip() -> None:
    value = encode_datum(bytes(12), 3, encoded=False, shape=(3, 2, 2))
    assert decode_datum(value) == Datum(bytes(12), 3, False, 3, 2, 2)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"", "expected a Caffe Datum with `data`, got 0 bytes"),
        (b"hello", "expected a Caffe Datum, got 5 bytes that are no such message"),
        (number(5, 1), "expected a Caffe Datum with `data`"),
        (JPEG, "bare picture file"),
        (PNG, "bare picture file"),
        (chunk(4, JPEG)[:-1], "no such message"),
        (chunk(4, b"abc"), "got 3 bytes for channels x height x width = 0 x 0 x 0"),
        (number(1, 2) + number(2, 1) + number(3, 1) + chunk(4, b"ab"), "1 or 3 channels"),
        (number(1, 3) + number(2, 2) + number(3, 2) + chunk(4, b"ab"), "got 2 bytes for .* = 3 x 2 x 2"),
        (number(1, 1) + number(2, -1) + number(3, -2) + chunk(4, b"ab"), "-1 x -2"),
    ],
)
def test_refused(value: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        decode_datum(value)


def test_raw_pixels_cannot_be_written_without_their_shape() -> None:
    with pytest.raises(UserError, match="raw pixels of 1 or 3 channels"):
        encode_datum(bytes(12), encoded=False)
