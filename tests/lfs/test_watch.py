"""When a driver gives up on trainers that do not come, and what it asks for at each look."""

from types import SimpleNamespace
from typing import Any

import pytest
import ray

from lfs import watch as module
from lfs.view import View
from lfs.watch import SLOW_S, STUCK_S, Watch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which a test moves."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def look(watch: Watch, *, came: bool = False, wanted: int = 2) -> bool:
    """One look at a status; whether it is over."""
    watch.status = {"came": came, "wanted": wanted}
    watch._end_if_nobody_comes()
    return watch.over.is_set()


def made() -> Watch:
    first: dict[str, Any] = {}
    return Watch("x", None, View(), first, share=lambda: None, timeout_s=100, leave=print)


def test_it_gives_up_when_the_first_does_not_come_in_time(clock: list[float]) -> None:
    watch = made()
    clock[0] = 99
    assert not look(watch)
    clock[0] = 101
    assert look(watch)
    assert "no trainer found room for 100 s" in watch.trouble


def test_it_waits_for_ever_once_one_came_also_for_a_controller_that_has_forgotten_it(clock: list[float]) -> None:
    watch = made()
    assert not look(watch, came=True)
    clock[0] = 1e6
    assert not look(watch)


def test_a_search_that_wants_nobody_now_does_not_count_the_time(clock: list[float]) -> None:
    watch = made()
    clock[0] = 1000
    assert not look(watch, wanted=0)  # paused, or others go first
    clock[0] = 1099
    assert not look(watch)
    clock[0] = 1101
    assert look(watch)


def test_it_asks_for_new_summaries_only_and_keeps_all(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    closed = [{"generation": n} for n in range(4)]

    def remote(since: int) -> dict[str, Any]:
        asked.append(since)
        return {"summaries": closed[since : since + 2], "finished": False, "came": True, "wanted": 1, "notes": []}

    monkeypatch.setattr(ray, "get", lambda value, timeout: value)
    watch = made()
    watch.controller = SimpleNamespace(status=SimpleNamespace(remote=remote))
    watch.view.update = lambda status: None
    watch.status = {"summaries": []}
    for _ in range(3):
        watch._look()
    assert asked == [0, 2, 4]
    assert watch.status["summaries"] == closed


@pytest.mark.parametrize(
    ("error", "trouble", "limit_s", "said"),
    [
        ("storage failed", "", STUCK_S, "storage failed"),
        ("", "the controller is gone", STUCK_S, "the controller is gone"),
        ("", "", SLOW_S, "the search is complete, but Ray Tune does not get its own files written"),
    ],
)
def test_it_leaves_when_tune_does_not_end_after_the_search(
    error: str, trouble: str, limit_s: float, said: str, clock: list[float]
) -> None:
    left: list[str] = []
    watch = made()
    watch._leave, watch.status, watch.trouble = left.append, {"error": error}, trouble
    clock[0] = 1e6
    watch._leave_if_stuck()  # it is not over
    watch.over.set()
    watch._leave_if_stuck()
    clock[0] += limit_s
    watch._leave_if_stuck()
    assert not left
    clock[0] += 0.1
    watch._leave_if_stuck()
    assert left == [said]
