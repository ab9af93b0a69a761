"""The run directory: what is committed is there and whole; what was cut off is as if it had never been."""

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lfs.board import started
from lfs.config import SearchConfig
from lfs.demand import standing
from lfs.files import LocalFiles
from lfs.folder import StorageError
from lfs.messages import GenerationRecord
from lfs.run_store import RunStore, find_runs
from lfs.train import replayed
from search_space.errors import UserError, first_line
from tests.fault.disk import Disk
from tests.fault.faulty_files import Fault, FaultyFiles
from tests.lfs.fakes import WEIGHTS, config


def test_what_is_committed_comes_back_exactly(store: RunStore, records: list[GenerationRecord]) -> None:
    assert store.committed() == [0, 1, 2]
    last = store.load_last()
    assert last is not None
    assert last[0] == records[2].state
    assert {k: v.tolist() for k, v in last[1].items()} == {k: v.tolist() for k, v in WEIGHTS.items()}
    assert store.load_config() == config()
    assert store.summaries() == [r.summary for r in records[:3]]
    table = store.load_candidates(1)
    assert table["reward"].tolist() == [row["reward"] for row in records[1].rows]
    assert [list(x) for x in table["action"]] == [row["action"] for row in records[1].rows]


def test_a_diverged_first_candidate_takes_no_column_away(store: RunStore, records: list[GenerationRecord]) -> None:
    rows = [dict(row) for row in records[3].rows]
    rows[1]["accuracy"], rows[2]["accuracy"] = 0.5, 0.75
    store.commit(replace(records[3], rows=rows), WEIGHTS)
    assert store.load_candidates(3)["accuracy"].tolist()[1:3] == [0.5, 0.75]


def test_a_generation_without_commit_does_not_exist(store: RunStore, records: list[GenerationRecord]) -> None:
    (Path(store.path) / "generations" / "000002" / "COMMIT").unlink()
    last = store.load_last()
    assert last is not None
    assert last[0] == records[1].state
    store.commit(records[2], WEIGHTS)
    assert store.committed() == [0, 1, 2]


def rot(store: RunStore, generation: int, name: str) -> Path:
    """Turn one bit of a committed file."""
    path = Path(store.path) / "generations" / f"{generation:06d}" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", ["state.json", "winner.safetensors"])
def test_bit_rot_is_noticed_and_the_way_out_works(store: RunStore, records: list[GenerationRecord], name: str) -> None:
    path = rot(store, 2, name)
    with pytest.raises(UserError, match=rf"000002/{name}: damaged: size or SHA-256 differ") as caught:
        store.load_last()
    assert f"remove {path.parent / 'COMMIT'}: then --resume goes on from generation 2" in str(caught.value)
    (path.parent / "COMMIT").unlink()
    last = store.load_last()
    assert last is not None
    assert last[0] == records[1].state
    store.commit(records[2], WEIGHTS)
    assert store.load_last() is not None


def test_bit_rot_that_nothing_but_a_copy_mends_says_so(store: RunStore) -> None:
    rot(store, 1, "state.json")
    with pytest.raises(UserError, match=r"000001/state\.json: damaged: .* COMMIT; put it back from a copy$"):
        store.summaries()
    store.prune(2, 1)
    rot(store, 2, "winner.safetensors")
    with pytest.raises(UserError, match="from a copy: the weights of the generation before were deleted"):
        store.load_last()


@pytest.mark.parametrize("text", ["{", "[]", '{"state.json": 1}', "\xff"])
def test_a_damaged_commit_is_named(store: RunStore, text: str) -> None:
    path = Path(store.path) / "generations" / "000000" / "COMMIT"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"generations/000000/"):
        store.load_weights(0)


def test_a_commit_that_is_there_is_this_one_or_another_driver_s(
    store: RunStore, records: list[GenerationRecord]
) -> None:
    store.commit(records[2], WEIGHTS)  # the answer to the first try was lost
    other = {**WEIGHTS, "head.n": np.array(4)}
    with pytest.raises(StorageError, match=r"000002/COMMIT is there already .*: another driver works on this run"):
        store.commit(records[2], other)
    assert store.load_weights(2)["head.n"] == 3


def test_old_weights_are_deleted_and_all_else_stays(store: RunStore, records: list[GenerationRecord]) -> None:
    rewards = [store.load_candidates(g)["reward"].tolist() for g in range(3)]
    store.prune(2, None)
    store.load_weights(0)
    store.prune(2, 2)
    assert store.load_weights(1).keys() == WEIGHTS.keys()
    with pytest.raises(UserError, match=r"generation 1 were deleted \(--keep-generations\) .* have theirs: 2\.\.3"):
        store.load_weights(0)
    with pytest.raises(UserError, match="generation 1 were deleted"):
        started(config(start=f"{store.uri}@1"))
    store.commit(records[3], WEIGHTS)
    store.prune(3, 1)
    assert store.load_last() is not None
    assert store.committed() == [0, 1, 2, 3]
    assert store.summaries() == [r.summary for r in records[:4]]
    assert [store.load_candidates(g)["reward"].tolist() for g in range(3)] == rewards
    assert len(replayed(store, "", {}).schedule) == 4


def test_whoever_looks_on_is_not_disturbed_by_files_that_go(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = Path(store.path) / "generations" / "000002" / "state.json.0123abcd.tmp"
    draft.write_text("half")
    scandir = os.scandir

    def slow(path: str) -> list[Any]:
        found = list(scandir(path))
        draft.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(os, "scandir", slow)
    assert store.committed() == [0, 1, 2]


def test_events_go_on_behind_the_last_whatever_else_is_among_them(store: RunStore) -> None:
    store.record_event("start")
    for name in ("notes.json", "99999999999999999999.json", "000001.json.tmp"):
        store.write(b"{}", "events", name)
    store.record_event("pause")
    assert [event["action"] for event in store.events()] == ["start", "pause"]
    assert store.exists("events", "000002.json")


def test_weights_that_cannot_be_deleted_are_deleted_the_next_time(
    store: RunStore, records: list[GenerationRecord], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(store.files.files, "delete_file", fails)
        store.attempts = 1
        store.prune(2, 1)
    assert "old weights cannot be deleted now" in caplog.text
    store.load_weights(0)
    store.commit(records[3], WEIGHTS)
    store.prune(3, 1)
    for old in range(3):
        with pytest.raises(UserError, match="were deleted"):
            store.load_weights(old)


def fails(*_: object) -> None:
    raise OSError(errno.EIO, "Input/output error")


def test_two_thousand_generations_take_few_requests_each(records: list[GenerationRecord]) -> None:
    disk = Disk()
    store = RunStore("/runs/long", disk)
    store.create(config())
    for generation in range(2):
        store.commit(replace(records[1], generation=generation), {})
    folder = disk._find("/runs/long/generations")
    assert folder
    folder.names |= {f"{number:06d}": folder.names["000001"] for number in range(2, 2000)}
    counting = FaultyFiles(disk)
    store = RunStore("/runs/long", counting)
    assert store.committed() == list(range(2000))
    store.commit(replace(records[1], generation=2000), {})
    store.prune(2000, 1999)
    store.commit(replace(records[1], generation=2001), {})
    store.prune(2001, 1999)
    assert sum(kind.startswith(("list /runs/long/generations", "info")) for kind, _ in counting.steps) < 20
    assert len(counting.steps) < 70


def test_drafts_of_a_process_that_was_killed_are_cleared_away(store: RunStore, records: list[GenerationRecord]) -> None:
    folder = Path(store.path) / "generations" / "000003"
    folder.mkdir()
    (folder / "winner.safetensors.0123abcd.tmp").write_bytes(b"half")
    store.commit(records[3], WEIGHTS)
    assert sorted(p.name for p in folder.iterdir()) == [
        "COMMIT", "candidates.parquet", "state.json", "winner.safetensors"
    ]  # fmt: skip


def test_only_a_run_that_never_started_is_discarded(store: RunStore, tmp_path: Path) -> None:
    store.discard()
    assert store.committed() == [0, 1, 2]
    fresh = RunStore(str(tmp_path / "runs" / "fresh"))
    fresh.create(config())
    fresh.discard()
    assert [s.name for s in find_runs(str(tmp_path / "runs"))] == ["one"]


def test_a_folder_with_other_things_is_not_made_a_run(tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "mine.jpg").write_text("mine")
    with pytest.raises(UserError, match="is there already and is no run"):
        RunStore(str(tmp_path / "faces")).create(config())
    assert [p.name for p in (tmp_path / "faces").iterdir()] == ["mine.jpg"]


def test_the_test_score_of_a_run_that_was_extended_is_not_the_old_one(
    store: RunStore, records: list[GenerationRecord]
) -> None:
    store.write_result({"generation": 2, "test": {"accuracy": 0.5}})
    assert (store.load_result() or {})["test"] == {"accuracy": 0.5}
    store.commit(records[3], WEIGHTS)
    assert store.load_result() is None


def test_a_run_is_never_overwritten(store: RunStore) -> None:
    with pytest.raises(UserError, match="exists already; continue it with --resume"):
        store.create(config())


def test_a_write_that_was_cut_off_does_not_stand_in_the_way(tmp_path: Path) -> None:
    store = RunStore(str(tmp_path))
    (tmp_path / "config.yaml.tmp").write_text("seed")
    store.create(SearchConfig())
    assert store.load_config() == SearchConfig()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is there already and is no run"):
        RunStore(str(tmp_path / "other")).create(SearchConfig())


@pytest.mark.parametrize("text", ["{", "[]", '{"generation": 0}', '{"generation": "x", "test": {}}'])
def test_a_damaged_result_is_named(tmp_path: Path, text: str) -> None:
    store = RunStore(str(tmp_path))
    store.create(SearchConfig())
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(UserError, match=r"result\.json: damaged: "):
        store.load_result()


@pytest.mark.parametrize("name", ["COMMIT", "state.json"])
def test_a_file_that_storage_refuses_is_not_taken_for_a_lost_one(store: RunStore, name: str) -> None:
    label = f"read {store.path}/generations/000002/{name}"
    broken = FaultyFiles(LocalFiles(store.path), Fault((label, 0), lambda: OSError(errno.EIO, "Input/output error")))
    with pytest.raises(UserError, match=rf"000002/{name}: .* cannot be read: \[Errno 5\] Input/output error$"):
        RunStore(store.path, broken, sleep=lambda _: None).load_last()
    (Path(store.path) / "generations" / "000002" / name).unlink()
    if name != "COMMIT":
        with pytest.raises(UserError, match=rf"000002/{name}: .* cannot be read: .*, or remove .*/COMMIT: then"):
            store.load_last()


def test_storage_that_refuses_a_small_file_does_not_make_it_damaged(store: RunStore) -> None:
    store.record_event("start")
    for name, ask in (("config.yaml", RunStore.load_config), ("events/000001.json", RunStore.events)):
        at = (f"read {store.path}/{name}", 0)
        broken = FaultyFiles(LocalFiles(store.path), Fault(at, lambda: OSError(errno.EIO, "Input/output error")))
        with pytest.raises(UserError, match=rf"{name}: cannot be read: \[Errno 5\] Input/output error$"):
            ask(RunStore(store.path, broken, sleep=lambda _: None))


def test_a_damaged_configuration_is_one_line_where_it_is_to_be_changed(store: RunStore) -> None:
    (Path(store.path) / "config.yaml").write_text("[")
    with pytest.raises(UserError, match=r"config\.yaml: not a run's configuration: "):
        store.write_config(config())


@pytest.mark.parametrize("text", ["{", "[]", '{"action": 3}', '{"action": "stop", "generation": "x"}', "\xff"])
def test_a_damaged_event_is_named(store: RunStore, text: str) -> None:
    store.record_event("start")
    (Path(store.path) / "events" / "000001.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"events/000001\.json: damaged: expected ") as caught:
        standing(store, 0)
    assert "\n" not in str(caught.value)


def test_a_line_of_an_error_is_never_empty() -> None:
    assert first_line(OSError("\n a\nb")) == "a"
    assert first_line(TimeoutError()) == first_line(TimeoutError(" \n")) == "TimeoutError"
