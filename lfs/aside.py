"""A logger that may be slow or fail, beside Tune: it has a thread of its own, and the search never waits for it.

Tune's loop --each event--> queue --> thread: logger.setup, log_trial_start, log_trial_result, log_trial_end
             never waits      bounded         whatever it raises is told once, and it is tried again later
"""

import contextlib
import logging
import queue
import re
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

from ray import tune
from ray.tune.logger import LoggerCallback

from lfs.watch import Watch
from search_space.errors import first_line

MAX_WAITING = 20_000
"""Events that wait for the logger; further ones are lost to it."""
REST_S = 30.0
"""After a failure the logger is left alone for so long: what comes meanwhile is lost to it."""
FINISH_S, FINISH_FAILED_S = 120.0, 30.0
"""At the end of a search, and of one that failed, all its loggers together have so long: far less than the driver waits
for Tune (see lfs/watch.py), or a slow logger would make it give up a search that is complete."""
logger = logging.getLogger(__name__)
Event = tuple[str, tuple[Any, ...]]


class Aside(tune.Callback):
    """Hands on what happens to a logger that is made, set up and called in a thread.

    Tune pickles its callbacks into its own folder, and with this one no more than the arguments. What goes wrong is
    said without user names and passwords that an address may hold.

    Args:
        name: of the logger, for the user.
        make: makes the logger.
        controller: of the search, whose view is told what goes wrong.
    """

    live: ClassVar[dict[str, list["Aside"]]] = {}
    """The loggers of each controller's search, until its end."""

    def __init__(self, name: str, make: Callable[[], LoggerCallback], controller: str) -> None:
        self.name, self.make, self.controller = name, make, controller
        self.lost = 0
        self._trouble = ""

    def __reduce__(self) -> Any:
        return type(self), (self.name, self.make, self.controller)

    def setup(self, stop: Any = None, num_samples: Any = None, total_num_samples: Any = None, **info: Any) -> None:
        """Tune begins."""
        self._events: queue.Queue[Event | None] = queue.Queue(MAX_WAITING)
        self._told, self._done, self._rests_until = 0, 0, 0.0
        self._trials: list[Any] = []
        self._over, self._left = threading.Event(), threading.Event()
        self._over_at = 0.0
        self._logger: LoggerCallback | None = None
        self.live.setdefault(self.controller, []).append(self)
        self._thread = threading.Thread(target=self._work, name=f"logger {self.name}", daemon=True)
        self._thread.start()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trainer starts, or starts again."""
        self._hand_on("log_trial_start", trial)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A candidate, or the last word of a trainer."""
        self._hand_on("log_trial_result", iteration, trial, dict(result))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trainer ended."""
        self._hand_on("log_trial_end", trial, False)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trainer failed, and is not started again."""
        self._hand_on("log_trial_end", trial, True)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Let the logger finish, within the time that all of the search have; the first that Tune asks begins it."""
        now = time.monotonic()
        for beside in self.live.pop(self.controller, []):
            beside._end(trials, now)
        while self._thread.is_alive() and (rest := self._ends_at() - time.monotonic()) > 0:
            self._thread.join(min(rest, 1.0))
        self._left.set()
        lost = self.lost + self._told - self._done
        if lost:
            self._say(f"{self.name}: {lost:,} of its messages were lost; the run has all results")

    def _end(self, trials: list[Any], now: float) -> None:
        """Nothing comes any more."""
        self._trials, self._over_at = trials, now
        self._told += 1  # the end itself, for which a full queue has no room
        self._over.set()
        with contextlib.suppress(queue.Full):  # then nobody waits for it
            self._events.put_nowait(None)

    def _ends_at(self) -> float:
        """When the logger is left behind. A failure may become known only while it is waited for."""
        watch = Watch.live.get(self.controller)
        return self._over_at + (FINISH_FAILED_S if watch is not None and watch.reason else FINISH_S)

    def _hand_on(self, method: str, *arguments: Any) -> None:
        """Queue a call."""
        try:
            self._events.put_nowait((method, arguments))
            self._told += 1
        except queue.Full:
            self.lost += 1

    def _work(self) -> None:
        while not (self._left.is_set() or (self._over.is_set() and self._events.empty())):
            event = self._events.get()
            if event is not None:
                self._take(*event)
        if not self._left.is_set():
            self._take("on_experiment_end", (self._trials,))

    def _take(self, method: str, arguments: tuple[Any, ...]) -> None:
        """One call, unless the logger is left alone; whatever comes of it."""
        try:
            if time.monotonic() < self._rests_until:
                self.lost += 1
            else:
                self._call(method, arguments)
        except Exception as error:  # whatever a logger and its server come up with
            self.lost += 1
            self._rests_until = time.monotonic() + REST_S
            self._failed(error)
        self._done += 1

    def _call(self, method: str, arguments: tuple[Any, ...]) -> None:
        if self._logger is None:
            made = self.make()
            made.setup()
            self._logger = made
        getattr(self._logger, method)(*arguments)

    def _failed(self, error: Exception) -> None:
        """Say it, once for each kind of error."""
        line = without_passwords(f"{type(error).__name__}: {first_line(error)}")
        logger.warning("%s: %s", self.name, line)
        if type(error).__name__ != self._trouble:
            self._trouble = type(error).__name__
            self._say(f"{self.name} does not take results, the search goes on: {line[:300]}")

    def _say(self, line: str) -> None:
        watch = Watch.live.get(self.controller)
        if watch is not None:
            watch.view.warn(line)


def without_passwords(text: str) -> str:
    """A text without what stands between `//` and `@` of the addresses in it."""
    return re.sub(r"//[^/\s@]*@", "//", text)
