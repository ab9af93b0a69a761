"""How many trainers Tune is asked for: as many as the controller wants, under the lowest free numbers."""

import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from ray.air.execution._internal import RayActorManager
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from lfs.crew import Crew, Shifts, WhenOver, trial_folder
from lfs.watch import Watch


class Driver:
    """What the crew sees of the driver."""

    def __init__(self) -> None:
        self.wanted, self.looks, self.over = 2, 0, threading.Event()


@pytest.fixture
def driver() -> Iterator[Driver]:
    made = Driver()
    Watch.live["controller/x"] = made  # type: ignore[assignment]
    yield made
    del Watch.live["controller/x"]


def numbers(crew: Crew, *trials: str) -> list[Any]:
    return [(crew.suggest(trial) or {}).get("trainer") for trial in trials]


def test_as_many_as_wanted(driver: Driver) -> None:
    crew = Crew("controller/x")
    assert numbers(crew, "t1", "t2", "t3") == [0, 1, None]
    driver.wanted = 3
    assert numbers(crew, "t4", "t5") == [2, None]


def test_one_that_ended_is_replaced_only_if_it_is_still_wanted_after_another_look(driver: Driver) -> None:
    crew = Crew("controller/x")
    numbers(crew, "t1", "t2")
    crew.on_trial_complete("t1")
    assert numbers(crew, "t3") == [None]
    driver.looks += 2
    assert crew.suggest("t4") == {"trainer": 0, "start": 2, "controller": "controller/x"}
    crew.on_trial_complete("t4")
    driver.looks += 2
    driver.wanted = 1
    assert numbers(crew, "t5") == [None]


def test_no_more_come_when_the_search_is_over_or_gone(driver: Driver) -> None:
    crew, stopper = Crew("controller/x"), WhenOver("controller/x")
    assert not stopper.stop_all()
    driver.over.set()
    assert crew.suggest("t1") == Searcher.FINISHED
    assert stopper.stop_all()
    stored = pickle.loads(pickle.dumps(Crew("controller/gone")))  # noqa: S301
    assert stored.suggest("t1") == Searcher.FINISHED


def test_folders_tell_starts_of_one_number_apart() -> None:
    assert trial_folder({"trainer": 7, "start": 1}) == "trainer-007"
    assert trial_folder({"trainer": 7, "start": 2}) == "trainer-007-2"


class FakeTrial:
    """A trial as a scheduler sees it."""

    def __init__(self, status: str) -> None:
        self.status = status


class FakeTune:
    """Tune's controller as a scheduler sees it."""

    def __init__(self, *statuses: str) -> None:
        self.trials = [FakeTrial(status) for status in statuses]

    def get_trials(self) -> list[FakeTrial]:
        return self.trials

    def pause_trial(self, trial: FakeTrial, *, should_checkpoint: bool) -> None:
        assert not should_checkpoint
        trial.status = Trial.PAUSED


def test_one_that_leaves_is_paused_and_comes_back_when_it_is_wanted(driver: Driver) -> None:
    shifts, made = Shifts("controller/x"), FakeTune(Trial.RUNNING, Trial.RUNNING)
    assert shifts.on_trial_result(made, made.trials[0], {"candidate": 1, "leaves": False}) == TrialScheduler.CONTINUE
    driver.wanted = 1
    assert shifts.on_trial_result(made, made.trials[1], {"candidate": 2, "leaves": True}) == TrialScheduler.NOOP
    assert [trial.status for trial in made.trials] == [Trial.RUNNING, Trial.PAUSED]
    assert shifts.choose_trial_to_run(made) is None
    driver.wanted = 2
    assert shifts.choose_trial_to_run(made) is made.trials[1]
    made.trials.append(FakeTrial(Trial.PENDING))
    assert shifts.choose_trial_to_run(made) is made.trials[2]
    del Watch.live["controller/x"]
    assert Shifts("controller/x").choose_trial_to_run(FakeTune(Trial.PAUSED)) is None
    Watch.live["controller/x"] = driver  # type: ignore[assignment]


def test_results_that_tune_has_dealt_with_are_not_kept_for_as_long_as_a_trainer_lives() -> None:
    made = FakeTune(Trial.RUNNING)
    made._actor_manager = RayActorManager(resource_manager=None)
    for trial in ("a", "b"):
        made._actor_manager._tracked_actors_to_task_futures[trial] |= {f"{trial} 1", f"{trial} 2", f"{trial} 3"}
        made._actor_manager._actor_task_events.track_future(f"{trial} 3")
    Shifts("controller/x").on_trial_result(made, made.trials[0], {"candidate": 1})
    assert dict(made._actor_manager._tracked_actors_to_task_futures) == {"a": {"a 3"}, "b": {"b 3"}}
