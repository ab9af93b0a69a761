"""When trainers had which candidate, for whoever looks at the run later. Nothing here decides anything.

All times are on one clock, that of the process that owns the search: trainers on other machines have others.
"""

import time
from collections.abc import Callable
from typing import Any

from lfs.messages import GenerationRecord, Lease, Report

LEASED, REPORTED, LOST = "leased_at", "reported_at", "lost"
"""Columns of a candidate, in seconds since 1970, and the entry of a summary about work that came to nothing."""


class Timesheet:
    """Notes the times of the running generation and writes them into its record."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._leased: dict[tuple[str, int], float] = {}
        self._reported: dict[int, tuple[float, float]] = {}
        self._lost: list[dict[str, Any]] = []

    def leased(self, trainer: str, lease: Lease) -> None:
        """A trainer has a candidate; asked again, since when it has it. Another one that it had came to nothing."""
        has = lease.index if lease.kind == "train" else None
        for name, index in [held for held in self._leased if held[0] == trainer and held[1] != has]:
            self._lose(name, index, died=False)
        if lease.kind == "train":
            self._leased.setdefault((trainer, lease.index), self._clock())

    def reported(self, report: Report) -> None:
        """A candidate has its outcome."""
        now = self._clock()
        began = self._leased.pop((report.trainer, report.index), now - report.train_s - report.validate_s)
        self._reported[report.index] = began, now

    def left(self, trainer: str) -> None:
        """A trainer is gone, and with it what it was at."""
        for name, index in [held for held in self._leased if held[0] == trainer]:
            self._lose(name, index, died=True)

    def write(self, record: GenerationRecord) -> None:
        """Add the times to a closed generation, and begin with the next one."""
        for name, index in list(self._leased):  # of a trainer that still works on what is no longer wanted
            self._lose(name, index, died=False)
        for row in record.rows:
            row[LEASED], row[REPORTED] = self._reported.get(row["candidate"], (None, None))
        if self._lost:
            record.summary[LOST] = self._lost
        self._reported, self._lost = {}, []

    def _lose(self, trainer: str, index: int, *, died: bool) -> None:
        began, now = self._leased.pop((trainer, index)), self._clock()
        lost = {"trainer": trainer, "candidate": index, "died": died, LEASED: began, "lost_at": now}
        self._lost.append(lost)
