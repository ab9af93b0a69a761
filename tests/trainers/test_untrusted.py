"""Files and texts from elsewhere are read in bounds."""

import json
import os
import tracemalloc
from pathlib import Path

import pytest

from search_space.errors import MAX_SHOWN, UserError, require, shown
from trainers.checkpoint import from_bytes, load_checkpoint
from trainers.data.lists import read_list
from trainers.data.lmdb_source import LmdbSource
from trainers.untrusted import MAX_JSON_DEPTH, parse_json, read_file


def test_a_small_file_takes_little_memory_however_much_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text")
    tracemalloc.start()
    try:
        assert read_file(tmp_path / "file", 2**40) == b"text"
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_larger_files_are_refused_unread(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(OSError, match="more than 1,000 bytes"):
        read_file(tmp_path / "file", 1000)


@pytest.mark.timeout(20)
def test_a_pipe_hangs_nobody(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="not a regular file"):
        read_file(pipe, 1000)
    for read in (read_list, load_checkpoint, lambda path: len(LmdbSource(path))):
        with pytest.raises(UserError, match=r"pipe: .*not a regular file"):
            read(pipe)


def test_devices_and_folders_are_no_files(tmp_path: Path) -> None:
    for path in ("/dev/zero", tmp_path):
        with pytest.raises(OSError, match="not a regular file|Is a directory"):
            read_file(path, 1000)


@pytest.mark.parametrize("depth", [MAX_JSON_DEPTH + 1, 5_000, 100_000])
def test_json_that_is_nested_too_deep(depth: int) -> None:
    text = "[" * depth + "]" * depth
    with pytest.raises(ValueError, match="nested too deep"):
        parse_json(text)
    header = json.dumps({"__metadata__": {"json": text}}).encode()
    with pytest.raises(UserError, match="expected a checkpoint"):
        from_bytes(len(header).to_bytes(8, "little") + header)


def test_json_as_deep_as_is_allowed() -> None:
    text = "[" * MAX_JSON_DEPTH + "]" * MAX_JSON_DEPTH
    assert parse_json(text)
    with pytest.raises(ValueError, match="more than 10 bytes"):
        parse_json(text, max_bytes=10)


def test_values_in_messages_are_short() -> None:
    itself: list[object] = []
    itself.append(itself)
    wide: object = "x"
    for _ in range(60):
        wide = [wide] * 10
    for value in ("x" * 10**6, list(range(10**5)), itself, wide, 16**100_000, {"a": [itself]}):
        assert len(shown(value)) <= MAX_SHOWN
    with pytest.raises(UserError, match=r"^law, got 'x{10,50}\.\.\.x+'$"):
        require(False, "law", "x" * 10**6)


@pytest.mark.parametrize("kind", ["BF16", "F8_E4M3", "U9"])
def test_weights_of_types_that_numpy_lacks(kind: str) -> None:
    header = json.dumps({"__metadata__": {"json": "{}"}, "w": {"dtype": kind, "shape": [1], "data_offsets": [0, 2]}})
    with pytest.raises(UserError, match="expected a checkpoint"):
        from_bytes(len(header).to_bytes(8, "little") + header.encode() + b"\0\0")
