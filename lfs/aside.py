"""A logger that may be slow or fail, beside Tune: it has a thread of its own, and the search never waits for it.

Tune's loop --each event--> queue --> thread: logger.setup, log_trial_start, log_trial_result, log_trial_end
             never waits      bounded         whatever it raises is told once, and it is tried again later
"""

import logging
import queue
import re
import threading
import time
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune.logger import LoggerCallback

from lfs.watch import Watch
from search_space.errors import first_line

MAX_WAITING = 20_000
"""Events that wait for the logger; further ones are lost to it."""
REST_S = 30.0
"""After a failure the logger is left alone for so long: what comes meanwhile is lost to it."""
PATIENCE_S = 60.0
"""At the end of a search, a logger that gets nothing done for so long is left behind."""
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

    def __init__(self, name: str, make: Callable[[], LoggerCallback], controller: str) -> None:
        self.name, self.make, self.controller = name, make, controller
        self.lost = 0
        self._trouble = ""

    def __reduce__(self) -> Any:
        return type(self), (self.name, self.make, self.controller)

    def setup(self, stop: Any = None, num_samples: Any = None, total_num_samples: Any = None, **info: Any) -> None:
        """Tune begins."""
        self._events: queue.Queue[Event | None] = queue.Queue(MAX_WAITING)
        self._done, self._rests_until = 0, 0.0
        self._logger: LoggerCallback | None = None
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
        """Let the logger finish, for as long as it gets anything done."""
        self._hand_on("on_experiment_end", trials)
        self._hand_on()
        done = -1
        while self._thread.is_alive() and done != self._done:
            done = self._done
            self._thread.join(PATIENCE_S)
        lost = self.lost + self._events.qsize()
        if lost:
            self._say(f"{self.name}: {lost:,} of its messages were lost; the run has all results")

    def _hand_on(self, method: str = "", *arguments: Any) -> None:
        """Queue a call, or the end."""
        try:
            self._events.put_nowait((method, arguments) if method else None)
        except queue.Full:
            self.lost += 1

    def _work(self) -> None:
        while (event := self._events.get()) is not None:
            if time.monotonic() < self._rests_until:
                self.lost += 1
                continue
            try:
                self._call(*event)
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
            watch.warn(line)


def without_passwords(text: str) -> str:
    """A text without what stands between `//` and `@` of the addresses in it."""
    return re.sub(r"//[^/\s@]*@", "//", text)
