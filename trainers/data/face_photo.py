"""From flat colours to a photograph: relief and light, lens blur, sensor noise, JPEG."""

import cv2
import numpy as np
import numpy.typing as npt

from trainers.data.face_renderer import OVERSAMPLING, Image, draw_face
from trainers.data.face_shape import UNIT, Floats, HeadShape
from trainers.data.face_traits import Identity, Picture

Plane = npt.NDArray[np.float32]


def _gaussians(centre: Floats, size: Floats, side: int) -> tuple[Plane, Plane]:
    """Two [blobs, side] factors, across and down; the outer product of two rows is a blob of height 1."""
    grid = np.arange(side) + 0.5
    place = np.concatenate([(grid - centre[:, :1]) / size[:, :1], (grid - centre[:, 1:]) / size[:, 1:]])
    both = np.exp(-0.5 * np.square(place.astype(np.float32)))
    return both[: len(centre)], both[len(centre) :]


def _dome(face: Floats, side: int) -> Plane:
    """[side, side] height of the bare head in pixels: half an ellipsoid over the outline of the face."""
    low, top = face.max(0), face.min(0)
    mid, half = ((low + top) / 2).astype(np.float32), ((low - top) / 2 * (1.07, 1.08)).astype(np.float32)
    grid = np.arange(side, dtype=np.float32) + np.float32(0.5)
    inside = 1 - ((grid - mid[0]) / half[0])[None, :] ** 2 - ((grid - mid[1]) / half[1])[:, None] ** 2
    return np.asarray(0.85 * UNIT * side * np.sqrt(np.maximum(inside, 0)), np.float32)


def _light(height: Plane, picture: Picture) -> Plane:
    """[side, side] brightness of a matt surface, 1 where it faces a lamp of strength 1 and the room light is 0."""
    dx, dy = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=0.125), cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=0.125)
    lx, ly, lz = picture.light
    facing = (lz - lx * dx - ly * dy) / np.sqrt(1 + dx * dx + dy * dy)
    return np.asarray(picture.ambient + np.maximum(facing, 0), np.float32)


def _head_weight(outline: Floats, side: int) -> Plane:
    """[side, side] 1 on the head, 0 beside it, with a soft edge."""
    mask = np.zeros((side, side), np.uint8)
    hull = cv2.convexHull(np.rint(outline * 16).astype(np.int32))
    cv2.fillConvexPoly(mask, hull, 255, cv2.LINE_AA, 4)
    return np.asarray(cv2.GaussianBlur(mask, (5, 5), 1.2), np.float32) * np.float32(1 / 255)


def _exposure(shape: HeadShape, picture: Picture, xy: Floats, side: int) -> Plane:
    """[side, side, 3] factors from flat colours to what the camera sees."""
    across, down = _gaussians(xy[shape.parts["blobs"]], shape.blobs[:, :2] * (UNIT * side), side)
    relief, red, dark = (shape.blobs[:, k : k + 1].astype(np.float32) for k in (2, 3, 4))
    face = xy[shape.parts["face"]]
    height = _dome(face, side) + np.asarray((down * relief).T @ across, np.float32) * np.float32(UNIT * side)
    shade = _light(height, picture)
    weight = _head_weight(np.concatenate([face, xy[shape.parts[f"skull{picture.hair_look}"]]]), side)
    room = np.float32(picture.ambient + 0.45)
    shade = room + (shade - room) * weight
    dull = shade * (1 - (down * (red + dark)).T @ across)
    rosy = shade * (1 - (down * (np.float32(0.15) * red + dark)).T @ across)
    blue, green, rose = (np.float32(gain) for gain in picture.gain)
    return np.asarray(cv2.merge([dull * blue, dull * green, rosy * rose]), np.float32)


def photograph(shape: HeadShape, identity: Identity, picture: Picture, side: int, rng: np.random.Generator) -> Image:
    """A picture of a person.

    Args:
        shape: `head_shape(identity)`, the same for all pictures of the person.
        side: width and height in pixels.
        rng: source of the sensor noise.
    Returns:
        [side, side, 3] uint8, blue green red.
    """
    flat, xy = draw_face(shape, identity, picture, side)
    color = cv2.resize(flat, (side, side), interpolation=cv2.INTER_AREA)
    factors = _exposure(shape, picture, xy / OVERSAMPLING, side)
    lit = cv2.GaussianBlur(cv2.multiply(color, factors, dtype=cv2.CV_32F), (0, 0), picture.blur)
    noise = rng.standard_normal((side, side), np.float32)
    noise *= np.float32(picture.noise)
    lit = cv2.add(lit, cv2.merge([noise, noise, noise]))
    return np.clip(lit, 0, 255).astype(np.uint8)


def encode_jpeg(image: Image, quality: int) -> bytes:
    """The bytes of a JPEG file."""
    done, buffer = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done, "OpenCV could not encode a JPEG"
    return buffer.tobytes()
