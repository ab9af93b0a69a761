"""The driver's thread that looks at the controller once a second: what it shows, whether it is over, what it wants."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

from lfs.board import filled_in
from lfs.room import draining_nodes
from lfs.view import SETTLE_S, View

logger = logging.getLogger(__name__)
POLL_S = 1.0
SHARE_S = 5.0
LINGER_S = 3.0
STUCK_S, SLOW_S = 60.0, 900.0
"""Ray Tune may take so long to end after a search that failed, and after one that came to its end: it writes its files
on the same storage, and waits for it without a limit."""


class Watch:
    """Shows the controller's status and notices the end.

    Args:
        name: of the controller; while in the block, `Watch.live` holds this under it, for parts of the driver that
            Tune pickles and that can hold no more than the name.
        first: the status to begin with.
        share: tells the controller how many trainers it may have; asked every few seconds.
        timeout_s: wait so long for a first trainer; then this is the end.
        leave: ends this process, in which Tune is stuck, with a reason.
    """

    live: ClassVar[dict[str, "Watch"]] = {}

    def __init__(
        self,
        name: str,
        controller: Any,
        view: View,
        first: dict[str, Any],
        *,
        share: Callable[[], None],
        timeout_s: float,
        leave: Callable[[str], None],
    ) -> None:
        self.name, self.controller, self.view, self.status, self.share = name, controller, view, first, share
        self.over = threading.Event()
        self.looks = 0
        self._came = False
        self.trouble = ""
        self.stop_asked = threading.Event()
        self._drained: set[str] = set()
        self._quit = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._shared_at = self._began = time.monotonic()
        self._timeout_s, self._leave = timeout_s, leave
        self._ended: float | None = None

    def __enter__(self) -> "Watch":
        self.live[self.name] = self
        self.view.start(self.status)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.status["followed"]:  # this process may end the cluster, and with it whoever is connected to it
                time.sleep(LINGER_S)
            self._quit.set()
            self._thread.join()
        finally:
            self.view.stop()
            del self.live[self.name]

    @property
    def wanted(self) -> int:
        """Trainers that the controller wants now."""
        return int(self.status["wanted"])

    def end(self, trouble: str) -> None:
        """End the search as it stands."""
        self.trouble = trouble
        self.over.set()

    def _run(self) -> None:
        while not self._quit.is_set():
            self._look()
            self._leave_if_stuck()
            self._quit.wait(POLL_S)
        self._look()

    def _look(self) -> None:
        """One look. An unreachable controller is being restarted, see the next look; a dead one is the end."""
        import ray

        try:
            if self.stop_asked.is_set():
                self._ask_to_stop()
            self._see_to_cluster()
            asked = self.controller.status.remote(since=len(self.status["summaries"]))
            self.status = filled_in(ray.get(asked, timeout=30), self.status)
            if self.status["finished"]:
                self.over.set()
            self._end_if_nobody_comes()
            self.view.update(self.status)
        except ray.exceptions.ActorDiedError as error:
            self.trouble = f"the controller is gone: {str(error).strip().splitlines()[-1]}"
            self.over.set()
        except ray.exceptions.RayError:
            logger.warning("the controller does not answer")
        self.looks += 1

    @property
    def reason(self) -> str:
        """Why the search failed; empty: it did not, so far."""
        return self.status["error"] or self.trouble

    def _leave_if_stuck(self) -> None:
        """Do not wait for ever for whoever runs the trials, where all is over."""
        if not self.over.is_set():
            return
        self._ended = time.monotonic() if self._ended is None else self._ended
        if time.monotonic() - self._ended > (STUCK_S if self.reason else SLOW_S):
            self.view.settle(SETTLE_S)
            self._leave(self.reason or "the search is complete, but Ray Tune does not get its own files written")

    def _see_to_cluster(self) -> None:
        """What the cluster's nodes mean for this search; what cannot be asked now is asked the next time."""
        try:
            self._drain()
            if time.monotonic() - self._shared_at >= SHARE_S:
                self._shared_at = time.monotonic()
                self.share()
        except Exception:  # Ray's own view of its nodes and autoscaler fails in many ways
            logger.warning("the cluster cannot be seen to now", exc_info=True)

    def _drain(self) -> None:
        """Tell the controller of nodes that are to go, again and again: a restarted one has forgotten it."""
        nodes = draining_nodes()
        if nodes or self._drained:
            self.controller.drain.remote(sorted(nodes))
        self._drained = nodes

    def _ask_to_stop(self) -> None:
        import ray

        # Asked again at every look: a restarted controller has forgotten it.
        ray.get(self.controller.stop.remote(), timeout=30)

    def _end_if_nobody_comes(self) -> None:
        self._came |= self.status["came"]
        if self._came or not self.status["wanted"]:
            self._began = time.monotonic()
        elif time.monotonic() - self._began > self._timeout_s:
            self.trouble = f"no trainer found room for {self._timeout_s:g} s; see `ray status` and --start-timeout-s"
            self.over.set()
