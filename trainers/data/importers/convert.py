"""One picture of a source as it is stored: its own bytes where they will do, else decoded, resized and encoded."""

from dataclasses import dataclass
from typing import NamedTuple

import cv2

from search_space.errors import UserError, require
from trainers.data.picture_file import (
    JPEG,
    PNG,
    UPRIGHT,
    decode_file,
    encode_file,
    file_kind,
    orientation,
    resize_square,
)
from trainers.data.picture_header import MAX_PHOTO_PIXELS, header_size

END_OF_JPEG, START_OF_SCAN = b"\xff\xd9", b"\xff\xda"


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What pictures are to be."""

    size: int = 112
    """Width and height in pixels."""

    encoding: str = JPEG
    """`JPEG` or `PNG`, of pictures that are encoded anew."""

    quality: int = 95
    """Of a JPEG, 1 to 100."""

    unchanged: tuple[str, ...] = ()
    """Kinds that are copied if they are of the right size, besides JPEG and `encoding`."""

    def __post_init__(self) -> None:
        require(1 <= self.size <= 4096, "size must be 1 to 4096 pixels", self.size)
        require(1 <= self.quality <= 100, "quality must be 1 to 100", self.quality)
        require(self.encoding in (JPEG, PNG), "encoding must be JPEG or PNG", self.encoding)


class Converted(NamedTuple):
    """A picture as it is stored."""

    data: bytes
    copied: bool
    """These are the source's own bytes."""

    stretched: bool
    """It was not square."""


def convert(data: bytes, conversion: Conversion) -> Converted:
    """A picture file in the form that is wanted.

    Copied unchanged: an upright JPEG of the right size, or PNG if that is the encoding or `unchanged`. All else is
    decoded (turned upright as EXIF says, 16 bits cut to 8, transparency dropped, grey left grey), stretched to a square
    and encoded. Whatever is copied was decoded too, to see that it can be.

    Raises:
        UserError: no JPEG or PNG, or one that is cut off or does not decode.
    """
    claimed = header_size(data)
    require_end(data)
    picture = decode_file(data, cv2.IMREAD_ANYCOLOR, MAX_PHOTO_PIXELS)
    height, width = picture.shape[:2]
    kind = file_kind(data)
    fits = height == width == conversion.size and kind in (JPEG, conversion.encoding, *conversion.unchanged)
    if fits and orientation(data) == UPRIGHT and claimed == (height, width):
        return Converted(data, True, False)
    resized = resize_square(picture, conversion.size)
    return Converted(encode_file(resized, conversion.encoding, conversion.quality), False, height != width)


def require_end(data: bytes) -> None:
    """Raise `UserError` for a JPEG without its end: decoders may fill up what is missing, and say nothing."""
    if file_kind(data) == JPEG and data.rfind(END_OF_JPEG) < data.rfind(START_OF_SCAN):
        raise UserError(f"expected a whole JPEG, got {len(data):,} bytes without its end: it is cut off")
