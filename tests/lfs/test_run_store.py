"""The run directory: what is committed is there and whole; what was cut off is as if it had never been."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lfs.config import SearchConfig
from lfs.generation import Search
from lfs.locations import under
from lfs.messages import GenerationRecord
from lfs.run_store import RunStore, find_runs
from search_space.errors import UserError
from tests.lfs.fakes import config, drive

WEIGHTS = {"backbone.w": np.arange(6, dtype=np.float32).reshape(2, 3), "head.n": np.array(3)}


@pytest.fixture
def records() -> list[GenerationRecord]:
    return drive(Search(config()))


@pytest.fixture
def store(tmp_path: Path, records: list[GenerationRecord]) -> RunStore:
    store = RunStore(str(tmp_path / "runs" / "one"))
    store.create(config())
    for record in records[:3]:
        store.commit(record, WEIGHTS)
    return store


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


@pytest.mark.parametrize("name", ["state.json", "winner.safetensors"])
def test_bit_rot_is_noticed_and_names_the_file(store: RunStore, name: str) -> None:
    path = Path(store.path) / "generations" / "000002" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"000002/{name}: damaged: size or SHA-256 differ"):
        store.load_last()


def test_a_storage_path_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written: .*; choose another --storage"):
        RunStore(str(tmp_path / "file" / "run")).create(config())
    assert (tmp_path / "file").read_text() == ""


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is no run: it has no config.yaml"),
        ("[", "config.yaml: not a run's configuration"),
        (
            "format: 99\nconfig: {}\n",
            "config.yaml: format 99; this version reads format 2: it was written by a newer version",
        ),
        ("format: 1\nconfig: {}\n", "format 1; this version reads format 2: browse it with"),
        ("format: 2\nconfig: {seed: x}\n", "config.yaml: seed must be a whole number, got 'x'"),
    ],
)
def test_a_path_that_is_no_run(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        RunStore(str(tmp_path)).load_config()


def test_runs_are_found_under_their_root_and_nothing_else(store: RunStore, tmp_path: Path) -> None:
    (tmp_path / "runs" / "other").mkdir()
    assert [s.name for s in find_runs(str(tmp_path / "runs"))] == ["one"]
    with pytest.raises(UserError, match="no such folder"):
        list(find_runs(str(tmp_path / "nowhere")))


def test_storage_by_uri_is_the_same_store(store: RunStore, records: list[GenerationRecord]) -> None:
    by_uri = RunStore(f"file://{store.path}")
    assert by_uri.committed() == [0, 1, 2]
    assert json.dumps(by_uri.summaries()) == json.dumps(store.summaries())
    by_uri.commit(records[3], WEIGHTS)
    assert store.committed() == [0, 1, 2, 3]


@pytest.mark.parametrize("uri", ["nonsense://x/y", "s3:///"])
def test_a_uri_that_is_none_is_one_line(uri: str) -> None:
    with pytest.raises(UserError, match="not a usable location"):
        RunStore(uri)


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


def test_a_place_below_a_uri_keeps_its_options_at_the_end() -> None:
    assert under("s3://bucket/runs?region=eu-west-1", "a", "b") == "s3://bucket/runs/a/b?region=eu-west-1"
    assert under("gs://bucket/runs/", "a") == "gs://bucket/runs/a"
    assert under("runs/", "a") == "runs/a"
    assert under("/odd?name", "a") == "/odd?name/a"
