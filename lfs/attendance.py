"""Which trainers are at work, as the controller knows them: who came, who died, who cannot take part."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

from ray.exceptions import RayError

WATCH_S = 1.0
"""Pause between two questions whether a trainer is alive. A trainer answers between two candidates only, so that it is
asked once per candidate, not once per pause."""
MAX_BROKEN = 3
logger = logging.getLogger(__name__)


class Attendance:
    """Trainers by name; a name outlives the process behind it, its incarnation.

    Args:
        left: told of the name of a trainer that died at work, or that came as a new process.
    """

    def __init__(self, left: Callable[[str], None]) -> None:
        self._left = left
        self._watchers: dict[str, tuple[str, asyncio.Task[None]]] = {}
        self._nodes: dict[str, str] = {}
        self._broken: Counter[str] = Counter()
        self._heard_of: set[str] = set()
        self.gave_up: set[str] = set()
        """Trainers that cannot take part."""
        self.notes: list[str] = []
        """Why, for the user."""

    def __len__(self) -> int:
        """Trainers at work."""
        return len(self._watchers)

    def has(self, trainer: str, incarnation: str) -> bool:
        """Whether a trainer is at work, as this very process."""
        return trainer in self._watchers and self._watchers[trainer][0] == incarnation

    def on(self, nodes: Collection[str]) -> list[str]:
        """Trainers at work on some nodes."""
        return [trainer for trainer in self._watchers if self._nodes[trainer] in nodes]

    def join(self, trainer: str, incarnation: str, actor: Any, node: str = "") -> None:
        """A trainer asks for work; a new process under its name is watched in the place of the old one."""
        if self.has(trainer, incarnation):
            return
        self._heard_of.add(trainer)
        self.gave_up.discard(trainer)
        if trainer in self._watchers:
            self.dismiss(trainer)
            self._left(trainer)
        self._nodes[trainer] = node
        self._watchers[trainer] = (incarnation, asyncio.create_task(self._watch(trainer, actor)))

    def dismiss(self, trainer: str) -> None:
        """Watch a trainer no longer."""
        if trainer in self._watchers:
            self._watchers.pop(trainer)[1].cancel()

    def works(self) -> None:
        """A trainer has reported: whatever kept others from starting, it is not the search."""
        self._broken.clear()

    def cannot_start(self, trainer: str, message: str, *, fatal: bool) -> bool:
        """A trainer says why it cannot start. Whether it is to give up rather than to die and try again."""
        gives_up = self._count(trainer, message, fatal)
        if not gives_up:
            self._heard_of.add(trainer)
        return gives_up

    def died(self, trainer: str, message: str) -> bool:
        """A trainer's process died and is started again. One that has asked for work is watched, and one that could not
        start may have said so; else this is the only sign of it.

        Returns:
            Whether it is time to give the trainer up.
        """
        if trainer in self._heard_of:
            self._heard_of.discard(trainer)
            return False
        return self._count(trainer, message, fatal=False)

    def try_again(self) -> None:
        """Those that gave up may be asked for anew: what they lacked may be there now."""
        self.gave_up.clear()

    def _count(self, trainer: str, message: str, fatal: bool) -> bool:
        self._broken[trainer] += 1
        gives_up = fatal or self._broken[trainer] >= MAX_BROKEN
        note = f"{trainer} cannot take part: {message}"
        if gives_up:
            self.gave_up.add(trainer)
            self.notes += [note] if note not in self.notes else []
        return gives_up

    async def _watch(self, trainer: str, actor: Any) -> None:
        """Notice a trainer's death at once: a call queued behind its work fails when the process does."""
        try:
            while True:
                await actor.alive.remote()
                await asyncio.sleep(WATCH_S)
        except RayError:
            logger.warning("%s is gone; its candidate goes back to the queue", trainer)
        del self._watchers[trainer]  # it is still this one: who takes its place or lets it go cancels this
        self._left(trainer)
