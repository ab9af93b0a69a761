"""A logger beside Tune: the loop that tells it never waits for it and never hears of its failures."""

import pickle
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from lfs import aside
from lfs.aside import Aside, without_passwords
from lfs.watch import SLOW_S, STUCK_S, Watch

CONTROLLER = "controller/x"


class Recorder:
    """A logger that notes what it is told, and fails or hangs when it is to."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.error: Exception | None = None
        self.go_on = threading.Event()
        self.go_on.set()

    def _note(self, what: str) -> None:
        self.go_on.wait()
        if self.error:
            raise self.error
        self.told.append(what)

    def setup(self) -> None:
        self._note("setup")

    def log_trial_start(self, trial: str) -> None:
        self._note(f"start {trial}")

    def log_trial_result(self, iteration: int, trial: str, result: dict[str, Any]) -> None:
        self._note(f"{trial} {result['candidate']}")

    def log_trial_end(self, trial: str, failed: bool) -> None:
        self._note(f"end {trial} {failed}")

    def on_experiment_end(self, trials: list[str]) -> None:
        self._note("over")


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What the view of the search is told."""
    lines: list[str] = []
    Watch.live[CONTROLLER] = SimpleNamespace(view=SimpleNamespace(warn=lines.append), reason="")  # type: ignore[assignment]
    yield lines
    del Watch.live[CONTROLLER]


def started(logger: Recorder) -> Aside:
    made = Aside("mlflow", lambda: logger, CONTROLLER)
    made.setup()
    return made


def results(beside: Aside, *candidates: int) -> None:
    for candidate in candidates:
        beside.on_trial_result(1, [], "a", {"candidate": candidate})


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_everything_comes_in_order(warnings: list[str]) -> None:
    logger = Recorder()
    beside = started(logger)
    beside.on_trial_start(1, [], "a")
    results(beside, 0, 1)
    beside.on_trial_complete(1, [], "a")
    beside.on_trial_error(1, [], "b")
    beside.on_experiment_end([])
    assert logger.told == ["setup", "start a", "a 0", "a 1", "end a False", "end b True", "over"]
    assert warnings == []


def test_a_result_that_tune_changes_later_is_logged_as_it_was(warnings: list[str]) -> None:
    logger, result = Recorder(), {"candidate": 1}
    logger.go_on.clear()
    beside = started(logger)
    beside.on_trial_result(1, [], "a", result)
    result["candidate"] = 2
    logger.go_on.set()
    beside.on_experiment_end([])
    assert logger.told == ["setup", "a 1", "over"]


def test_a_failure_is_said_once_and_the_logger_is_tried_again_later(
    warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aside, "REST_S", 0.0)
    logger = Recorder()
    logger.error = OSError("http://me:secret@host/api is gone\nand more")
    beside = started(logger)
    results(beside, 0, 1)
    until(lambda: beside.lost == 2)
    logger.error = None
    results(beside, 2)
    beside.on_experiment_end([])
    assert logger.told == ["setup", "a 2", "over"]
    first, last = warnings
    assert first == "mlflow does not take results, the search goes on: OSError: http://host/api is gone"
    assert last == "mlflow: 2 of its messages were lost; the run has all results"


def test_after_a_failure_it_is_left_alone_for_a_while(warnings: list[str]) -> None:
    logger = Recorder()
    beside = started(logger)
    logger.error = OSError("gone")
    results(beside, 0)
    until(lambda: beside.lost == 1)
    logger.error = None
    results(beside, 1, 2)
    beside.on_experiment_end([])
    assert logger.told == []
    assert beside.lost == 4


def test_one_that_hangs_is_left_behind_at_the_end(warnings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside, "FINISH_S", 0.2)
    monkeypatch.setattr(aside, "MAX_WAITING", 3)
    logger = Recorder()
    logger.go_on.clear()
    beside = started(logger)
    results(beside, 0)
    until(beside._events.empty)
    began = time.monotonic()
    results(beside, *range(1, 1000))
    assert time.monotonic() - began < 1
    beside.on_experiment_end([])
    assert time.monotonic() - began < 10
    assert warnings == ["mlflow: 1,001 of its messages were lost; the run has all results"]
    logger.go_on.set()
    beside._thread.join(10)
    assert logger.told == ["setup", "a 0"]  # left behind, it does no more: Ray may be gone by then


@pytest.mark.parametrize(("reason", "limits"), [("", (1.0, 60.0)), ("storage failed", (60.0, 1.0))])
def test_all_slow_loggers_of_a_search_have_one_time_to_finish(
    reason: str, limits: tuple[float, float], warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aside, "FINISH_S", limits[0])
    monkeypatch.setattr(aside, "FINISH_FAILED_S", limits[1])
    Watch.live[CONTROLLER].reason = reason  # type: ignore[misc]
    all_of_it = []
    for _ in range(3):
        logger = Recorder()
        monkeypatch.setattr(logger, "log_trial_result", lambda *_: time.sleep(0.05))  # it gets on, but slowly
        all_of_it.append(started(logger))
        results(all_of_it[-1], *range(1000))
    began = time.monotonic()
    for beside in all_of_it:
        beside.on_experiment_end([])
    assert 1.0 <= time.monotonic() - began < 1.9
    assert len(warnings) == 3
    assert all("of its messages were lost" in line for line in warnings)


def test_loggers_finish_long_before_the_driver_gives_tune_up() -> None:
    assert aside.FINISH_S < SLOW_S / 2
    assert aside.FINISH_FAILED_S <= STUCK_S / 2


def test_the_others_finish_while_one_is_waited_for(warnings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside, "FINISH_S", 1.0)
    stuck, other = Recorder(), Recorder()
    stuck.go_on.clear()
    both = started(stuck), started(other)
    for beside in both:
        results(beside, 0)
        monkeypatch.setattr(beside, "name", f"logger {both.index(beside)}")
    for beside in both:
        beside.on_experiment_end([])
    assert other.told == ["setup", "a 0", "over"]
    assert warnings == ["logger 0: 2 of its messages were lost; the run has all results"]
    stuck.go_on.set()


def test_the_end_comes_through_a_full_queue(warnings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside, "MAX_WAITING", 3)
    logger = Recorder()
    logger.go_on.clear()
    beside = started(logger)
    results(beside, 0)
    until(beside._events.empty)
    results(beside, *range(1, 10))
    threading.Timer(0.2, logger.go_on.set).start()
    began = time.monotonic()
    beside.on_experiment_end([])
    assert time.monotonic() - began < 10
    assert logger.told == ["setup", "a 0", "a 1", "a 2", "a 3", "over"]
    assert warnings == ["mlflow: 6 of its messages were lost; the run has all results"]


def test_one_that_gets_on_is_waited_for(warnings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    logger = Recorder()
    monkeypatch.setattr(logger, "log_trial_result", lambda *_: (time.sleep(0.05), logger.told.append("slow")))
    beside = started(logger)
    results(beside, *range(20))
    beside.on_experiment_end([])
    assert logger.told.count("slow") == 20
    assert logger.told[-1] == "over"


def test_tune_may_pickle_it_at_any_time(warnings: list[str]) -> None:
    beside = Aside("mlflow", partial(Recorder), CONTROLLER)
    beside.setup()
    stored = pickle.loads(pickle.dumps(beside))  # noqa: S301
    beside.on_experiment_end([])
    assert (stored.name, stored.controller) == ("mlflow", CONTROLLER)
    assert "_thread" not in vars(stored)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("at https://me:pass@host:5000/api of it", "at https://host:5000/api of it"),
        ("postgresql://u:p@h/db", "postgresql://h/db"),
        ("me@host http://host/a@b", "me@host http://host/a@b"),
    ],
)
def test_addresses_are_said_without_passwords(text: str, clean: str) -> None:
    assert without_passwords(text) == clean
