"""A folder per identity: which files are pictures, what keys they get, and names that cannot be keys."""

import errno
import os
from pathlib import Path

import pytest

from search_space.errors import UserError
from tests.trainers.importers.sources import SIZE, jpeg, pictures_of, png, write_folder
from trainers.data.importers import folder
from trainers.data.importers.convert import Conversion
from trainers.data.importers.engine import import_faces
from trainers.data.importers.folder import FolderSource
from trainers.data.importers.plan import Choice, plan_import
from trainers.data.importers.source import MAX_KEY_BYTES, no_progress


def test_pictures_and_their_keys(tmp_path: Path) -> None:
    files = {
        "0000045/001.jpg": jpeg(1), "0000045/002.JPEG": jpeg(2), "Anna Lee/1 a.png": png(3),
        "Anna Lee/video 1/frame\t2.jpg": jpeg(4), "\u00c9va/\u00fc.jpg": jpeg(5),
    }  # fmt: skip
    others = {
        "readme.txt": b"", "0000045/Thumbs.db": b"", "0000045/._001.jpg": b"", ".git/x.jpg": b"",
        "empty/notes.txt": b"",
    }  # fmt: skip
    source = FolderSource(write_folder(tmp_path, {**files, **others}))
    assert pictures_of(source) == {
        "0000045/001.jpg": ("0000045", files["0000045/001.jpg"]),
        "0000045/002.JPEG": ("0000045", files["0000045/002.JPEG"]),
        "Anna_Lee/1_a.png": ("Anna_Lee", files["Anna Lee/1 a.png"]),
        "Anna_Lee/video_1/frame_2.jpg": ("Anna_Lee", files["Anna Lee/video 1/frame\t2.jpg"]),
        "\u00c9va/\u00fc.jpg": ("\u00c9va", files["\u00c9va/\u00fc.jpg"]),
    }
    assert source.scan(no_progress).ignored == {
        "files of other kinds": 2, "files that are in no identity's folder": 1, "hidden names": 2,
    }  # fmt: skip


def test_names_that_become_one(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a/1 2.jpg": b"x", "a/1_2.jpg": b"y"})
    with pytest.raises(UserError, match=r"keys of their own, got 'a/1_2.jpg' for picture 1 and picture 2; rename one"):
        FolderSource(tmp_path).scan(no_progress)


def test_identities_that_become_one(tmp_path: Path) -> None:
    write_folder(tmp_path, {"A B/1.jpg": b"x", "A_B/2.jpg": b"y"})
    with pytest.raises(UserError, match=r"identities that differ in keys, got 'A B' and 'A_B', both 'A_B'"):
        FolderSource(tmp_path).scan(no_progress)


def test_links(tmp_path: Path) -> None:
    write_folder(tmp_path / "far", {"1.jpg": jpeg(1)})
    write_folder(tmp_path / "set", {"b/2.jpg": jpeg(2)})
    (tmp_path / "set" / "a").symlink_to(tmp_path / "far")
    (tmp_path / "set" / "b" / "loop").symlink_to(tmp_path / "set")
    source = FolderSource(tmp_path / "set")
    assert list(pictures_of(source)) == ["a/1.jpg", "b/2.jpg"]
    assert source.scan(no_progress).ignored == {"links to folders": 1}


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a/1.jpg": jpeg(1)})
    os.mkfifo(tmp_path / "a" / "2.jpg")
    source = FolderSource(tmp_path)
    batch = plan_import(source.scan(no_progress), Choice()).batch(0)
    _, found = source.read(batch)
    assert isinstance(found, UserError)
    assert "not a regular file" in str(found)
    assert source.place(batch, 1) == str(tmp_path / "a/2.jpg")


def test_links_that_lead_nowhere_are_bad_pictures(tmp_path: Path) -> None:
    write_folder(tmp_path / "set", {"a/1.jpg": jpeg(1)})
    (tmp_path / "set/a/0.jpg").symlink_to("none.jpg")
    (tmp_path / "set/a/2.jpg").symlink_to("2.jpg")
    (tmp_path / "set/loop").symlink_to("loop")
    with pytest.raises(UserError, match=r"a/0.jpg: expected a file, got a link that leads nowhere; --skip-bad"):
        import_faces(FolderSource(tmp_path / "set"), tmp_path / "out", Conversion(size=SIZE), workers=1)
    report = import_faces(
        FolderSource(tmp_path / "set"), tmp_path / "out", Conversion(size=SIZE), workers=1, skip_bad=True
    )
    assert (report.num_pictures, report.num_skipped) == (1, 2)
    assert report.ignored == {"files that are in no identity's folder": 1}


@pytest.mark.parametrize("code", ["EACCES", "EIO", "ESTALE", "ENOTCONN", "EMFILE", "ENOENT"])
def test_what_is_a_bad_picture_and_what_a_source_that_fails(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = FolderSource(write_folder(tmp_path, {"a/1.jpg": jpeg(1), "a/2.jpg": jpeg(2)}))
    batch = plan_import(source.scan(no_progress), Choice()).batch(0)

    def read(path: Path, *_: object) -> bytes:
        raise OSError(getattr(errno, code), "reason", str(path))

    monkeypatch.setattr(folder, "read_file", read)
    if code == "EACCES":
        assert [str(found) for found in source.read(batch)] == ["cannot be read: reason"] * 2
    else:
        with pytest.raises(UserError, match="a/1.jpg: cannot be read any more: reason"):
            list(source.read(batch))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "expected pictures .JPEG or PNG., got none"),
        (lambda root: write_folder(root, {"a/x.txt": b""}), "got 1 files of other kinds"),
        (
            lambda root: write_folder(root, {f"a/{'x' * 250}/{'y' * 250}/{'z' * 20}.jpg": b""}),
            f"at most {MAX_KEY_BYTES}",
        ),
        (lambda root: write_folder(root, {"a/" + "b/" * 20 + "x.jpg": b""}), "nested at most 16 deep"),
        (lambda root: os.mkdir(os.fsencode(root) + b"/\xff"), "expected names in UTF-8, got b'.xff'"),
    ],
)
def test_folders_that_are_wrong(make: object, message: str, tmp_path: Path) -> None:
    make(tmp_path)  # type: ignore[operator]
    with pytest.raises(UserError, match=message):
        FolderSource(tmp_path).scan(no_progress)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a folder of pictures, got: No such file"):
        FolderSource(tmp_path / "none").scan(no_progress)
