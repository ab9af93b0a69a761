"""`align` with given landmarks, in one process and in several; detectors in so far as no model is needed."""

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest

from lfs import data_align
from lfs.face_detectors import Dlib, Face, YuNet, largest, nearest_to_centre
from search_space.errors import UserError
from tests.lfs.data_command import run_action
from tests.trainers.data_files import doubtful_jpeg, encode, smooth_picture, write_pictures
from trainers.data.align import TEMPLATE, align_face
from trainers.data.datum import decode_datum
from trainers.data.lists import read_list
from trainers.data.lmdb_source import LmdbSource
from trainers.data.picture_file import decode_file

NAMES = [f"P{number // 3}/{number}.png" for number in range(40)]


def points(number: int) -> np.ndarray:
    return np.asarray(TEMPLATE * 0.6 + number)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        (tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "raw" / name).write_bytes(encode(smooth_picture(number, 120), ".png"))
    lines = [f"{name} {' '.join(map(str, points(n).reshape(-1)))}\n" for n, name in enumerate(NAMES) if n != 7]
    (tmp_path / "points.txt").write_text("".join(lines))
    return tmp_path


def align(folder: Path, source: str, out: str, *flags: object) -> int:
    argv = ["align", folder / source, folder / out, "--landmarks", folder / "points.txt", "--workers", 1, *flags]
    return run_action(data_align, argv)


def test_a_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert align(folder, "raw", "made") == 0
    made = sorted(path.relative_to(folder / "made").as_posix() for path in (folder / "made").rglob("*.jpg"))
    assert made == sorted(name.replace(".png", ".jpg") for number, name in enumerate(NAMES) if number != 7)
    got = decode_file((folder / "made" / "P0" / "1.jpg").read_bytes())
    assert abs(got.astype(int) - align_face(smooth_picture(1, 120), points(1))).mean() < 2
    assert (folder / "made.missing.txt").read_text() == "P2/7.png: no landmarks given\n"
    assert "39 of 40 pictures aligned; 1 without a face and 0 that do not decode" in capsys.readouterr().out
    with pytest.raises(UserError, match="expected a folder to make, got one that is there"):
        align(folder, "raw", "made")


def test_an_lmdb_in_several_processes(folder: Path) -> None:
    pictures = {name: smooth_picture(number, 120) for number, name in enumerate(NAMES)}
    write_pictures(folder / "raw.lmdb", pictures, extension=".png")
    (folder / "list.txt").write_text("".join(f"{name} {number // 3}\n" for number, name in enumerate(NAMES)))
    lists = ["--list", folder / "list.txt", "--out-list", folder / "out.txt"]
    assert align(folder, "raw.lmdb", "one.lmdb", *lists) == 0
    assert align(folder, "raw.lmdb", "two.lmdb", "--workers", 2) == 0
    assert (folder / "one.lmdb").read_bytes() == (folder / "two.lmdb").read_bytes()
    keys, labels = read_list(folder / "out.txt")
    assert list(keys) == [name for number, name in enumerate(NAMES) if number != 7]
    assert labels.max() == 13
    assert decode_file(decode_datum(LmdbSource(folder / "one.lmdb").get(NAMES[3])).data).shape == (112, 112, 3)


def test_the_list_is_of_what_was_aligned(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pictures(folder / "raw.lmdb", {name: smooth_picture(0, 120) for name in NAMES[6:9]})
    (folder / "list.txt").write_text(f"{NAMES[6]} 2\n{NAMES[7]} 0\n{NAMES[8]} 5\nnowhere.png 5\n{NAMES[9]} 2\n")
    align(folder, "raw.lmdb", "one.lmdb", "--list", folder / "list.txt", "--out-list", folder / "out.txt")
    assert (folder / "out.txt").read_text() == f"{NAMES[6]} 2\n{NAMES[8]} 5\n"  # an identities.txt stays right
    assert "2 lines; 3 without an aligned picture are left out, and 1 labels with them" in capsys.readouterr().out


def test_an_imported_set(folder: Path) -> None:
    imported = folder / "set" / "faces.lmdb"
    write_pictures(imported, {name: smooth_picture(0, 120) for name in NAMES[:3]})
    (folder / "set" / "labels.txt").write_text("".join(f"{name} 0\n" for name in NAMES[:3]))
    assert align(folder, "set", "one.lmdb", "--out-list", folder / "out.txt") == 0
    assert list(LmdbSource(folder / "one.lmdb").keys()) == NAMES[:3]
    assert (folder / "out.txt").read_bytes() == (folder / "set" / "labels.txt").read_bytes()


def test_the_same_pictures_as_an_import_takes(folder: Path) -> None:
    (folder / "raw/P0/._1.png").write_bytes(b"left by another system")
    (folder / "raw/.trash").mkdir()
    (folder / "raw/.trash/1.png").write_bytes((folder / "raw" / NAMES[0]).read_bytes())
    (folder / "raw/P13").rename(folder / "elsewhere")
    (folder / "raw/P13").symlink_to(folder / "elsewhere")
    assert align(folder, "raw", "made") == 0
    made = sorted(path.relative_to(folder / "made").as_posix() for path in (folder / "made").rglob("*.jpg"))
    assert made == sorted(name.replace(".png", ".jpg") for number, name in enumerate(NAMES) if number != 7)


def test_doubtful_pictures(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "raw" / NAMES[2]).write_bytes(doubtful_jpeg(120))
    assert align(folder, "raw", "made") == 0
    shown = capfd.readouterr()
    assert "doubtful: 1 pictures; the first, P0/2.png: Corrupt JPEG data" in shown.out
    assert "Corrupt" not in shown.err


def test_what_a_killed_process_left_is_removed(folder: Path) -> None:
    (folder / ".made.abcdefgh.making" / "made").mkdir(parents=True)
    (folder / ".made.abcdefgh.making" / "made" / "1.jpg").touch()
    assert align(folder, "raw", "made") == 0
    assert sorted(path.name for path in folder.iterdir()) == ["made", "made.missing.txt", "points.txt", "raw"]


def test_refused_before_the_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(folder / "raw.lmdb", {NAMES[0]: smooth_picture(0, 120)})
    (folder / "list.txt").write_text(f"{NAMES[0]} 0\n")
    (folder / "taken").mkdir()
    monkeypatch.setattr(data_align, "_aligned", lambda *_: pytest.fail("it began"))
    lists = ["--list", folder / "list.txt", "--out-list"]
    for out, flags, message in (
        ("x.lmdb", ["--list", folder / "nope.txt", "--out-list", folder / "y"], "nope.txt: expected a readable text"),
        ("taken", [], "taken: expected the name of a file to write, got a folder"),
        ("x.lmdb", [*lists, folder / "list.txt"], "would replace"), ("x.lmdb", [*lists, folder / "x.lmdb"], "another"),
        ("x.lmdb", ["--missing", folder / "points.txt"], "would replace"), ("raw.lmdb", [], "would replace"),
        ("points.txt", [], "would replace"), ("x.lmdb", ["--missing", folder / "taken/../x.lmdb"], "would replace"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            align(folder, "raw.lmdb", out, *flags)


def test_bad_pictures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "raw" / NAMES[5]).write_bytes(b"\x89PNG rubbish")
    with pytest.raises(UserError, match=r"raw: P1/5.png: expected a JPEG or PNG.*--skip-bad"):
        align(folder, "raw", "made")
    assert sorted(path.name for path in folder.iterdir()) == ["points.txt", "raw"]
    assert align(folder, "raw", "made", "--skip-bad") == 0
    assert [line.split(":")[0] for line in (folder / "made.missing.txt").read_text().splitlines()] == NAMES[5:8:2]
    assert "38 of 40 pictures aligned; 1 without a face and 1 that do not decode" in capsys.readouterr().out


def test_refused(folder: Path) -> None:
    (folder / "empty").mkdir()
    for source, flags, message in (
        ("none", [], "nothing of that name"), ("empty", [], "expected pictures, got none"),
        ("raw", ["--list", "x"], "--list and --out-list come together"),
        ("raw", ["--list", "x", "--out-list", "y"], "with LMDBs"), ("points.txt", [], "LMDB"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            align(folder, source, "made", *flags)
    (folder / "points.txt").write_text("other 1 2 3 4 5 6 7 8 9 10\n")
    with pytest.raises(UserError, match="no face in any of 40 pictures; the first: no landmarks given"):
        align(folder, "raw", "made")
    (folder / "raw" / "P0" / "1.jpg").write_bytes(encode(smooth_picture(0)))
    with pytest.raises(UserError, match=r"both P0/1.jpg and P0/1.png would become one"):
        align(folder, "raw", "made")
    assert sorted(path.name for path in folder.iterdir()) == ["empty", "points.txt", "raw"]


def test_which_face() -> None:
    picture = smooth_picture(0, 100)
    faces = [Face((0, 0, 60, 60), TEMPLATE), Face((40, 40, 20, 20), TEMPLATE), Face((70, 70, 30, 30), TEMPLATE)]
    assert nearest_to_centre(faces, picture) is faces[1]
    assert largest(faces, picture) is faces[0]
    assert nearest_to_centre([], picture) is largest([], picture) is None


def test_models_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"rubbish")
    for name in ("model.onnx", "none.onnx"):
        with pytest.raises(UserError, match=f"{name}: expected the ONNX file of a YuNet detector") as error:
            YuNet(str(tmp_path / name))
        assert "\n" not in str(error.value)


def test_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs dlib and face_recognition_models: pip install 'lfs\[align\]'"):
        Dlib()


def test_dlib_finds_no_face_in_a_smooth_picture() -> None:
    pytest.importorskip("dlib")
    pytest.importorskip("face_recognition_models")
    assert Dlib().faces(cv2.resize(smooth_picture(0), (200, 150))) == []
