"""A head as curves in three dimensions, and their place in a picture. The curves themselves: `face_curves`."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from trainers.data.face_traits import Identity, Picture

Floats = npt.NDArray[np.float64]

EXPRESSIONS = ("smile", "open", "lift", "frown", "close")
HEAD_DEPTH = 0.95
CAMERA = 7.0  # distance of the camera in head units; near enough for perspective to be seen
UNIT = 0.355  # head unit as a fraction of the picture side
CENTRE = (0.5, 0.475)  # where the point between the eyes of an average head comes to lie


@dataclass(frozen=True)
class HeadShape:
    """All curves of one person as one array of points, so that a picture needs one projection."""

    points: Floats  # [points, 3]
    moves: Floats  # [expressions, points, 3] what each expression adds
    rim: npt.NDArray[np.bool_]  # [points] on the silhouette, which a turn of the head shifts but does not narrow
    parts: dict[str, slice]  # curve by name
    blobs: Floats  # [points of the part `blobs`, 5] width, height, relief (head units), redness, darkness


@cache
def _spline(num_controls: int, steps: int, closed: bool) -> Floats:
    """[samples, controls] weights of a Catmull-Rom curve through the controls."""
    segments = num_controls if closed else num_controls - 1
    t = np.arange(steps) / steps
    blend = np.stack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2], 1) / 2
    weights = np.zeros((segments * steps + (not closed), num_controls))
    for segment in range(segments):
        for k in range(4):
            control = segment + k - 1
            control = control % num_controls if closed else min(max(control, 0), num_controls - 1)
            weights[segment * steps : (segment + 1) * steps, control] += blend[:, k]
    if not closed:
        weights[-1, -1] = 1
    return weights


def smooth(controls: Floats, steps: int = 4, closed: bool = False) -> Floats:
    """[samples, d] smooth curve through [controls, d] points."""
    return _spline(len(controls), steps, closed) @ controls


class HeadBuilder:
    """Collects the curves of one head."""

    def __init__(self, identity: Identity) -> None:
        self.t, self.identity = identity.traits, identity
        self.points: list[Floats] = []
        self.moves: list[Floats] = []
        self.rim: list[npt.NDArray[np.bool_]] = []
        self.parts: dict[str, slice] = {}
        self.blobs = np.zeros((0, 5))
        self.count = 0

    def depth(self, x: Floats, y: Floats) -> Floats:
        """z of the smooth head at (x, y)."""
        inside = 1 - (x / (1.12 * self.t["head_width"])) ** 2 - ((y - 0.1) / 1.55) ** 2
        return HEAD_DEPTH * np.sqrt(np.maximum(inside, 0.02))

    def add(
        self, name: str, xy: Floats, *, z: Floats | float | None = None, out: float = 0.0, rim: bool = False,
        **moves: Floats,
    ) -> None:  # fmt: skip
        """Add a curve on the skin (`z` None) or at a depth; `moves` gives [n, 2] what an expression adds to x, y."""
        n = len(xy)
        depth = self.depth(xy[:, 0], xy[:, 1]) + out if z is None else np.broadcast_to(z, n)
        self.points.append(np.column_stack([xy, depth]))
        delta = np.zeros((len(EXPRESSIONS), n, 3))
        for expression, move in moves.items():
            delta[EXPRESSIONS.index(expression), :, :2] = move
        self.moves.append(delta)
        self.rim.append(np.full(n, rim))
        self.parts[name] = slice(self.count, self.count + n)
        self.count += n

    def finish(self) -> HeadShape:
        points, moves = np.concatenate(self.points), np.concatenate(self.moves, axis=1)
        return HeadShape(points, moves, np.concatenate(self.rim), self.parts, self.blobs)


def project(shape: HeadShape, picture: Picture, side: int) -> Floats:
    """[points, 2] pixel coordinates of all points in a picture of `side` x `side` pixels."""
    points = shape.points + np.tensordot(picture.expression, shape.moves, 1)  # [points, 3]
    sy, cy, sp, cp = np.sin(picture.yaw), np.cos(picture.yaw), np.sin(picture.pitch), np.cos(picture.pitch)
    x, y, z = points[:, 0], points[:, 1] - 0.15, points[:, 2]
    narrow, flat = np.where(shape.rim, 1.0, cy), np.where(shape.rim, 1.0, cp)
    turned_x, depth = x * narrow + z * sy, z * cy - x * sy
    turned_y, depth = y * flat + depth * sp + 0.15, depth * cp - y * sp
    scale = picture.zoom * UNIT * side * CAMERA / (CAMERA - depth + 0.5)
    sr, cr = np.sin(picture.roll), np.cos(picture.roll)
    at_x = (turned_x * cr - turned_y * sr) * scale + (CENTRE[0] + picture.shift[0] - 0.6 * UNIT * sy) * side
    at_y = (turned_x * sr + turned_y * cr) * scale + (CENTRE[1] + picture.shift[1] - 0.6 * UNIT * sp) * side
    return np.column_stack([at_x, at_y])
