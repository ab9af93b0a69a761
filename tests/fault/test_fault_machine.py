"""A short sample of the fault machine; benchmarks/faults.py runs it at length."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lfs.generation import Search
from lfs.run_store import RunStore
from tests.fault.laws import SLACK_S, Strike, broken_laws, recoveries, waits
from tests.fault.machine import GENERATIONS, Machine
from tests.fault.observer import Look
from tests.fault.plan import MAX_FAULTS, MOMENTS, VICTIMS, plan
from tests.lfs.conftest import small_recipe
from tests.lfs.fakes import config, drive

SEEDS = (62, 199)
"""Together every kind of victim, at moments that every run has."""


def test_plans_follow_from_the_seed_alone_and_hold_every_victim_and_moment() -> None:
    plans = [plan(seed, 20.0, 1.0, GENERATIONS) for seed in range(60)]
    assert plans == [plan(seed, 20.0, 1.0, GENERATIONS) for seed in range(60)]
    assert {len(faults) for faults in plans} == set(range(1, MAX_FAULTS + 1))
    faults = [fault for faults in plans for fault in faults]
    assert set(Counter(fault.victim for fault in faults)) == set(VICTIMS)
    assert {(fault.victim, fault.moment) for fault in faults} == {(v, m) for v in VICTIMS for m in MOMENTS}
    assert all(0 <= fault.generation < GENERATIONS for fault in faults)


def look(at: float, generation: int, *candidates: str) -> Look:
    """A look with candidates such as `done`, or `a` for one that trainer a trains."""
    states = tuple((c, None) if c in ("done", "queued") else ("running", c) for c in candidates)
    return Look(at=at, generation=generation, candidates=states, trainers=2, testing=False)


def strike(at: float, victim: str = "trainer", generation: int = 1) -> Strike:
    """The death of trainer a."""
    return Strike(
        victim=victim, moment="time", at=at, since_start_s=at, generation=generation, state="training", trainers=("a",)
    )


STORY = (look(0, 1, "a", "b"), look(3, 1, "b", "done"), look(9, 1, "done", "done"), look(9.5, 2, "queued", "queued"))


def test_a_wait_is_from_the_last_outcome_of_the_others_to_the_close() -> None:
    [wait] = waits([strike(1.0)], STORY, candidate_s=2.0)
    assert (wait.candidates, wait.waited_s, wait.allowed_s) == ((0,), 6.5, 2.0 + SLACK_S)
    assert waits([strike(4.0)], STORY, candidate_s=2.0) == []  # a had nothing then
    assert waits([strike(1.0), strike(2.0, "controller")], STORY, candidate_s=2.0) == []
    assert waits([strike(1.0, "driver")], STORY, candidate_s=2.0) == []


def test_a_winner_that_dies_after_its_report_is_waited_for_too() -> None:
    story = (look(0, 1, "done", "b"), look(2, 1, "done", "done"), look(3, 1, "b", "done"), look(7, 2, "queued"))
    [wait] = waits([strike(1.0)], story, candidate_s=2.0)
    assert (wait.candidates, wait.waited_s) == ((0,), 5.0)


def test_a_recovery_ends_with_the_next_outcome_after_what_was_lost() -> None:
    story = (look(0, 1, "done", "b"), look(4, 1, "a", "b"), look(7, 1, "done", "b"), look(9, 2, "a", "b"))
    assert recoveries([strike(1.0, "controller")], story) == [6.0]
    assert recoveries([strike(1.0)], story) == [8.0]
    assert recoveries([strike(1.0), strike(1.5)], story) == [None, 7.5]


def finished(folder: Path, *, weight: float = 0.0, num_images: int = 0) -> Path:
    """A run of two generations, with something else in its last one if asked for."""
    settings = config(generations=2)
    store = RunStore(str(folder))
    store.create(settings)
    for record in drive(Search(settings)):
        state = replace(record.state, num_images=record.state.num_images + num_images * record.generation)
        store.commit(replace(record, state=state), {"w": np.full(2, weight * record.generation, np.float32)})
    store.write_result({"generation": 1, "test": {"auc": 0.5}})
    store.record_event("start")
    return folder


@pytest.mark.parametrize(
    ("spoil", "law"),
    [
        (lambda run: finished(run, weight=1e-7), "generation 1: weights"),
        (lambda run: finished(run, num_images=1), "generation 1: state"),
        (lambda run: (finished(run) / "generations/000001/COMMIT").unlink(), "committed are [0], not 0..1"),
        (lambda run: (finished(run) / "generations/000002").mkdir(), "generations are"),
        (lambda run: (finished(run) / "generations/000001/state.json.tmp").touch(), "temporary files"),
        (lambda run: RunStore(str(finished(run))).write_result({"generation": 1, "test": {}}), "result.json differs"),
        (lambda run: RunStore(str(finished(run))).record_event("start"), "events tell"),
    ],
)
def test_every_law_of_a_finished_run_is_seen_broken(tmp_path: Path, spoil: Callable[[Path], Any], law: str) -> None:
    reference = finished(tmp_path / "reference")
    assert broken_laws(finished(tmp_path / "same"), reference, 2, starts=1) == []
    spoil(tmp_path / "spoilt")
    assert law in "; ".join(broken_laws(tmp_path / "spoilt", reference, 2, starts=1))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_searches_that_lose_every_kind_of_process_end_as_the_undisturbed_one(
    tmp_path: Path,
) -> None:
    hit = set()
    with Machine(tmp_path / "machine", small_recipe(tmp_path / "faces")) as machine:
        machine.prepare()
        for seed in SEEDS:
            outcome = machine.run(seed)
            assert outcome.broken == [], outcome
            hit |= {strike.victim for strike in outcome.strikes}
    assert hit == set(VICTIMS)
