"""That a run is being worked on, and where: one driver a run, one run of a name in a cluster."""

import contextlib
import json
import os
import platform
from typing import Any

import filelock

from lfs.run_store import RunStore
from search_space.errors import UserError

RUNNING = "running.json"
"""In the run directory while a driver works on it: the cluster, host and process."""
PREFIX = "controller/"


def controller_name(store: RunStore) -> str:
    """Name of a run's controller in its cluster."""
    return f"{PREFIX}{store.name}"


def controllers() -> dict[str, Any]:
    """Controllers of the searches that run in the cluster that this process is connected to, by their own names."""
    import ray

    found = {}
    for name in sorted(n for n in ray.util.list_named_actors() if n.startswith(PREFIX)):
        with contextlib.suppress(ValueError):  # it ended a moment ago
            found[name] = ray.get_actor(name)
    return found


class Presence:
    """Held by the driver of a run while it works.

    On a local (or NFS) file system it is a lock, which goes when the process does. Everywhere it is `running.json`,
    which may outlive a killed driver: who reads it asks the cluster that it names.

    Raises:
        UserError: another process holds the run.
    """

    def __init__(self, store: RunStore) -> None:
        self.store, self._announced = store, False
        self._lock = None if "://" in store.uri else filelock.FileLock(f"{store.path}/.lock", timeout=0)

    def __enter__(self) -> "Presence":
        try:
            if self._lock:
                self._lock.acquire()
        except filelock.Timeout:
            facts = where(self.store) or {}
            by = f" by process {facts['pid']} on {facts['host']}" if facts else ""
            attach = f"python -m lfs.status {self.store.shown}"
            law = f"run {self.store.uri} is worked on already{by} (its lock is {self.store.path}/.lock)"
            raise UserError(f"{law}; watch it with {attach}") from None
        return self

    def __exit__(self, *_: object) -> None:
        if self._announced:
            self.store.delete(RUNNING)
        if self._lock:
            self._lock.release()

    def require_free(self, name: str) -> None:
        """Refuse a name that a running search of this cluster has.

        Raises:
            UserError: it is taken.
        """
        import ray

        try:
            other = ray.get_actor(name)
            uri = ray.get(other.where.remote(), timeout=10)
        except (ValueError, ray.exceptions.RayError):  # there is none, or it is going
            return
        short = name.removeprefix(PREFIX)
        law = f"a running search of this cluster has the name {short!r} already ({uri})"
        raise UserError(f"{law}; choose another --name, or watch it with python -m lfs.status {short}")

    def announce(self, address: str) -> None:
        """Say where the search runs.

        Args:
            address: of the Ray cluster.
        """
        self.store.write(json.dumps({"address": address, **this_process()}).encode(), RUNNING)
        self._announced = True


def this_process() -> dict[str, Any]:
    """The driver's machine and process, for the record."""
    return {"host": platform.node(), "pid": os.getpid()}


def where(store: RunStore) -> dict[str, Any] | None:
    """What the driver of a run announced; None: nobody works on it, or its file cannot be read."""
    try:
        facts = store.read_json(RUNNING) if store.exists(RUNNING) else None
    except (OSError, UserError):
        return None
    return facts if facts and {"address", "host", "pid"} <= set(facts) else None
