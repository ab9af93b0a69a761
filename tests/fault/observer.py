"""A process that looks at the searches of a cluster many times a second and writes down what changed.

    python -m tests.fault.observer ADDRESS FILE

One JSON line per change: the time (seconds of the monotonic clock, which all processes of a machine share), generation,
state of each candidate, and who has it.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOOK_S = 0.05
ANSWER_S = 1.0
ALL = 10**9
"""Generations that a look need not tell of."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """A search as it was found."""

    at: float
    generation: int
    candidates: tuple[tuple[str, str | None], ...]
    """State and trainer of each."""
    trainers: int
    testing: bool

    @property
    def done(self) -> frozenset[int]:
        """Candidates with an outcome."""
        return frozenset(i for i, (state, _) in enumerate(self.candidates) if state in ("done", "diverged"))

    @property
    def progress(self) -> tuple[int, int]:
        """How far the search is."""
        return self.generation, len(self.done)

    def held_by(self, trainers: frozenset[str]) -> frozenset[int]:
        """Candidates that these trainers are at work on."""
        return frozenset(i for i, (state, who) in enumerate(self.candidates) if state == "running" and who in trainers)


class Lookout:
    """Reads what an observer writes down.

    Args:
        only_new: leave out what is there already, which is of earlier searches.
    """

    def __init__(self, file: Path, *, only_new: bool) -> None:
        self.file = file
        self._offset = file.stat().st_size if only_new and file.exists() else 0

    def news(self) -> list[Look]:
        """What was written down since the last time, without a last line that is not complete."""
        if not self.file.exists():
            return []
        with self.file.open("rb") as lines:
            lines.seek(self._offset)
            text = lines.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [look_of(json.loads(line)) for line in whole.splitlines()]


def look_of(values: dict[str, Any]) -> Look:
    """A look from its line."""
    return Look(**values | {"candidates": tuple((state, who) for state, who in values["candidates"])})


def facts(status: dict[str, Any]) -> dict[str, Any]:
    """What of a status is written down."""
    return {
        "generation": status["generation"], "trainers": status["trainers"], "testing": status["testing"],
        "candidates": [(c["state"], c["trainer"]) for c in status["candidates"]],
    }  # fmt: skip


def observe(file: Path) -> None:
    """Look for ever."""
    import ray

    from lfs.presence import controllers

    known: dict[str, Any] | None = None
    with file.open("a") as lines:
        while True:
            for actor in controllers().values():
                try:
                    found = facts(ray.get(actor.status.remote(since=ALL), timeout=ANSWER_S))
                except ray.exceptions.RayError:
                    continue  # it is being restarted, or ended
                if found != known:
                    known = found
                    lines.write(json.dumps({"at": time.monotonic()} | found) + "\n")
                    lines.flush()
            time.sleep(LOOK_S)


if __name__ == "__main__":
    from lfs.connect import joined

    with joined(sys.argv[1]):
        print("observing", flush=True)
        observe(Path(sys.argv[2]))
