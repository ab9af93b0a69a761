"""What a report reads, and what it says of a run that is broken: the rest stays readable."""

import hashlib
import json
import math
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml

from lfs import blocks, report_charts, report_run
from lfs.config import MAX_POPULATION
from lfs.files import LocalFiles
from lfs.presence import Presence
from lfs.report import Reporter
from lfs.report_charts import Chart, gain_chart, reward_unit, trainers_chart
from lfs.report_page import page
from lfs.report_run import BEYOND, Run, RunReader
from lfs.report_sections import sections
from lfs.report_series import gains, shifts
from lfs.run_facts import read_run
from lfs.run_store import RunStore
from lfs.view import View
from search_space.errors import UserError
from tests.fault.faulty_files import FaultyFiles
from tests.lfs.report_runs import MadeRun


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(MadeRun(tmp_path / "run", generations=4).done().path)


def text_of(run: Run) -> dict[str, str]:
    """Each section's text; the page is made as well."""
    made = sections(run, "not looked at")
    assert page("t", made, made="now")
    return {section.key: section.text for section in made}


def test_all_of_a_run_is_read(run: Path) -> None:
    read = RunReader(str(run)).read()
    store = read.store
    assert not read.missing
    assert (read.state, [g.number for g in read.generations]) == ("finished", [0, 1, 2, 3])
    assert read.with_weights == {0, 1, 2, 3}
    for g in read.generations:
        stored = store.load_candidates(g.number)
        for name in ("reward", "paired_se", "train_s", "reported_at"):
            assert g.candidates[name].tolist() == stored[name].tolist()
        assert g.candidates["winner"].tolist() == stored["winner"].tolist()
    assert len(read.candidates) == 1 + 3 * 4


def test_each_generation_is_read_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = RunReader(str(run))
    first, asked = reader.read(), list[int]()
    load = reader.store.load_state
    monkeypatch.setattr(reader.store, "load_state", lambda g: (asked.append(g), load(g))[1])
    assert reader.read().generations == first.generations
    assert not asked


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_without_a_table_the_rest_is_there(run: Path, how: str) -> None:
    table = run / "generations/000002/candidates.parquet"
    table.unlink() if how == "gone" else table.write_bytes(b"PAR1")
    read = RunReader(str(run)).read()
    [line] = read.missing
    assert "candidates.parquet" in line
    assert len(read.candidates) == 1 + 2 * 4
    assert "candidates.parquet" in text_of(read)["summary"]


def test_half_written_generations_do_not_count(run: Path) -> None:
    (run / "generations/000003/COMMIT").unlink()
    (run / "result.json").unlink()
    read = RunReader(str(run)).read()
    assert (read.state, len(read.generations), read.missing) == ("stopped", 3, ())
    (run / "generations/000002/state.json").write_text("{")
    read = RunReader(str(run)).read()
    assert [g.number for g in read.generations] == [0, 1]
    assert "state.json: damaged" in text_of(read)["summary"]


def test_deleted_weights_are_named(run: Path) -> None:
    for weights in run.glob("generations/*/winner.safetensors"):
        weights.unlink()
    text = text_of(RunReader(str(run)).read())["lineage"]
    assert text.count("deleted") == 4
    assert "the weights of the last generation are gone" in text


def test_a_run_without_a_generation(tmp_path: Path) -> None:
    read = RunReader(MadeRun(tmp_path / "run").store.uri).read()
    assert "no generation is committed yet" in text_of(read)["reward"]


@pytest.mark.parametrize("part", ["result.json", "events/000001.json"])
def test_a_damaged_part_is_named(run: Path, part: str) -> None:
    (run / part).parent.mkdir(exist_ok=True)
    (run / part).write_text("[")
    assert part in text_of(RunReader(str(run)).read())["summary"]


def test_what_cannot_be_read_at_all_is_one_line(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run"):
        RunReader(str(tmp_path / "none")).read()
    stored = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(stored | {"format": 99}))
    with pytest.raises(UserError, match="written by a newer version"):
        RunReader(str(run)).read()


def put(folder: Path, name: str, data: bytes) -> None:
    """Write a file of a generation, and what COMMIT says of it."""
    (folder / name).write_bytes(data)
    prints = json.loads((folder / "COMMIT").read_text())
    prints[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "COMMIT").write_text(json.dumps(prints))


def as_parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink)
    return bytes(sink.getvalue())


def test_a_table_of_more_rows_than_a_generation_may_have_is_missing(run: Path) -> None:
    hostile = as_parquet(pa.table({"winner": np.zeros(MAX_POPULATION + 1, np.bool_)}))
    assert len(hostile) < 10_000
    put(run / "generations/000002", "candidates.parquet", hostile)
    read = RunReader(str(run)).read()
    assert read.missing == ("generation 3: candidates.parquet: 100,001 candidates; a generation has at most 100,000",)
    assert len(read.candidates) == 1 + 2 * 4
    most = pa.table({"winner": np.zeros(MAX_POPULATION, np.bool_), "other": ["x"] * MAX_POPULATION})
    put(run / "generations/000002", "candidates.parquet", as_parquet(most))
    assert len(RunReader(str(run)).read().candidates) == 1 + 2 * 4 + MAX_POPULATION


def test_candidates_beyond_the_limit_of_all_generations_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_run, "MAX_CANDIDATES", 10)
    made = MadeRun(tmp_path / "run", generations=40)
    for _ in range(20):
        made.generation()
    reader = RunReader(made.store.uri)
    first = reader.read()
    assert first.missing == (BEYOND,)
    assert [len(g.candidates) for g in first.generations] == [1, 4, 4] + 17 * [0]
    assert [g.best for g in first.generations] == [s["best_reward"] for s in made.store.summaries()]
    assert f"missing: {BEYOND}" in text_of(first)["summary"]
    assert reader.read().generations == first.generations
    (Path(made.store.path) / "generations/000001/COMMIT").unlink()  # leaves room, but none after a gap
    made.generation()
    assert len(reader.read().candidates) == 5


def test_blocks_say_what_the_generations_say_in_fewer_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 4)
    made = MadeRun(tmp_path / "run", generations=40)
    for number in range(11):
        made.generation(lambda row, number=number: row.update(reward=None) if number == 5 else None)

    def read(reader: RunReader) -> tuple[list[Any], set[str], list[tuple[int, int]]]:
        watched, told = FaultyFiles(LocalFiles(made.store.path)), list[tuple[int, int]]()
        reader.store = RunStore(made.store.path, watched)
        found = reader.read(lambda *at: told.append(at))
        names = {kind.rpartition("generations/")[2] for kind, _ in watched.steps if "read" in kind}
        assert not found.missing
        return [(g.number, g.summary, g.candidates.to_dict("list")) for g in found.generations], names, told

    reader = RunReader(made.store.uri)
    by_blocks, files, told = read(reader)
    assert {name for name in files if name.startswith("00000")} == {
        f"{end:06d}/{name}" for end in (3, 7) for name in ("COMMIT", "block.json", "block.parquet")
    } | {f"{end:06d}/{name}" for end in (8, 9) for name in ("COMMIT", "state.json", "candidates.parquet")}
    assert told == [(0, 11), (4, 11), (8, 11), (9, 11), (10, 11), (11, 11)]
    made.generation()  # ends a block, of which three are known
    again, files, _ = read(reader)
    assert {name for name in files if name.startswith("0")} == {
        f"000011/{name}" for name in ("COMMIT", "state.json", "candidates.parquet")
    }
    for end in (3, 7, 11):
        (Path(made.store.path) / f"generations/{end:06d}/block.{'json' if end == 7 else 'parquet'}").write_text("")
    by_themselves, _, _ = read(RunReader(made.store.uri))
    assert repr(by_themselves) == repr(again)
    assert repr(by_themselves[:11]) == repr(by_blocks)
    assert all(math.isnan(reward) for reward in by_blocks[5][2]["reward"])


def test_generations_without_a_block_are_read_several_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = MadeRun(tmp_path / "run", generations=12)
    for _ in range(12):
        made.generation()
    together = threading.Barrier(6)
    load = RunStore.load_state

    def wait_for_others(store: RunStore, number: int) -> Any:
        together.wait(60)
        return load(store, number)

    monkeypatch.setattr(RunStore, "load_state", wait_for_others)
    assert len(RunReader(made.store.uri).read().generations) == 12


def test_a_run_of_many_bars_is_drawn_with_the_last_ones(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = RunReader(str(run)).read()
    found = shifts(read)
    assert found is not None
    whole = trainers_chart(found)
    assert "bars are drawn" not in text_of(read)["trainers"]
    monkeypatch.setattr(report_charts, "MAX_BARS", 7)
    drawn = trainers_chart(found)
    assert sum(len(trace["x"]) for trace in drawn["data"]) == 7 * 3

    def ends(chart: Chart) -> list[float]:
        return sorted(x for trace in chart["data"] for x in trace["x"][1::3])

    assert ends(drawn) == ends(whole)[-7:]
    assert f"the last 7 of {len(found.bars)} bars are drawn" in text_of(read)["trainers"]


@pytest.mark.parametrize("value", ["x", None, math.nan, math.inf, 1e300, -1, 10**30, True, [1.0], ""], ids=repr)
def test_rows_of_any_content(tmp_path: Path, value: Any) -> None:
    made = MadeRun(tmp_path / "run", generations=3)
    made.generation()

    def spoil(row: dict[str, Any]) -> None:
        for name in row:
            if value != 10**30:
                row[name] = value
            elif isinstance(row[name], float):
                row[name] = 1e308

    made.generation(spoil)
    read = RunReader(made.store.uri).read()
    assert not read.missing
    text_of(read)


@pytest.mark.parametrize(
    "change",
    [
        {"winner_loss": {"loss": "am", "margin": 1e308}}, {"winner_loss": {"loss": "<script>"}},
        {"winner_loss": {"loss": "am", "scale": 1e-300, "margin": 0.1}},
        {"winner_loss": {"loss": "am", "margin": [[1]]}},
        {"winner_loss": {"loss": "modulated", "scale": 1e9, "shift": []}}, {"winner_parameters": {}},
        {"best_reward": 1e308, "mean_reward": -1e308}, {"wall_s": -1e308}, {"winner": 2**62},
        {"parameter_names": ["x"] * 500, "policy_mean": [0.0] * 500, "policy_std": [1e308] * 500},
        {"parameter_names": ["x\n</script>"], "policy_mean": [1.0], "policy_std": [0.0]},
        {"lost": [{"trainer": "x", "candidate": 1, "died": True, "leased_at": -1e308, "lost_at": 1e308}]},
    ],
    ids=str,
)  # fmt: skip
def test_summaries_of_any_content(run: Path, change: dict[str, Any]) -> None:
    for folder in (run / "generations").iterdir():
        state = json.loads((folder / "state.json").read_text())
        state["summary"] |= change
        put(folder, "state.json", json.dumps(state).encode())
    read = RunReader(str(run)).read()
    assert not read.missing
    text_of(read)


def test_a_hole_has_no_gain_in_the_lineage_and_a_damaged_event_hides_no_other(run: Path) -> None:
    store = RunStore(str(run))
    store.record_event("start", host="here")
    store.record_event("pause", host="there")
    (run / "events/000001.json").write_text("{")
    (run / "generations/000002/state.json").write_text("{")
    read = RunReader(str(run)).read()
    assert [event["host"] for event in read.events] == ["there"]
    assert any("events/000001.json" in line for line in read.missing)
    cells = re.findall(r"<td>(.*?)</td>", text_of(read)["lineage"])
    assert [gain == "-" for gain in cells[4::7]] == [True, False, True]


def test_the_state_is_that_of_results(run: Path, tmp_path: Path) -> None:
    assert RunReader(str(run)).read().state == read_run(RunStore(str(run))).state == "finished"
    made = MadeRun(tmp_path / "other", generations=3)
    made.generation()
    with Presence(made.store) as presence:
        presence.announce("address")
        assert RunReader(made.store.uri).read().state == "running"
    (Path(made.store.path) / "running.json").write_text("{}")  # of a driver that was killed
    assert RunReader(made.store.uri).read().state == read_run(made.store).state == "stopped"


def test_the_score_that_was_rewarded_comes_first(run: Path) -> None:
    read = RunReader(str(run)).read()
    names = [f"tar@far={far}" for far in (0.5, 0.2, 0.1, 0.05, 0.02)]
    scores = dict.fromkeys(["accuracy", "threshold", *names, "d_prime"], 0.5)
    read = replace(read, result={"generation": 3, "test": scores})
    read = replace(read, config=replace(read.config, reward=replace(read.config.reward, metric="d_prime")))
    shown = re.findall(r"test: (.*?)</td>", text_of(read)["summary"])
    assert shown == ["d_prime", "accuracy", *names[:4]]


def test_luck_stands_where_choosing_stands(run: Path) -> None:
    read = RunReader(str(run)).read()
    rows = gains(read)
    bars = {trace["name"]: trace for trace in gain_chart(read, rows)["data"]}
    luck = bars["choosing by luck alone"]
    assert luck["customdata"] == rows["luck"].tolist()
    assert luck["y"] == [max(0.0, base) + luck for base, luck in zip(rows["training"], rows["luck"], strict=True)]


@pytest.mark.parametrize(
    ("metric", "unit"),
    [("auc", "fraction"), ("all:tar@far=1e-3+all:tar@far=0.1", "fraction"), ("all:d_prime", "standard deviations"),
     ("auc+d_prime", "1"), ("my_reward:gap", "1")],
)  # fmt: skip
def test_units_of_rewards(run: Path, metric: str, unit: str) -> None:
    read = RunReader(str(run)).read()
    config = replace(read.config, reward=replace(read.config.reward, metric=metric))
    assert reward_unit(replace(read, config=config)) == unit


def test_nothing_is_drawn_again_while_nothing_is_new(run: Path) -> None:
    reporter = Reporter(str(run), View(), evaluation=False)
    first = reporter.sections()
    assert reporter.sections() is first
    RunStore(str(run)).record_event("start", host="here")
    assert reporter.sections() is not first
