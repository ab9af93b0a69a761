"""From the bytes of one record to pixels, and from pixels of a batch to the network's input."""

from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt
import torch

from search_space.errors import UserError
from trainers.data.datum import Datum, decode_datum
from trainers.data.picture_header import check_header

cv2.setNumThreads(1)  # a face is too small to share out, and trainers already fill the cores

_CHUNK = 2**15
"""Values normalised at a time on a CPU: both passes stay in its cache, and torch runs so few on one thread. With more
of them, and threads to share, it waits at a barrier for cores that other trainers keep busy (measured: 10 ms each)."""

Picture = npt.NDArray[np.uint8]


def decode_picture(value: bytes, size: int) -> Picture:
    """Pixels of one LMDB value.

    Returns:
        [size, size, 3] uint8, BGR; grey replicated; resized (to a square) if stored in another size.
    Raises:
        UserError: not a Datum, or its bytes are no picture. Names neither file nor key; the caller knows them.
    """
    picture = decode_whole(value)
    height, width, _ = picture.shape
    if height == width == size:
        return picture
    shrinks = height >= size and width >= size
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cast(Picture, cv2.resize(picture, (size, size), interpolation=method))


def decode_whole(value: bytes) -> Picture:
    """Pixels of one LMDB value in the size that it has, [height, width, 3]; see also `decode_picture`."""
    datum = decode_datum(value)
    return decode_file(datum.data) if datum.encoded else _decode_raw(datum)


def normalise(
    batch: torch.Tensor,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Network input of a uint8 batch: (x - 127.5) / 128, exact in float32, float16 and bfloat16.

    Args:
        batch: [batch, height, width, channels] uint8.
        out: an earlier result of the same shape, device and type that nobody needs any more, to be overwritten:
            fresh memory costs as much as the arithmetic.
    Returns:
        [batch, channels, height, width] in channels-last memory; only bytes travel to the device.
    """
    device = torch.device(device)
    if device.type == "cuda" and batch.device.type == "cpu":
        batch = batch.pin_memory()  # without it `non_blocking` still waits
    batch = batch.to(device, non_blocking=True)
    result = torch.empty(batch.shape, dtype=dtype, device=device) if out is None else out.permute(0, 2, 3, 1)
    bias = torch.tensor(-127.5 / 128, dtype=dtype, device=device)
    step = _CHUNK if device.type == "cpu" else batch.numel()
    for source, target in zip(torch.split(batch.reshape(-1), step), torch.split(result.view(-1), step), strict=True):
        torch.add(bias, target.copy_(source), alpha=1 / 128, out=target)
    return result.permute(0, 3, 1, 2)


def decode_file(data: bytes) -> Picture:
    """Pixels of a JPEG or PNG, [height, width, 3] uint8 BGR, turned as its EXIF says; `UserError` if it is none."""
    check_header(data)
    picture: Any
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except (cv2.error, MemoryError):
        picture = None
    if picture is None:
        raise UserError(f"expected a JPEG or PNG, got {len(data)} bytes that do not decode as one")
    return cast(Picture, picture)


def _decode_raw(datum: Datum) -> Picture:
    pixels = np.frombuffer(datum.data, np.uint8).reshape(datum.channels, datum.height, datum.width)
    pixels = np.broadcast_to(pixels, (3, datum.height, datum.width))  # grey: three times the same plane
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))
