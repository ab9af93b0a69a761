"""Where the gain came from and who worked when, against slow sums and a story that was worked out by hand."""

import math
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lfs.report_run import RunReader, checked_rows
from lfs.report_series import KINDS, costs, expected_maximum, gains, noise, shifts
from tests.lfs.fakes import made_report
from tests.lfs.report_runs import MadeRun


def test_the_expected_largest_of_normal_numbers() -> None:
    assert expected_maximum(1) == pytest.approx(0, abs=1e-9)
    assert expected_maximum(2) == pytest.approx(1 / math.sqrt(math.pi))
    assert expected_maximum(3) == pytest.approx(1.5 / math.sqrt(math.pi))
    draws = np.random.default_rng(0).normal(size=(40_000, 16)).max(axis=1)
    assert expected_maximum(16) == pytest.approx(draws.mean(), abs=5 * draws.std() / 200)
    assert expected_maximum(100_000) == pytest.approx(4.38, abs=0.02)


def test_gains_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    store = MadeRun(tmp_path / "run", generations=5, population_size=6).done()
    run = RunReader(store.uri).read()
    rows = gains(run)
    assert rows["generation"].tolist() == [1, 2, 3, 4]
    for row in rows.itertuples():
        before, now = store.load_candidates(row.generation - 1), store.load_candidates(row.generation)
        parent, rewards = max(before["reward"]), list(now["reward"])
        assert row.gain == pytest.approx(max(rewards) - parent)
        assert row.training == pytest.approx(fmean(rewards) - parent)
        assert row.choosing == pytest.approx(max(rewards) - fmean(rewards))
        assert row.gain == pytest.approx(row.training + row.choosing)
        others = [se for se, won in zip(now["paired_se"], now["winner"], strict=True) if not won]
        assert row.luck == pytest.approx(expected_maximum(6) * median(others) / math.sqrt(2))
        assert noise(run)[row.generation] == pytest.approx(median(others))


def test_a_generation_that_cannot_be_read_has_no_gain_nor_the_one_after_it(tmp_path: Path) -> None:
    store = MadeRun(tmp_path / "run", generations=5).done()
    Path(store.path, "generations/000002/state.json").write_text("")
    assert gains(RunReader(store.uri).read())["generation"].tolist() == [1, 4]


def test_who_worked_when(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "run", generations=3, warmup_generations=0, population_size=3)
    times, search, space = made.board.times, made.search, made.search.space

    def lease(trainer: str, at: float) -> object:
        made.now = 1.7e9 + at
        found = search.lease(trainer)
        times.leased(trainer, found)
        return found

    def report(trainer: str, found: object, at: float) -> None:
        made.now = 1.7e9 + at
        done = made_report(space, found, trainer)  # type: ignore[arg-type]  # 1 s of training, 0.5 s of validation
        assert search.report(done, "weights")
        made.board.took(done)

    a, b = lease("t-2", 0), lease("t-10", 1)
    report("t-2", a, 2)  # waits 0.5 for its weights, trains 1, validates 0.5
    made.now = 1.7e9 + 4
    times.left("t-10")  # died after 3 s
    search.release("t-10")
    report("t-10", lease("t-10", 10), 11.5)  # dead for 6 s
    assert b
    report("t-2", lease("t-2", 10), 11.5)  # waited 8 s
    record = search.close()
    made.board.closed(record)
    made.store.commit(record, {})
    search.advance(record, "weights")
    report("t-2", lease("t-2", 1000), 1001.5)  # the search was stopped for 988.5 s
    report("t-2", lease("t-2", 1001.5), 1003)
    report("t-2", lease("t-2", 1003), 1004.5)
    record = search.close()
    made.board.closed(record)
    made.store.commit(record, {})
    found = shifts(RunReader(made.store.uri).read())
    assert found is not None
    assert list(found.trainers.index) == ["t-2", "t-10"]
    assert found.paused_s == pytest.approx(988.5)
    seconds = found.trainers[list(KINDS)].to_numpy().tolist()
    np.testing.assert_allclose(seconds, [[5, 2.5, 8.5, 0, 0], [1, 0.5, 0, 3, 6]], atol=1e-5)
    assert found.trainers["utilisation"].tolist() == pytest.approx([7.5 / 16, 1.5 / 10.5])
    assert found.utilisation == pytest.approx(9 / 26.5)
    for _, bars in found.bars.groupby("trainer"):  # without gap or overlap
        np.testing.assert_allclose(bars["begin"].to_numpy()[1:], bars["end"].to_numpy()[:-1])


@pytest.mark.parametrize(
    ("events", "paused", "waited"),
    [
        ([], 0, 20 + 60 + 30),  # a guess: 60 s are not long enough
        ([("start", 0)], 0, 20 + 60 + 30),
        ([("start", 0), ("resume", 45)], 13, 7 + 60 + 30),  # it was paused from 30 on, its last candidates ended at 32
        ([("start", 0), ("pause", 40), ("start", 140), ("start", 143)], 59, 20 + 1 + 30),  # and started in vain
        ([("start", 0), ("start", 60), ("extend", 200)], 0, 20 + 60 + 30),  # somebody worked then
        ([("start", 0), ("start", 144), ("resume", 50), ("resume", "?")], 18 + 60, 2 + 0 + 30),
        ([("resume", 195), ("start", 0)], 19, 20 + 60 + 11),
        ([("start", 1000)], 0, 20 + 60 + 30),
    ],
)
def test_time_until_a_search_went_on_is_cut_out(
    events: list[tuple[str, Any]], paused: float, waited: float, tmp_path: Path
) -> None:
    read = RunReader(MadeRun(tmp_path / "run", generations=1).done().uri).read()
    leased = 1.7e9 + np.array([0.0, 52.0, 144.0, 206.0])  # each takes 32 s
    rows = checked_rows(pd.DataFrame({
        "candidate": np.arange(4), "leased_at": leased, "reported_at": leased + 32, "train_s": 30.0, "validate_s": 2.0,
        "trainer": "t",
    }))  # fmt: skip
    times = [at if isinstance(at, str) else datetime.fromtimestamp(1.7e9 + at, UTC).isoformat() for _, at in events]
    said = tuple({"action": action, "time": time} for (action, _), time in zip(events, times, strict=True))
    found = shifts(replace(read, generations=(replace(read.generations[0], candidates=rows),), events=said))
    assert found is not None
    assert found.paused_s == pytest.approx(paused)
    assert found.trainers["waiting"].sum() == pytest.approx(waited)
    assert found.trainers["training"].sum() == pytest.approx(4 * 30)


def test_a_run_of_an_older_version_does_not_say_who_worked_when(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "run", generations=2)
    made.generation(lambda row: [row.pop(name) for name in ("leased_at", "reported_at")])
    assert shifts(RunReader(made.store.uri).read()) is None


def test_time_grows_no_faster_than_candidates(tmp_path: Path) -> None:
    """However many pauses and trainers there are. With a look at all of either for each candidate or trainer it is
    over twice the limit; without, a quarter of it.
    """
    read = RunReader(MadeRun(tmp_path / "run", generations=1).done().uri).read()
    count, trainers = 60_000, 6_000
    leased = 1.7e9 + 1000.0 * np.arange(count)
    rows = checked_rows(pd.DataFrame({
        "candidate": np.arange(count), "leased_at": leased, "reported_at": leased + 10, "train_s": 8.0,
        "validate_s": 2.0, "trainer": [f"t-{i % trainers}" for i in range(count)],
    }))  # fmt: skip
    run = replace(read, generations=(replace(read.generations[0], candidates=rows),))
    begin = time.process_time()
    found = shifts(run)
    took_s = time.process_time() - begin
    assert found is not None
    assert len(found.trainers) == trainers
    assert found.paused_s == pytest.approx(990 * (count - 1))
    assert took_s < 10


def test_costs_add_up(tmp_path: Path) -> None:
    store = MadeRun(tmp_path / "run", generations=4).done()
    rows = costs(RunReader(store.uri).read())
    assert rows["total_images"].iloc[-1] == store.load_state(3)[0].num_images == 130
    assert rows["training_s"].tolist() == [1, 4, 4, 4]
    assert rows["validating_s"].tolist() == [0.5, 2, 2, 2]
