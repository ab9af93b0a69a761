"""Whatever the user gets wrong ends in one line, a non-zero exit and nothing written, before a trainer starts."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest

from lfs import results, search
from lfs.commands import FAILED, run_command
from trainers.data.lists import read_list
from trainers.data.lmdb_source import write_lmdb

Write = Callable[..., str]
Run = Callable[..., str]
Lines = Callable[[list[str]], list[str]]


@pytest.fixture
def data(recipe: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A copy of the small faces that a test may spoil, as the recipe's `data`."""
    copied = {"input_size": 24}
    folder = Path(recipe["data"]["train"][0]).parent
    shutil.copytree(folder, tmp_path / "faces")
    for name in ("train", "train_list"):
        copied[name] = [str(tmp_path / "faces" / Path(p).name) for p in recipe["data"][name]]
    for name in ("reward", "test"):
        copied[name] = {k: str(tmp_path / "faces" / Path(p).name) for k, p in recipe["data"][name].items()}
    return copied


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a search that must be refused before Ray starts; returns its one line."""
    monkeypatch.setattr("lfs.driver.run_search", lambda *_: pytest.fail("the search was started"))

    def run(*arguments: str, storage: str | None = None) -> str:
        runs = storage or str(tmp_path / "runs")
        where = [] if "--resume" in arguments else ["--storage", runs, "--name", "run"]
        assert run_command(search.main, [*arguments, *where]) == FAILED
        [line] = capsys.readouterr().err.splitlines()
        assert not (tmp_path / "runs").exists(), "something was written"
        assert "defect" not in line
        return line

    return run


def rewrite(path: str, change: Lines) -> None:
    """Change the lines of a text file."""
    Path(path).write_text("\n".join(change(Path(path).read_text().splitlines())) + "\n")


def put(path: str, key: str, value: bytes) -> None:
    """Replace one value of an LMDB."""
    with lmdb.open(path, subdir=False, map_size=2**26) as environment, environment.begin(write=True) as transaction:
        transaction.put(key.encode(), value)


def set_line(number: int, text: str) -> Lines:
    """Replace line `number`, counted from 1."""
    return lambda lines: [*lines[: number - 1], text, *lines[number:]]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("only_a_key", ["train.txt", "line 3", "only_a_key"]),
        ("a b c", ["train.txt", "line 3", "a b c"]),
        ("train/0000/02.jpg -1", ["train.txt", "line 3", "-1"]),
        ("train/0000/02.jpg one", ["train.txt", "line 3", "one"]),
        ("no/such/key.jpg 0", ["train.txt", "line 3", "no/such/key.jpg", "train.lmdb"]),
        ("train/0000/02.jpg 17", ["train.txt", "16"]),
    ],
)
def test_bad_list_lines(data: dict[str, Any], recipe_file: Write, refused: Run, line: str, expected: list[str]) -> None:
    rewrite(data["train_list"][0], set_line(3, line))
    message = refused("--config", recipe_file(data=data))
    assert all(part in message for part in expected), message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (set_line(2, "a b 2"), ["reward_pairs.txt", "line 2"]),
        (set_line(2, "nobody somebody 1"), ["reward_pairs.txt", "nobody"]),
        (lambda lines: lines[:-3], ["reward_pairs.txt", "397", "10"]),
    ],
)
def test_bad_pairs(
    data: dict[str, Any],
    recipe_file: Write,
    refused: Run,
    change: Lines,
    expected: list[str],
) -> None:
    rewrite(data["reward"]["pairs"], change)
    message = refused("--config", recipe_file(data=data))
    assert all(part in message for part in expected), message


@pytest.mark.parametrize(
    ("value", "expected"),
    [(b"\xff\xff\xff\xff no datum", "Datum"), (b"\x22\x05hello\x38\x01", "")],
    ids=["not a Datum", "not an image"],
)
def test_bad_records(data: dict[str, Any], recipe_file: Write, refused: Run, value: bytes, expected: str) -> None:
    keys, _ = read_list(data["train_list"][0])
    for key in keys:  # the check decodes a sample only
        put(data["train"][0], key, value)
    message = refused("--config", recipe_file(data=data))
    assert "train.lmdb" in message
    assert "train/00" in message
    assert expected in message


@pytest.mark.parametrize("kind", ["missing", "empty folder", "text"])
def test_bad_lmdb(data: dict[str, Any], recipe_file: Write, refused: Run, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "other.lmdb"
    if kind == "empty folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("hello" * 5000)
    assert "other.lmdb" in refused("--config", recipe_file(data=data | {"train": [str(path)]}))


def test_a_set_smaller_than_a_batch(data: dict[str, Any], recipe_file: Write, refused: Run) -> None:
    assert "128" in refused("--config", recipe_file(data=data), "--trainer.batch-size", "129")


def test_a_train_set_without_reward_pairs(data: dict[str, Any], recipe_file: Write, refused: Run) -> None:
    assert "reward" in refused("--config", recipe_file(data={k: v for k, v in data.items() if k != "reward"}))


def test_data_flags_that_would_be_ignored(refused: Run) -> None:
    assert "data.root needs data.train too" in refused("--data.root", "/faces")
    assert "data.reward needs data.train too" in refused("--data.reward.pairs", "pairs.txt")


def test_configuration(recipe_file: Write, refused: Run) -> None:
    assert "line 1: unknown key 'batch'" in refused("--config", recipe_file(batch=3))
    assert "--num-workers: num_workers must be at least 1, got 0" in refused("--num-workers", "0")
    assert "--trainer.lr: trainer.lr must be a number, got 'x'" in refused("--trainer.lr", "x")
    assert "space name must be one of" in refused("--config", recipe_file(), "--space.name", "globel")
    assert "mean0" in refused("--config", recipe_file(), "--space.mean0", "0.9")
    assert "backbone" in refused("--config", recipe_file(), "--trainer.backbone", "resnet51")


def test_storage_that_cannot_be_written(recipe_file: Write, refused: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = refused("--config", recipe_file(), storage=str(tmp_path / "file"))
    assert "cannot be written" in message
    assert "--storage" in message


def mounted(folder: Path, options: str) -> bool:
    """Mount a small file system of its own, where that is allowed."""
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "", "-t", "tmpfs", "-o", options, "none", str(folder)]
    return mount is not None and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount a file system")
@pytest.mark.parametrize(
    ("options", "code"), [("size=4k", errno.ENOSPC), ("ro", errno.EROFS)], ids=["full", "read-only"]
)
def test_a_full_or_read_only_disk(recipe_file: Write, refused: Run, tmp_path: Path, options: str, code: int) -> None:
    disk = tmp_path / "disk"
    if not mounted(disk, options):
        pytest.skip("mount is not allowed here")
    try:
        if code == errno.ENOSPC:
            (disk / "filler").write_bytes(b"x" * 4096)
        message = refused("--config", recipe_file(), storage=str(disk))
        assert "cannot be written" in message
        assert os.strerror(code) in message
        assert not (disk / "run").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_resume(recipe_file: Write, refused: Run, tmp_path: Path) -> None:
    assert "is no run: it has no config.yaml" in refused("--resume", str(tmp_path / "nothing"))
    (tmp_path / "config.yaml").write_text("format: 2\nconfig: {seed: 1}\n")
    message = refused("--resume", str(tmp_path), "--trainer.lr", "0.2")
    assert "--trainer.lr cannot change in a resumed run" in message
    assert "--num-workers" in message


def test_results_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--storage", str(tmp_path / "no")], [str(tmp_path)], ["--candidates"]):
        assert run_command(results.main, arguments) == FAILED
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert run_command(results.main, ["--storage", str(tmp_path)]) == 0
    assert "no runs in" in capsys.readouterr().out


def test_the_same_pairs_for_reward_and_test_are_pointed_out(
    data: dict[str, Any],
    recipe_file: Write,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    class Started(Exception):  # noqa: N818
        pass

    def stop(*_: object) -> None:
        raise Started

    monkeypatch.setattr("lfs.driver.run_search", stop)
    path = recipe_file(data=data | {"test": data["reward"]})
    assert run_command(search.main, ["--config", path, "--storage", str(tmp_path / "runs"), "--name", "run"]) == FAILED
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "reward and test use the same pairs" in warnings[0]


def test_a_defect_is_one_line_with_the_traceback_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: object) -> int:
        raise ZeroDivisionError("boom\nbang")

    assert run_command(main, []) == FAILED
    [line] = capsys.readouterr().err.splitlines()
    assert "defect: ZeroDivisionError: boom" in line
    log = Path(line.rpartition("(see ")[2].rstrip(")"))
    assert "bang" in log.read_text()
    log.unlink()


def test_an_lmdb_folder_serves_as_well_as_a_file(data: dict[str, Any], tmp_path: Path) -> None:
    with lmdb.open(data["train"][0], subdir=False, readonly=True, lock=False) as source, source.begin() as transaction:
        items = [(bytes(k).decode(), bytes(v)) for k, v in transaction.cursor()]
    write_lmdb(tmp_path / "folder.lmdb", items, subdir=True)
    from trainers.config import DataConfig, PairsConfig
    from trainers.data.check import check_data

    pairs = PairsConfig(lmdb=(data["reward"]["lmdb"],), pairs=(data["reward"]["pairs"],))
    config = DataConfig(
        train=(str(tmp_path / "folder.lmdb"),), train_list=tuple(data["train_list"]), reward=pairs, test=pairs
    )
    assert check_data(config).train.num_pictures == len(items)
