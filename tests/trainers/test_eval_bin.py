"""insightface's `.bin` files: distinct pictures, pairs in order, and the one line for what cannot be used."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from search_space.errors import UserError
from tests.trainers.bin_files import array, bin_file, bytes3, flags, latin2, listed, pickled
from tests.trainers.data_files import encode, smooth_picture
from trainers.data.datum import decode_datum
from trainers.data.eval_bin import read_eval_bin, stored

FACES = [encode(smooth_picture(seed), suffix) for seed, suffix in enumerate((".jpg", ".png", ".jpg"))]
PLACES = [0, 1, 1, 2, 0, 2]
SAME = [True, False, True]


def write(folder: Path, data: bytes) -> Path:
    path = folder / "faces.bin"
    path.write_bytes(data)
    return path


def refuse(number: int, fault: str) -> None:
    raise AssertionError(fault)


@pytest.mark.parametrize("form", [bytes3, latin2, lambda face: array(face, [len(face)])])
def test_pictures_once_and_pairs_in_order(form: object, tmp_path: Path) -> None:
    path = write(tmp_path, bin_file([form(FACES[place]) for place in PLACES], SAME))  # type: ignore[operator]
    held = read_eval_bin(path)
    assert [bytes(picture) for picture in held.pictures] == FACES
    assert held.first == [0, 1, 3]
    assert held.keys == ["00000000.jpg", "00000001.png", "00000003.jpg"]
    assert (held.left, held.right, held.same) == ([0, 1, 0], [1, 2, 2], SAME)
    items = list(stored(held, 32, refuse))
    assert [key for key, _ in items] == held.keys
    assert [decode_datum(value).data for _, value in items] == FACES


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pythons_own_with_one_value_for_all(protocol: int, tmp_path: Path) -> None:
    held = read_eval_bin(write(tmp_path, pickle.dumps(([FACES[0]] * 6, np.array(SAME)), protocol)))
    assert len(held.pictures) == 1
    assert (held.left, held.right, held.same) == ([0] * 3, [0] * 3, SAME)


def test_another_size_is_resized(tmp_path: Path) -> None:
    held = read_eval_bin(write(tmp_path, bin_file([bytes3(FACES[0]), bytes3(FACES[1])], [False])))
    for _, value in stored(held, 16, refuse):
        data = decode_datum(value).data
        assert data.startswith(b"\xff\xd8\xff")
        assert data not in FACES


def test_pictures_that_do_not_decode_are_told(tmp_path: Path) -> None:
    cut, other = FACES[0][:60], b"GIF89a"
    pictures = [bytes3(cut), bytes3(FACES[1]), bytes3(other), bytes3(b"")]
    held = read_eval_bin(write(tmp_path, bin_file(pictures, [True] * 2)))
    told: list[tuple[int, str]] = []
    assert [key for key, _ in stored(held, 32, lambda *fault: told.append(fault))] == ["00000001.png"]
    assert [number for number, _ in told] == [0, 2, 3]
    assert all("expected a JPEG or PNG" in fault for _, fault in told)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "faces.bin: byte 0: expected a pickle"),
        (bin_file([b"cos\nsystem\n"], [True]), "faces.bin: byte 4: .*asks for os.system"),
        (bin_file([bytes3(b"x")] * 3, SAME), "two pictures for each bool, got 3 pictures and 3 bools"),
        (bin_file([], []), "got 0 pictures and 0 bools"),
        (bin_file([b"K\x01"] * 2, [True]), "picture 0: expected the bytes of a JPEG or PNG, got a int"),
        (bin_file([bytes3(b"x"), array(bytes(12), [2, 2, 3])], [True]), r"picture 1: .*of shape \(2, 2, 3\), type u1"),
        (bin_file([array(b"ab", [9])] * 2, [True]), r"picture 0: .*shape \(9,\)"),
        (bin_file([array(b"ab", [2], "b1")] * 2, [True]), "picture 0: .*type b1"),
        (pickled(listed([bytes3(b"x")] * 2) + listed([b"K\x02"]) + b"\x86"), "flags that are no bools"),
        (pickled(listed([bytes3(b"x")] * 2) + flags([True]) + flags([True]) + b"\x87"), "got a tuple of another form"),
        (pickled(bytes3(b"x") + flags([True]) + b"\x86"), "got a tuple of another form"),
        (pickled(b"K\x01"), "got a int of another form"),
        (bin_file([bytes3(b"x")], SAME)[:-3], "truncated"),
    ],
)
def test_refused(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_eval_bin(write(tmp_path, data))


def test_many_values_of_the_same_bytes(tmp_path: Path) -> None:
    shared = b"c_codecs\nencode\n\x94" + b"X\x00\x10\x00\x00" + b"x" * 4096 + b"\x94\x8c\x06latin1\x94\x87"
    first = shared[:-1] + b"\x86R"
    again = b"h\x00h\x01h\x02\x86R"
    with pytest.raises(UserError, match="picture .*more bytes of pictures than the file has"):
        read_eval_bin(write(tmp_path, bin_file([first] + [again] * 999, [True] * 500, 4)))


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match="expected a readable file"):
            read_eval_bin(path)
