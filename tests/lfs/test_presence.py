"""One driver a run: a second one is refused with a line that names the first."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lfs.presence import RUNNING, Presence, controller_name, where
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


def test_what_cannot_be_read_is_nobody(store: RunStore) -> None:
    for text in (b"", b"[]", b'{"address": 1}', b"\xff"):
        store.write(text, RUNNING)
        assert where(store) is None


def test_a_run_on_other_storage_is_announced_too(tmp_path: Path) -> None:
    store = RunStore(f"file://{tmp_path}/run")
    store.create(config())
    with Presence(store) as presence:
        presence.announce("10.0.0.1:6379")
        with Presence(store):  # nothing locks it here, but the first one's word stays
            pass
        assert where(store) is not None
    assert where(store) is None
    assert controller_name(store) == "controller/run"


def test_events_are_kept_in_order(store: RunStore) -> None:
    for number in range(12):
        store.record_event("pause" if number % 2 else "resume", number=number)
    events = store.events()
    assert [event["number"] for event in events] == list(range(12))
    assert all({"action", "time"} <= set(event) for event in events)
