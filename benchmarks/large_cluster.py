"""A search on 100 to 10,000 trainers, simulated with measured costs: how busy trainers are, and what bends first.

    python -m benchmarks.large_cluster [--measured benchmarks/results/controller_load/burst-1000x1000.json]

A discrete-event simulation without Ray. What the controller does is measured (benchmarks/controller_load.py, arrival
`burst`: its CPU seconds per call), and so is Tune's driver (benchmarks/tune_driver.py); the object store's broadcast is
a figure that Ray publishes; the rest are flags with defaults that --help gives. One candidate goes through

    controller: lease -> Tune: result of the one before -> object store: base, once per host -> training
    -> controller: report; after the last one: policy step, fetch of the winner, wait for the commit, sampling

The controller and Tune's driver answer one after the other, in order of arrival. Messages of progress and the driver's
looks slow the controller down by their share of its time. Nobody fails.

A resource `bends` where it alone, all others free, makes a generation over 5 % longer. They overlap: what several cost
together is less than the sum.
"""

import argparse
import heapq
import json
import math
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from lfs.controller import PROGRESS_PER_S
from lfs.messages import Lease

RESULTS = Path(__file__).parent / "results"
MIB = 2**20
BENT = 0.05
SIZES = (100, 150, 200, 300, 500, 700, 1000, 1500, 2000, 3000, 5000, 7000, 10_000)
SHOWN = (100, 1000, 3000, 10_000)


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds that each resource takes; see --help."""

    lease_s: float
    report_s: float
    """With the question whether the trainer is alive, once per candidate."""
    progress_per_trainer: float
    """Share of the controller's time for the progress of one trainer ..."""
    progress_cap: float
    """... and for that of any number of trainers."""
    look_per_candidate: float
    """Share of its time for the driver's looks at one candidate, one a second."""
    close_s: float
    """Policy step and table, per candidate."""
    prepare_s: float
    """Sampling, per candidate."""
    tune_s: float
    """Tune's driver, per result."""
    winner_s: float
    """Fetch of the winner to the controller's node."""
    commit_s: float
    """Per generation."""
    broadcast_s: float
    """To one more host in turn (`linear`), or per doubling of the hosts that have it (`tree`)."""
    tree: bool
    spread: float
    """Coefficient of variation of the candidates' training times."""


RESOURCES = {
    "controller's calls": ("lease_s", "report_s", "progress_per_trainer", "progress_cap", "look_per_candidate"),
    "controller's close": ("close_s", "prepare_s"),
    "Tune's driver": ("tune_s",),
    "object store": ("broadcast_s", "winner_s"),
    "storage": ("commit_s",),
}
UNEQUAL = "unequal training times"


def only(costs: Costs, resource: str) -> Costs:
    """The costs of one resource, all others free; training times stay unequal, as every resource meets them."""
    free = {name: 0.0 for names in RESOURCES.values() for name in names if name not in RESOURCES.get(resource, ())}
    return replace(costs, **free)  # type: ignore[arg-type]


@dataclass
class Server:
    """Serves one request after the other, in the order of the calls."""

    slowdown: float = 1.0
    free_at: float = 0.0

    def serve(self, now: float, service_s: float) -> float:
        """When a request that arrives now is answered."""
        self.free_at = max(now, self.free_at) + service_s * self.slowdown
        return self.free_at


class Broadcast:
    """The base weights on their way to the hosts, each of which asks once."""

    def __init__(self, costs: Costs) -> None:
        self.costs, self.line = costs, Server()
        self.arrival: dict[int, float] = {}
        self.began = 0.0

    def at(self, host: int, now: float) -> float:
        """When a trainer that asks now can read them."""
        if host not in self.arrival:
            rank = len(self.arrival)
            if not rank:
                self.began = now
            rounds = math.ceil(math.log2(rank + 2))
            tree = max(self.began + rounds * self.costs.broadcast_s, now + self.costs.broadcast_s)
            self.arrival[host] = tree if self.costs.tree else self.line.serve(now, self.costs.broadcast_s)
        return max(now, self.arrival[host])


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What is simulated."""

    trainers: int
    per_host: int
    per_trainer: int
    """Candidates of a generation over trainers."""
    length_s: float
    """Mean training time of a candidate."""
    generations: int = 3

    @property
    def candidates(self) -> int:
        """Of a generation."""
        return self.trainers * self.per_trainer


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of it."""

    generation_s: float
    utilisation: float
    report_p99_s: float
    lease_p99_s: float
    """Of leases with work at hand; at an opening, from then on."""
    busy: float
    """Share of the controller's time that is taken."""


def background(costs: Costs, cluster: Cluster) -> float:
    """Share of the controller's time that goes to progress and the driver's looks."""
    progress = min(cluster.trainers * costs.progress_per_trainer, costs.progress_cap)
    return progress + costs.look_per_candidate * cluster.candidates


class Simulation:
    """One cluster at work."""

    def __init__(self, cluster: Cluster, costs: Costs, slowdown: float, seed: int) -> None:
        self.cluster, self.costs = cluster, costs
        self.chance = np.random.Generator(np.random.Philox(seed))
        self.controller, self.tune = Server(slowdown), Server()
        self.leases: list[float] = []
        self.reports: list[float] = []
        self.worked_s = 0.0

    def run(self) -> float:
        """All generations; when the last one is closed."""
        costs, num = self.costs, self.cluster.candidates
        opened = committed = 0.0
        for _ in range(self.cluster.generations):
            stepped = self.controller.serve(self._generation(opened), costs.close_s * num)
            ready = max(stepped + costs.winner_s, committed)
            committed = ready + costs.commit_s
            opened = self.controller.serve(ready, costs.prepare_s * num)
        return opened

    def _generation(self, opened: float) -> float:
        """When the last report of a generation is taken."""
        cluster, costs = self.cluster, self.costs
        times = self._training_times()
        self.worked_s += sum(times)
        base, last, untaken = Broadcast(costs), opened, len(times)
        events = [(opened, trainer, "lease") for trainer in range(cluster.trainers)]
        while events:
            now, trainer, what = heapq.heappop(events)
            if what == "lease" and untaken:
                untaken -= 1
                got = self.controller.serve(now, costs.lease_s)
                self.leases.append(got - now)
                heapq.heappush(events, (got, trainer, "result"))
            elif what == "result":
                heapq.heappush(events, (self.tune.serve(now, costs.tune_s), trainer, "train"))
            elif what == "train":
                heapq.heappush(events, (base.at(trainer // cluster.per_host, now) + times.pop(), trainer, "report"))
            elif what == "report":
                last = self.controller.serve(now, costs.report_s)
                self.reports.append(last - now)
                heapq.heappush(events, (last, trainer, "lease"))
        return last

    def _training_times(self) -> list[float]:
        """Of each candidate: log-normal."""
        sigma = math.sqrt(math.log(1 + self.costs.spread**2))
        normals = self.chance.standard_normal(self.cluster.candidates)
        times: list[float] = (self.cluster.length_s * np.exp(sigma * normals - sigma**2 / 2)).tolist()
        return times


def simulate(cluster: Cluster, costs: Costs, seed: int = 0) -> Outcome:
    """Run some generations; means over them, percentiles over all calls. All infinite where the controller drowns."""
    share = background(costs, cluster)
    if share >= 1:
        return Outcome(generation_s=math.inf, utilisation=0, report_p99_s=math.inf, lease_p99_s=math.inf, busy=share)
    simulation = Simulation(cluster, costs, 1 / (1 - share), seed)
    end_s = simulation.run()
    per_candidate = costs.lease_s + costs.report_s + costs.close_s + costs.prepare_s
    return Outcome(
        generation_s=end_s / cluster.generations,
        utilisation=simulation.worked_s / (end_s * cluster.trainers),
        report_p99_s=float(np.percentile(simulation.reports, 99)),
        lease_p99_s=float(np.percentile(simulation.leases, 99)),
        busy=share + per_candidate * cluster.candidates * cluster.generations / end_s,
    )


def shares(cluster: Cluster, costs: Costs) -> tuple[Outcome, dict[str, float]]:
    """What comes out, and by how much each resource alone makes a generation longer."""
    alone = {name: simulate(cluster, only(costs, name)).generation_s for name in RESOURCES}
    ideal = simulate(cluster, only(costs, UNEQUAL)).generation_s
    longer = {name: length_s / ideal - 1 for name, length_s in alone.items()}
    return simulate(cluster, costs), {UNEQUAL: ideal / cluster.length_s / cluster.per_trainer - 1, **longer}


def read_costs(measured: dict[str, Any], tune: dict[str, Any], options: argparse.Namespace) -> Costs:
    """Costs from a measured load of the controller, and from the flags."""
    settings, calls, cpu = measured["settings"], measured["calls"], measured["cpu_s"]
    closes = measured["closes"][:-1]  # nothing is sampled after the last
    per_candidate = {
        name: float(np.median([c[name] for c in closes])) / settings["population"] for name in ("close", "prepare")
    }
    rows_s = float(np.median([c["commit"] for c in closes])) / settings["population"]
    link, winner = options.link_mb_per_s * 1e6, options.winner_mib * MIB
    per_host = winner / (options.broadcast_gb_per_s * 1e9)
    return Costs(
        lease_s=cpu["lease"],
        report_s=cpu["report"] + calls["alive_cpu_s"],
        progress_per_trainer=calls["progress_cpu_s"] / Lease(kind="wait").progress_s,
        progress_cap=calls["progress_cpu_s"] * PROGRESS_PER_S,
        look_per_candidate=measured["status_ms"]["median"] / 1e3 / settings["population"],
        close_s=per_candidate["close"],
        prepare_s=per_candidate["prepare"],
        tune_s=1 / options.tune_results_per_s if options.tune_results_per_s else tune["runs"][-1]["cpu_s"],
        winner_s=2 * winner / link,
        commit_s=winner / (options.storage_mb_per_s * 1e6) + rows_s * options.candidates_per_trainer,
        broadcast_s=winner / link if options.broadcast == "tree" else per_host,
        tree=options.broadcast == "tree",
        spread=options.spread,
    )


def report(costs: Costs, options: argparse.Namespace) -> str:
    """Tables as Markdown: what each size gives, and where each resource bends."""
    lines = ["| training | trainers | utilisation | report p99 | lease p99 | controller busy | each alone adds |"]
    lines += ["|" + "---|" * 7]
    bends: dict[str, dict[str, str]] = {}
    for minutes in options.minutes:
        for trainers in SIZES:
            cluster = Cluster(
                trainers=trainers, per_host=options.per_host, length_s=60 * minutes,
                per_trainer=options.candidates_per_trainer,
            )  # fmt: skip
            outcome, longer = shares(cluster, costs)
            for name, share in longer.items():
                if share > BENT:
                    bends.setdefault(name, {}).setdefault(f"{minutes:g}", f"{trainers:,}")
            if trainers in SHOWN:
                lines.append(row(minutes, trainers, outcome, longer))
    lines += ["", "| bends (adds over 5 %) from | " + " | ".join(f"{m:g} min" for m in options.minutes) + " |"]
    lines += ["|" + "---|" * (1 + len(options.minutes))]
    for name in (UNEQUAL, *RESOURCES):
        found = bends.get(name, {})
        lines.append(f"| {name} | " + " | ".join(found.get(f"{m:g}", "> 10,000") for m in options.minutes) + " |")
    return "\n".join(lines)


def row(minutes: float, trainers: int, outcome: Outcome, longer: dict[str, float]) -> str:
    """One size of the table."""
    most = sorted(longer.items(), key=lambda item: -item[1])
    parts = ", ".join(f"{name} {100 * share:.1f} %" for name, share in most if share >= 0.005)
    cells = [
        f"{minutes:g} min", f"{trainers:,}", f"{100 * outcome.utilisation:.1f} %",
        f"{1e3 * outcome.report_p99_s:.1f} ms", f"{1e3 * outcome.lease_p99_s:,.0f} ms", f"{100 * outcome.busy:.1f} %",
        parts or "-",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Simulate, print, and write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flag = parser.add_argument
    flag("--measured", type=Path, default=RESULTS / "controller_load/burst-1000x1000.json")
    flag("--minutes", type=float, nargs="+", default=[1, 10, 60], help="mean training time of a candidate")
    flag("--candidates-per-trainer", type=int, default=1, help="of one generation")
    flag("--per-host", type=int, default=8, help="trainers on a host, which share its object store")
    flag("--spread", type=float, default=0.02, help="coefficient of variation of training times")
    flag("--winner-mib", type=float, default=50, help="default: MobileFaceNet, 10,000 identities, with momentum")
    flag("--broadcast", choices=["linear", "tree"], default="linear", help="how time grows with the number of hosts")
    flag(
        "--broadcast-gb-per-s", type=float, default=2**30 * 50 / 16.94 / 1e9, help="Ray's 1 GiB to 50 nodes in 16.94 s"
    )
    flag("--link-mb-per-s", type=float, default=359, help="one host to another; default: the same figure, as a tree")
    flag("--storage-mb-per-s", type=float, default=100)
    flag("--tune", type=Path, default=RESULTS / "controller_load/tune.json", help="of benchmarks.tune_driver")
    flag("--tune-results-per-s", type=float, help="instead; Ray's documentation: 500 without logging, 50 to 100 with")
    flag("--out", type=Path, help="folder for the result")
    options = parser.parse_args()
    measured = json.loads(options.measured.read_text())
    costs = read_costs(measured, json.loads(options.tune.read_text()), options)
    about = [f"{date.today()}. Costs in seconds, controller measured {measured['date']}:", ""]
    about += [f"* {name}: {value:.3g}" for name, value in asdict(costs).items()]
    text = "\n".join([*about, "", report(costs, options)])
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"{options.broadcast}-{options.candidates_per_trainer}.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
