"""How many trainers a search is to have, which of them are to go, and what users have said to it."""

from collections.abc import Collection
from dataclasses import replace

from lfs.attendance import Attendance
from lfs.generation import Search
from lfs.run_store import RunStore
from lfs.shares import Claim

ACTIONS = {
    "pause": "its trainers end as they finish their candidates, and their resources are free then",
    "resume": "its trainers come back as there is room",
    "stop": "it stops after this generation",
    "stop-now": "it stops at once; committed generations stay",
    "extend": "it goes on to so many generations",
}
"""What a user may do to a running search."""


class Demand:
    """Work there is, room that the search may take, nodes that are to go, and what users want; all of it may change.

    Args:
        search: whose trainers these are.
        attendance: which of them are at work.
    """

    def __init__(self, search: Search, attendance: Attendance) -> None:
        self._search, self._attendance = search, attendance
        self._allowed = search.config.most_workers
        self._claim: Claim | None = None
        self._draining: frozenset[str] = frozenset()
        self.paused = False

    def allow(self, num_trainers: int, claim: Claim) -> bool:
        """How many trainers this search may have, and what it asked that for. Whether that is news."""
        changed = num_trainers != self._allowed
        self._allowed, self._claim = num_trainers, claim
        return changed

    def drain(self, nodes: Collection[str]) -> set[str]:
        """Nodes that are announced to go, all of them. Those that were not before."""
        new, self._draining = set(nodes) - self._draining, frozenset(nodes)
        return new

    def obey(self, action: str) -> None:
        """What a user's action changes."""
        search = self._search
        if action in ("pause", "resume"):
            self.paused = action == "pause"
            search.stop_requested = search.stop_requested and self.paused  # a resume takes a stop back
        elif action == "stop-now" or (action == "stop" and self.paused):  # paused, nobody will finish the generation
            search.stop_now()
        elif action == "stop":
            search.stop_requested = True

    @property
    def claim(self) -> Claim | None:
        """What this search could use of the cluster; None: its driver has not said yet."""
        return self._claim and replace(self._claim, most=self.most)

    @property
    def most(self) -> int:
        """Trainers that there is work for; those that cannot take part stay away."""
        if self.paused or self._search.over:
            return 0
        return max(0, self._search.config.most_workers - len(self._attendance.gave_up))

    @property
    def to_start(self) -> int:
        """Trainers that there are to be: those that are wanted, and those whose place others may take already."""
        return self._wanted + len(self._going)

    @property
    def state(self) -> str:
        """Of the search, in one word."""
        search, present = self._search, len(self._attendance)
        if search.error:
            return "failed"
        if search.over:
            return "ended"
        if self.paused:
            return "pausing" if present else "paused"
        if not (present or self._wanted):
            return "waiting for room"
        return "stopping" if search.stop_requested else "testing" if search.trained else "running"

    def is_to_leave(self, trainer: str) -> bool:
        """Whether a trainer that asks for work is to go. One that holds a candidate asks again for that."""
        if self._search.holds(trainer) or self._search.over:
            return False
        return trainer in self._going or len(self._attendance) - len(self._going) > self._wanted

    @property
    def _wanted(self) -> int:
        return min(self._allowed, self.most)

    @property
    def _going(self) -> list[str]:
        """Trainers that are still at work on nodes that are to go."""
        return self._attendance.on(self._draining) if self._draining else []


def standing(store: RunStore, generation: int) -> list[str]:
    """What users have done to a search since its last start, in order; an extension takes back a stop before it.

    Args:
        generation: the next one to run, from 0; a stop after an earlier one has had its effect.
    """
    found: list[str] = []
    for event in store.events():
        action = str(event.get("action"))
        if action == "start":
            found = []
        elif action == "extend":
            found = [other for other in found if other not in ("stop", "stop-now")]
        elif action == "stop" and int(event.get("generation", 0)) <= generation:
            found.append("stop-now")
        else:
            found.append(action)
    return found
