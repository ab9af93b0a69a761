"""Run on the head of tests/hosts.py: the better of two candidates is trained on a host that is then cut off.

    python -m tests.lfs.lost_winner ADDRESS RUN IP    (address of the cluster, new run directory, address of that host)

Says `reported`, waits for a line, brings the other candidate's outcome, and so closes the generation; then says after
how many seconds the lost candidate was handed out again, and what the generation's winner is.
"""

import sys
import time
from typing import Any

import numpy as np
import ray

from lfs.connect import log_errors_of_nodes, prepare_to_join
from lfs.controller_start import start_controller
from lfs.messages import Lease
from lfs.run_store import RunStore
from search_space.spaces import get_space
from tests.lfs.fakes import config, made_report

SIZE = 300_000
"""Numbers in a model: enough for Ray to leave them where they are until they are asked for."""


class Trainer:
    """A trainer in a process of its own, without pictures."""

    def __init__(self, controller: Any, name: str) -> None:
        self.controller, self.name = controller, name
        self.space = get_space(config().space)

    def lease(self) -> Lease:
        """The next candidate."""
        me, lease = ray.get_runtime_context().current_actor, Lease(kind="wait")
        while lease.kind == "wait":
            lease = ray.get(self.controller.lease.remote(self.name, self.name, me))
        return lease

    def report(self, lease: Lease) -> float:
        """Bring a candidate's outcome; its reward."""
        report = made_report(self.space, lease, self.name)
        weights = {"w": np.full(SIZE, lease.index, dtype=np.float32)}
        ray.get(self.controller.report.remote(report, [ray.put(weights)]))
        return report.reward

    def alive(self) -> int:
        """See `lfs.trainable.Trainer`."""
        return 0


def main(address: str, run: str, ip: str) -> None:
    """The story."""
    prepare_to_join(address)
    ray.init(address=address, log_to_driver=False, logging_level="ERROR", namespace="lfs")
    log_errors_of_nodes()
    RunStore(run).create(config(warmup_generations=0, population_size=2, generations=1))
    controller = start_controller(run, "lost-winner")
    node_of = {node["NodeManagerAddress"]: node["NodeID"] for node in ray.nodes() if node["Alive"]}

    def trainer(name: str, where: str) -> Any:
        there = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_of[where], soft=False)
        return ray.remote(Trainer).options(num_cpus=0, scheduling_strategy=there).remote(controller, name)

    near, far = trainer("near", address.split(":")[0]), trainer("far", ip)
    worse, better = ray.get(near.lease.remote()), ray.get(far.lease.remote())
    rewards = [ray.get(far.report.remote(better))]
    print("reported", flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    rewards.append(ray.get(near.report.remote(worse)))
    assert rewards[0] > rewards[1], "by the seed of the made rewards"
    again = ray.get(near.lease.remote())
    print(f"again {again == better} {time.monotonic() - began:.1f}", flush=True)
    ray.get(near.report.remote(again))
    while not ray.get(controller.status.remote())["finished"]:
        time.sleep(0.05)
    print(f"winner {np.all(RunStore(run).load_weights(0)['w'] == better.index)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
