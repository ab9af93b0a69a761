"""From the bytes of one record to pixels, and from pixels of a batch to the network's input."""

import torch

from trainers.data.datum import decode_datum
from trainers.data.picture_file import Picture, decode_stored, resize_square

_CHUNK = 2**15
"""Values normalised at a time on a CPU: both passes stay in its cache, and torch runs so few on one thread. With more
of them, and threads to share, it waits at a barrier for cores that other trainers keep busy (measured: 10 ms each)."""


def decode_picture(value: bytes, size: int) -> Picture:
    """Pixels of one LMDB value.

    Returns:
        [size, size, 3] uint8, BGR; grey replicated; resized (to a square) if stored in another size.
    Raises:
        UserError: not a Datum, or its bytes are no picture. Names neither file nor key; the caller knows them.
    """
    return resize_square(decode_stored(decode_datum(value)), size)


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
