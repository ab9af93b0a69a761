"""Simulated trainers for benchmarks/controller_load.py: real calls to the real controller, but nothing is trained.

One `Fleet` is one process that plays many trainers as asyncio tasks: each leases, holds the candidate for its training
time, sends progress, puts weights into the object store, reports, and asks again.
"""

import asyncio
import os
import random
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from lfs.controller import leave_garbage
from lfs.messages import Lease, Report
from lfs.trainable import phase

MIB = 2**20
LAG_S = 0.005
PUT_S = 2.0
"""Before a candidate's end, within which its weights are put: a real trainer's process puts one, not hundreds."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What simulated trainers do."""

    arrival: str
    """`spread`: training times differ; `burst`: all trainers report in the same moment, and then ask."""
    hold_s: float
    """Mean training time of a candidate."""
    spread: float
    """Training times are uniform in `hold_s * (1 -+ spread)`; for `spread` only."""
    weights_mib: float
    num_replicates: int


class Fleet:
    """`num` simulated trainers in one process; an actor.

    Args:
        controller: its handle.
        first: number of the first trainer.
    """

    def __init__(self, controller: Any, first: int, num: int, load: Load) -> None:
        self.controller, self.first, self.num, self.load = controller, first, num, load
        self.me = ray.get_runtime_context().current_actor
        self.weights = {"weights": np.zeros(int(load.weights_mib * MIB), np.uint8)}
        self.due: dict[int, asyncio.Task[float]] = {}
        self.leases: list[tuple[int, float, float]] = []
        """Generation, when asked, when answered, of those that brought work."""
        self.reports: list[tuple[int, float, float]] = []
        self.lags_s: list[float] = []
        leave_garbage()

    async def alive(self) -> int:
        """As a trainer's: queued behind the step that it is in. Ends at some point of a training time."""
        await asyncio.sleep(self.load.hold_s * random.random())
        return os.getpid()

    async def ping(self) -> int:
        """The cost of `alive` without the wait."""
        return os.getpid()

    async def run(self) -> dict[str, Any]:
        """Play all trainers until the search is over; what they saw, and this process's CPU seconds."""
        before = time.process_time()
        lag = asyncio.create_task(self._watch_loop())
        await asyncio.gather(*(self._trainer(self.first + i) for i in range(self.num)))
        lag.cancel()
        took_s = time.process_time() - before
        return {"leases": self.leases, "reports": self.reports, "lags_s": self.lags_s, "cpu_s": took_s}

    async def _watch_loop(self) -> None:
        """Note how late this process is: that much of a latency is not the controller's."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(LAG_S)
            self.lags_s.append(time.monotonic() - began - LAG_S)

    async def flood(self, num: int) -> float:
        """Send `num` messages of progress at once; seconds until all are answered."""
        began = time.perf_counter()
        await asyncio.gather(*(self.controller.progress.remote("nobody", 0, 0, 1, 2, 3.0) for _ in range(num)))
        return time.perf_counter() - began

    async def _trainer(self, number: int) -> None:
        chance, name = random.Random(number), name_of(number)
        if self.load.arrival == "spread":
            await asyncio.sleep(self.load.hold_s * chance.random())
        while True:
            asked = time.monotonic()
            lease: Lease = await self.controller.lease.remote(name, str(number), self.me)
            if lease.kind == "stop":
                return
            if lease.kind != "train":
                continue
            self.leases.append((lease.generation, asked, time.monotonic()))
            until = await self._until(lease, chance)
            await self._hold(number, until - PUT_S * chance.random(), lease)
            weights = ray.put(self.weights)
            await asyncio.sleep(until - time.monotonic())
            report = made_report(lease, name, chance, self.load.num_replicates)
            sent = time.monotonic()
            await self.controller.report.remote(report, [weights])
            self.reports.append((lease.generation, sent, time.monotonic()))
            del weights

    async def _until(self, lease: Lease, chance: random.Random) -> float:
        """When the candidate's training ends."""
        load = self.load
        if load.arrival == "spread":
            return time.monotonic() + load.hold_s * (1 + load.spread * (2 * chance.random() - 1))
        if lease.generation not in self.due:
            self.due[lease.generation] = asyncio.ensure_future(self.controller.opened_at.remote())
        return await self.due[lease.generation] + load.hold_s

    async def _hold(self, number: int, until: float, lease: Lease) -> None:
        """Until the candidate is trained, with messages of progress as a trainer sends them."""
        due = time.monotonic() + lease.progress_s * (1 - phase(number))
        while (now := time.monotonic()) < until:
            await asyncio.sleep(min(due, until) - now)
            if due < until:
                self.controller.progress.remote(name_of(number), lease.generation, lease.index, 1, 2, 100.0)
                due += lease.progress_s


def name_of(number: int) -> str:
    """A trainer's name."""
    return f"trainer-{number:05d}"


def made_report(lease: Lease, trainer: str, chance: random.Random, num_replicates: int) -> Report:
    """An outcome of the usual size."""
    reward = chance.random()
    metrics = dict.fromkeys(("accuracy", "auc", "tar_at_far_1e-3", "eer", "train_loss"), reward)
    return Report(
        generation=lease.generation, index=lease.index, reward=reward, reward_se=0.01,
        replicates=np.full(num_replicates, reward) + np.arange(num_replicates) * 1e-3, diverged=False, reason="",
        metrics=metrics, num_images=10_000, train_s=30.0, validate_s=1.0, trainer=trainer,
    )  # fmt: skip
