"""Weights and a JSON description in one safetensors file, written whole or not at all; no pickle.

The description is the one string in the header's `__metadata__`: several strings would be stored in the order of a hash
map, and equal content would not give equal bytes.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load

from search_space.errors import UserError
from trainers.untrusted import parse_json, read_file
from trainers.whole_file import whole_file

Arrays = dict[str, npt.NDArray[np.generic]]

METADATA_KEY = "json"
HEADER_LENGTH_BYTES = 8
ALIGNMENT_BYTES = 8
TYPES = {
    "u8": "U64", "i8": "I64", "f8": "F64", "f4": "F32", "u4": "U32", "i4": "I32", "f2": "F16", "u2": "U16", "i2": "I16",
    "i1": "I8", "u1": "U8", "b1": "BOOL",
}  # fmt: skip
"""numpy's types and the format's, in the order in which the safetensors library lays them into a file."""
MAX_CHECKPOINT_BYTES = 16 * 2**30


def to_parts(tensors: Mapping[str, npt.NDArray[np.generic]], metadata: Mapping[str, Any]) -> list[bytes | memoryview]:
    """A checkpoint as bytes that follow each other: a header, then the memory of each array, which is not copied.

    Equal content gives equal bytes, whatever the order of the keys; they are those that the safetensors library writes.

    Args:
        tensors: arrays by name, any memory order.
        metadata: anything that JSON can hold exactly (so no NaN and no tuples).
    """
    description = json.dumps(dict(metadata), sort_keys=True, separators=(",", ":"), allow_nan=False)
    # The file holds the memory as it lies: an array in another order (a transpose) would come back scrambled.
    arrays = {name: np.asarray(a, a.dtype.newbyteorder("<"), order="C") for name, a in tensors.items()}
    ordered = sorted(arrays, key=lambda name: (list(TYPES).index(arrays[name].dtype.str[1:]), name))
    header: dict[str, Any] = {"__metadata__": {METADATA_KEY: description}}
    end = 0
    for name in ordered:
        begin, end = end, end + arrays[name].nbytes
        kind = TYPES[arrays[name].dtype.str[1:]]
        header[name] = {"dtype": kind, "shape": list(arrays[name].shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT_BYTES)
    memory = [arrays[name].reshape(-1).view(np.uint8).data for name in ordered]
    return [len(text).to_bytes(HEADER_LENGTH_BYTES, "little") + text, *memory]


def to_bytes(tensors: Mapping[str, npt.NDArray[np.generic]], metadata: Mapping[str, Any]) -> bytes:
    """A checkpoint in one piece; see `to_parts`."""
    return b"".join(to_parts(tensors, metadata))


def from_bytes(data: bytes, *, source: str = "checkpoint") -> tuple[Arrays, dict[str, Any]]:
    """Read what `to_bytes` wrote.

    Args:
        source: what to call the data in an error, for example the file's path.
    Raises:
        UserError: the data is cut off, is not a checkpoint, or is another program's safetensors file.
    """
    try:
        tensors = load(data)
        header = parse_json(data[HEADER_LENGTH_BYTES : HEADER_LENGTH_BYTES + int.from_bytes(data[:8], "little")])
        metadata = parse_json(header["__metadata__"][METADATA_KEY])
        if not isinstance(metadata, dict):
            raise ValueError("its description is no JSON object")
    except (SafetensorError, KeyError, ValueError, TypeError, MemoryError) as error:
        detail = " ".join(str(error).split())[:200]
        raise UserError(
            f"{source}: expected a checkpoint (safetensors with a JSON description), got {len(data)} bytes that are"
            f" none ({detail}); it is damaged or from elsewhere, use another one"
        ) from error
    return dict(tensors), metadata


def save_checkpoint(
    path: str | Path, tensors: Mapping[str, npt.NDArray[np.generic]], metadata: Mapping[str, Any]
) -> None:
    """Write a checkpoint so that `path` holds the old content or the new, whatever is killed or loses power when.

    Raises:
        UserError: the file cannot be written (folder missing or read-only, disk full).
    """
    path = Path(path)
    try:
        with whole_file(path) as file:
            file.writelines(to_parts(tensors, metadata))
    except OSError as error:
        raise UserError(f"{path}: cannot write the checkpoint ({error.strerror}); choose a writable folder") from error


def load_checkpoint(path: str | Path) -> tuple[Arrays, dict[str, Any]]:
    """Read what `save_checkpoint` wrote.

    Raises:
        UserError: there is no such file, or it is not a whole checkpoint.
    """
    try:
        data = read_file(path, MAX_CHECKPOINT_BYTES)
    except OSError as error:
        raise UserError(f"{path}: cannot read the checkpoint ({error.strerror}); check the path") from error
    return from_bytes(data, source=str(path))
