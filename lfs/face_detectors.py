"""Where a face is in a picture, and its five landmarks: from a model file that the user has, or from a package's.

Landmarks are in the order of `trainers.data.align`.
"""

import importlib
import importlib.util
import math
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from search_space.errors import UserError
from trainers.data.picture_file import Picture

Floats = npt.NDArray[np.float64]

MAX_SIDE = 1024
"""Larger pictures are shrunk to it before faces are looked for."""

SMALL_SIDE = 512
"""dlib finds faces from 80 pixels on: pictures up to this are doubled for it."""

YUNET_SCORE, YUNET_OVERLAP, YUNET_CANDIDATES = 0.6, 0.3, 5000
LEFT_EYE, RIGHT_EYE, NOSE, LEFT_MOUTH, RIGHT_MOUTH = slice(36, 42), slice(42, 48), 30, 48, 54
"""Of the 68 points of the iBUG scheme; left is left in an upright picture."""

PREDICTOR = Path("models", "shape_predictor_68_face_landmarks.dat")


class Face(NamedTuple):
    """One face of a picture."""

    box: tuple[float, float, float, float]
    """x and y of its top left corner, width, height."""

    points: Floats
    """[5, 2]"""


class Detector(Protocol):
    """Finds faces."""

    def faces(self, picture: Picture) -> list[Face]:
        """All faces of a picture [height, width, 3] uint8 BGR, in an order that depends on the picture alone."""


def nearest_to_centre(faces: list[Face], picture: Picture) -> Face | None:
    """The face whose middle is nearest to that of the picture: right for pictures that were cut out around someone."""
    height, width, _ = picture.shape

    def distance(face: Face) -> float:
        x, y, w, h = face.box
        return math.hypot(x + w / 2 - width / 2, y + h / 2 - height / 2)

    return min(faces, key=distance, default=None)


def largest(faces: list[Face], picture: Picture) -> Face | None:
    """The face with the largest box: right for photographs as they were taken."""
    return max(faces, key=lambda face: face.box[2] * face.box[3], default=None)


CHOICES = {"centre": nearest_to_centre, "largest": largest}


class YuNet:
    """A YuNet model (`face_detection_yunet_*.onnx` of OpenCV's model zoo), run by OpenCV.

    Args:
        path: the ONNX file.
    Raises:
        UserError: OpenCV cannot use it.
    """

    def __init__(self, path: str) -> None:
        if not Path(path).is_file():
            raise UserError(f"{path}: expected the ONNX file of a YuNet detector, got no such file")
        try:
            self._net: Any = cv2.FaceDetectorYN.create(
                path, "", (320, 320), YUNET_SCORE, YUNET_OVERLAP, YUNET_CANDIDATES
            )
            self.faces(np.zeros((320, 320, 3), np.uint8))  # another model only fails when it is run
        except (cv2.error, AttributeError, ValueError) as error:
            first = (str(error).strip().splitlines() or ["no reason given"])[0]
            raise UserError(f"{path}: expected the ONNX file of a YuNet detector, got: {first[:200]}") from None

    def faces(self, picture: Picture) -> list[Face]:
        """See `Detector`."""
        shrunk, factor = _shrunk(picture)
        self._net.setInputSize((shrunk.shape[1], shrunk.shape[0]))
        rows = self._net.detect(shrunk)[1]
        found = np.empty((0, 15)) if rows is None else np.asarray(rows, np.float64)
        return [Face(tuple(row[:4] * factor), row[4:14].reshape(5, 2) * factor) for row in found]


class Dlib:
    """dlib's frontal face detector with the 68-point predictor of `face_recognition_models`.

    Raises:
        UserError: the packages are not there; they come with `pip install 'lfs[align]'`.
    """

    def __init__(self) -> None:
        models = importlib.util.find_spec("face_recognition_models")
        if importlib.util.find_spec("dlib") is None or models is None or not models.submodule_search_locations:
            way_out = "pip install 'lfs[align]', or give --landmarks or --detector"
            raise UserError(f"the built-in detector needs dlib and face_recognition_models: {way_out}")
        dlib = importlib.import_module("dlib")
        [folder, *_] = models.submodule_search_locations  # not imported: it needs a setuptools of before 2025
        self._array = dlib.get_frontal_face_detector()
        self._predict = dlib.shape_predictor(str(Path(folder, PREDICTOR)))

    def faces(self, picture: Picture) -> list[Face]:
        """See `Detector`."""
        shrunk, factor = _shrunk(picture)
        rgb = np.ascontiguousarray(shrunk[:, :, ::-1])
        doublings = int(max(rgb.shape) <= SMALL_SIDE)
        return [self._face(rgb, box, factor) for box in self._array(rgb, doublings)]

    def _face(self, rgb: Picture, box: Any, factor: float) -> Face:
        points = np.array([(point.x, point.y) for point in self._predict(rgb, box).parts()], np.float64)
        five = np.stack([
            points[LEFT_EYE].mean(axis=0), points[RIGHT_EYE].mean(axis=0), points[NOSE], points[LEFT_MOUTH],
            points[RIGHT_MOUTH],
        ])  # fmt: skip
        sides = (box.left() * factor, box.top() * factor, box.width() * factor, box.height() * factor)
        return Face(sides, five * factor)


def _shrunk(picture: Picture) -> tuple[Picture, float]:
    """The picture, no larger than `MAX_SIDE`, and how many pixels of the whole one of its pixels spans."""
    side = max(picture.shape[:2])
    if side <= MAX_SIDE:
        return picture, 1.0
    height, width = (max(1, round(length * MAX_SIDE / side)) for length in picture.shape[:2])
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8), side / MAX_SIDE
