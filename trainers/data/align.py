"""Five landmarks of a face onto the usual template: the picture turned, scaled and shifted, never sheared or mirrored.

Landmarks are, in this order, the person's right eye (on the left of an upright picture), the left eye, the tip of the
nose, the right and the left corner of the mouth; x and y in pixels, (0, 0) in the middle of the top left pixel.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from search_space.errors import UserError, shown
from trainers.data.picture_file import Picture
from trainers.untrusted import read_file

Floats = npt.NDArray[np.float64]

TEMPLATE: Floats = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""Where the landmarks are in a picture of 112 x 112: insightface's (`face_align.py`), which most aligned sets have."""

TEMPLATE_SIZE = 112
MAX_COORDINATE = 1e5
CELEBA_COLUMNS = [
    f"{part}_{axis}" for part in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth") for axis in "xy"
]
"""Left and right as one sees them in the picture, which is our order."""

CELEBA_HEADER = re.compile(rf"(\d{{1,9}})\s*\n\s*{' '.join(CELEBA_COLUMNS)}\s*\n", re.ASCII)
MAX_LANDMARK_BYTES = 4 * 2**30


def similarity(source: npt.ArrayLike, target: npt.ArrayLike) -> Floats:
    """The similarity transform that brings points closest to others, in the least squares of their distances.

    Args:
        source, target: [n, 2] points, n >= 2, those of `source` not all the same.
    Returns:
        [2, 3] matrix M with M @ (x, y, 1) near the target; its left part is a positive scale times a rotation.
    Raises:
        ValueError: points that are all the same, not finite, or of another shape.
    Source: Umeyama 1991, equations 40 to 43, in two dimensions: the determinant of the rotation is kept at +1.
    """
    x, y = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if x.shape != y.shape or x.ndim != 2 or x.shape[1] != 2 or len(x) < 2:
        raise ValueError(f"source and target must both be [n, 2], n >= 2, got {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("points must be finite")
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    variance = ((x - mean_x) ** 2).sum(axis=1).mean()
    if not variance > 0:
        raise ValueError(f"points must not all be the same, got {len(x)} times {x[0].tolist()}")
    u, d, vt = np.linalg.svd((y - mean_y).T @ (x - mean_x) / len(x))
    signs = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ np.diag(signs) @ vt
    scale = (d * signs).sum() / variance
    matrix = np.empty((2, 3))
    matrix[:, :2] = scale * rotation
    matrix[:, 2] = mean_y - matrix[:, :2] @ mean_x
    return matrix


def align_face(picture: Picture, landmarks: npt.ArrayLike, size: int = TEMPLATE_SIZE) -> Picture:
    """The face on the template, [size, size, 3] uint8; bilinear, black outside the picture.

    Args:
        picture: [height, width, 3] uint8.
        landmarks: [5, 2], see the module.
        size: the template is scaled to it.
    Raises:
        UserError: landmarks from which no transform comes.
    """
    try:
        matrix = similarity(landmarks, TEMPLATE * (size / TEMPLATE_SIZE))
    except (ValueError, np.linalg.LinAlgError) as error:
        raise UserError(f"landmarks that give no transform: {error}") from None
    warped = cv2.warpAffine(picture, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return np.asarray(warped, np.uint8)


def read_landmarks(path: str | Path) -> Mapping[str, Floats]:
    """Read `key x1 y1 ... x5 y5` lines, as they are or below the two lines that CelebA's own files begin with.

    Returns:
        [5, 2] by key.
    Raises:
        UserError: not a key and ten numbers, a number that is no sane coordinate, a key twice; with the line. A file
            of CelebA has fewer lines than it says.
    """
    law = "`key x1 y1 x2 y2 x3 y3 x4 y4 x5 y5`"
    try:
        text = read_file(path, MAX_LANDMARK_BYTES).removeprefix(b"\xef\xbb\xbf").decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected a readable text file, got: {error}") from None
    found: dict[str, Floats] = {}
    if header := CELEBA_HEADER.match(text):
        text = "\n" * header[0].count("\n") + text[header.end() :]
    for number, line in enumerate(text.split("\n"), 1):
        if not (fields := line.rsplit(None, 10)):
            continue
        try:
            [key, *numbers] = fields
            points = np.array([float(field) for field in numbers]).reshape(5, 2)
        except ValueError:
            raise UserError(f"line {number} of {path}: expected {law}, got {shown(line.strip())}") from None
        if not (np.abs(points) <= MAX_COORDINATE).all():
            raise UserError(f"line {number} of {path}: expected coordinates in pixels, got {shown(line.strip())}")
        if (key := key.strip()) in found:
            raise UserError(f"line {number} of {path}: expected each key once, got {shown(key)} again")
        found[key] = points
    if not found or (header and int(header[1]) != len(found)):
        raise UserError(
            f"{path}: expected {f'{int(header[1]):,} ' if header else ''}lines of {law}, got {len(found):,}"
        )
    return found
