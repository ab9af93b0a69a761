"""Blocks of generations: what they say is what the generations' own files say, which are read where a block fails."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from lfs import blocks
from lfs.blocks import CANDIDATES, SUMMARIES
from lfs.files import LocalFiles
from lfs.generation import Search
from lfs.generations import _fingerprint
from lfs.messages import GenerationRecord
from lfs.patience import LIMIT_S
from lfs.results_tables import candidates_table
from lfs.run_facts import read_run
from lfs.run_store import RunStore
from search_space.errors import UserError
from tests.fault.faulty_files import FaultyFiles
from tests.lfs.fakes import WEIGHTS, config, drive

DONE = 11


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 4)


@pytest.fixture
def records() -> list[GenerationRecord]:
    """Generations whose tables differ in columns and types."""
    made = drive(Search(config(generations=DONE)))
    made[1].rows[0].update(reward=None, extra="text")
    made[6].rows[0].update(train_loss=2)
    made[7].rows[0].update(train_loss=0.5)
    return made


@pytest.fixture
def store(tmp_path: Path, records: list[GenerationRecord]) -> RunStore:
    store = RunStore(str(tmp_path / "run"))
    store.create(config(generations=DONE))
    for record in records:
        store.commit(record, WEIGHTS)
    return store


def read_slowly(store: RunStore) -> tuple[pa.Table, list[dict[str, Any]]]:
    """From the generations' own files."""
    tables = [store.load_table(number) for number in store.committed()]
    return pa.concat_tables(tables, promote_options="permissive"), store.summaries()


def read(store: RunStore) -> tuple[pa.Table, list[dict[str, Any]], set[str]]:
    """As results do, and the names of the files that it took."""
    watched = FaultyFiles(LocalFiles(store.path))
    watching = RunStore(store.path, watched)
    contents = watching.contents()
    tables, summaries = watching.load_tables(contents), watching.load_summaries(contents)
    assert not [value for value in (*tables, *summaries) if isinstance(value, UserError)]
    steps = {kind.removeprefix(f"read {store.path}/generations/") for kind, _ in watched.steps if "read" in kind}
    return pa.concat_tables(tables, promote_options="permissive"), summaries, steps  # type: ignore[return-value]


def at(store: RunStore, generation: int, name: str) -> Path:
    return Path(store.path, "generations", f"{generation:06d}", name)


def spoil(store: RunStore, name: str, data: bytes) -> None:
    """Another block in generation 7, with the right checksum."""
    at(store, 7, name).write_bytes(data)
    commit = at(store, 7, "COMMIT")
    commit.write_text(json.dumps(json.loads(commit.read_text()) | {name: _fingerprint([data])}))


def test_blocks_say_what_the_generations_say_in_fewer_reads(store: RunStore) -> None:
    table, summaries, steps = read(store)
    slow, lines = read_slowly(store)
    assert table.equals(slow)
    assert summaries == lines
    assert len(summaries) == DONE
    own = {f"{number:06d}/{name}" for number in (8, 9, 10) for name in ("COMMIT", "candidates.parquet", "state.json")}
    assert steps == own | {
        f"{number:06d}/{name}" for number in (3, 7) for name in ("COMMIT", CANDIDATES, SUMMARIES)
    }  # fmt: skip
    assert len(candidates_table(store)) == slow.num_rows
    assert read_run(store).num_images == store.load_state(DONE - 1)[0].num_images


def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink)
    return sink.getvalue().to_pybytes()


SPOILED: dict[str, Callable[[RunStore], object]] = {
    "gone": lambda store: [at(store, 7, name).unlink() for name in (CANDIDATES, SUMMARIES)],
    "damaged": lambda store: [at(store, 7, name).write_bytes(b"x") for name in (CANDIDATES, SUMMARIES)],
    "another block": lambda store: [
        spoil(store, name, at(store, 3, name).read_bytes()) for name in (CANDIDATES, SUMMARIES)
    ],
    "a part": lambda store: [
        spoil(store, CANDIDATES, parquet(store.load_table(7, CANDIDATES).slice(5))),
        spoil(store, SUMMARIES, json.dumps(store.summaries()[5:8]).encode()),
    ],
    "too much": lambda store: [
        spoil(store, CANDIDATES, parquet(pa.concat_tables([store.load_table(7, CANDIDATES), store.load_table(8)],
                                                          promote_options="permissive"))),
        spoil(store, SUMMARIES, json.dumps(store.summaries()[4:9]).encode()),
    ],
    "something else": lambda store: [
        spoil(store, CANDIDATES, parquet(pa.table({"x": [1]}))), spoil(store, SUMMARIES, b"7"),
    ],
    "lists": lambda store: [
        spoil(store, CANDIDATES, parquet(pa.table({"generation": [[4]]}))), spoil(store, SUMMARIES, b"[[4]]"),
    ],
    "cut off": lambda store: [spoil(store, CANDIDATES, b"PAR1"), spoil(store, SUMMARIES, b"[{")],
}  # fmt: skip


@pytest.mark.parametrize("how", SPOILED)
def test_where_a_block_is_of_no_use_the_generations_are_read(store: RunStore, how: str) -> None:
    slow = read_slowly(store)
    SPOILED[how](store)
    table, summaries, steps = read(store)
    assert (table, summaries) == slow
    assert {f"{number:06d}/{name}" for number in range(4, 8) for name in ("candidates.parquet", "state.json")} <= steps


def test_generations_are_in_order_whichever_block_is_lost(store: RunStore) -> None:
    slow = read_slowly(store)
    for name in (CANDIDATES, SUMMARIES):
        at(store, 3, name).unlink()
    assert read(store)[:2] == slow


def test_a_generation_that_is_not_committed_is_in_no_block(store: RunStore) -> None:
    at(store, 5, "COMMIT").unlink()
    table, summaries, _ = read(store)
    assert [summary["generation"] for summary in summaries] == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert 5 not in table["generation"].to_pylist()


def test_a_block_shows_what_its_generations_have_lost(store: RunStore) -> None:
    at(store, 1, "candidates.parquet").unlink()
    assert 1 in read(store)[0]["generation"].to_pylist()


def test_many_damaged_generations_take_no_list_each(store: RunStore) -> None:
    for path in Path(store.path).rglob("*.parquet"):
        path.write_bytes(b"x")
    watched = FaultyFiles(LocalFiles(store.path))
    watching = RunStore(store.path, watched)
    found = watching.load_tables(watching.contents())
    assert sum(isinstance(value, UserError) for value in found) == DONE
    assert sum(kind.startswith("list") for kind, _ in watched.steps) == 2  # of contents, and for the last one's way out


@pytest.mark.parametrize("name", ["candidates.parquet", "state.json"])
def test_a_block_of_what_cannot_be_read_is_not_made(tmp_path: Path, records: Any, name: str) -> None:
    store = RunStore(str(tmp_path / "run"))
    store.create(config(generations=DONE))
    for record in records:
        if record.generation == 7:
            at(store, 4, name).write_bytes(b"x")
        store.commit(record, WEIGHTS)
    assert at(store, 3, CANDIDATES).exists()
    assert not at(store, 7, CANDIDATES).exists()
    assert not at(store, 7, SUMMARIES).exists()
    assert store.committed() == list(range(DONE))


def test_a_run_that_goes_on_from_another_has_blocks_of_its_own_generations(tmp_path: Path, records: Any) -> None:
    store = RunStore(str(tmp_path / "run"))
    store.create(config(generations=DONE))
    for record in records[2:]:
        store.commit(record, WEIGHTS)
    table, summaries, steps = read(store)
    assert [summary["generation"] for summary in summaries] == list(range(2, DONE))
    assert table.equals(read_slowly(store)[0])
    assert f"000003/{CANDIDATES}" in steps
    assert "000002/candidates.parquet" not in steps


def test_generations_of_many_candidates_have_no_table_of_a_block(
    tmp_path: Path, records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "MAX_ROWS", sum(len(record.rows) for record in records[:4]))
    store = RunStore(str(tmp_path / "run"))
    store.create(config(generations=DONE))
    for record in (*records[:7], replace(records[7], rows=records[7].rows * 2)):
        store.commit(record, WEIGHTS)
    assert at(store, 3, CANDIDATES).exists()
    assert not at(store, 7, CANDIDATES).exists()
    assert at(store, 7, SUMMARIES).exists()


def test_a_commit_that_is_written_again_is_the_same(store: RunStore, records: list[GenerationRecord]) -> None:
    store.commit(records[7], WEIGHTS)
    last = at(store, 7, "COMMIT")
    before = last.read_text()
    last.unlink()
    for number in range(8, DONE):
        shutil.rmtree(at(store, number, ""))
    store.commit(records[7], WEIGHTS)
    assert last.read_text() == before


def test_a_block_of_more_candidates_than_any_is_not_used(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "MAX_ROWS", 1)
    table, _, steps = read(store)
    assert table.equals(read_slowly(store)[0])
    assert {f"{number:06d}/candidates.parquet" for number in range(4, 8)} <= steps


@pytest.mark.parametrize("limit", ["MAX_ROWS", "MAX_BYTES"])
def test_candidates_for_a_block_are_read_no_further_than_they_are_few(
    limit: str, tmp_path: Path, records: list[GenerationRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = FaultyFiles(LocalFiles(str(tmp_path / "run")))
    store = RunStore(str(tmp_path / "run"), watched)
    store.create(config(generations=DONE))
    for record in records[:7]:
        store.commit(record, WEIGHTS)
    monkeypatch.setattr(blocks, limit, 2 * len(records[7].rows) if limit == "MAX_ROWS" else 1)
    watched.steps.clear()
    store.commit(records[7], WEIGHTS)
    read_again = [kind for kind, _ in watched.steps if kind.startswith("read") and kind.endswith("candidates.parquet")]
    assert len(read_again) == (2 if limit == "MAX_ROWS" else 0)
    assert not at(store, 7, CANDIDATES).exists()
    assert at(store, 7, SUMMARIES).exists()


def test_an_old_file_that_does_not_answer_costs_later_commits_nothing(
    tmp_path: Path, records: list[GenerationRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "READ_LIMIT_S", 0.1)
    answers = threading.Event()

    class Hangs(LocalFiles):
        def read(self, path: str) -> Iterator[bytes]:
            if path.endswith("000005/candidates.parquet"):
                answers.wait(60)
            return super().read(path)

    store = RunStore(str(tmp_path / "run"), Hangs(str(tmp_path / "run")))
    store.create(config(generations=DONE))
    for record in records[:8]:
        store.commit(record, WEIGHTS)
    assert store.files.limit == LIMIT_S
    answers.set()
    assert store.committed() == list(range(8))
    assert not at(store, 7, SUMMARIES).exists()
