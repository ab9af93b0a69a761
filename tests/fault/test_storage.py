"""Every step of everything that is written into a run directory fails in every way; nothing that was said is lost."""

import contextlib
import errno
import os
import random
import re
import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs
import pydantic
import pytest
import yaml

from lfs import generations, patience, run_store
from lfs.board import continued
from lfs.demand import standing
from lfs.files import ArrowFiles, Files, LocalFiles
from lfs.generation import Search
from lfs.run_store import RunStore
from search_space.errors import UserError
from tests.fault.disk import Disk
from tests.fault.faulty_files import Crash, Fault, FaultyFiles
from tests.lfs.fakes import config, drive

CONFIG = config(generations=3, population_size=2)
LONGER = replace(CONFIG, generations=4)
RECORDS = drive(Search(CONFIG))
RESULT = {"generation": 2, "test": {"accuracy": 0.5}, "num_images": 3}
KEEP = 2


def weights(generation: int) -> dict[str, Any]:
    return {"w": np.full((3, 2), generation, np.float32), "b": np.arange(4) + generation}


def no_space() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def input_output() -> OSError:
    return OSError(errno.EIO, "Input/output error")


def read_only() -> OSError:
    return OSError(errno.EROFS, "Read-only file system")


def refused() -> OSError:
    return OSError("When uploading part for key 'x': AWS Error SLOW_DOWN during UploadPart operation: Please reduce")


@dataclass
class Acknowledged:
    """What the store has said is done."""

    generations: int = 0
    events: int = 0
    longer: bool = False
    result: bool = False


def go_on(store: RunStore, said: Acknowledged) -> None:
    """What a driver does to a run, new or resumed, to its end."""
    if not store.exists("config.yaml"):
        store.create(CONFIG)
    store.record_event("start")
    said.events += 1
    done = max(store.committed(), default=-1) + 1
    store.prune(done - 1, KEEP)
    for record in RECORDS[done:]:
        store.commit(record, weights(record.generation))
        said.generations = record.generation + 1
        store.prune(record.generation, KEEP)
    restart(store)
    store.write_config(LONGER)
    said.longer = True
    store.write_result(RESULT)
    said.result = True


def restart(store: RunStore) -> None:
    """What a controller reads when Ray starts it again."""
    continued(store, store.load_config())
    standing(store, 0)


def check(store: RunStore, said: Acknowledged) -> None:
    """A fresh store finds all that was acknowledged, whole, and the last generation with its weights."""
    if not store.exists("config.yaml"):
        assert said == Acknowledged()
        return
    assert store.load_config() in ((LONGER,) if said.longer else (CONFIG, LONGER))
    assert len(store.events()) >= said.events
    done = store.committed()
    assert done == list(range(len(done)))
    assert len(done) >= said.generations
    assert store.summaries() == [record.summary for record in RECORDS[: len(done)]]
    for generation in done:
        assert store.load_state(generation)[0] == RECORDS[generation].state
        rewards = [row["reward"] for row in RECORDS[generation].rows]
        assert store.load_candidates(generation)["reward"].tolist() == rewards
    for generation in done[-KEEP:]:
        ours = store.load_weights(generation)
        assert all(np.array_equal(ours[name], array) for name, array in weights(generation).items())
    assert store.load_result() in ((RESULT,) if said.result else (None, RESULT))


def opened(files: Files, path: str = "/runs/one") -> RunStore:
    return RunStore(path, files, attempts=3, sleep=lambda _: None)


def steps(make: Callable[[], Files], path: str = "/runs/one") -> list[tuple[str, int]]:
    """All steps of an undisturbed run."""
    counting = FaultyFiles(make())
    go_on(opened(counting, path), Acknowledged())
    return list(dict.fromkeys(counting.steps))


def disturbed(disk: Files, fault: Fault, path: str = "/runs/one") -> Acknowledged:
    """A run with a fault, up to where it stops."""
    said, faulty = Acknowledged(), FaultyFiles(disk, fault)
    with contextlib.suppress(Crash, OSError, UserError):
        go_on(opened(faulty, path), said)
    assert faulty.broken, "the step never came"
    return said


def recovers(disk: Files, said: Acknowledged, path: str = "/runs/one") -> None:
    """All that was said is there; going on comes to the end, and leaves no drafts of generations behind."""
    check(opened(disk, path), said)
    go_on(opened(disk, path), said)
    check(opened(disk, path), said)
    store = opened(disk, path)
    assert (store.committed(), store.load_config(), store.load_result()) == ([0, 1, 2], LONGER, RESULT)
    there = [entry.name for entry in disk.list(store.at("generations"), deep=True) if not entry.is_folder]
    assert len(there) == 4 * 3 - 1, "the weights of the first generation, and they alone, are deleted"


DISKS = pytest.mark.parametrize("whole", [False, True], ids=["disk", "object store"])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand runs in seconds: no threads, which also gives the steps an order, and nothing is parsed twice."""
    monkeypatch.setattr(patience, "aside", lambda action: action())
    monkeypatch.setattr(run_store, "read_yaml", cache(run_store.read_yaml))
    monkeypatch.setattr(generations, "read_table", cache(generations.read_table))
    monkeypatch.setattr(yaml, "safe_dump", partial(yaml.dump, Dumper=yaml.CSafeDumper))
    monkeypatch.setattr(run_store, "version", cache(run_store.version))
    monkeypatch.setattr(pydantic, "TypeAdapter", cache(pydantic.TypeAdapter))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("whole", "errors"), [(False, (no_space, input_output, read_only)), (True, (refused,))])
def test_storage_that_fails_for_good_at_any_step_keeps_what_it_said(
    whole: bool, errors: tuple[Callable[[], OSError], ...]
) -> None:
    seen: Counter[str] = Counter()
    for step in steps(lambda: Disk(whole=whole)):
        same = re.sub(r"\d{6}", "", step[0])  # the same step of another generation gets another error
        seen[same] += 1
        disk = Disk(whole=whole)
        recovers(disk, disturbed(disk, Fault(step, errors[seen[same] % len(errors)])))


@pytest.mark.usefixtures("quick")
@DISKS
def test_a_disk_that_is_full_after_half_of_the_bytes_keeps_what_it_said(whole: bool) -> None:
    for step in steps(lambda: Disk(whole=whole)):
        if step[0].startswith("write"):
            disk = Disk(whole=whole)
            recovers(disk, disturbed(disk, Fault(step, no_space, partial=True)))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("whole", "error"), [(False, no_space), (True, refused)])
def test_storage_that_fails_twice_is_survived(whole: bool, error: Callable[[], OSError]) -> None:
    for step in steps(lambda: Disk(whole=whole)):
        disk = Disk(whole=whole)
        said = disturbed(disk, Fault(step, error, times=2))
        assert (said.generations, said.events, said.longer, said.result) == (3, 1, True, True), step
        recovers(disk, said)


def survivals(whole: bool, number: int) -> list[Callable[[], bool]]:
    """What a loss of power may leave of that which was not synced: nothing, and by turns all, or some of it."""
    nothing, everything, chance = (lambda: False), (lambda: True), random.Random(number)
    some = lambda: chance.random() < 0.5  # noqa: E731
    return [nothing] if whole else [nothing, some if number % 2 else everything]


@pytest.mark.usefixtures("quick")
@DISKS
def test_a_crash_at_any_step_keeps_what_was_said_also_without_what_was_not_synced(whole: bool) -> None:
    for number, step in enumerate(steps(lambda: Disk(whole=whole))):
        for survives in survivals(whole, number):
            disk = Disk(whole=whole)
            said = disturbed(disk, Fault(step))
            recovers(disk.after_loss(survives), said)


@pytest.mark.parametrize("make", [lambda path: LocalFiles(path), lambda _: ArrowFiles(pyarrow.fs.LocalFileSystem())])
def test_real_files_are_as_good_as_the_made_ones(tmp_path: Path, make: Callable[[str], Files]) -> None:
    all_steps = steps(lambda: make(str(tmp_path / "undisturbed")), str(tmp_path / "undisturbed"))
    for number, step in enumerate(all_steps[::9]):
        path = str(tmp_path / str(number))
        at = (step[0].replace(str(tmp_path / "undisturbed"), path), step[1])
        recovers(make(path), disturbed(make(path), Fault(at, no_space, partial=True), path), path)


def test_local_files_sync_what_they_write_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace_ = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        calls.append("sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda *names: (calls.append("rename"), replace_(*names)))
    RunStore(str(tmp_path)).write(b"x", "result.json")
    assert calls == ["sync file", "rename", "sync folder"]


def test_a_power_loss_takes_what_was_not_synced() -> None:
    disk = Disk()
    disk.make_folder("/a")
    disk.create("/a/x", [b"1"])
    assert disk.after_loss(lambda: False).info("/a") is None
    disk.sync_folder("/")
    assert disk.after_loss(lambda: False).list("/a") == []
    disk.sync_folder("/a")
    disk.rename("/a/x", "/a/y")
    assert [entry.name for entry in disk.after_loss(lambda: False).list("/a")] == ["x"]
    assert [entry.name for entry in disk.after_loss(lambda: True).list("/a")] == ["y"]
