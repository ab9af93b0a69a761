"""Weights and a JSON description in one safetensors file, written whole or not at all; no pickle.

The description is the one string in the header's `__metadata__`: several strings would be stored in the order of a hash
map, and equal content would not give equal bytes.
"""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from search_space.errors import UserError
from trainers.untrusted import parse_json, read_file

Arrays = dict[str, npt.NDArray[np.generic]]

METADATA_KEY = "json"
HEADER_LENGTH_BYTES = 8
MAX_CHECKPOINT_BYTES = 16 * 2**30


def to_bytes(tensors: Mapping[str, npt.NDArray[np.generic]], metadata: Mapping[str, Any]) -> bytes:
    """A checkpoint as bytes; equal content gives equal bytes, whatever the order of the keys.

    Args:
        tensors: arrays by name, any memory order.
        metadata: anything that JSON can hold exactly (so no NaN and no tuples).
    """
    description = json.dumps(dict(metadata), sort_keys=True, separators=(",", ":"), allow_nan=False)
    # safetensors writes the memory as it lies: an array in another order (a transpose) would come back scrambled.
    ordered = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    return bytes(save(ordered, metadata={METADATA_KEY: description}))


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
        _replace(path, to_bytes(tensors, metadata))
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


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        with open(partial, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_path(path.parent)  # the rename itself must survive a loss of power


def sync_path(path: str | Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
