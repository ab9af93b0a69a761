"""What a trainer asks for against what the cluster has, and can grow to, node by node and resource by resource."""

import contextlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lfs.config import SearchConfig
from lfs.connect import joins
from lfs.untrusted import MAX_YAML_BYTES, read_yaml
from search_space.errors import UserError
from trainers.untrusted import read_file

logger = logging.getLogger(__name__)
Resources = Mapping[str, float]
BOOTSTRAP = "~/ray_bootstrap_config.yaml"
"""Where `ray up` leaves the cluster's file on its head."""
MAX_NEW_NODES = 1000
"""Nodes of one type to reckon with at most."""


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Nodes that an autoscaler may still add."""

    nodes: tuple[Resources, ...] = ()
    unknown: bool = False
    """There is an autoscaler, or nodes are about to join, but what they have cannot be told from here."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """How many trainers there is room for."""

    gpus: float
    """GPUs of one trainer."""
    now: int
    """Trainers that the cluster's nodes hold."""


def fit_workers(config: SearchConfig, nodes: Sequence[Resources], growth: Growth | None = None) -> Room:
    """How many trainers fit now, of those that are asked for.

    Args:
        nodes: resources of each node that is there.
        growth: nodes that may come, on which the first trainer may have to wait.
    Raises:
        UserError: not a single one ever will; the resource is named.
    """
    growth = growth or Growth()
    every = [*nodes, *growth.nodes]
    gpus = config.gpus_per_worker
    if gpus is None:
        gpus = float(config.num_ranks) if any(node.get("GPU", 0) >= 1 for node in every) else 0.0
    needs, ranks = rank_needs(config, gpus), config.num_ranks
    if not growth.unknown:
        refuse_what_never_fits(needs, every, ranks)
    now = sum(fits_on(node, needs) for node in nodes) // ranks
    return Room(gpus=gpus, now=min(now, config.num_workers))


def rank_needs(config: SearchConfig, gpus: float) -> dict[str, float]:
    """What one rank of a trainer reserves; `gpus` are those of the trainer. A rank lies on one node."""
    return {"CPU": config.cpus_per_worker / config.num_ranks, "GPU": gpus / config.num_ranks}


def fits_on(node: Resources, needs: Resources) -> int:
    """Trainers, or ranks of them, that one node holds."""
    return min(int(node.get(name, 0) / need + 1e-9) for name, need in needs.items() if need)


def refuse_what_never_fits(needs: Resources, nodes: Sequence[Resources], ranks: int = 1) -> None:
    """Raise `UserError` unless some node holds a trainer, with the resource that is short; or all nodes its ranks."""
    who = "a trainer" if ranks == 1 else f"each of a trainer's {ranks} ranks"
    for name, need in needs.items():
        most = max((node.get(name, 0) for node in nodes), default=0)
        if need > most:
            where = "the cluster has" if len(nodes) == 1 else "the largest node has"
            raise UserError(f"{who} needs {need:g} {name}, {where} {most:g}; see --{name.lower()}s-per-worker")
    asked = " and ".join(f"{need:g} {name}" for name, need in needs.items() if need)
    fits = sum(fits_on(node, needs) for node in nodes)
    if not fits:
        raise UserError(f"{who} needs {asked} on one node, and no node has both; see --cpus-per-worker")
    if fits < ranks:
        raise UserError(f"{who} needs {asked}, and there is room for {fits} of them; see --ranks-per-worker")


def total(nodes: Sequence[Resources]) -> dict[str, float]:
    """CPUs and GPUs of several nodes together."""
    return {name: sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU")}


def said(config: SearchConfig, room: Room, nodes: Sequence[Resources], growth: Growth) -> str:
    """What is asked for against what is there, for a reader."""
    asked = {"CPU": config.cpus_per_worker * config.num_workers, "GPU": room.gpus * config.num_workers}
    text = f"asked for {amounts(asked)}; the cluster has {amounts(total(nodes))} on {len(nodes)} node(s)"
    if growth.nodes:
        text += f" and can grow to {amounts(total([*nodes, *growth.nodes]))}"
    return text + (", and may grow" if growth.unknown else "")


def amounts(resources: Resources) -> str:
    """Resources for a reader."""
    return " + ".join(f"{value:g} {name}" for name, value in resources.items() if value) or "nothing"


def alive_nodes() -> list[dict[str, Any]]:
    """The cluster's living nodes as Ray describes them, without those that are announced to go."""
    import ray

    going = draining_nodes()
    return [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in going]


def draining_nodes() -> set[str]:
    """Nodes that are announced to go: preempted, idle, or drained by hand (`ray drain-node`)."""
    from ray._private.state import state  # what is public asks the dashboard, which may not run

    return set(state.get_draining_nodes())


def growth_of_cluster(config: SearchConfig, nodes: Sequence[Resources]) -> Growth:
    """What the cluster that this process is part of can grow to; one of the search's own never grows.

    Args:
        nodes: what it has now.
    """
    import ray

    if not joins(config):
        return Growth()
    head = ray.get_runtime_context().gcs_address.rpartition(":")[0]
    path = Path(BOOTSTRAP).expanduser()
    if path.is_file() and head in (ray.util.get_node_ip_address(), "127.0.0.1"):
        with contextlib.suppress(OSError, yaml.YAMLError, AttributeError, TypeError, ValueError, KeyError):
            cluster, _ = read_yaml(read_file(path, MAX_YAML_BYTES))
            return growth_of_file(cluster, nodes)
    try:
        return Growth(unknown=is_autoscaled(node_types()))
    except Exception:  # Ray's view of its autoscaler fails in many ways
        logger.warning("whether the cluster grows cannot be told", exc_info=True)
        return Growth(unknown=True)


def is_autoscaled(types: Sequence[str]) -> bool:
    """Whether nodes have types of an autoscaler's file, not the names that Ray makes up for nodes without one."""
    return any(name and not re.fullmatch("node_[0-9a-f]+", name) for name in types)


def node_types() -> list[str]:
    """Types of the cluster's nodes, as either version of Ray's autoscaler reports them."""
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.experimental.internal_kv import _internal_kv_get

    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    types = [node.ray_node_type_name for node in (*status.active_nodes, *status.idle_nodes)]
    text = _internal_kv_get(ray._private.ray_constants.DEBUG_AUTOSCALING_STATUS)
    with contextlib.suppress(ValueError, KeyError, TypeError):
        types += json.loads(text)["autoscaler_report"]["active_nodes"]
    return types


def growth_of_file(cluster: Mapping[str, Any], nodes: Sequence[Resources]) -> Growth:
    """What a file of `ray up` lets a cluster add to the nodes that it has, of which one is its head."""
    left = max(0, min(int(cluster.get("max_workers", 0)), MAX_NEW_NODES) - (len(nodes) - 1))
    kinds = [kind for name, kind in cluster["available_node_types"].items() if name != cluster.get("head_node_type")]
    there = [total([node]) for node in nodes]
    found: list[Resources] = []
    unknown = False
    for kind in kinds:
        resources, count = kind.get("resources") or {}, int(kind.get("max_workers", 0))
        unknown |= count > 0 and not resources
        count -= there.count(total([resources])) if resources else 0
        found += [resources] * min(max(0, count), left) if resources else []
    on_premise = cluster.get("provider", {}).get("type") == "local"
    coming = not on_premise or len(cluster["provider"].get("worker_ips", ())) >= len(nodes)
    return Growth(nodes=tuple(found[:left]), unknown=(unknown or on_premise) and coming and left > 0)
