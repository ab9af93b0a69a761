"""Finds running searches: in a cluster by their controllers' names, on this machine by what their runs announce."""

import argparse
import contextlib
import ipaddress
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from lfs.connect import joined
from lfs.presence import PREFIX, controllers, where
from lfs.run_store import RunStore, find_runs
from search_space.errors import UserError

ANSWER_S = 10.0


def add_places(parser: argparse.ArgumentParser) -> None:
    """The flags that say where to look."""
    cluster = "Ray cluster to look in (`auto`, or host:port of its head) [$RAY_ADDRESS]"
    parser.add_argument("--address", default="", metavar="VALUE", help=cluster)
    runs = "folder or URI of runs, which say where they are worked on [runs]"
    parser.add_argument("--storage", default="runs", metavar="ROOT", help=runs)


def addresses(address: str, storage: str) -> dict[str, bool]:
    """Clusters to look in, and whether the user named them: else what runs announced, which may be gone, or if none did
    the cluster that this machine is part of, if any.
    """
    named = address or os.environ.get("RAY_ADDRESS", "")
    found = {named: True} if named else {}
    with contextlib.suppress(UserError):  # no such folder
        for store in find_runs(storage):
            announced = announced_by(store)
            if is_here(announced):
                found.setdefault(announced, False)
    return found or {local: False for local in [address_of_this_machine()] if local}


def announced_by(store: RunStore) -> str:
    """The cluster that a run says it is worked on in; empty: none."""
    return str((where(store) or {}).get("address", ""))


def is_here(address: str) -> bool:
    """Whether a cluster is on this machine. A run directory may come from anybody, and whoever connects to a cluster
    sends it Ray's token and unpickles what it answers: to others one goes only where the user says so.
    """
    host = address.rpartition(":")[0].strip("[]")
    own = {entry.address for entries in psutil.net_if_addrs().values() for entry in entries}
    with contextlib.suppress(ValueError):
        return host in own or ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def address_of_this_machine() -> str:
    """The cluster that was last started here or that this machine joined, which may be gone; empty: none."""
    from ray._private.utils import read_ray_address

    return read_ray_address() or ""


@contextlib.contextmanager
def searches(address: str) -> Iterator[dict[str, Any]]:
    """Controllers of a cluster's running searches by the names of the searches, while connected to it.

    Raises:
        UserError: no cluster answers there.
    """
    with joined(address):
        yield {name.removeprefix(PREFIX): actor for name, actor in controllers().items()}


def works_on(controller: Any, uri: str) -> bool:
    """Whether a controller is that of a run, not of another one of the same name."""
    import ray

    try:
        return bool(ray.get(controller.where.remote(), timeout=ANSWER_S) == uri)
    except ray.exceptions.RayError:
        return False


@contextlib.contextmanager
def controller_of(search: str, address: str, storage: str) -> Iterator[Any]:
    """The controller of one search, while connected to its cluster.

    Args:
        search: its name, or its run directory.
    Raises:
        UserError: it is not running, or cannot be found.
    """
    name, places, uri = search, addresses(address, storage), ""
    if "/" in search or (Path(search) / "config.yaml").exists():
        store = RunStore(search)
        store.load_config()
        announced, name, uri = announced_by(store), store.name, store.uri
        if is_here(announced) or announced in places:
            places = {announced: False}
        elif announced and not any(places.values()):
            law = f"{store.uri} says that it is worked on in a Ray cluster of another machine, {announced}"
            raise UserError(f"{law}; if you trust that cluster, name it with --address")
    for place, asked in places.items():
        with contextlib.ExitStack() as stack:
            try:
                found = stack.enter_context(searches(place))
            except UserError:
                if asked:
                    raise
                continue
            if name in found and (not uri or works_on(found[name], uri)):
                yield found[name]
                return
    looked = ", ".join(places) or f"no cluster (no run in {storage} is worked on)"
    raise UserError(f"no running search {name!r}: looked in {looked}; see --storage and --address")
