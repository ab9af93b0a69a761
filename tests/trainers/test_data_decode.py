"""Bytes to pixels and pixels to the network's input."""

import struct
import zlib

import cv2
import numpy as np
import pytest
import torch

from search_space.errors import UserError
from tests.trainers.data_files import encode, png_chunk, smooth_picture
from trainers.data.datum import encode_datum
from trainers.data.decode import decode_picture, normalise
from trainers.data.picture_header import for_decoder


def test_pixels_are_those_of_opencv() -> None:
    data = encode(smooth_picture(1))
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decode_picture(encode_datum(data), 32), expected)


def test_png_is_exact_and_bgr() -> None:
    picture = smooth_picture(2)
    np.testing.assert_array_equal(decode_picture(encode_datum(encode(picture, ".png")), 32), picture)


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_grey_is_replicated(extension: str) -> None:
    got = decode_picture(encode_datum(encode(smooth_picture(3, channels=1), extension)), 32)
    assert got.shape == (32, 32, 3)
    assert (got == got[:, :, :1]).all()
    assert got.std() > 10


@pytest.mark.parametrize("channels", [1, 3])
def test_raw_pixels(channels: int) -> None:
    planes = np.random.default_rng(0).integers(0, 256, (channels, 24, 24), dtype=np.uint8)
    got = decode_picture(encode_datum(planes.tobytes(), encoded=False, shape=planes.shape), 24)
    for channel in range(3):
        np.testing.assert_array_equal(got[:, :, channel], planes[channel % channels])


def test_resize_shrinks_by_area_and_grows_linearly() -> None:
    picture = smooth_picture(4, size=64)
    value = encode_datum(encode(picture, ".png"))
    blocks = picture.reshape(32, 2, 32, 2, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(decode_picture(value, 32) - blocks).max() <= 0.5
    grown = cv2.resize(picture, (80, 80), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(decode_picture(value, 80), grown)
    assert decode_picture(encode_datum(encode(picture[:50], ".png")), 64).shape == (64, 64, 3)


def png_that_claims(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBBI", 13, b"IHDR", width, height, 8, 2, 0, 0, 0, 0)


def jpeg_that_claims(width: int, height: int) -> bytes:
    data = bytearray(encode(smooth_picture(5)))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def png_with(kind: bytes, claimed: int) -> bytes:
    """A small picture with one more chunk, which is empty whatever it claims."""
    data = encode(smooth_picture(5), ".png")
    return data[:33] + struct.pack(">I4sI", claimed, kind, 0) + data[33:]


def png_of(*chunks: tuple[bytes, bytes]) -> bytes:
    """A small picture with these chunks before its pixels."""
    data = encode(smooth_picture(5), ".png")
    return data[:33] + b"".join(png_chunk(kind, content) for kind, content in chunks) + data[33:]


ZEROS = zlib.compress(bytes(7_900_000), 9)
ROTATED = b"II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, 0x112, 3, 1, 6, 0, 0)
TURNED = png_of((b"eXIf", ROTATED))


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "data",
    [
        png_of(*((b"zTXt", b"k%d\0\0" % i + ZEROS) for i in range(60))),
        png_of(*((b"iTXt", b"k%d\0\1\0\0\0" % i + ZEROS) for i in range(60))),
        png_of((b"iCCP", b"k\0\0" + ZEROS)),
        png_of(*((b"sPLT", b"k%d\0\x08" % i + bytes(6)) for i in range(2000))),
        png_of((b"tEXt", b"Software\0x"), (b"gAMA", bytes((0, 0, 0, 99))), (b"sRGB", b"\0"), (b"tIME", bytes(7))),
    ],
    ids=["zTXt", "iTXt", "iCCP", "sPLT", "harmless"],
)
def test_what_pixels_do_not_need_does_not_reach_the_decoder(data: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    needed = for_decoder(data)
    assert needed == encode(smooth_picture(5), ".png")
    np.testing.assert_array_equal(decode_picture(encode_datum(data), 32), smooth_picture(5))
    assert capfd.readouterr().err == ""


def test_orientation_and_transparency_reach_the_decoder() -> None:
    assert for_decoder(TURNED) == TURNED
    got = decode_picture(encode_datum(TURNED), 32)
    np.testing.assert_array_equal(got, np.rot90(smooth_picture(5), -1))
    assert b"tRNS" in for_decoder(png_of((b"tRNS", bytes(6)), (b"tEXt", b"k\0v")))


def hidden_frame(width: int, height: int) -> bytes:
    """A frame header behind a stuffed byte and a restart marker, which a reader that takes them for segments skips."""
    large = jpeg_that_claims(width, height)
    return large[:2] + b"\xff\x00\x40\x00\xff\xd0\x40\x00" + large[2:]


def insert_garbage(jpeg: bytes) -> bytes:
    """Bytes between two segments, and fill bytes before a marker: decoders skip both."""
    table = jpeg.index(b"\xff\xdb")
    return jpeg[:table] + b"\x00\x01\xff\xff" + jpeg[table:]


def test_garbage_between_segments_is_skipped_as_the_decoder_does() -> None:
    data = encode(smooth_picture(5))
    got = decode_picture(encode_datum(insert_garbage(data)), 32)
    np.testing.assert_array_equal(got, decode_picture(encode_datum(data), 32))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no picture", "expected a JPEG or PNG, got 10 bytes that begin with b'no pictu'"),
        (b"\xff\xd8\xff", "got 3 bytes that have no frame header"),
        (b"\xff\xd8\xff\xe0" + bytes(200), "have no frame header"),
        (b"\xff\xd8" + b"\xff" * 200, "have no frame header"),
        (b"\x89PNG\r\n\x1a\n", "have no header"),
        (encode(smooth_picture(6))[:150], "got 150 bytes that have no frame header"),
        (png_that_claims(10_000, 10_000), "1 to 16,777,216 pixels, got a header that claims 10000 x 10000"),
        (png_that_claims(0, 5), "got a header that claims 0 x 5"),
        (png_with(b"junk", 2**31), "have a chunk that claims 2,147,483,648 bytes"),
        (png_with(b"acTL", 0), "have a misplaced chunk b'acTL'"),
        (png_of((b"eXIf", ROTATED), (b"eXIf", ROTATED)), "have 2 chunks b'eXIf' of 76 bytes"),
        (png_of((b"eXIf", bytes(2**16))), "have 1 chunks b'eXIf' of 65,548 bytes"),
        (png_of((b"IDAT", bytes(90_000))), "have more pixels than 32 x 32"),
        (png_with(b"IHDR", 0), "have a misplaced chunk b'IHDR'"),
        (encode(smooth_picture(6))[:-2] + b"\xff\xda" * 64, "have more than 64 scans"),
        (hidden_frame(65_000, 60_000), "got a header that claims 65000 x 60000"),
        (jpeg_that_claims(65_000, 60_000), "got a header that claims 65000 x 60000"),
        (insert_garbage(jpeg_that_claims(65_000, 60_000)), "got a header that claims 65000 x 60000"),
    ],
)
def test_refused(data: bytes, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=message):
        decode_picture(encode_datum(data), 32)


def test_absurd_size_is_refused_before_any_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "imdecode")
    with pytest.raises(UserError, match="header that claims"):
        decode_picture(encode_datum(jpeg_that_claims(65_000, 60_000)), 32)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_normalise_is_exact(count: int, dtype: torch.dtype) -> None:
    batch = torch.arange(256, dtype=torch.uint8).repeat(3 * count).reshape(count, 16, 16, 3)
    got = normalise(batch, dtype=dtype)
    assert got.dtype == dtype
    assert got.shape == (count, 3, 16, 16)
    assert got.permute(0, 2, 3, 1).is_contiguous()  # channels last
    expected = (batch.permute(0, 3, 1, 2).double() - 127.5) / 128
    assert torch.equal(got.double(), expected)


def test_normalise_takes_any_memory_order() -> None:
    batch = torch.randint(0, 256, (2, 3, 20, 20), dtype=torch.uint8).permute(0, 2, 3, 1)
    assert torch.equal(normalise(batch), normalise(batch.contiguous()))


def test_normalise_into_an_earlier_result() -> None:
    first, second = (torch.randint(0, 256, (3, 8, 8, 3), dtype=torch.uint8) for _ in range(2))
    output = normalise(first)
    again = normalise(second, out=output)
    assert again.data_ptr() == output.data_ptr()
    assert torch.equal(again, normalise(second))
