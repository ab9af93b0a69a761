"""The controller under the load of many trainers: how long it takes to answer, and to close a generation.

    python -m benchmarks.controller_load --trainers 1000 --population 1000 --generations 4
    python -m benchmarks.controller_load --trainers 1000 --population 1000 --generations 4 --arrival burst

The real controller of a real run directory, on a Ray of its own on this machine; trainers are simulated
(benchmarks/fleet.py) but their calls are real. All processes share this machine's cores, and the trainers' side of each
call costs about as much as the controller's: latencies are those of a machine that is at least twice as busy as a
controller's node would be. Connections are as many as there are fleets, not as there are trainers.

Latency of a lease is counted from the question where a candidate was free then, else from the opening of the generation
that it belongs to: waiting for others is not the controller's time. `burst` is the worst arrival: all trainers
report in the same moment; the last one is answered when all others are, so its percentiles are a throughput.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import os
import platform
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import ray

import lfs.controller
import lfs.controller_start
from benchmarks.fleet import LAG_S, MIB, Fleet, Load
from lfs.config import SearchConfig
from lfs.controller import Controller
from lfs.controller_start import start_controller
from lfs.messages import GenerationRecord, Report
from lfs.run_store import RunStore
from search_space.config import SpaceConfig

NICENESS = "RAY_worker_niceness"
LOOK_S = 1.0
NUM_CALLS = 5000


class TimedController(Controller):
    """The controller, with a clock beside what it does."""

    def __init__(self, run_uri: str) -> None:
        super().__init__(run_uri)
        self.marks: dict[int, dict[str, float]] = defaultdict(dict)
        self.lags_s: list[float] = []
        self.status_s: list[float] = []
        self.collections_s: list[float] = []
        gc.callbacks.append(self._collecting)
        for owner, name in ((self.search, "close"), (self.search, "prepare"), (self.store, "commit"), (ray, "put")):
            setattr(owner, name, self._timed(name, getattr(owner, name)))
        fetch = lfs.controller._fetch

        async def timed_fetch(reference: Any) -> Any:
            with self._clock("fetch"):
                return await fetch(reference)

        lfs.controller._fetch = timed_fetch
        self.search.advance = self._opening(self.search.advance)  # type: ignore[method-assign]
        self.marks[0]["opened"] = time.monotonic()

    def _collecting(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._collection = time.monotonic()
        else:
            self.collections_s.append(time.monotonic() - self._collection)

    @contextlib.contextmanager
    def _clock(self, what: str) -> Iterator[None]:
        generation, began = self.search.state.generation, time.monotonic()
        yield
        self.marks[generation][what] = time.monotonic() - began

    def _timed(self, what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*values: Any) -> Any:
            number = values[0].generation if what == "commit" else self.search.state.generation
            began = time.monotonic()
            result = call(*values)
            self.marks[number][what] = time.monotonic() - began
            return result

        return timed

    def _opening(self, advance: Callable[..., None]) -> Callable[..., None]:
        def opening(record: GenerationRecord, *values: Any) -> None:
            advance(record, *values)
            self.marks[record.generation]["closed"] = time.monotonic()
            self.marks[record.generation + 1] |= {"opened": time.monotonic(), "cpu at opening": time.process_time()}

        return opening

    async def lease(self, trainer: str, incarnation: str, actor: Any, node: str = "") -> Any:
        lease = await super().lease(trainer, incarnation, actor, node)
        if lease.kind == "train":
            self.marks[lease.generation]["cpu at last lease"] = time.process_time()
        return lease

    async def report(self, report: Report, weights: list[Any]) -> None:
        mark = self.marks[report.generation]
        mark.setdefault("cpu at first report", time.process_time())
        await super().report(report, weights)
        mark |= {"last report": time.monotonic(), "cpu at last report": time.process_time()}

    async def _finish_commit(self) -> None:
        with self._clock("wait for commit"):
            await super()._finish_commit()

    async def status(self) -> dict[str, Any]:
        began = time.perf_counter()
        status = await super().status()
        self.status_s.append(time.perf_counter() - began)
        return status

    async def opened_at(self) -> float:
        """When the running generation opened."""
        return self.marks[self.search.state.generation]["opened"]

    async def watch_loop(self) -> None:
        """Note how late the event loop is, until the search is over."""
        while not self.search.over:
            began = time.monotonic()
            await asyncio.sleep(LAG_S)
            self.lags_s.append(time.monotonic() - began - LAG_S)

    async def measured(self) -> dict[str, Any]:
        """Everything that was noted."""
        return {
            "marks": dict(self.marks),
            "lags_s": self.lags_s,
            "status_s": self.status_s,
            "collections_s": self.collections_s,
        }

    async def cpu_s(self) -> float:
        """CPU seconds of this process, all threads."""
        return time.process_time()

    async def flood(self, actor: Any, num: int) -> float:
        """Ask one actor `num` times whether it is alive; CPU seconds of it here."""
        began = time.process_time()
        await asyncio.gather(*(actor.ping.remote() for _ in range(num)))
        return time.process_time() - began


def milliseconds(seconds: list[float]) -> dict[str, float]:
    """Median, 99th percentile and maximum in ms."""
    if not seconds:
        return {"n": 0}
    p50, p99, top = (float(x) * 1e3 for x in np.percentile(seconds, [50, 99, 100]))
    return {"n": len(seconds), "median": round(p50, 3), "p99": round(p99, 3), "max": round(top, 3)}


def run(options: argparse.Namespace, folder: str) -> dict[str, Any]:
    """One search with simulated trainers; everything measured."""
    config = SearchConfig(
        generations=options.generations, warmup_generations=0, population_size=options.population,
        num_workers=options.trainers, space=SpaceConfig(name=options.space), storage=folder, name="load",
    )  # fmt: skip
    load = Load(
        arrival=options.arrival, hold_s=options.hold_s, spread=options.spread,
        weights_mib=options.weights_mib, num_replicates=config.reward.num_bootstrap,
    )  # fmt: skip
    store = RunStore(f"{folder}/load")
    store.create(config)
    lfs.controller_start.Controller = TimedController  # type: ignore[misc]
    controller = start_controller(store.uri, "load")
    share = options.trainers // options.fleets
    make = ray.remote(Fleet).options(num_cpus=0, max_concurrency=100_000)
    fleets = [make.remote(controller, i * share, share, load) for i in range(options.fleets)]
    ray.get([fleet.ping.remote() for fleet in fleets])
    costs = call_costs(controller, fleets[0])
    controller.watch_loop.remote()
    cpu_before, began = ray.get(controller.cpu_s.remote()), time.monotonic()
    outcomes = [fleet.run.remote() for fleet in fleets]
    while ray.wait(outcomes, num_returns=len(outcomes), timeout=LOOK_S)[1]:
        ray.get(controller.status.remote())  # as the driver does
    wall_s = time.monotonic() - began
    seen = ray.get(outcomes)
    if error := ray.get(controller.status.remote())["error"]:
        raise RuntimeError(error)
    busy = {"controller": (ray.get(controller.cpu_s.remote()) - cpu_before) / wall_s}
    busy["trainers"] = sum(fleet["cpu_s"] for fleet in seen) / wall_s
    return evaluate(ray.get(controller.measured.remote()), seen, options) | {"cores_busy": busy, "calls": costs}


def call_costs(controller: Any, fleet: Any) -> dict[str, Any]:
    """CPU seconds of the controller for one message of progress and one question whether a trainer is alive."""
    ray.get(fleet.flood.remote(NUM_CALLS // 5))
    before = ray.get(controller.cpu_s.remote())
    wall_s = ray.get(fleet.flood.remote(NUM_CALLS))
    progress = ray.get(controller.cpu_s.remote()) - before
    alive = ray.get(controller.flood.remote(fleet, NUM_CALLS))
    return {
        "progress_cpu_s": progress / NUM_CALLS, "progress_per_s": NUM_CALLS / wall_s, "alive_cpu_s": alive / NUM_CALLS,
    }  # fmt: skip


def evaluate(measured: dict[str, Any], seen: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """Latencies as the trainers saw them, and the parts of each close."""
    marks = measured["marks"]
    leases = [lease for fleet in seen for lease in fleet["leases"]]
    reports = [report for fleet in seen for report in fleet["reports"]]
    return {
        "lease_ms": milliseconds([got - asked for g, asked, got in leases if asked >= marks[g]["opened"]]),
        "lease_at_opening_ms": milliseconds(
            [got - marks[g]["opened"] for g, a, got in leases if a < marks[g]["opened"]]
        ),
        "report_ms": milliseconds([got - sent for _, sent, got in reports]),
        "loop_lag_ms": milliseconds(measured["lags_s"]),
        "trainers_lag_ms": milliseconds([lag for fleet in seen for lag in fleet["lags_s"]]),
        "garbage_ms": milliseconds(measured["collections_s"]),
        "status_ms": milliseconds(measured["status_s"]),
        "closes": [close_of(g, marks, leases, reports) for g in range(options.generations)],
        "cpu_s": cpu_per_call(marks, options),
    }


def close_of(g: int, marks: dict[int, dict[str, float]], leases: list[Any], reports: list[Any]) -> dict[str, float]:
    """Seconds of one generation's close, in parts."""
    mark = marks[g]
    close = {name: mark.get(name, 0.0) for name in ("close", "fetch", "put", "wait for commit", "prepare", "commit")}
    close["controller"] = mark["closed"] - mark["last report"]
    later = [got for number, _, got in leases if number == g + 1]
    if later:
        close["trainers"] = min(later) - max(sent for number, sent, _ in reports if number == g)
        close["all have work"] = (
            max(got for n, a, got in leases if n == g + 1 and a < marks[n]["opened"]) - mark["closed"]
        )
    return close


def cpu_per_call(marks: dict[int, dict[str, float]], options: argparse.Namespace) -> dict[str, float]:
    """CPU seconds of the controller for one lease and one report; only where all come at once, nothing else happens."""
    if options.arrival != "burst":
        return {}
    last = [marks[g] for g in range(1, options.generations)]
    lease = [(m["cpu at last lease"] - m["cpu at opening"]) / options.population for m in last]
    report = [(m["cpu at last report"] - m["cpu at first report"]) / options.population for m in last]
    return {"lease": float(np.median(lease)), "report": float(np.median(report))}


def show(result: dict[str, Any]) -> None:
    """The figures in a few lines."""
    for name in (
        "lease_ms",
        "lease_at_opening_ms",
        "report_ms",
        "loop_lag_ms",
        "trainers_lag_ms",
        "garbage_ms",
        "status_ms",
    ):
        print(f"{name:22}", "  ".join(f"{k} {v:g}" for k, v in result[name].items()))
    for number, close in enumerate(result["closes"]):
        print(f"close of generation {number + 1}:", ", ".join(f"{k} {v:.3f}" for k, v in close.items()), "s")
    for name in ("cores_busy", "calls", "cpu_s"):
        print(f"{name:22}", "  ".join(f"{k} {v:.4g}" for k, v in result[name].items()))


def main() -> None:
    """Measure, print, and write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainers", type=int, default=1000)
    parser.add_argument("--population", type=int, default=1000)
    parser.add_argument("--generations", type=int, default=4)
    parser.add_argument("--arrival", choices=["spread", "burst"], default="spread")
    parser.add_argument("--hold-s", type=float, default=15.0, help="mean training time of a candidate")
    parser.add_argument("--spread", type=float, default=0.5, help="training times are uniform in hold * (1 -+ spread)")
    parser.add_argument("--weights-mib", type=float, default=1.0)
    parser.add_argument("--fleets", type=int, default=2, help="processes that play trainers")
    parser.add_argument("--space", default="unified")
    parser.add_argument("--out", type=Path, help="folder for the result as JSON")
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    # Ray runs workers at nice 15. On a machine that others use, the latencies would be those of their work.
    os.environ.setdefault(NICENESS, "0")
    with tempfile.TemporaryDirectory() as folder:
        ray.init(
            "local", include_dashboard=False, log_to_driver=False, namespace="lfs",
            object_store_memory=int(2 * options.trainers * options.weights_mib * MIB + 2**28),
        )  # fmt: skip
        try:
            result = run(options, folder)
        finally:
            ray.shutdown()
    show(result)
    settings = {key: value for key, value in vars(options).items() if key != "out"}
    about = {"date": f"{date.today()}", "cores": os.cpu_count(), "load_before": load_before, "settings": settings}
    about |= {"load_after": os.getloadavg()[0], "niceness": os.environ[NICENESS]}
    about |= {"python": platform.python_version(), "ray": ray.__version__}
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        name = f"{options.arrival}-{options.trainers}x{options.population}.json"
        (options.out / name).write_text(json.dumps(about | result, indent=1) + "\n")


if __name__ == "__main__":
    main()
