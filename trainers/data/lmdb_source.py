"""Pictures by key from an LMDB, opened lazily by each process that reads, and writing one in a single atomic step."""

import contextlib
import glob
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import cast
from weakref import WeakValueDictionary

import filelock
import lmdb

from search_space.errors import UserError
from trainers.data.lmdb_structure import check_structure
from trainers.untrusted import require_regular
from trainers.whole_file import sync_path

MAX_KEYS_LOOKED_UP = 500_000
WORK_SUFFIX, LOCK_NAME = ".making", "lock"


class _Reader:
    """One open environment and a read transaction per thread; the picture sets of a process share it by file."""

    def __init__(self, file: Path) -> None:
        self.pid = os.getpid()
        self.env = lmdb.open(str(file), subdir=False, readonly=True, lock=False, readahead=False, max_spare_txns=8)
        self._local = threading.local()

    def transaction(self) -> lmdb.Transaction:
        """This thread's transaction, kept open: opening one costs as much as a read, and the file never changes."""
        found: lmdb.Transaction | None = getattr(self._local, "transaction", None)
        if found is None:
            found = self._local.transaction = self.env.begin()
        return found


_readers: WeakValueDictionary[tuple[int, int], _Reader] = WeakValueDictionary()
_readers_lock = threading.Lock()
_kept: list[_Reader] = []
_keeps = False


def keep_open() -> None:
    """From now on this process keeps what it has opened, for processes that read a few sets in many parts: opening an
    LMDB is a pass over all its pages."""
    global _keeps
    _keeps = True


def _forget_inherited() -> None:
    """In a forked child: close the parent's environments, which the child must not use and which block its own."""
    global _readers_lock
    _readers_lock = threading.Lock()  # another thread of the parent may have held it
    for reader in list(_readers.values()):
        reader.env.close()
    _readers.clear()
    _kept.clear()


os.register_at_fork(after_in_child=_forget_inherited)


class LmdbSource:
    """Read-only LMDB, a folder with `data.mdb` or a single file.

    Nothing is opened before the first read. A copy that is pickled or inherited by a fork opens its own environment,
    since LMDB forbids sharing one over processes.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._reader: _Reader | None = None

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "_reader": None}

    def __len__(self) -> int:
        return int(self._open().env.stat()["entries"])

    def extent(self) -> tuple[int, int]:
        """Entries, and the pages that hold them: what differs where the content does, mostly, and costs nothing."""
        stat = self._open().env.stat()
        return int(stat["entries"]), int(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"])

    def __contains__(self, key: str) -> bool:
        return self._find(self._open().transaction(), key) is not None

    def refuse_missing(self, keys: Iterable[str], where: Callable[[int], str]) -> None:
        """Raise `UserError` for the first key that is not there; of very many, the first ones are looked up.

        Args:
            where: what names the key of a number, from 0.
        """
        for number, key in enumerate(islice(keys, MAX_KEYS_LOOKED_UP)):  # whoever reads the others says so
            if key not in self:
                law = f"{where(number)}: key {key!r} is not in {self.path}"
                raise UserError(f"{law}; check that both belong together")

    def get(self, key: str) -> bytes:
        """The value of `key`; `UserError` if there is none."""
        return next(self.get_many((key,)))

    def get_many(self, keys: Iterable[str]) -> Iterator[bytes]:
        """The values of several keys, in their order, read one by one: together they may be more than memory holds."""
        transaction = self._open().transaction()
        for key in keys:
            value = self._find(transaction, key)
            if value is None:
                raise UserError(
                    f"{self.path}: key {key!r} is not in this LMDB; check that list and LMDB belong together"
                )
            yield value

    def keys(self) -> Iterable[str]:
        """All keys, sorted by their bytes."""
        try:
            with self._open().env.begin() as transaction, transaction.cursor() as cursor:
                for key in cursor.iternext(keys=True, values=False):
                    yield bytes(key).decode(errors="backslashreplace")  # no list can name one that is no text
        except lmdb.Error as error:  # it looks at the head of large values too
            raise UserError(f"{self.path}: reading the keys failed ({error}); copy or make the LMDB again") from None

    def _find(self, transaction: lmdb.Transaction, key: str) -> bytes | None:
        try:
            return cast(bytes | None, transaction.get(key.encode()))  # a view only with `buffers`, which is off
        except lmdb.BadValsizeError:  # empty, or longer than any key that LMDB stores
            return None
        except lmdb.Error as error:
            raise UserError(f"{self.path}: reading key {key!r} failed ({error}); copy or make the LMDB again") from None

    def _open(self) -> _Reader:
        if self._reader is None or self._reader.pid != os.getpid():
            self._reader = _shared_reader(self.path)
        return self._reader


def _shared_reader(path: Path) -> _Reader:
    """The reader of this process for the file behind `path`: LMDB forbids opening a file twice in one process."""
    file = _data_file(path)
    try:
        status = file.stat()
        require_regular(status.st_mode, file)
        with _readers_lock:
            identity = (status.st_dev, status.st_ino)
            reader = _readers.get(identity)
            if reader is None:
                check_structure(file)
                reader = _Reader(file)
                _readers[identity] = reader
                if _keeps:
                    _kept.append(reader)
            return reader
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (OSError, lmdb.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).removeprefix(f"{file}: ")
        raise UserError(
            f"{path}: expected a readable LMDB (folder with data.mdb, or a single file), got: {reason}"
        ) from None


def _data_file(path: Path) -> Path:
    if not path.exists():
        raise UserError(f"{path}: no such LMDB; give a folder with data.mdb or a single LMDB file")
    if path.is_dir() and not (path / "data.mdb").exists():
        raise UserError(f"{path}: expected an LMDB, got a folder without data.mdb")
    return path / "data.mdb" if path.is_dir() else path


def write_lmdb(path: str | Path, items: Iterable[tuple[str, bytes]], *, subdir: bool = False) -> None:
    """Write a compact LMDB of `items`; it appears under `path` complete or not at all.

    Args:
        items: (key, value) in any order, keys distinct.
        subdir: make `path` a folder that holds data.mdb, else a single file. What was there is replaced.
    Raises:
        UserError: a key comes twice, or the folder cannot be written to.
    """
    path = Path(path)
    try:
        if path.is_dir() and not subdir:  # before the long part
            raise UserError(f"{path}: expected the name of an LMDB to write, got a folder")
        _write_lmdb(path, items, subdir)
    except (OSError, lmdb.Error) as error:
        raise UserError(f"{path}: writing an LMDB failed ({error}); check space and permissions") from error


def _write_lmdb(path: Path, items: Iterable[tuple[str, bytes]], subdir: bool) -> None:
    with work_folder(path) as work:
        with lmdb.open(str(work / "growing"), subdir=False, map_size=2**24, sync=False, lock=False) as env:
            _put_all(env, path, items)
            env.copy(str(work / "compact"), compact=True)
        sync_path(work / "compact")
        file = path / "data.mdb" if subdir else path
        file.parent.mkdir(exist_ok=True)
        os.replace(work / "compact", file)
        sync_path(file.parent)  # the rename itself must survive a loss of power
    if subdir:
        sync_path(path.parent)


@contextlib.contextmanager
def work_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` to make it in, gone at the end, as are those that killed processes have left there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{WORK_SUFFIX}"):
        with contextlib.suppress(filelock.Timeout, OSError), filelock.FileLock(left / LOCK_NAME, timeout=0):
            shutil.rmtree(left)
    work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=WORK_SUFFIX, dir=path.parent))
    try:
        with filelock.FileLock(work / LOCK_NAME):
            yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _put_all(env: lmdb.Environment, path: Path, items: Iterable[tuple[str, bytes]]) -> None:
    batch: list[tuple[str, bytes]] = []
    for item in items:
        batch.append(item)
        if len(batch) == 1000:
            _put_batch(env, path, batch)
            batch = []
    _put_batch(env, path, batch)


def _put_batch(env: lmdb.Environment, path: Path, batch: Sequence[tuple[str, bytes]]) -> None:
    while True:
        try:
            with env.begin(write=True) as transaction:
                for key, value in batch:
                    if not transaction.put(key.encode(), value, overwrite=False):
                        raise UserError(f"{path}: expected distinct keys, got {key!r} twice")
            return
        except lmdb.MapFullError:
            env.set_mapsize(2 * env.info()["map_size"])  # the whole batch was rolled back: put it again
