"""What a user asks to be written to: files, links to them, pipes and devices."""

import os
import stat
import threading
from pathlib import Path

import pytest

from search_space.errors import UserError
from trainers.whole_file import write_bytes


def test_a_link_stays_and_its_goal_is_written(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    for name, goal in (("link", "old"), ("dangling", "deep/new"), ("chain", "link")):
        (tmp_path / name).symlink_to(goal)
        write_bytes(tmp_path / name, name.encode())
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / goal).read_bytes() == name.encode()
    assert (tmp_path / "old").read_bytes() == b"chain"
    assert sorted(os.listdir(tmp_path)) == ["chain", "dangling", "deep", "link", "old"]


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe, found = tmp_path / "pipe", list[bytes]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_bytes(pipe, b"through")
    reader.join(60)
    assert found == [b"through"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_is_written_to(tmp_path: Path) -> None:
    """Through a link, so that the test can replace nothing else where it fails."""
    ours, theirs = os.openpty()
    (tmp_path / "tty").symlink_to(os.ttyname(theirs))
    write_bytes(tmp_path / "tty", b"shown")
    assert os.read(ours, 100) == b"shown"
    assert (tmp_path / "tty").is_symlink()
    os.close(ours)
    os.close(theirs)


def test_a_folder_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="folder: cannot be written: Is a directory"):
        write_bytes(tmp_path / "folder", b"x")
    assert os.listdir(tmp_path) == ["folder"]
