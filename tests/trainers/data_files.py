"""Small face-like files for tests: pictures, LMDBs of them, list and pairs files."""

import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from trainers.data.datum import encode_datum
from trainers.data.lmdb_source import write_lmdb

Picture = npt.NDArray[np.uint8]


def smooth_picture(seed: int, size: int = 32, channels: int = 3) -> Picture:
    """A smooth picture that no other seed gives, [size, size, channels] (or [size, size] if grey)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, channels), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_LINEAR), np.uint8)


def encode(picture: Picture, extension: str = ".jpg") -> bytes:
    """The picture as the bytes of a file."""
    _, data = cv2.imencode(extension, picture)
    return data.tobytes()


def doubtful_jpeg(size: int) -> bytes:
    """A JPEG that decodes, of which the decoder says that it is corrupt."""
    data = encode(np.random.default_rng(3).integers(0, 256, (size, size, 3), dtype=np.uint8))
    start = data.index(b"\xff\xda") + 100
    return data[:start] + b"\xff\xd0" + data[start + 2 :]


def png_chunk(kind: bytes, content: bytes = b"") -> bytes:
    """One chunk of a PNG, its checksum right."""
    return struct.pack(">I4s", len(content), kind) + content + struct.pack(">I", zlib.crc32(kind + content))


def write_pictures(
    path: Path, pictures: Mapping[str, Picture], *, subdir: bool = False, extension: str = ".jpg"
) -> Path:
    """An LMDB of encoded pictures in Caffe's dialect."""
    items = ((key, encode_datum(encode(picture, extension))) for key, picture in pictures.items())
    write_lmdb(path, items, subdir=subdir)
    return path


def write_training_set(folder: Path, name: str, labels: Sequence[int], size: int = 32) -> tuple[Path, Path]:
    """An LMDB with one picture per label, keys `NAME/0.jpg` and so on, and its list file."""
    keys = [f"{name}/{index}.jpg" for index in range(len(labels))]
    seed = sum(name.encode()) * 1000
    pictures = {key: smooth_picture(seed + index, size) for index, key in enumerate(keys)}
    list_path = folder / f"{name}.txt"
    list_path.write_text("".join(f"{key} {label}\n" for key, label in zip(keys, labels, strict=True)))
    return write_pictures(folder / f"{name}.lmdb", pictures), list_path


def write_pairs(path: Path, keys: Sequence[str], num_folds: int, per_fold: int = 4) -> Path:
    """Pairs of neighbouring keys, alternately the same and not."""
    lines = [f"{keys[i % len(keys)]} {keys[(i + 1) % len(keys)]} {i % 2}\n" for i in range(num_folds * per_fold)]
    path.write_text("".join(lines))
    return path
