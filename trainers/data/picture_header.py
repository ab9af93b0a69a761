"""What a JPEG or PNG says of itself, read before a decoder allocates memory for it."""

import struct
from typing import NoReturn

from search_space.errors import UserError
from trainers.data.datum import IMAGE_SIGNATURES

MAX_PIXELS = 2**24
"""4096 x 4096. A picture of one face is smaller; a 16-bit PNG of this size takes 128 MiB while it is decoded."""

MAX_SCANS = 64
"""Every scan of a progressive JPEG is a pass over all pixels, however few bytes it has; usual are ten."""

FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})
END_OF_HEADERS = frozenset({0xD8, 0xD9, 0xDA})
START_OF_SCAN = b"\xff\xda"
ANIMATION = (b"acTL", b"fcTL", b"fdAT")


def check_header(data: bytes) -> None:
    """Refuse what is no JPEG or PNG, or claims more than a decoder should be given.

    Raises:
        UserError: another format, no or an absurd size, more scans or chunks than are sane.
    """
    picture_size(data)


def picture_size(data: bytes) -> tuple[int, int]:
    """(height, width) as the header of a JPEG or PNG has them; `UserError` as `check_header`."""
    if not data.startswith(IMAGE_SIGNATURES):
        _refuse(data, f"begin with {data[:8]!r}")
    height, width = _jpeg_size(data) if data[0] == 0xFF else _png_size(data)
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise UserError(f"expected 1 to {MAX_PIXELS:,} pixels, got a header that claims {width} x {height}")
    return height, width


def _png_size(data: bytes) -> tuple[int, int]:
    """(height, width); every chunk must lie in the file, since a decoder makes room for as many bytes as one claims."""
    position, first = len(IMAGE_SIGNATURES[1]), True
    while position < len(data):
        if position + 12 > len(data):
            _refuse(data, "end inside a chunk")
        length, kind = struct.unpack_from(">I4s", data, position)
        if position + 12 + length > len(data):
            _refuse(data, f"have a chunk that claims {length:,} bytes")
        if first != (kind == b"IHDR") or (first and length != 13) or kind in ANIMATION:
            _refuse(data, f"have a misplaced chunk {kind!r}")
        position, first = position + 12 + length, False
    if first:
        _refuse(data, "have no header")
    width, height = struct.unpack_from(">II", data, 16)
    return height, width


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
