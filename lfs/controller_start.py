"""How a controller becomes an actor of Ray's: where it runs, under which name, and that it always comes back."""

from typing import Any

import ray

from lfs.connect import NAMESPACE
from lfs.controller import Controller

MAX_CALLS = 100_000
"""At once; a trainer that waits for work is one."""


def start_controller(run_uri: str, name: str) -> Any:
    """Start the controller of a run on this node, under its name; it is restarted whenever its process dies."""
    # Not soft: a soft wish of an actor without CPUs is granted on any node, whose loss would then cost a restart.
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    options: dict[str, Any] = {"name": name, "namespace": NAMESPACE, "max_concurrency": MAX_CALLS, "num_cpus": 0}
    options |= {"max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    options["enable_task_events"] = False  # Ray's head would keep a record of each of its calls, up to 100,000
    actor = ray.remote(Controller).options(**options)
    return actor.remote(run_uri)
