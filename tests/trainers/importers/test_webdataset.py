"""Tar files of samples, made byte by byte: labels in their forms, and members that are not what they seem."""

import json
from pathlib import Path

import pytest

from search_space.errors import UserError
from tests.trainers.importers.sources import jpeg, pictures_of, png, tar_member, write_tar
from trainers.data.importers.source import no_progress
from trainers.data.importers.webdataset import WebDatasetSource


def test_samples(tmp_path: Path) -> None:
    one = write_tar(
        tmp_path / "0.tar", [("a/01.jpg", jpeg(1)), ("a/01.cls", b"3\n"), ("./02.PNG", png(2)), ("./02.cls", b"4")]
    )
    two = write_tar(tmp_path / "1.tar", [
        ("x.seg.png", b"mask"), ("x.json", json.dumps({"z": 1, "identity": "Eva M"}).encode()), ("x.jpeg", jpeg(3)),
        ("y.txt", b"no picture"),
    ])  # fmt: skip
    source = WebDatasetSource([one, two])
    assert pictures_of(source) == {
        "3/a/01": ("3", jpeg(1)), "4/02": ("4", png(2)), "Eva_M/x": ("Eva_M", jpeg(3)),
    }  # fmt: skip
    assert source.scan(no_progress).ignored == {"samples without a picture": 1}


def test_chosen_members(tmp_path: Path) -> None:
    members = [("1.left.jpg", jpeg(1)), ("1.jpg", jpeg(2)), ("1.who", b"7"), ("1.json", b'{"who": 8, "pid": 9}')]
    path = write_tar(tmp_path / "0.tar", members)
    assert pictures_of(WebDatasetSource([path], "left.jpg", "who")) == {"7/1": ("7", jpeg(1))}
    assert pictures_of(WebDatasetSource([path], None, "pid")) == {"9/1": ("9", jpeg(2))}


def test_members_that_are_no_files(tmp_path: Path) -> None:
    data = tar_member("d/", b"", b"5") + tar_member("1.jpg", jpeg(1)) + tar_member("1.cls", b"0")
    data += tar_member("2.jpg", b"", b"2") + tar_member("2.cls", b"", b"3")  # a link, a device
    (tmp_path / "0.tar").write_bytes(data + bytes(1024))
    source = WebDatasetSource([tmp_path / "0.tar"])
    assert list(pictures_of(source)) == ["0/1"]
    assert source.scan(no_progress).ignored == {"members that are no plain files": 2}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("1.jpg", b"x")], "sample '1': expected `cls`, or a label in `json`, got jpg; name it with --label-column"),
        ([("1.jpg", b"x"), ("1.cls", b" ")], "sample '1': expected `cls`"),
        ([("1.jpg", b"x"), ("1.json", b"{")], "sample '1': expected `cls`"),
        ([("1.jpg", b"x"), ("1.json", b"[1]")], "sample '1': expected `cls`"),
        ([("1.jpg", b"x"), ("1.jpg", b"y")], "names of their own, got '1.jpg' twice"),
        (
            [("1.jpg", b"x"), ("1.cls", b"0"), ("2.cls", b"0"), ("1.jpg", b"x"), ("1.cls", b"0")],
            "got '0/1' for picture 1",
        ),
        ([], "expected pictures .JPEG or PNG., got none"),
    ],
)
def test_samples_that_are_wrong(members: list[tuple[str, bytes]], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        WebDatasetSource([write_tar(tmp_path / "0.tar", members)]).scan(no_progress)


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", [("1.jpg", jpeg(1)), ("1.cls", b"0"), ("2.jpg", jpeg(2)), ("2.cls", b"0")])
    data = path.read_bytes()
    for size in range(0, len(data) - 512, 64):
        path.write_bytes(data[:size])
        with pytest.raises(UserError, match=r"0\.tar") as caught:
            WebDatasetSource([path]).scan(no_progress)
        assert "\n" not in str(caught.value)


def test_other_files_and_deep_headers(tmp_path: Path) -> None:
    path = tmp_path / "0.tar.gz"
    path.write_bytes(b"\x1f\x8b" + bytes(2000))
    with pytest.raises(UserError, match=r"expected a tar file, got: .*; unpack it first"):
        WebDatasetSource([path]).scan(no_progress)
    long_name = tar_member("././@LongLink", b"x" * 10 + b"\0", b"L")
    path.write_bytes(long_name * 3000 + tar_member("1.jpg", b"x") + bytes(1024))
    with pytest.raises(UserError, match="expected a tar file"):
        WebDatasetSource([path]).scan(no_progress)


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_heads_that_claim_gigabytes_are_not_made_room_for(kind: bytes, tmp_path: Path) -> None:
    head = bytearray(tar_member("1.jpg", b"", kind))
    head[124:136] = b"77777777777\0"
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    (tmp_path / "0.tar").write_bytes(bytes(head) + bytes(1024))
    with pytest.raises(UserError, match="expected a tar file, got: a head of 8,589,934,592 bytes"):
        WebDatasetSource([tmp_path / "0.tar"]).scan(no_progress)


def test_members_of_impossible_size_are_refused(tmp_path: Path) -> None:
    head = bytearray(tar_member("1.jpg", b""))
    head[124:136] = b"\x80" + b"\xff" * 11
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    (tmp_path / "0.tar").write_bytes(bytes(head) + bytes(1024))
    with pytest.raises(UserError, match="leaves the file|expected a tar file"):
        WebDatasetSource([tmp_path / "0.tar"]).scan(no_progress)
