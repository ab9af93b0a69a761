"""A JPEG or PNG file to pixels and back, without torch: what reading a set, importing one and looking at one share."""

import struct
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from search_space.errors import UserError
from trainers.data.datum import Datum
from trainers.data.picture_header import MAX_PIXELS, for_decoder

cv2.setNumThreads(1)  # a face is too small to share out, and trainers already fill the cores

Picture = npt.NDArray[np.uint8]

JPEG, PNG = "JPEG", "PNG"
UPRIGHT = 1
ORIENTATION_TAG = 0x0112
EXIF_MARK = b"Exif\0\0"
MAX_TAGS = 512


def decode_file(data: bytes, mode: int = cv2.IMREAD_COLOR, max_pixels: int = MAX_PIXELS) -> Picture:
    """Pixels of a JPEG or PNG, turned upright as its EXIF orientation says.

    Args:
        mode: OpenCV's; the default gives [height, width, 3] uint8, BGR, grey replicated.
        max_pixels: whoever has photos to make faces of may take `MAX_PHOTO_PIXELS`.
    Raises:
        UserError: it is neither, or does not decode. Names no file; the caller knows it.
    """
    needed = for_decoder(data, max_pixels)
    picture: Any
    try:
        picture = cv2.imdecode(np.frombuffer(needed, np.uint8), mode)
    except (cv2.error, MemoryError):
        picture = None
    if picture is None:
        raise UserError(f"expected a JPEG or PNG, got {len(data)} bytes that do not decode as one")
    return cast(Picture, picture)


def decode_stored(datum: Datum) -> Picture:
    """[height, width, 3] uint8, BGR, of what a Datum holds: a file, or pixels of 1 or 3 channels.

    Raises:
        UserError: it is a file that does not decode.
    """
    if datum.encoded:
        return decode_file(datum.data)
    pixels = np.frombuffer(datum.data, np.uint8).reshape(datum.channels, datum.height, datum.width)
    pixels = np.broadcast_to(pixels, (3, datum.height, datum.width))  # grey: three times the same plane
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def encode_file(picture: Picture, kind: str, quality: int = 95) -> bytes:
    """A picture, [height, width] grey or [height, width, 3] BGR, as a file of `kind`, `JPEG` or `PNG`.

    Args:
        quality: of a JPEG, 1 to 100.
    """
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality] if kind == JPEG else [cv2.IMWRITE_PNG_COMPRESSION, 6]
    done, data = cv2.imencode(".jpg" if kind == JPEG else ".png", picture, settings)
    assert done
    return data.tobytes()


def resize_square(picture: Picture, size: int) -> Picture:
    """The picture stretched to `size` x `size`: area-averaged where both sides shrink, else bilinear."""
    height, width = picture.shape[:2]
    if height == width == size:
        return picture
    shrinks = height >= size and width >= size
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cast(Picture, cv2.resize(picture, (size, size), interpolation=method))


def file_kind(data: bytes) -> str:
    """`JPEG` or `PNG`, for a file that `for_decoder` has let pass."""
    return JPEG if data[0] == 0xFF else PNG


def orientation(data: bytes) -> int:
    """EXIF orientation of a JPEG or PNG, 1 (upright) to 8; 1 where nothing sane is said.

    Source: EXIF 2.3, 4.6.4 (tag 0x0112 of the first directory of a TIFF header); JPEG keeps it in an APP1 segment,
    PNG in a chunk `eXIf`.
    """
    tiff = _exif_of_jpeg(data) if file_kind(data) == JPEG else _exif_of_png(data)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    try:
        if order is None:
            return UPRIGHT
        start = struct.unpack_from(f"{order}I", tiff, 4)[0]
        count = struct.unpack_from(f"{order}H", tiff, start)[0]
        for at in range(start + 2, start + 2 + 12 * min(count, MAX_TAGS), 12):
            if struct.unpack_from(f"{order}H", tiff, at)[0] == ORIENTATION_TAG:
                value = int(struct.unpack_from(f"{order}H", tiff, at + 8)[0])
                return value if UPRIGHT <= value <= 8 else UPRIGHT
    except struct.error:  # it ends before what it claims
        pass
    return UPRIGHT


def _exif_of_jpeg(data: bytes) -> bytes:
    """The TIFF block of the first EXIF segment, which stands before the pixels; empty: there is none."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] not in (0xD9, 0xDA):
        length = struct.unpack_from(">H", data, at + 2)[0]
        body = data[at + 4 : at + 2 + length]
        if data[at + 1] == 0xE1 and body.startswith(EXIF_MARK):
            return body[len(EXIF_MARK) :]
        at += 2 + max(2, length)
    return b""


def _exif_of_png(data: bytes) -> bytes:
    at = 8
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"eXIf":
            return data[at + 8 : at + 8 + length]
        at += 12 + length
    return b""
