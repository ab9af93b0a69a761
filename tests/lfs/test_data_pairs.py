"""`pairs` and `lfw`: files that the readers take, and one line for what is wrong."""

from pathlib import Path

import pytest

from lfs import data_pairs
from search_space.errors import UserError
from tests.lfs.data_command import run_action
from tests.trainers.data_files import smooth_picture, write_pictures
from trainers.data.lists import read_pairs

OFFICIAL = "1\nAda\t1\t2\nAda\t1\tBo\t1\n"


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text("".join(f"P{person}/{number}.jpg {person}\n" for person in range(30) for number in range(4)))
    return path


def test_pairs(labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, again = tmp_path / "new" / "pairs.txt", tmp_path / "again.txt"
    for path in (out, again):
        assert run_action(data_pairs, ["pairs", labels, path, "--folds", 3, "--pairs-per-fold", 7]) == 0
    assert out.read_bytes() == again.read_bytes()
    pairs = read_pairs(out, 3)
    assert pairs.same.tolist() == ([True] * 7 + [False] * 7) * 3
    people = [key.partition("/")[0] for key in pairs.left], [key.partition("/")[0] for key in pairs.right]
    assert [a == b for a, b in zip(*people, strict=True)] == pairs.same.tolist()
    said = capsys.readouterr().out.splitlines()[0]
    people_in = "10 identities in a fold, 7 of them in genuine pairs"
    assert said == f"{out}: 42 pairs, 3 folds of 7 genuine and 7 impostor; {people_in}"
    assert run_action(data_pairs, ["pairs", labels, again, "--folds", 3, "--pairs-per-fold", 7, "--seed", 1]) == 0
    assert out.read_bytes() != again.read_bytes()


def test_people_on_both_sides_are_warned_of(labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other, apart, names = tmp_path / "train.txt", tmp_path / "apart.txt", tmp_path / "set" / "identities.txt"
    other.write_text("P3/x.jpg 0\nQ/y.jpg 1\nP29/z.jpg 2\n")
    apart.write_text("Q/y.jpg 0\nno_folder.jpg 1\n")
    names.parent.mkdir()
    names.write_text("0 P5\n1 Q\n")
    flags = ["--folds", 2, "--pairs-per-fold", 2]
    for each in (other, apart, names, names.parent):
        flags += ["--apart-from", each]
    assert run_action(data_pairs, ["pairs", labels, tmp_path / "pairs.txt", *flags]) == 0
    assert [line.partition(": it")[0] for line in capsys.readouterr().out.splitlines()[1:]] == [
        f"warning: 2 of 30 people of {labels} are in {other} too (P29, P3)",
        f"warning: 1 of 30 people of {labels} are in {names} too (P5)",
        f"warning: 1 of 30 people of {labels} are in {names.parent} too (P5)",
    ]
    with pytest.raises(UserError, match="nope.txt: expected"):
        run_action(data_pairs, ["pairs", labels, tmp_path / "new.txt", *flags, "--apart-from", tmp_path / "nope.txt"])
    assert not (tmp_path / "new.txt").exists()


def test_bad_lists(labels: Path, tmp_path: Path) -> None:
    before = labels.read_bytes()
    with pytest.raises(UserError, match="would replace what it is made of"):
        run_action(data_pairs, ["pairs", labels, labels])
    assert labels.read_bytes() == before
    out = tmp_path / "pairs.txt"
    with pytest.raises(UserError, match=r"labels.txt: expected 300 genuine .* take at most"):
        run_action(data_pairs, ["pairs", labels, out])
    labels.write_bytes(before + b"\nP0/0.jpg 7\n")
    with pytest.raises(UserError, match=r"line 122 of .*each key once, got 'P0/0.jpg' again"):
        run_action(data_pairs, ["pairs", labels, out])
    assert not out.exists()


@pytest.mark.parametrize(
    "flags", [["--folds", "0"], ["--folds", "x"], ["--pairs-per-fold", "-1"], ["--seed", "1" * 40]]
)
def test_bad_flags(flags: list[str], labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_action(data_pairs, ["pairs", labels, tmp_path / "out.txt", *flags])
    assert stopped.value.code == 2
    assert "expected a whole number from" in capsys.readouterr().err


def test_lfw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    official, out = tmp_path / "official.txt", tmp_path / "pairs.txt"
    official.write_text(OFFICIAL)
    keys = ["Ada/Ada_0001.jpg", "Ada/Ada_0002.jpg", "Bo/Bo_0001.jpg"]
    lmdb = write_pictures(tmp_path / "faces.lmdb", {key: smooth_picture(0) for key in keys})
    assert run_action(data_pairs, ["lfw", official, out, "--lmdb", lmdb]) == 0
    assert out.read_text() == f"{keys[0]} {keys[1]} 1\n{keys[0]} {keys[2]} 0\n"
    assert capsys.readouterr().out == f"{out}: 2 pairs, 1 fold of 1 genuine and 1 impostor\n"
    out.unlink()
    message = r"line 2 of .*official.txt: .*faces.lmdb has no key 'Ada-2'; 2 keys are missing in all; see --key"
    write_pictures(lmdb, {"Ada-1": smooth_picture(0)})
    with pytest.raises(UserError, match=message):
        run_action(data_pairs, ["lfw", official, out, "--lmdb", lmdb, "--key", "{name}-{number}"])
    assert not out.exists()


def test_a_folder_that_takes_no_file(labels: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        run_action(data_pairs, ["pairs", labels, tmp_path / "file" / "out", "--folds", 2, "--pairs-per-fold", 2])
