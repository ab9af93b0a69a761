"""The fault machine: a small search on a real cluster, faults by a seeded plan, and what came of it.

    Machine.prepare()     the undisturbed search: what every other one must equal, and how long things take
    Machine.run(seed)     one disturbed search; its plan -> strikes -> end -> laws

A cluster is used by one run after the other until a run kills all of it or breaks a law.
"""

import contextlib
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lfs.run_store import RunStore
from tests.fault.cluster import Cluster, kill, label_of
from tests.fault.laws import Strike, broken_laws, recoveries, waits
from tests.fault.observer import Look, Lookout
from tests.fault.plan import Fault, plan
from tests.lfs.conftest import Command

NODES = (2, 1)
"""CPUs of the nodes with trainers."""
DEADLINE_S = 400.0
TICK_S = 0.005
GENERATIONS = 4


@dataclass(kw_only=True)
class Outcome:
    """What came of one run."""

    seed: int
    faults: list[Fault]
    strikes: list[Strike] = field(default_factory=list)
    starts: int = 0
    finished: bool = False
    broken: list[str] = field(default_factory=list)
    """Laws that do not hold."""
    waits: list[Any] = field(default_factory=list)
    recovered_s: list[float | None] = field(default_factory=list)
    took_s: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


class Machine:
    """Runs searches, a context manager.

    Args:
        folder: for runs, logs and clusters; runs that keep every law are removed.
        recipe: of the search, `GENERATIONS` generations of a candidate or more each.
    """

    def __init__(self, folder: Path, recipe: dict[str, Any]) -> None:
        self.folder = folder
        self.recipe = folder / "recipe.yaml"
        folder.mkdir(parents=True, exist_ok=True)
        self.recipe.write_text(yaml.safe_dump(recipe | {"generations": GENERATIONS}))
        self.undisturbed = folder / "undisturbed" / "run"
        self.cluster: Cluster | None = None
        self.duration_s = self.candidate_s = 0.0

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, *_: object) -> None:
        self.drop_cluster()

    def drop_cluster(self) -> None:
        """End the cluster; the next run has a new one."""
        cluster, self.cluster = self.cluster, None
        if cluster:
            cluster.end()

    def ready_cluster(self) -> Cluster:
        """The cluster with all its nodes."""
        if self.cluster is None:
            place = next(p for n in range(10**6) if not (p := self.folder / f"cluster-{n}").exists())
            self.cluster = Cluster(place, NODES).__enter__()
        self.cluster.wait_for_nodes()
        return self.cluster

    def prepare(self) -> None:
        """Run the search undisturbed, unless it is there; note its times."""
        times = self.undisturbed.parent / "times.yaml"
        if not times.exists():
            shutil.rmtree(self.undisturbed.parent, ignore_errors=True)
            self.ready_cluster()
            search = Disturbed(self, Outcome(seed=-1, faults=[]), self.undisturbed.parent)
            search.run_to_end()
            if search.outcome.broken:
                raise RuntimeError(f"the undisturbed search failed: {search.outcome.broken}")
            times.write_text(yaml.safe_dump({"duration_s": search.outcome.took_s}))
        self.duration_s = yaml.safe_load(times.read_text())["duration_s"]
        store = RunStore(str(self.undisturbed))
        tables = [store.load_candidates(generation) for generation in store.committed()]
        self.candidate_s = max(float((t["train_s"] + t["validate_s"]).max()) for t in tables)

    def run(self, seed: int) -> Outcome:
        """One run with the faults of a seed."""
        folder = self.folder / f"run-{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        outcome = Outcome(seed=seed, faults=plan(seed, self.duration_s, self.candidate_s, GENERATIONS))
        cluster = self.ready_cluster()
        try:
            search = Disturbed(self, outcome, folder)
            search.run_to_end()
            cluster = self.cluster or cluster
            if outcome.finished:
                outcome.broken += broken_laws(folder / "run", self.undisturbed, GENERATIONS, outcome.starts)
            outcome.broken += [f"left in the cluster: {what}" for what in cluster.settle()]
        except Exception as error:
            outcome.broken.append(f"{type(error).__name__}: {error}")
        if outcome.broken:
            with contextlib.suppress(RuntimeError):
                self.drop_cluster()
        else:
            shutil.rmtree(folder)
        return outcome


class Disturbed:
    """One search, its drivers one after the other, and the faults that hit it."""

    def __init__(self, machine: Machine, outcome: Outcome, folder: Path) -> None:
        self.machine, self.outcome, self.folder = machine, outcome, folder
        self.run = folder / "run"
        self.drivers: list[Command] = []
        self.looks: list[Look] = []
        self.lookout = Lookout(self.cluster.observed, only_new=True)
        self.began = time.monotonic()

    @property
    def cluster(self) -> Cluster:
        """Where it runs."""
        assert self.machine.cluster is not None
        return self.machine.cluster

    def start(self) -> None:
        """Start a driver: of a new run, or of the run that is there."""
        place = self.folder / f"driver-{len(self.drivers)}"
        place.mkdir(parents=True)
        workers = ("--num-workers", str(sum(NODES)))
        new = ("--config", str(self.machine.recipe), "--storage", str(self.folder), "--name", "run")
        which = ("--resume", str(self.run)) if (self.run / "config.yaml").exists() else new
        self.drivers.append(Command(place, "lfs.search", *which, *workers, "--address", self.cluster.address))
        self.outcome.starts += 1

    def run_to_end(self) -> None:
        """Start it, let the faults hit, wait for the end; what came of it goes into the outcome."""
        try:
            self.began = time.monotonic()
            self.start()
            for fault in self.outcome.faults:
                if not self._until(fault):
                    break  # it ended before
                self._strike(fault)
            while self._alive():
                pass
            self._judge()
        finally:
            self.outcome.took_s = time.monotonic() - self.began
            for driver in self.drivers:
                driver.clean()

    def _judge(self) -> None:
        outcome, last = self.outcome, self.drivers[-1]
        outcome.finished = last.process.returncode == 0
        self._look()
        outcome.waits = waits(outcome.strikes, self.looks, self.machine.candidate_s)
        outcome.recovered_s = recoveries(outcome.strikes, self.looks)
        outcome.broken += [f"waited too long: {wait}" for wait in outcome.waits if wait.waited_s > wait.allowed_s]
        if not outcome.finished:
            outcome.broken.append(f"exit code {last.process.returncode}: {last.err.read_text().strip()[-400:]}")
        for number, driver in enumerate(self.drivers):
            if "Traceback" in driver.err.read_text():
                outcome.broken.append(f"driver {number} showed a traceback")
            if driver.family():
                outcome.broken.append(f"driver {number} left processes")

    def _alive(self) -> bool:
        """Pass a moment; whether the driver still runs."""
        time.sleep(TICK_S)
        self.cluster.tick()
        if time.monotonic() - self.began > DEADLINE_S:
            raise TimeoutError(f"the search has not ended after {DEADLINE_S:g} s")
        return self.drivers[-1].process.poll() is None

    # ---- what is seen

    def _look(self) -> Look | None:
        """The latest look at this search."""
        if self.lookout.file != self.cluster.observed:
            self.lookout = Lookout(self.cluster.observed, only_new=False)
        self.looks += self.lookout.news()
        return self.looks[-1] if self.looks else None

    def _until(self, fault: Fault) -> bool:
        """Wait for a fault's moment; False: the search ended before."""
        while not self._has_come(fault):
            if not self._alive():
                return False
        at = time.monotonic() + (0 if fault.moment == "time" else fault.delay_s)
        while time.monotonic() < at:
            if not self._alive():
                return False
        return True

    def _has_come(self, fault: Fault) -> bool:
        if fault.moment == "time":
            return time.monotonic() - self.began >= fault.delay_s
        if fault.moment == "commit":
            folder = self.run / "generations"
            begun = [p for p in folder.glob("[0-9]*") if int(p.name) >= fault.generation] if folder.exists() else []
            return any(not (path / "COMMIT").exists() for path in begun)
        look = self._look()
        if look is None or (self.outcome.strikes and look.at < self.outcome.strikes[-1].at):
            return False
        left = len(look.candidates) - len(look.done)
        if fault.moment == "test":
            return look.generation >= GENERATIONS - (left == 0)
        return look.generation >= fault.generation and bool(look.candidates) and left <= 1

    # ---- what is done

    def _strike(self, fault: Fault) -> None:
        """Let a fault hit as soon as there is a victim."""
        while not self._hit(fault):
            if not self._alive():
                return

    def _hit(self, fault: Fault) -> bool:
        """Kill; False: there is no such process now."""
        cluster, driver = self.cluster, self.drivers[-1]
        labels: tuple[str, ...] = ()
        at = time.monotonic()
        if fault.victim in ("trainer", "controller"):
            candidates = cluster.trainers() if fault.victim == "trainer" else cluster.controllers()
            chosen = candidates[int(fault.which * len(candidates)) :][:1]
            labels = tuple(filter(None, map(label_of, chosen)))
            pids = kill(chosen)
        elif fault.victim == "node":
            number = int(fault.which * len(NODES))
            on_it = [pid for pid in cluster.trainers() if pid in cluster.nodes[number].family()]
            labels = tuple(filter(None, map(label_of, on_it)))
            pids = cluster.kill_node(number, fault.back_s) if number not in cluster.due else []
        else:
            pids = cluster.kill_everything() if fault.victim == "cluster" else []
            pids += kill([driver.process.pid])
        if pids:
            self.outcome.strikes.append(self._noted(fault, at, labels, pids))
            self._go_on(fault)
        return bool(pids)

    def _noted(self, fault: Fault, at: float, labels: tuple[str, ...], pids: list[int]) -> Strike:
        self._look()
        before = [look for look in self.looks if look.at <= at]
        look = before[-1] if before else None
        if look is None:
            state = "start"
        elif look.testing or not look.candidates:
            state = "testing"
        else:
            state = "closing" if len(look.done) == len(look.candidates) else "training"
        return Strike(
            victim=fault.victim, moment=fault.moment, at=at, since_start_s=at - self.began, state=state,
            generation=look.generation if look else None, trainers=labels, pids=tuple(pids),
        )  # fmt: skip

    def _go_on(self, fault: Fault) -> None:
        """What an operator would do after a fault: resume the search, in a new cluster where there is none."""
        if fault.victim == "cluster":
            self._look()
            self.machine.drop_cluster()
            self.drivers[-1].clean()
            self.machine.ready_cluster()
        if fault.victim in ("cluster", "driver"):
            self.drivers[-1].process.wait()
            self.start()
