"""A trainer of several processes on Ray: the Tune trial is rank 0, the others are actors in its placement group.

    Trainer (rank 0) --join, train, test--> Rank 1, Rank 2, ...     a lease is worked on by all of them together
         |            <--- gradients, embeddings --->               not through Ray: see trainers/ranks.py

Whoever fails, the others wait in the middle of a sum for numbers that never come, so a trainer whose rank has failed is
of no use any more: its trial ends with an error, the other ranks end with it, and Tune starts all of them afresh.
"""

import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from lfs import look
from lfs.config import SearchConfig
from lfs.locations import under
from lfs.messages import Lease
from lfs.plugins import packages
from lfs.preflight import refuse_storage, refuse_versions
from lfs.room import rank_needs
from search_space.errors import UserError
from trainers.candidate import Candidate, Weights
from trainers.config import TrainerConfig
from trainers.data.builtin import builtin_cache, ensure_builtin_faces
from trainers.device import find_device
from trainers.ranks import Ranks, listen
from trainers.trainer import CandidateTrainer

GRACE_S = 5.0
"""From a rank's failure to the end of a process that does not notice it: NCCL waits on, gloo fails at once."""
logger = logging.getLogger(__name__)
Value = TypeVar("Value")
Tell = Callable[[Exception], None]


class BaseWeights:
    """The weights that a generation starts from, fetched once and read where they lie in the node's object store."""

    def __init__(self) -> None:
        self._generation, self._weights = -1, cast(Weights | None, None)

    def of(self, lease: Lease) -> Weights | None:
        """Those of a lease; None: the initial weights."""
        if self._generation != lease.generation:
            self._weights = None if lease.base is None else ray.get(lease.base)
            self._generation = lease.generation
        return self._weights

    def forget(self) -> None:
        """Fetch them anew next time."""
        self._generation, self._weights = -1, None


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one process of a trainer is told: the same in all of them, but for its rank."""

    search: SearchConfig
    trainer: str
    """Label of the trainer."""
    versions: dict[str, str]
    """What every process of the search must have."""
    run: str
    """The run directory."""
    rank: int = 0

    @property
    def where(self) -> str:
        """Who this is, for an error."""
        rank = f", rank {self.rank}," if self.search.num_ranks > 1 else ""
        return f"{self.trainer}{rank} on node {ray.util.get_node_ip_address()}"

    def connect(self, address: Any) -> Ranks:
        """Meet the other ranks, by the address that this node goes by in the cluster."""
        size, host = self.search.num_ranks, ray.util.get_node_ip_address()
        device = find_device(own_device()).type  # torch's own error without CUDA would not say the way out
        return Ranks.connect(rank=self.rank, size=size, address=address, host=host, device=device)

    def make(self, ranks: Ranks) -> CandidateTrainer:
        """The part of the trainer that is in this process."""
        search, config = self.search, with_threads(self.search)
        ranks.agreed(self._check)
        return CandidateTrainer(config, search.data, search.reward, seed=search.seed, device=own_device(), ranks=ranks)

    def _check(self) -> None:
        refuse_versions(self.where, look.versions(packages(self.search)), self.versions)
        refuse_storage(self.where, self.run, bool(look.read_text(under(self.run, "config.yaml"))))
        if cache := builtin_cache(self.search.data):
            ensure_builtin_faces(cache)  # this may be another machine than the driver's


def candidate_of(search: SearchConfig, lease: Lease) -> Candidate:
    """What a lease is for."""
    assert lease.loss is not None
    return Candidate(generation=lease.generation, index=lease.index, loss=lease.loss, order=search.order)


def own_device() -> str:
    """Without a reserved GPU never one that happens to be visible: it is somebody else's."""
    return "cuda" if ray.get_runtime_context().get_accelerator_ids().get("GPU") else "cpu"


def with_threads(search: SearchConfig) -> TrainerConfig:
    """The trainer's configuration, with as many torch threads in each rank as CPUs are reserved for it."""
    cpus = int(search.cpus_per_worker / search.num_ranks)
    return replace(search.trainer, num_threads=max(search.trainer.num_threads, cpus))


class Rank:
    """Rank 1 or higher, as an actor. Does what rank 0 does at the same time, and gives nothing back."""

    def __init__(self, part: Part) -> None:
        self.part, self.base = part, BaseWeights()

    def join(self, address: str) -> None:
        """Meet the other ranks, then load data and build the network."""
        self.trainer = self.part.make(self.part.connect(address))

    def train(self, lease: Lease) -> None:
        """This rank's part of a candidate."""
        self.trainer.run(candidate_of(self.part.search, lease), self.base.of(lease))

    def test(self, lease: Lease) -> None:
        """This rank's part of the test of the final model."""
        self.trainer.test(self.base.of(lease) or self.trainer.initial_weights())


class Team:
    """All ranks of this trial, as rank 0 sees them; with one rank there is nobody else, and no cost.

    Args:
        trainer: label of the trainer.
        versions: what every process of the search must have.
        run: the run directory.
        tell: told of what ended another rank before this process is ended for it.
    """

    def __init__(self, search: SearchConfig, trainer: str, versions: dict[str, str], run: str, tell: Tell) -> None:
        self.size, self._tell = search.num_ranks, tell
        self._part = Part(search=search, trainer=trainer, versions=versions, run=run)
        self._others = [self._start(rank) for rank in range(1, self.size)]

    def trainer(self) -> CandidateTrainer:
        """Rank 0's part, once all ranks have theirs."""
        if self.size == 1:
            return self._part.make(Ranks.alone())
        store, address = listen(ray.util.get_node_ip_address())
        return self.together("join", address, mine=lambda: self._part.make(self._part.connect(store)))

    def together(self, method: str, argument: Any, *, mine: Callable[[], Value]) -> Value:
        """Call `mine` here, and the method of `Rank` in the other ranks.

        Raises:
            Exception: what went wrong first, in whichever rank; with several ranks, the trainer must start afresh.
        """
        calls = [getattr(other, method).remote(argument) for other in self._others]
        finished = threading.Event()
        if calls:
            threading.Thread(target=self._watch, args=(calls, finished), name="ranks", daemon=True).start()
        try:
            value = mine()
        except Exception as error:
            raise first_cause(error, calls) from error
        finally:
            finished.set()
        for call in calls:
            if fault := fault_of(call):
                raise fault
        return value

    def end(self) -> None:
        """End the other ranks; they would also end with this process."""
        for other in self._others:
            ray.kill(other)

    def _start(self, rank: int) -> Any:
        place = PlacementGroupSchedulingStrategy(
            placement_group=ray.util.get_current_placement_group(), placement_group_bundle_index=rank
        )
        needs = rank_needs(self._part.search, self.size * (own_device() == "cuda"))
        options = {"num_cpus": needs["CPU"], "num_gpus": needs["GPU"], "max_restarts": 0}
        part = replace(self._part, rank=rank)
        return ray.remote(Rank).options(**options, scheduling_strategy=place).remote(part)

    def _watch(self, calls: Sequence[Any], finished: threading.Event) -> None:
        """End this process for a rank that failed while this one waits for it in a sum."""
        pending = list(calls)
        while pending and not finished.is_set():
            done, pending = ray.wait(pending, timeout=1.0)
            fault = next(filter(None, map(fault_of, done)), None)
            if fault and not finished.wait(GRACE_S):
                logger.error("another rank failed, and this one cannot go on: %s", fault)
                self._tell(fault)
                os._exit(1)


def fault_of(call: Any) -> Exception | None:
    """Waits for a call to another rank; what it raised, or that the rank died."""
    try:
        ray.get(call)
    except RayTaskError as error:
        return error.cause if isinstance(error.cause, Exception) else error
    except Exception as error:
        return error
    return None


def first_cause(own: Exception, calls: Sequence[Any]) -> Exception:
    """Why this rank failed: bad input anywhere, else the death of another rank, else its own error."""
    if isinstance(own, UserError) or not calls:
        return own
    done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=GRACE_S)
    faults = [fault for fault in map(fault_of, done) if fault]
    for kind in (UserError, RayActorError):
        for fault in faults:
            if isinstance(fault, kind):
                return fault
    return own
