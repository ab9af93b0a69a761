"""Alignment: the transform that made the points is found, the warp is that of a slow loop, bad lines are named."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_space.errors import UserError
from tests.trainers.data_files import smooth_picture
from trainers.data.align import CELEBA_COLUMNS, TEMPLATE, align_face, read_landmarks, similarity


def made(angle: float, scale: float, x: float, y: float) -> np.ndarray:
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cos, -sin, x], [sin, cos, y]])


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2])


@given(st.floats(-3.1, 3.1), st.floats(0.05, 20), st.floats(-500, 500), st.floats(-500, 500))
@settings(max_examples=100, deadline=None)
def test_the_transform_is_recovered(angle: float, scale: float, x: float, y: float) -> None:
    matrix = made(angle, scale, x, y)
    found = similarity(TEMPLATE, apply(matrix, TEMPLATE))
    assert abs(found - matrix).max() < 1e-6
    two = similarity(TEMPLATE[:2], apply(matrix, TEMPLATE[:2]))
    assert abs(two - matrix).max() < 1e-6


@given(st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_no_other_similarity_is_closer(seed: int) -> None:
    """Against the linear least squares in (a, b, x, y) of [[a, -b], [b, a]], whose optimum is the same."""
    points = np.random.default_rng(seed).normal(size=(5, 2)) * 30
    rows = [row for px, py in points for row in ([px, -py, 1, 0], [py, px, 0, 1])]
    a, b, x, y = np.linalg.lstsq(np.array(rows), TEMPLATE.reshape(-1), rcond=None)[0]
    assert np.allclose(similarity(points, TEMPLATE), [[a, -b, x], [b, a, y]], atol=1e-8)


def test_a_mirrored_face_is_not_mirrored_back() -> None:
    found = similarity(TEMPLATE * [-1, 1], TEMPLATE)
    assert np.linalg.det(found[:, :2]) > 0


@pytest.mark.parametrize(
    ("source", "message"),
    [(np.ones((5, 2)), "all be the same"), (np.full((5, 2), np.nan), "finite"), (np.ones((4, 2)), r"\[n, 2\]")],
)
def test_no_transform(source: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        similarity(source, TEMPLATE)
    if source.shape == (5, 2):
        with pytest.raises(UserError, match="landmarks that give no transform"):
            align_face(smooth_picture(0, 60), source)


def slow_warp(picture: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Bilinear, black outside, pixel by pixel in float64."""
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    result = np.zeros((size, size, 3))
    height, width, _ = picture.shape
    for row in range(size):
        for column in range(size):
            x, y, _ = inverse @ (column, row, 1)
            left, top = int(np.floor(x)), int(np.floor(y))
            for dy in (0, 1):
                for dx in (0, 1):
                    if 0 <= top + dy < height and 0 <= left + dx < width:
                        weight = (1 - abs(x - left - dx)) * (1 - abs(y - top - dy))
                        result[row, column] += weight * picture[top + dy, left + dx]
    return result


@pytest.mark.parametrize(("angle", "scale", "size"), [(0.3, 0.7, 112), (-1.0, 1.6, 40), (3.0, 0.9, 64)])
def test_the_warp_equals_a_slow_loop(angle: float, scale: float, size: int) -> None:
    picture = smooth_picture(3, 120)
    inverse = made(angle, 1 / scale, 0, 0)
    inverse[:, 2] = 60 - inverse[:, :2] @ TEMPLATE.mean(axis=0)
    landmarks = apply(inverse, TEMPLATE)
    got = align_face(picture, landmarks, size)
    matrix = similarity(landmarks, TEMPLATE * size / 112)
    assert got.shape == (size, size, 3)
    assert got.dtype == np.uint8
    expected = slow_warp(picture, matrix, size)
    difference = abs(got - expected)
    assert np.percentile(difference, 99) <= 2  # OpenCV may round coordinates to 1/32 of a pixel
    assert difference.max() <= 16  # where the black begins, such a step counts in full
    assert (expected == 0).any() or scale > 1


def test_landmarks_on_the_template_change_nothing() -> None:
    picture = smooth_picture(1, 112)
    assert (align_face(picture, TEMPLATE) == picture).all()


def test_read_landmarks(tmp_path: Path) -> None:
    path = tmp_path / "points.txt"
    path.write_text("\ufeffa/b.jpg 1 2 3 4 5 6 7 8 9 10\r\n\n a key  with spaces.jpg\t-1e1 2 3 4 5 6 7 8 9 1.5\n")
    found = read_landmarks(path)
    assert list(found) == ["a/b.jpg", "a key  with spaces.jpg"]
    assert found["a/b.jpg"].tolist() == [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]]
    assert found["a key  with spaces.jpg"][0, 0] == -10


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a 1 2 3", "line 2 of .*expected `key x1 y1"), ("a 1 2 3 4 5 6 7 8 9 x", "line 2 of .*expected `key"),
        ("1 2 3 4 5 6 7 8 9 10", "line 2 of .*expected `key"), ("a 1 2 3 4 5 6 7 8 9 nan", "line 2 of .*coordinates"),
        ("a 1 2 3 4 5 6 7 8 9 1e300", "coordinates"),
        ("k 1 2 3 4 5 6 7 8 9 10", "line 2 of .*each key once, got 'k' again"),
    ],
)  # fmt: skip
def test_bad_landmarks(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "points.txt"
    path.write_text(f"k 1 2 3 4 5 6 7 8 9 10\n{line}\n")
    with pytest.raises(UserError, match=message):
        read_landmarks(path)


def test_landmarks_of_celeba(tmp_path: Path) -> None:
    path, columns = tmp_path / "points.txt", " ".join(CELEBA_COLUMNS)
    rows = "000001.jpg  69  109  106  113   77  142   73  152  108  154\r\n000002.jpg 1 2 3 4 5 6 7 8 9 10\r\n"
    path.write_text(f"2\r\n{columns} \r\n{rows}")
    assert read_landmarks(path)["000001.jpg"].tolist() == [[69, 109], [106, 113], [77, 142], [73, 152], [108, 154]]
    path.write_text(f"3\n{columns}\n{rows}")
    with pytest.raises(UserError, match=r"expected 3 lines of `key x1 .*, got 2"):
        read_landmarks(path)
    path.write_text(f"2\n{columns.replace('lefteye', 'righteye')}\n{rows}")  # another order
    with pytest.raises(UserError, match=r"line 1 of .*expected `key x1"):
        read_landmarks(path)


def test_no_landmarks(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "latin").write_bytes(b"\xff")
    for name in ("empty", "latin", "none"):
        with pytest.raises(UserError, match="expected"):
            read_landmarks(tmp_path / name)
