"""Work over processes: order, the first error, and processes that are killed or lose their parent."""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from search_space.errors import UserError
from trainers.data import lmdb_source
from trainers.data.importers.pool import in_order
from trainers.data.lmdb_source import LmdbSource, write_lmdb


def square(number: int) -> int:
    """Fails from 7 on."""
    if number >= 7:
        raise UserError(f"{number} is too much")
    return number * number


def die(number: int) -> int:
    """Dies at 3, as of want of memory."""
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def open_lmdb(path: Path) -> tuple[int, int]:
    """Which process this is, and how many LMDBs it has open before it reads one."""
    num_open = len(lmdb_source._readers)
    len(LmdbSource(path))
    return os.getpid(), num_open


def note(folder: Path, number: int) -> None:
    """Leaves the number of this process, and works on."""
    (folder / str(os.getpid())).write_text("")
    time.sleep(300 if number else 0)


def start_and_wait(folder: Path) -> None:
    """Runs in a process that is killed."""
    list(in_order(note, ((folder, n) for n in range(5)), 2))


@pytest.mark.parametrize("workers", [1, 2])
def test_order_and_the_first_error(workers: int) -> None:
    assert list(in_order(square, ((n,) for n in range(7)), workers)) == [n * n for n in range(7)]
    found = in_order(square, ((n,) for n in range(20)), workers)
    assert [next(found) for _ in range(7)] == [n * n for n in range(7)]
    with pytest.raises(UserError, match="7 is too much"):
        next(found)


def test_a_process_opens_an_lmdb_once(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "set", [("key", b"value")])
    found = list(in_order(open_lmdb, ((tmp_path / "set",) for _ in range(12)), 2))
    assert sum(num_open == 0 for _, num_open in found) == len({process for process, _ in found})


def test_a_process_that_is_killed() -> None:
    with pytest.raises(UserError, match="a worker process was killed"):
        list(in_order(die, ((n,) for n in range(6)), 2))


def test_processes_end_with_their_parent(tmp_path: Path) -> None:
    parent = multiprocessing.get_context("spawn").Process(target=start_and_wait, args=(tmp_path,))
    parent.start()
    deadline = time.monotonic() + 120
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    children = [int(path.name) for path in tmp_path.iterdir()]
    parent.kill()
    parent.join()
    while any(map(alive, children)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(alive, children))


def wait_at(folder: Path, number: int) -> int:
    """Works for long, but for the first task, which fails (or is done) when the others have begun."""
    (folder / str(os.getpid())).write_text("")
    if number:
        time.sleep(300)
    while len(list(folder.glob("[0-9]*"))) < 2:
        time.sleep(0.02)
    return square(7) if number == 0 and (folder / "fail").exists() else number


@pytest.mark.parametrize("how", ["fails", "stops asking", "Ctrl-C"])
def test_nothing_that_has_begun_is_waited_for(how: str, tmp_path: Path) -> None:
    began = time.monotonic()
    found = in_order(wait_at, ((tmp_path, n) for n in range(5)), 2)
    if how == "fails":
        (tmp_path / "fail").write_text("")
        with pytest.raises(UserError, match="7 is too much"):
            next(found)
    else:
        assert next(found) == 0
    if how == "stops asking":
        found.close()  # type: ignore[attr-defined]
    if how == "Ctrl-C":
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            next(found)
    assert time.monotonic() - began < 150
    assert not any(alive(int(path.name)) for path in tmp_path.glob("[0-9]*"))


def alive(process: int) -> bool:
    """Whether a process runs (one that has ended, but was not waited for, does not)."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
