"""Reading and writing LMDBs: both forms, over processes and threads, and every broken file."""

import multiprocessing
import os
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import numpy as np
import pytest

from search_space.errors import UserError
from trainers.data import lmdb_source
from trainers.data.lmdb_source import LmdbSource, write_lmdb

ITEMS = {f"person/{index}.jpg": bytes([index % 256]) * (1 + 37 * index) for index in range(200)}


def read_length(source: LmdbSource, key: str) -> int:
    """Runs in a spawned process."""
    return len(source.get(key))


@pytest.fixture(params=[False, True], ids=["file", "folder"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "faces"
    write_lmdb(path, ITEMS.items(), subdir=request.param)
    return path


def test_reads_what_was_written(path: Path) -> None:
    source = LmdbSource(path)
    assert len(source) == len(ITEMS)
    assert list(source.keys()) == sorted(ITEMS)
    assert list(source.get_many(ITEMS)) == list(ITEMS.values())
    assert "person/7.jpg" in source
    assert "person/200.jpg" not in source
    assert "" not in source
    assert "x" * 600 not in source


def test_map_grows_and_the_file_is_compact(tmp_path: Path) -> None:
    path = tmp_path / "big.lmdb"
    keys = np.random.default_rng(0).permutation(5000)
    write_lmdb(path, ((str(key), bytes(5000)) for key in keys))  # more than the first map holds
    assert os.listdir(tmp_path) == ["big.lmdb"]
    with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as env:
        stat, info = env.stat(), env.info()
    assert stat["entries"] == 5000
    used = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
    assert info["last_pgno"] + 1 == used + 2  # besides the data, two pages of the file's own


def test_nothing_is_opened_before_the_first_read(tmp_path: Path) -> None:
    source = LmdbSource(tmp_path / "later")
    write_lmdb(tmp_path / "later", [("key", b"value")])
    assert source.get("key") == b"value"


def test_several_sources_of_one_file_in_one_process(path: Path) -> None:
    first, second = LmdbSource(path), LmdbSource(str(path))
    assert first.get("person/3.jpg") == second.get("person/3.jpg")
    del first
    assert second.get("person/4.jpg") == ITEMS["person/4.jpg"]


def test_a_file_replaced_meanwhile_is_read_by_later_sources(tmp_path: Path) -> None:
    path = tmp_path / "faces.lmdb"
    write_lmdb(path, [("key", b"old")])
    old = LmdbSource(path)
    assert old.get("key") == b"old"
    write_lmdb(path, [("key", b"new")])
    assert LmdbSource(path).get("key") == b"new"
    assert old.get("key") == b"old"


def test_threads_share_a_source(path: Path) -> None:
    source = LmdbSource(path)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(source.get, list(ITEMS) * 5)) == list(ITEMS.values()) * 5


def test_pickled_copy_is_closed_and_opens_itself(path: Path) -> None:
    source = LmdbSource(path)
    source.get("person/3.jpg")
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert copy._reader is None
    assert copy.get("person/3.jpg") == ITEMS["person/3.jpg"]


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_an_open_source_works_in_another_process(path: Path, method: str) -> None:
    source = LmdbSource(path)
    source.get("person/3.jpg")
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(read_length, (source, "person/100.jpg")) == len(ITEMS["person/100.jpg"])
    assert source.get("person/4.jpg") == ITEMS["person/4.jpg"]


def test_a_forked_child_has_an_environment_of_its_own(path: Path) -> None:
    source = LmdbSource(path)
    source.get("person/3.jpg")
    inherited = source._reader
    child = os.fork()
    if child == 0:  # report by exit code: an exception must not reach pytest's copy
        own = source.get("person/3.jpg") == ITEMS["person/3.jpg"] and source._reader is not inherited
        os._exit(0 if own else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_missing_key(path: Path) -> None:
    for key in ("nobody.jpg", "", "x" * 600):
        with pytest.raises(UserError, match=f"faces: key '{key}' is not in this LMDB"):
            LmdbSource(path).get(key)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such LMDB"):
        len(LmdbSource(tmp_path / "nowhere"))


def test_folder_without_lmdb(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"got a folder without data.mdb"):
        len(LmdbSource(tmp_path))


@pytest.mark.parametrize("content", [b"", b"text", b"text" * 10_000])
def test_not_an_lmdb(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "faces.lmdb").write_bytes(content)
    with pytest.raises(UserError, match=r"faces.lmdb: expected a readable LMDB .*, got: "):
        len(LmdbSource(tmp_path / "faces.lmdb"))


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_truncated(path: Path, kept: float) -> None:
    file = path / "data.mdb" if path.is_dir() else path
    os.truncate(file, int(kept * file.stat().st_size))
    with pytest.raises(UserError, match=r"faces: truncated LMDB, expected at least [0-9,]+ bytes"):
        len(LmdbSource(path))


def test_unreadable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise lmdb.Error(f"{path}: Permission denied")

    monkeypatch.setattr(lmdb, "open", refuse)  # permission bits do not bind root, who may run the tests
    with pytest.raises(UserError, match=r"faces: expected a readable LMDB .*Permission denied"):
        len(LmdbSource(path))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "faces.lmdb"
    write_lmdb(path, [("key", b"old")])

    def items() -> Iterator[tuple[str, bytes]]:
        yield "key", b"new"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_lmdb(path, items())
    assert LmdbSource(path).get("key") == b"old"
    assert os.listdir(tmp_path) == ["faces.lmdb"]


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "faces[1].lmdb"

    def killed() -> Iterator[tuple[str, bytes]]:
        yield "key", b"x"
        os._exit(0)

    child = os.fork()
    if child == 0:
        write_lmdb(path, killed())
    os.waitpid(child, 0)
    assert len(os.listdir(tmp_path)) == 1

    def beside_another() -> Iterator[tuple[str, bytes]]:
        write_lmdb(path, [("key", b"first")])  # leaves the folder of the one that still writes alone
        yield "key", b"second"

    write_lmdb(path, beside_another())
    assert os.listdir(tmp_path) == [path.name]
    assert LmdbSource(path).get("key") == b"second"


def test_a_folder_in_place_of_the_file_is_seen_first(tmp_path: Path) -> None:
    def items() -> Iterator[tuple[str, bytes]]:
        pytest.fail("it began")
        yield "key", b"x"

    with pytest.raises(UserError, match="expected the name of an LMDB to write, got a folder"):
        write_lmdb(tmp_path, items())


def test_a_name_is_on_the_disk_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(lmdb_source, "sync_path", synced.append)
    write_lmdb(tmp_path / "one.lmdb", [("key", b"x")])
    assert synced[-1] == tmp_path
    write_lmdb(tmp_path / "two", [("key", b"x")], subdir=True)
    assert synced[-2:] == [tmp_path / "two", tmp_path]


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"faces.lmdb: writing an LMDB failed"):
        write_lmdb(tmp_path / "file" / "faces.lmdb", [("a", b"1")])


def test_a_key_given_twice(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected distinct keys, got 'a' twice"):
        write_lmdb(tmp_path / "faces.lmdb", [("a", b"1"), ("a", b"2")])
    assert not os.listdir(tmp_path)
