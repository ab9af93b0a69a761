"""How several searches share one cluster: by priority, and evenly among equals, one trainer at a time.

Nobody rules over the searches. Each driver asks all controllers what they could use, computes the same division from
the same answers, and tells its own controller its part. A trainer that is to go ends after its candidate.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray

from lfs.config import SearchConfig
from lfs.presence import controllers
from lfs.room import Growth, Resources, alive_nodes, growth_of_cluster, rank_needs

logger = logging.getLogger(__name__)
ANSWER_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What one search could use."""

    name: str
    priority: int
    needs: Resources
    """Of one trainer, or of one of its ranks."""
    most: int
    """Trainers that it has work for; 0 while it is paused."""
    ranks: int = 1
    """Parts of a trainer that may lie on different nodes."""


def divide(nodes: Sequence[Resources], claims: Sequence[Claim]) -> dict[str, int]:
    """Trainers of each search.

    The highest priority is served first. Searches of equal priority get one trainer in turn, in the order of their
    names, as long as a node has room for it and they have work for it.
    """
    free = [dict(node) for node in nodes]
    given = {claim.name: 0 for claim in claims}
    for priority in sorted({claim.priority for claim in claims}, reverse=True):
        hungry = sorted((c for c in claims if c.priority == priority), key=lambda c: c.name)
        while hungry:
            hungry = [c for c in hungry if given[c.name] < c.most and _placed(free, c)]
            for claim in hungry:
                given[claim.name] += 1
    return given


def _placed(free: list[dict[str, float]], claim: Claim) -> bool:
    """Take a trainer's resources from the nodes; nothing where they lack any of it."""
    if claim.ranks == 1:
        return _taken(free, claim.needs)
    left = [dict(node) for node in free]
    fits = all(_taken(left, claim.needs) for _ in range(claim.ranks))
    free[:] = left if fits else free
    return fits


def _taken(free: Sequence[dict[str, float]], needs: Resources) -> bool:
    """Take resources from the first node that has them."""
    for node in free:
        if all(node.get(name, 0) + 1e-9 >= need for name, need in needs.items() if need):
            for name, need in needs.items():
                node[name] = node.get(name, 0) - need
            return True
    return False


def part_of(name: str, claims: Mapping[str, Claim], nodes: Sequence[Resources], growth: Growth) -> int:
    """Trainers that one of several searches may have.

    Where it is not known what may come, one more than the share of what is there, so that the autoscaler has a demand
    to see; a search that is alone asks for all.
    """
    most = claims[name].most
    if growth.unknown and len(claims) == 1:
        return most
    share = divide([*nodes, *growth.nodes], list(claims.values()))[name]
    return min(most, share + 1) if growth.unknown else share


class Share:
    """Tells a search's controller how many trainers it may have. Called now and then.

    Args:
        name: of the controller.
        gpus: of one trainer.
    """

    def __init__(self, name: str, controller: Any, config: SearchConfig, gpus: float) -> None:
        self.name, self.controller, self.config = name, controller, config
        self.claim = Claim(
            name=name, priority=config.priority, most=config.num_workers,
            needs=rank_needs(config, gpus), ranks=config.num_ranks,
        )  # fmt: skip
        self._known: dict[str, Claim] = {}

    def __call__(self) -> None:
        """Divide the cluster anew."""
        ray.get(self.controller.allow.remote(self._part(), self.claim), timeout=30)

    def _part(self) -> int:
        nodes = [node["Resources"] for node in alive_nodes()]
        return part_of(self.name, self._claims(), nodes, growth_of_cluster(self.config, nodes))

    def _claims(self) -> Mapping[str, Claim]:
        """Every running search's claim; the last known one of a controller that does not answer."""
        asked = {name: actor.claim.remote() for name, actor in controllers().items()}
        if asked:
            ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_S)
        for name, reference in asked.items():
            try:
                claim = ray.get(reference, timeout=0)
            except ray.exceptions.RayError:
                logger.warning("%s does not answer", name)
                continue
            if claim is not None:
                self._known[name] = claim
        self._known = {name: claim for name, claim in self._known.items() if name in asked}
        own = self._known.get(self.name, self.claim)
        return {**self._known, self.name: replace(self.claim, most=own.most)}
