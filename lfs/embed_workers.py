"""Shards of pictures embedded by this process, or by tasks on a Ray cluster; either way the same numbers."""

import argparse
import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from lfs.plugins import add_allow_flag
from search_space.errors import UserError, require
from trainers.config import TrainerConfig
from trainers.data.lmdb_source import LmdbSource, keep_open
from trainers.device import find_device
from trainers.embedder import BackboneModel, EmbeddedShard, Embedder, EmbedOptions, Shard, embed_shard, embed_with
from trainers.numerics import numerics

Work = Callable[[int], Shard]
"""The shard of a number, made when it is its turn: a list of millions of keys is never copied at once."""

MAX_RETRIES = 3
T = TypeVar("T", int, float)


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Who embeds."""

    num_workers: int = 0
    """Ray tasks at a time; 0: this process alone, without Ray."""

    address: str = ""
    """Ray cluster to join; empty: $RAY_ADDRESS if there are to be workers, else one of this machine alone."""

    gpus: float | None = None
    """GPUs that each task reserves; None: see `task_device`."""

    @property
    def on_ray(self) -> bool:
        """Whether others than this process embed."""
        return bool(self.num_workers or self.address)

    @contextlib.contextmanager
    def ready(self, options: EmbedOptions) -> Iterator[tuple["Workers", EmbedOptions]]:
        """Ray, if need be, until the block ends; and both with what they left open: the device, GPUs of a task.

        Raises:
            UserError: this process has no such device, or Ray cannot be reached.
        """
        if not self.on_ray:
            yield self, replace(options, device=str(find_device(options.device)))
            return
        with _cluster(self.address or os.environ.get("RAY_ADDRESS", "")):
            import ray

            gpus, device = task_device(self.gpus, options.device, ray.cluster_resources().get("GPU", 0))
            yield replace(self, gpus=gpus), replace(options, device=device)

    def embed(
        self, model: BackboneModel, numbers: Sequence[int], shard: Work, options: EmbedOptions
    ) -> Iterator[EmbeddedShard]:
        """Finished shards, in any order; when `ready`."""
        yield from (partial(_on_ray, self) if self.on_ray else here)(model, numbers, shard, options)


def task_device(gpus: float | None, device: str | None, cluster_gpus: float) -> tuple[float, str]:
    """GPUs of a Ray task, and its device; where nothing is said, a GPU for each if the cluster has any."""
    device = device or ("cuda" if (cluster_gpus if gpus is None else gpus) else "cpu")
    return float(device != "cpu") if gpus is None else gpus, device


def here(model: BackboneModel, numbers: Sequence[int], shard: Work, options: EmbedOptions) -> Iterator[EmbeddedShard]:
    """By this process, batches shared out over its threads."""
    threads = options.num_threads or len(os.sched_getaffinity(0))
    options = replace(options, num_threads=threads)
    with numerics(TrainerConfig()):
        embedder = Embedder(model, device=options.device, flip=options.flip)
        opened: dict[Any, LmdbSource] = {}
        for part in map(shard, numbers):
            opened.setdefault(part.lmdb, LmdbSource(part.lmdb)).extent()  # it stays open: see `keep_open`
            yield embed_with(embedder, part, options)


def _on_ray(
    workers: Workers, model: BackboneModel, numbers: Sequence[int], shard: Work, options: EmbedOptions
) -> Iterator[EmbeddedShard]:
    """By Ray tasks, each of which a worker that dies gives back: a shard depends on its arguments alone."""
    import ray

    num_cpus = max(1, options.num_threads)
    options = replace(options, num_threads=num_cpus)
    task = ray.remote(num_cpus=num_cpus, num_gpus=workers.gpus, max_retries=MAX_RETRIES)(_embed_there)
    shared = ray.put(model)
    limit = workers.num_workers or int(ray.cluster_resources().get("CPU", 1) // num_cpus) or 1
    waiting: list[int] = list(reversed(numbers))
    running: list[Any] = []
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                running.append(task.remote(shared, shard(waiting.pop()), options))
            done, running = ray.wait(running, num_returns=1)
            for reference in done:
                yield _answer(reference)
    finally:
        for reference in running:
            with contextlib.suppress(Exception):
                ray.cancel(reference, force=True)


def _embed_there(model: BackboneModel, shard: Shard, options: EmbedOptions) -> EmbeddedShard:
    """`embed_shard` by a process of Ray's, which by this module knows of the plug-ins that it may import."""
    keep_open()
    return embed_shard(model, shard, options)


def _answer(reference: Any) -> EmbeddedShard:
    import ray

    try:
        result: EmbeddedShard = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        line = " ".join(str(error).split())[:500]
        raise UserError(f"a worker failed {MAX_RETRIES + 1} times: {line}; finished shards are kept") from None
    return result


@contextlib.contextmanager
def _cluster(address: str) -> Iterator[None]:
    """Ray, joined or started, without a word on the terminal."""
    from lfs.connect import joined, log_errors_of_nodes, started

    log = logging.getLogger("ray")
    handler = logging.NullHandler()
    before = log.propagate
    log.addHandler(handler)
    log.propagate = False
    try:
        with joined(address) if address else started(dashboard=False):
            log_errors_of_nodes()
            yield
    finally:
        log.removeHandler(handler)
        log.propagate = before


def add_worker_flags(made: argparse.ArgumentParser) -> None:
    """Flags that say who embeds, and how."""
    add = made.add_argument
    add("--no-flip", action="store_true", help="do not add the embedding of the mirrored picture")
    add("--skip-bad", action="store_true", help="go on without pictures that do not decode; count and list them")
    add("--num-workers", default="0", metavar="N", help="Ray tasks at a time [0: this process alone, without Ray]")
    add("--address", default="", metavar="HOST:PORT", help="Ray cluster to join instead of one of this machine")
    add(
        "--gpus-per-worker", default="", metavar="N",
        help="GPUs, or a part of one, for each Ray task [1 if the cluster has any, unless --device cpu]",
    )  # fmt: skip
    add("--num-threads", default="0", metavar="N", help="threads that embed, per task [all cores here, 1 in a task]")
    add(
        "--device", default=None, metavar="DEVICE", help="cpu or cuda [the GPU if there is one, here or in the cluster]"
    )
    add_allow_flag(made)


def embed_options(options: argparse.Namespace) -> EmbedOptions:
    """How the flags say that pictures are embedded."""
    threads = number(options.num_threads, "--num-threads", int, 4096)
    return EmbedOptions(flip=not options.no_flip, skip_bad=options.skip_bad, num_threads=threads, device=options.device)


def workers_of(options: argparse.Namespace) -> Workers:
    """Who the flags say embeds."""
    workers = number(options.num_workers, "--num-workers", int, 10**5)
    gpus = number(options.gpus_per_worker, "--gpus-per-worker", float, 1.0) if options.gpus_per_worker else None
    require(not gpus or bool(workers or options.address), "--gpus-per-worker needs --num-workers or --address", gpus)
    return Workers(num_workers=workers, address=options.address, gpus=gpus)


def number(text: str, flag: str, kind: type[T], most: T) -> T:
    """The number of a flag, from 0 to `most`."""
    try:
        value = kind(text)
        good = 0 <= value <= most
    except ValueError:
        good = False
    require(good, f"{flag} must be a number in 0..{most}", text)
    return value
