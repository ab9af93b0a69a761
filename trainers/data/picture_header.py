"""What a JPEG or PNG says of itself, read before a decoder allocates memory for it.

What a PNG holds besides its pixels (texts, colour profiles, palettes to choose from) does not reach the decoder: libpng
decompresses and keeps all of it, a thousand times its size in the file, and prints warnings about it.
"""

import struct
from collections.abc import Iterator
from typing import NoReturn

from search_space.errors import UserError
from trainers.data.datum import IMAGE_SIGNATURES

MAX_PIXELS = 2**24
"""4096 x 4096. A picture of one face is smaller; a 16-bit PNG of this size takes 128 MiB while it is decoded."""

MAX_PHOTO_PIXELS = 2**27
"""11,585 x 11,585: all that cameras give, before a face is cut out of it or it is made small; eight times as much."""

PHOTO_PIXELS_PER_BYTE = 256
"""Of a photo at most: a JPEG of a single colour has 170. Above `MAX_PIXELS`, so that few bytes get little memory."""

MAX_SCANS = 64
"""Every scan of a progressive JPEG is a pass over all pixels, however few bytes it has; usual are ten."""

FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})
END_OF_HEADERS = frozenset({0xD8, 0xD9, 0xDA})
START_OF_SCAN = b"\xff\xda"
ANIMATION = (b"acTL", b"fcTL", b"fdAT")
ORIENTATION, TRANSPARENCY = b"eXIf", b"tRNS"
ANCILLARY = 0x20
"""Set in the first letter of a chunk that a decoder can do without."""

MAX_EXIF_BYTES = 2**16
"""As in a JPEG; OpenCV takes time with the square of its length."""
MAX_PIXEL_BYTES = 8
"""16-bit colour with transparency."""
SPARE_BYTES = 2**16


def for_decoder(data: bytes, max_pixels: int = MAX_PIXELS) -> bytes:
    """The picture without what its pixels do not need.

    Raises:
        UserError: no JPEG or PNG, no or an absurd size, more scans or compressed bytes than are sane.
    """
    height, width = header_size(data)
    if height < 1 or width < 1 or height * width > max_pixels:
        raise UserError(f"expected 1 to {max_pixels:,} pixels, got a header that claims {width} x {height}")
    if height * width > max(MAX_PIXELS, PHOTO_PIXELS_PER_BYTE * len(data)):
        raise UserError(f"expected more bytes for {width} x {height} pixels, got {len(data):,}")
    return data if data[0] == 0xFF else _png_pixels(data, height, width)


def header_size(data: bytes) -> tuple[int, int]:
    """(height, width) as a JPEG or PNG claims them, before any rotation.

    Raises:
        UserError: another format, no size, more scans than are sane, or chunks that do not lie in the file.
    """
    if not data.startswith(IMAGE_SIGNATURES):
        _refuse(data, f"begin with {data[:8]!r}")
    return _jpeg_size(data) if data[0] == 0xFF else _png_size(data)


def _png_size(data: bytes) -> tuple[int, int]:
    if next(_png_chunks(data), None) is None:
        _refuse(data, "have no header")
    width, height = struct.unpack_from(">II", data, 16)
    return height, width


def _png_pixels(data: bytes, height: int, width: int) -> bytes:
    chunks = list(_png_chunks(data))
    if (
        sum(len(chunk) for kind, chunk in chunks if kind == b"IDAT")
        > 2 * MAX_PIXEL_BYTES * height * width + SPARE_BYTES
    ):
        _refuse(data, f"have more pixels than {width} x {height}")
    exif = [len(chunk) for kind, chunk in chunks if kind == ORIENTATION]
    if len(exif) > 1 or sum(exif) > MAX_EXIF_BYTES:
        _refuse(data, f"have {len(exif)} chunks {ORIENTATION!r} of {sum(exif):,} bytes")
    needed = [chunk for kind, chunk in chunks if not kind[0] & ANCILLARY or kind in (ORIENTATION, TRANSPARENCY)]
    return b"".join((IMAGE_SIGNATURES[1], *needed)) if len(needed) < len(chunks) else data


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and bytes of each; all must lie in the file, since a decoder makes room for as many bytes as one claims."""
    position, first = len(IMAGE_SIGNATURES[1]), True
    while position < len(data):
        if position + 12 > len(data):
            _refuse(data, "end inside a chunk")
        length, kind = struct.unpack_from(">I4s", data, position)
        if position + 12 + length > len(data):
            _refuse(data, f"have a chunk that claims {length:,} bytes")
        if first != (kind == b"IHDR") or (first and length != 13) or kind in ANIMATION:
            _refuse(data, f"have a misplaced chunk {kind!r}")
        yield kind, memoryview(data)[position : position + 12 + length]
        position, first = position + 12 + length, False


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """(height, width) from the frame header that libjpeg will find: it skips garbage and fill bytes before a marker."""
    if data.count(START_OF_SCAN) > MAX_SCANS:
        _refuse(data, f"have more than {MAX_SCANS} scans")
    position, end = 2, len(data)
    while 0 <= (position := data.find(b"\xff", position)) <= end - 9:
        marker = data[position + 1]
        if marker in FRAME_HEADERS:
            break
        if marker == 0xFF:
            position += 1
        elif marker == 0 or marker in WITHOUT_LENGTH:
            position += 2
        elif marker in END_OF_HEADERS:
            position = end
        else:
            position += 2 + max(2, struct.unpack_from(">H", data, position + 2)[0])
    if not 0 <= position <= end - 9:
        _refuse(data, "have no frame header")
    height, width = struct.unpack_from(">HH", data, position + 5)
    return height, width


def _refuse(data: bytes, what: str) -> NoReturn:
    raise UserError(f"expected a JPEG or PNG, got {len(data):,} bytes that {what}")
