"""A made reward with a known optimum, behind the interface of a trainer; and a driver without Ray."""

import random
from collections.abc import Callable

import numpy as np

from lfs.config import SearchConfig
from lfs.generation import Search
from lfs.messages import GenerationRecord, Lease, Report
from search_space.config import PolicyConfig, SpaceConfig
from search_space.spaces import SearchSpace

OPTIMUM = 0.35

WEIGHTS = {"backbone.w": np.arange(6, dtype=np.float32).reshape(2, 3), "head.n": np.array(3)}
"""Of a model that nobody would train."""


def config(**changes: object) -> SearchConfig:
    """A small search in the global space."""
    values: dict[str, object] = {
        "generations": 5, "warmup_generations": 1, "population_size": 4, "seed": 3,
        "space": SpaceConfig(name="global", mean0=0.2, std=0.1), "policy": PolicyConfig(lr=0.02),
    } | changes  # fmt: skip
    return SearchConfig(**values)  # type: ignore[arg-type]


def made_report(space: SearchSpace, lease: Lease, trainer: str = "t", diverged: bool = False) -> Report:
    """The outcome of a candidate whose reward peaks at margin `OPTIMUM`, with noise keyed by candidate alone."""
    margin = float(np.mean(space.decode(np.array(lease.action)).margins))
    noise = np.random.Generator(np.random.Philox(np.random.SeedSequence([7, lease.generation]))).normal(size=20)
    replicates = 1 - (margin - OPTIMUM) ** 2 + 0.001 * noise * (1 + margin)
    return Report(
        generation=lease.generation, index=lease.index, reward=float("nan") if diverged else float(replicates.mean()),
        reward_se=0.01, replicates=replicates, diverged=diverged, reason="made" if diverged else "", metrics={},
        num_images=10, train_s=1.0, validate_s=0.5, trainer=trainer,
    )  # fmt: skip


def drive(
    search: Search,
    trainers: int = 1,
    seed: int = 0,
    death_rate: float = 0.0,
    until: Callable[[Search], bool] | None = None,
) -> list[GenerationRecord]:
    """Run a search with trainers that act, die and come back in a random order; handles are (generation, index)."""
    chance, records, held = random.Random(seed), [], {}
    names = [f"trainer-{i}" for i in range(trainers)]
    while not search.over and not (until and until(search)):
        name = chance.choice(names)
        if chance.random() < death_rate:
            held.pop(name, None)
            search.release(name)
        elif name in held:
            lease = held.pop(name)
            search.report(made_report(search.space, lease, name), (lease.generation, lease.index))
        else:
            lease = search.lease(name)
            if lease.kind == "test":
                search.tested({"accuracy": 0.5})
            elif lease.kind == "train":
                held[name] = lease
        if search.ready_to_close:
            record = search.close()
            assert search.best_weights == (record.generation, record.winner)
            search.advance(record, search.best_weights)
            records.append(record)
    return records
