"""Starts a search and sees it through: data check, run directory, Ray, controller, trainers, view, outcome."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lfs.board import pinned, started
from lfs.config import SearchConfig
from lfs.connect import joins, waited_for_ray
from lfs.data_digest import data_digest, refuse_other_data
from lfs.generation import fixed_losses
from lfs.locations import under
from lfs.plugins import changed_code, resume_flags
from lfs.presence import Presence, controller_name, this_process
from lfs.quiet import interrupts, leave, quiet_logs
from lfs.room import Room, alive_nodes, fit_workers, growth_of_cluster, rank_needs, said
from lfs.run_store import RunStore
from lfs.view import View
from lfs.watch import Watch
from search_space.errors import UserError, require
from search_space.spaces import get_space
from trainers.backbones import plan_backbone
from trainers.config import DataConfig, PairsConfig
from trainers.data.builtin import ensure_builtin_faces
from trainers.data.check import check_data, overlap_warning
from trainers.metrics import load_plugin
from trainers.validation import named_metrics

logger = logging.getLogger(__name__)
Config = TypeVar("Config", bound=SearchConfig)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a search ended."""

    run: str
    error: str
    status: dict[str, Any]
    """The controller's last status: summaries, test scores."""

    interrupted: bool = False
    """The user asked this process to stop after a generation."""


def resolve(config: Config, view: View) -> Config:
    """Fill in what depends on this machine: built-in faces where no data is named, absolute paths, B.

    Raises:
        UserError: the space's settings do not fit each other, or the data cannot be used.
    """
    check_losses(config)
    if config.start:
        config = replace(config, start=pinned(config.start))
        started(config)
    data = config.data
    if not data.train:
        named: dict[str, object] = {"data.root": data.root}
        for purpose, sets in (("data.reward", data.reward), ("data.test", data.test)):
            named |= {purpose: sets.lmdb or sets.pairs or sets.labels}
        for name, value in named.items():
            require(not value, f"{name} needs data.train too, without which the built-in faces are used", value)
        with view.progress("making the built-in faces") as progress:
            data = ensure_builtin_faces(progress=progress).data_config(data)
    data = absolute(data)
    return replace(config, data=data, population_size=config.population)


def check_losses(config: SearchConfig) -> None:
    """Raise `UserError` for a space or a loss that cannot be made."""
    get_space(config.space)
    if config.mode == "fixed":
        fixed_losses(config)


def absolute(data: DataConfig) -> DataConfig:
    """The same data by absolute paths, which mean the same to every process."""
    root = Path(data.root).expanduser().resolve()
    at: Callable[[tuple[str, ...]], tuple[str, ...]] = lambda paths: tuple(  # noqa: E731
        str(root / Path(path).expanduser()) for path in paths
    )
    sets: Callable[[PairsConfig], PairsConfig] = lambda p: replace(  # noqa: E731
        p, lmdb=at(p.lmdb), pairs=at(p.pairs), labels=at(p.labels)
    )
    return replace(
        data, root="", train=at(data.train), train_list=at(data.train_list),
        reward=sets(data.reward), test=sets(data.test),
    )  # fmt: skip


def new_run(config: SearchConfig, view: View) -> tuple[RunStore, SearchConfig]:
    """Check everything that can be known before a trainer starts, then make the run directory."""
    store = RunStore(under(config.storage, config.name))
    store.require_absent()
    config = resolve(config, view)
    check(config, view)
    check_loggers(config)
    store.create(config, data_digest(config.data))
    return store, config


def old_run(store: RunStore, changes: dict[str, Any], view: View) -> SearchConfig:
    """The configuration of a run to go on with; `changes` are fields that may differ (see lfs/config.py).

    Raises:
        UserError: the run is damaged, or its data is no longer what it was.
    """
    config = replace(store.load_config(), **changes)
    store.refuse_links()
    with Presence(store, say=view.say):  # said before anything else, though it is only held later
        pass
    with view.progress("reading the weights", "bytes", announce=False) as progress:
        store.load_last(progress)
    with view.progress("reading generations", "generations", announce=False) as progress:
        store.summaries(progress)
    check_losses(config)
    check(config, view)
    check_loggers(config)
    for line in changed_code(config, store.load_versions()):
        view.warn(line)
    refuse_other_data(store, config.data)
    return config


def check(config: SearchConfig, view: View) -> None:
    """Refuse bad data and networks that cannot be built now, and say what is there."""
    for metric in (*named_metrics("reward", config.reward), *named_metrics("test", config.reward)):
        load_plugin(metric)
    plan_backbone(config.trainer.backbone, config.trainer.embedding_dim, config.data.input_size)
    with view.waiting("checking the data"):
        report = check_data(config.data, config.trainer.batch_size, config.reward)
    view.say(str(report))
    for line in report.warnings:
        view.warn(line)
    warning = overlap_warning(config.data)
    if warning:
        view.warn(warning)


def check_loggers(config: SearchConfig) -> None:
    """Refuse loggers that cannot be used; without any, nothing of theirs is imported."""
    if config.loggers:
        from lfs.optional_loggers import refuse_loggers

        refuse_loggers(config)


def run_search(store: RunStore, config: SearchConfig, view: View) -> Outcome:
    """Run a search, new or resumed, to its end, an error or a stop.

    Raises:
        KeyboardInterrupt: it was to stop at once.
        UserError: it could not start: no Ray, no room for a single trainer, a node that cannot work on it, or another
            process runs it already.
    """
    with Presence(store) as presence, waited_for_ray(config, view), quiet_logs(store):
        import ray

        from lfs.controller_start import start_controller
        from lfs.crew import tune_trials
        from lfs.shares import Share

        room = make_room(store, config, view)
        presence.require_free(controller_name(store))
        if config != store.load_config():  # nobody else works on it: now it may change
            store.write_config(config)
        store.record_event("start", **this_process())
        try:
            controller = start_controller(store.uri, controller_name(store))
            share = Share(controller_name(store), controller, config, room.gpus)
            with view.waiting("taking the search up"):
                share()
                last: dict[str, Any] = ray.get(controller.status.remote())
        except (ray.exceptions.RayError, ValueError) as error:
            raise UserError(f"the controller cannot start: {str(error).strip().splitlines()[-1]}") from None
        presence.announce(ray.get_runtime_context().gcs_address)
        watch = Watch(
            controller_name(store), controller, view, last, share=share, timeout_s=config.start_timeout_s,
            leave=lambda reason: leave(f"lfs.search: {reason}; continue with {resume_flags(store.shown)}"),
        )  # fmt: skip
        presence.on_lost(watch.end)
        resume = f"python -m lfs.search {resume_flags(store.shown)}"
        told = partial(view.stopping, "this generation", resume), partial(view.stopping_now, resume)
        with watch, interrupts(watch.stop_asked, *told):
            try:
                tune_trials(store, config, room.gpus, controller_name(store))
            except (OSError, ray.tune.TuneError) as error:  # Tune's own files, on the same storage as the run
                watch.trouble = f"Ray Tune stopped: {' '.join(str(error).split())}"
            except ray.exceptions.RayError as error:
                watch.trouble = f"Ray is gone: {' '.join(str(error).split())}"
        reason = watch.reason
        if not reason and not watch.status["finished"]:
            reason = "every trainer ended before the search did; their logs are in its tune folder"
        return Outcome(run=store.shown, error=reason, status=watch.status, interrupted=watch.stop_asked.is_set())


def make_room(store: RunStore, config: SearchConfig, view: View) -> Room:
    """Preflight: what is asked for against what is there, and every node's versions, data and view of the storage.

    Raises:
        UserError: what is asked for can never be met, or a node cannot work on this search.
    """
    from lfs.preflight import check_nodes

    nodes = alive_nodes()
    resources = [node["Resources"] for node in nodes]
    growth = growth_of_cluster(config, resources)
    room = fit_workers(config, resources, growth)
    if joins(config):
        view.say(said(config, room, resources, growth))
    with view.waiting(f"looking at {len(nodes)} nodes"):
        check_nodes(store, config, nodes, rank_needs(config, room.gpus), view)
    say_workers(config, room, view)
    return room


def say_workers(config: SearchConfig, room: Room, view: View) -> None:
    """How many trainers run, in one line."""
    each = f"{config.cpus_per_worker:g} CPU" + (f" + {room.gpus:g} GPU" if room.gpus else "")
    each += f" in {config.num_ranks} ranks" if config.num_ranks > 1 else ""
    fewer = f" of the {config.num_workers} asked for" if room.now < config.num_workers else ""
    later = " (more join when there is room)" if fewer and joins(config) else ""
    view.say(
        f"{room.now} trainer(s) of {each} fit{fewer}{later}; they share {config.population} candidates a generation"
    )
