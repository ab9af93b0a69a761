"""A picture file in the form in which a set holds it."""

import cv2

from search_space.errors import UserError
from trainers.data.datum import encode_datum
from trainers.data.decode import decode_picture
from trainers.data.picture_header import check_header, picture_size

QUALITY = 95


def stored_picture(data: bytes, size: int) -> bytes:
    """The bytes of a JPEG or PNG themselves if they are of the right size, else those of a resized JPEG.

    Args:
        size: side of the square pictures of the set.
    Raises:
        UserError: the bytes do not decode. Names no picture; the caller knows it.
    """
    check_header(data)
    picture = decode_picture(encode_datum(data), size)  # what does not decode is refused, whatever its size
    if picture_size(data) == (size, size):
        return data
    done, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise UserError("a picture that cannot be encoded as a JPEG")
    return encoded.tobytes()
