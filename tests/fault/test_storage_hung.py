"""Storage that does not answer is given up in time, and does not keep a process from ending."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lfs import patience
from lfs.files import Part
from lfs.folder import Folder, StorageError
from lfs.generation import Search
from lfs.run_store import RunStore
from search_space.errors import UserError
from tests.fault.disk import Disk
from tests.lfs.fakes import config, drive

LIMIT_S = 0.1


class HungDisk(Disk):
    """Operations named in `hangs` do not return before `answers` is set."""

    def __init__(self, hangs: str = "") -> None:
        super().__init__()
        self.hangs, self.answers, self.calls = hangs, threading.Event(), 0

    def _maybe(self, kind: str) -> None:
        if kind in self.hangs:
            self.calls += 1
            self.answers.wait(30)

    def create(self, path: str, parts: Iterable[Part]) -> None:
        self._maybe("create")
        super().create(path, parts)

    def sync_folder(self, path: str) -> None:
        self._maybe("sync")
        super().sync_folder(path)

    def read(self, path: str) -> Iterator[bytes]:
        self._maybe("read")
        return super().read(path)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[HungDisk]:
    monkeypatch.setattr(patience, "STUCK_LIMIT_S", LIMIT_S / 4)
    made = HungDisk()
    yield made
    made.answers.set()


def opened(disk: HungDisk) -> RunStore:
    return RunStore("/runs/one", disk, limit_s=LIMIT_S)


@pytest.mark.parametrize("hangs", ["create", "sync"])
def test_a_commit_that_hangs_is_given_up_once_and_may_be_done_later(disk: HungDisk, hangs: str) -> None:
    record, weights = drive(Search(config()))[0], {"w": np.arange(3)}
    opened(disk).create(config())
    disk.hangs = hangs
    began = time.monotonic()
    store = opened(disk)
    with pytest.raises(StorageError, match=r"/runs/one: .* does not answer since 0\.1 s"):
        store.commit(record, weights)
    assert time.monotonic() - began < 10 * LIMIT_S, "it was not tried again and again"
    [stuck] = store.files._stuck
    disk.answers.set()
    assert stuck.over.wait(30)
    assert opened(disk).committed() == [], "what was given up went on when storage answered again"
    opened(disk).commit(record, weights)
    assert opened(disk).committed() == [0]


def test_what_hangs_while_reading_is_one_line(disk: HungDisk) -> None:
    store = opened(disk)
    store.create(config())
    disk.hangs = "read"
    with pytest.raises(UserError, match=r"config\.yaml: .* does not answer since 0\.1 s"):
        store.load_config()
    began = time.monotonic()
    with pytest.raises(UserError, match=r"does not answer since 0\.025 s"):  # one is stuck: the others wait less
        store.load_config()
    assert time.monotonic() - began < LIMIT_S
    disk.answers.set()
    for _ in range(100):
        with pytest.MonkeyPatch.context() as later:
            later.setattr(store.files, "limit_s", 10.0)
            later.setattr(patience, "STUCK_LIMIT_S", 10.0)
            assert store.load_config() == config()
        if store.files.limit == LIMIT_S:
            return
    raise AssertionError("the storage answers again, and still nobody waits for it")


def test_slow_storage_that_goes_on_is_not_given_up(disk: HungDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "CHUNK_BYTES", 1)
    slow = HungDisk()

    def create(path: str, parts: Iterable[Part]) -> None:
        for _ in parts:
            time.sleep(LIMIT_S / 4)

    monkeypatch.setattr(slow, "create", create)
    Folder("/", slow, limit_s=LIMIT_S).files.create_all({"/x": [b"12345678"]})


def test_a_process_ends_though_its_storage_hangs(tmp_path: Path) -> None:
    code = (
        "import os, sys; from lfs.folder import Folder, StorageError; from lfs.files import LocalFiles\n"
        f"path = {str(tmp_path)!r}; os.mkfifo(path + '/x')\n"
        "LocalFiles.read = lambda self, path: open(path, 'rb')\n"  # it blocks: nobody writes
        "try: Folder(path, limit_s=0.05).read('x')\n"
        "except OSError as error: print(error)\n"
    )
    done: Any = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2]
    )
    assert "/x does not answer since 0.05 s" in done.stdout, done.stderr
    assert done.returncode == 0
