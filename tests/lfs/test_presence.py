"""One driver a run: a second one is refused with a line that names the first."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.fs
import pytest

from lfs.files import ArrowFiles
from lfs.presence import BEAT_S, RUNNING, SETTLE_S, SILENT_BEATS, Presence, controller_name, where
from lfs.run_store import RunStore
from search_space.errors import UserError
from tests.lfs.fakes import config


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    made = RunStore(str(tmp_path / "run"))
    made.create(config())
    return made


def test_a_second_driver_is_refused_while_the_first_lives(store: RunStore) -> None:
    with Presence(store) as presence:
        presence.announce("10.0.0.1:6379")
        facts = where(store)
        assert facts is not None
        assert (facts["address"], facts["pid"]) == ("10.0.0.1:6379", os.getpid())
        with pytest.raises(UserError, match=f"already by process {os.getpid()} on .*lfs.status {store.uri}"):
            Presence(store).__enter__()
    assert where(store) is None
    with Presence(store):
        pass


def test_a_driver_that_was_killed_holds_nothing(store: RunStore) -> None:
    code = (
        "import os, signal; from lfs.presence import Presence; from lfs.run_store import RunStore\n"
        f"Presence(RunStore({store.uri!r})).__enter__().announce('x:1'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2])
    assert store.exists(RUNNING)  # what it said outlives it: whoever reads it asks the cluster
    with Presence(store):
        pass


def test_what_killed_drivers_were_writing_is_removed(store: RunStore) -> None:
    store.record_event("start")
    drafts = [Path(store.path, name) for name in ("running.json.66c6b936.tmp", "events/000002.json.0a1b2c3d.tmp")]
    with Presence(store):
        for draft in drafts:
            draft.write_bytes(b"{")
        with pytest.raises(UserError):  # refused, and touches nothing
            Presence(RunStore(store.uri)).__enter__()
        assert all(draft.exists() for draft in drafts)
    with Presence(store):
        assert not any(draft.exists() for draft in drafts)
    assert [event["action"] for event in store.events()] == ["start"]


def test_what_cannot_be_read_is_nobody(store: RunStore) -> None:
    for text in (b"", b"[]", b'{"address": 1}', b"\xff"):
        store.write(text, RUNNING)
        assert where(store) is None


class Clock:
    """Other drivers that act while one waits."""

    def __init__(self, *acts: Callable[[], object]) -> None:
        self.acts, self.slept = list(acts), 0.0

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        if self.acts:
            self.acts.pop(0)()


@pytest.fixture
def far(tmp_path: Path) -> RunStore:
    """A run on storage that cannot be locked."""
    made = RunStore(f"file://{tmp_path}/run", ArrowFiles(pyarrow.fs.LocalFileSystem()))
    made.create(config())
    return made


def nothing() -> None:
    """Time goes by."""


def test_a_run_on_other_storage_is_announced_too(far: RunStore) -> None:
    clock = Clock()
    with Presence(far, sleep=clock.sleep) as presence:
        assert where(far) is None  # no cluster yet
        presence.announce("10.0.0.1:6379")
        assert (where(far) or {})["address"] == "10.0.0.1:6379"
    assert where(far) is None
    assert clock.slept == SETTLE_S
    assert controller_name(far) == "controller/run"


def test_without_a_lock_a_second_driver_is_refused_while_the_first_gives_signs_of_life(far: RunStore) -> None:
    with Presence(far, sleep=Clock().sleep) as first:
        clock = Clock(nothing, nothing, first.beat)
        with pytest.raises(UserError, match=rf"already by process {os.getpid()} on .* \(it gives signs of life\)"):
            Presence(far, sleep=clock.sleep).__enter__()
        assert clock.slept == 3 * BEAT_S
        assert first.beat(), "the refused one has changed nothing"


def test_without_a_lock_a_silent_driver_is_gone_and_ends_when_it_comes_back(far: RunStore) -> None:
    first, said, told = Presence(far, sleep=Clock().sleep), list[str](), list[str]()
    first.__enter__()
    first.on_lost(told.append)
    clock = Clock()
    with Presence(far, say=said.append, sleep=clock.sleep) as second:
        assert clock.slept == (SILENT_BEATS + 1) * BEAT_S + SETTLE_S
        assert "watching for 60 s whether it is alive" in said[0]
        assert not first.beat()
        assert "is worked on already by process" in told[0]
        first.on_lost(told.append)
        assert told[1] == told[0]
        first.__exit__()
        assert second.beat(), "the first one has taken nothing away"


def test_without_a_lock_one_of_two_that_begin_at_once_is_refused(far: RunStore) -> None:
    second = Presence(far, sleep=Clock().sleep)
    with pytest.raises(UserError, match="it began at the same time"):
        Presence(far, sleep=Clock(second._write).sleep).__enter__()
    assert second.beat()


def test_a_driver_that_ends_while_another_watches_leaves_the_run_free(far: RunStore) -> None:
    first = Presence(far, sleep=Clock().sleep)
    first.__enter__()
    clock = Clock(nothing, first.__exit__)
    with Presence(far, sleep=clock.sleep) as second:
        assert clock.slept == 2 * BEAT_S + SETTLE_S
        assert second.beat()


def test_without_a_lock_a_driver_that_lost_the_run_before_it_says_where_it_is_takes_nothing_back(far: RunStore) -> None:
    first, told = Presence(far, sleep=Clock().sleep), list[str]()
    first.__enter__()
    with Presence(far, sleep=Clock().sleep) as second:
        second.announce("10.0.0.2:6379")
        first.announce("10.0.0.1:6379")
        assert (where(far) or {})["address"] == "10.0.0.2:6379"
        assert second.beat(), "the new owner goes on"
        first.on_lost(told.append)
        assert len(told) == 1
        first.__exit__()
        assert second.beat()


def test_storage_that_fails_for_a_beat_does_not_lose_the_run(far: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with Presence(far, sleep=Clock().sleep) as presence:
        with monkeypatch.context() as broken:
            broken.setattr(far, "read", lambda *_: (_ for _ in ()).throw(OSError("SLOW_DOWN")))
            with pytest.raises(OSError, match="SLOW_DOWN"):
                presence.beat()
        assert presence.beat()


def test_events_are_kept_in_order(store: RunStore) -> None:
    for number in range(12):
        store.record_event("pause" if number % 2 else "resume", number=number)
    events = store.events()
    assert [event["number"] for event in events] == list(range(12))
    assert all({"action", "time"} <= set(event) for event in events)
