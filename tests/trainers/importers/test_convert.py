"""What becomes of one picture: when its bytes are kept, and how it is made anew."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from search_space.errors import UserError
from tests.trainers.data_files import encode, smooth_picture
from tests.trainers.importers.sources import SIZE, jpeg, png
from trainers.data.importers.convert import Conversion, convert
from trainers.data.picture_file import JPEG, PNG, decode_file, encode_file, orientation, resize_square

TO_JPEG, TO_PNG = Conversion(size=SIZE), Conversion(size=SIZE, encoding=PNG)


def exif(value: int, order: str = ">") -> bytes:
    """A TIFF block whose one tag is the orientation."""
    mark = b"MM\0*" if order == ">" else b"II*\0"
    return mark + struct.pack(f"{order}IHHHIHHI", 8, 1, 0x0112, 3, 1, value, 0, 0)


def tagged(data: bytes, tiff: bytes) -> bytes:
    """A JPEG or PNG with a TIFF block in it."""
    if data[0] == 0xFF:
        body = b"Exif\0\0" + tiff
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
    chunk = b"eXIf" + tiff
    return data[:33] + struct.pack(">I", len(tiff)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]


def pixels(data: bytes) -> np.ndarray:
    """As stored, grey or colour."""
    return decode_file(data, cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize(
    ("data", "conversion", "copied"),
    [
        (jpeg(1), TO_JPEG, True),
        (jpeg(1), TO_PNG, True),
        (jpeg(1, channels=1), TO_JPEG, True),
        (tagged(jpeg(1), exif(1)), TO_JPEG, True),
        (png(1), TO_JPEG, False),
        (png(1), TO_PNG, True),
        (jpeg(1, SIZE + 1), TO_JPEG, False),
        (tagged(jpeg(1), exif(6)), TO_JPEG, False),
        (tagged(png(1), exif(3)), TO_PNG, False),
    ],
)
def test_what_is_copied(data: bytes, conversion: Conversion, copied: bool) -> None:
    made = convert(data, conversion)
    assert made.copied == copied == (made.data == data)
    assert not made.stretched
    assert pixels(made.data).shape[:2] == (SIZE, SIZE)
    assert orientation(made.data) == 1


@pytest.mark.parametrize(("picture", "ndim"), [(smooth_picture(3, 50), 3), (smooth_picture(3, 50, 1), 2)])
def test_resized_pixels(picture: np.ndarray, ndim: int) -> None:
    made = convert(encode(picture, ".png"), TO_PNG)
    found = pixels(made.data)
    assert found.ndim == ndim
    assert np.array_equal(found, cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_AREA))
    larger = convert(encode(picture, ".png"), Conversion(size=80, encoding=PNG))
    assert np.array_equal(pixels(larger.data), cv2.resize(picture, (80, 80), interpolation=cv2.INTER_LINEAR))


def test_stretched_and_quality() -> None:
    wide = smooth_picture(4, 60)[:40]
    made = convert(encode(wide, ".png"), Conversion(size=SIZE, quality=60))
    assert made.stretched
    assert made.data == encode_file(resize_square(wide, SIZE), JPEG, 60)
    assert len(made.data) < len(convert(encode(wide, ".png"), TO_JPEG).data)
    for picture in (smooth_picture(4, SIZE + 8)[:, :SIZE], smooth_picture(4, SIZE + 8)[:SIZE]):  # right on one side
        made = convert(encode(picture, ".jpg"), TO_JPEG)
        assert made.stretched
        assert not made.copied
        assert pixels(made.data).shape[:2] == (SIZE, SIZE)


TURNS = {
    1: lambda x: x, 2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1), 6: lambda x: np.rot90(x, -1), 7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}  # fmt: skip


@pytest.mark.parametrize("order", [">", "<"])
@pytest.mark.parametrize("value", TURNS)
def test_turned_upright(value: int, order: str) -> None:
    """Source: EXIF 2.3, table of orientations."""
    picture = smooth_picture(value)
    data = tagged(encode(picture, ".png"), exif(value, order))
    assert orientation(data) == orientation(tagged(jpeg(1), exif(value, order))) == value
    upright = pixels(convert(tagged(jpeg(value), exif(value, order)), TO_PNG).data) if value > 1 else None
    if upright is not None:
        plain = pixels(jpeg(value))
        assert np.array_equal(upright, TURNS[value](plain))


@pytest.mark.parametrize(
    "tiff",
    [
        b"",
        b"MM\0*",
        exif(0),
        exif(9),
        exif(6)[:-10],
        b"XX" + exif(6)[2:],
        b"MM\0*\xff\xff\xff\xff",
        exif(6)[:8] + b"\xff\xff",
    ],
)
def test_tags_that_make_no_sense(tiff: bytes) -> None:
    assert orientation(tagged(jpeg(1), tiff)) == 1
    assert orientation(tagged(png(1), tiff)) == 1


def test_every_cut_of_a_picture_is_noticed() -> None:
    for data in (jpeg(1), png(1)):
        for size in range(len(data) - 2):
            with pytest.raises(UserError, match="expected") as caught:
                convert(data[:size], TO_JPEG)
            assert "\n" not in str(caught.value)


def test_photos_of_large_cameras() -> None:
    large = cv2.imencode(".jpg", np.full((4000, 6000), 90, np.uint8))[1].tobytes()
    assert pixels(convert(large, TO_PNG).data).shape == (SIZE, SIZE)
    with pytest.raises(UserError, match="expected 1 to 16,777,216 pixels"):
        decode_file(large)
    claim = bytearray(large)
    frame = large.index(b"\xff\xc0")
    claim[frame + 5 : frame + 9] = struct.pack(">HH", 12_000, 12_000)
    with pytest.raises(UserError, match="expected 1 to 134,217,728 pixels, got a header that claims 12000 x 12000"):
        convert(bytes(claim), TO_PNG)
    small = bytearray(jpeg(1))
    frame = small.index(b"\xff\xc0")
    small[frame + 5 : frame + 9] = struct.pack(">HH", 11_000, 11_000)
    with pytest.raises(UserError, match=f"expected more bytes for 11000 x 11000 pixels, got {len(small):,}"):
        convert(bytes(small), TO_PNG)


def test_other_pixels() -> None:
    deep = np.arange(SIZE * SIZE, dtype=np.uint16).reshape(SIZE, SIZE) * 60
    found = pixels(convert(cv2.imencode(".png", deep)[1].tobytes(), TO_PNG).data)
    assert found.shape == (SIZE, SIZE)
    clear = np.dstack([smooth_picture(5), np.full((SIZE, SIZE), 7, np.uint8)])
    other = Conversion(size=SIZE + 8, encoding=PNG)
    assert pixels(convert(cv2.imencode(".png", clear)[1].tobytes(), other).data).shape == (SIZE + 8, SIZE + 8, 3)


@pytest.mark.parametrize("wrong", [{"size": 0}, {"size": 5000}, {"quality": 0}, {"quality": 101}, {"encoding": "GIF"}])
def test_settings_that_are_wrong(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(wrong))} must be"):
        Conversion(**wrong)  # type: ignore[arg-type]
