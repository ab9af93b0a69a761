"""`bin`: an LMDB and pairs that the readers take; what is bad or hostile is one line and leaves nothing behind."""

from pathlib import Path

import pytest

from lfs import data_bin
from search_space.errors import UserError
from tests.lfs.data_command import run_action
from tests.trainers.bin_files import bin_file, bytes3
from tests.trainers.data_files import doubtful_jpeg, encode, smooth_picture
from trainers.data.datum import decode_datum
from trainers.data.lists import read_pairs
from trainers.data.lmdb_source import LmdbSource

FACES = [bytes3(encode(smooth_picture(seed))) for seed in range(40)]


def write(folder: Path, data: bytes) -> list[object]:
    (folder / "set.bin").write_bytes(data)
    return ["bin", folder / "set.bin", "--lmdb", folder / "set.lmdb", "--pairs", folder / "set.txt", "--size", 32]


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_round_trip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_action(data_bin, write(tmp_path, bin_file(FACES, [True, False] * 10))) == 0
    pairs = read_pairs(tmp_path / "set.txt", 10)
    source = LmdbSource(tmp_path / "set.lmdb")
    sides = [key for pair in zip(pairs.left, pairs.right, strict=True) for key in pair]
    assert [bytes3(decode_datum(source.get(key)).data) for key in sides] == FACES
    assert pairs.same.tolist() == [True, False] * 10
    said = capsys.readouterr().out
    pairs_file, lmdb = tmp_path / "set.txt", tmp_path / "set.lmdb"
    assert said == f"{pairs_file}: 20 pairs, 10 of them genuine; {lmdb}: 40 distinct pictures\n"
    assert left_behind(tmp_path) == ["set.bin", "set.lmdb", "set.txt"]


def test_no_ten_folds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for same in ([True, False], [True] * 10 + [False] * 10):
        run_action(data_bin, write(tmp_path, bin_file(FACES[: 2 * len(same)], same)))
        assert "warning: " in capsys.readouterr().out


def test_bad_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faces = [*FACES[:3], bytes3(b"\xff\xd8\xff rubbish"), *FACES[4:40]]
    argv = write(tmp_path, bin_file(faces, [True, False] * 10))
    with pytest.raises(UserError, match=r"set.bin: picture 3: expected a JPEG or PNG.*--skip-bad leaves it"):
        run_action(data_bin, argv)
    assert left_behind(tmp_path) == ["set.bin"]
    assert run_action(data_bin, [*argv, "--skip-bad"]) == 0
    assert (tmp_path / "set.txt.bad.txt").read_text().startswith("3 expected a JPEG or PNG")
    assert len((tmp_path / "set.txt").read_text().splitlines()) == 19
    assert len(LmdbSource(tmp_path / "set.lmdb")) == 39
    assert "1 pictures do not decode; 1 pairs are left out" in capsys.readouterr().out
    assert run_action(data_bin, write(tmp_path, bin_file(FACES, [True, False] * 10))) == 0
    assert left_behind(tmp_path) == ["set.bin", "set.lmdb", "set.txt"]


def test_doubtful_pictures(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    faces = [*FACES[:3], bytes3(doubtful_jpeg(32)), *FACES[4:40]]
    assert run_action(data_bin, write(tmp_path, bin_file(faces, [True, False] * 10))) == 0
    shown = capfd.readouterr()
    assert "doubtful: 1 pictures; the first, 3: Corrupt JPEG data" in shown.out
    assert "Corrupt" not in shown.err
    assert len(LmdbSource(tmp_path / "set.lmdb")) == 40


def test_nothing_is_replaced_by_what_cannot_be_read(tmp_path: Path) -> None:
    run_action(data_bin, write(tmp_path, bin_file(FACES, [True, False] * 10)))
    before = {name: (tmp_path / name).read_bytes() for name in ("set.lmdb", "set.txt")}
    for data in (bin_file([b"cos\nsystem\n"] * 2, [True]), bin_file(FACES, [True] * 20)[:-9], b""):
        with pytest.raises(UserError, match="set.bin: byte"):
            run_action(data_bin, write(tmp_path, data))
    assert before == {name: (tmp_path / name).read_bytes() for name in before}
    bad = [bytes3(b"x")] * 2
    with pytest.raises(UserError, match="no pair with two of them"):
        run_action(data_bin, [*write(tmp_path, bin_file(bad, [True])), "--skip-bad"])
    assert before == {name: (tmp_path / name).read_bytes() for name in before}


def test_the_file_itself_is_not_replaced(tmp_path: Path) -> None:
    argv = write(tmp_path, bin_file(FACES, [True, False] * 10))
    for lmdb, pairs in ((argv[1], argv[5]), (argv[3], argv[1]), (argv[3], argv[3]), (f"{argv[5]}.bad.txt", argv[5])):
        with pytest.raises(UserError, match="would replace"):
            run_action(data_bin, ["bin", argv[1], "--lmdb", lmdb, "--pairs", pairs])
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="taken: expected the name of a file to write, got a folder"):
        run_action(data_bin, ["bin", argv[1], "--lmdb", tmp_path / "taken", "--pairs", argv[5]])
    assert left_behind(tmp_path) == ["set.bin", "taken"]
