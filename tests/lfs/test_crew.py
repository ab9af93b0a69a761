"""How many trainers Tune is asked for: as many as the controller wants, under the lowest free numbers."""

import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from ray.tune.search import Searcher

from lfs.crew import Crew, WhenOver, trial_folder
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
