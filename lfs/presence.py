"""That a run is being worked on, and where: one driver a run, one run of a name in a cluster."""

import fcntl
import json
import logging
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import filelock

from lfs.run_store import EVENTS, RunStore
from search_space.errors import UserError, first_line
from trainers.untrusted import open_file, parse_json

RUNNING = "running.json"
"""In the run directory while a driver works on it: the cluster, host and process; on other storage its beat."""
LOCK = ".lock"
GLANCE_S = 0.5
"""Longer than `is_held` has the lock: whoever looks must not keep a driver from starting."""
PREFIX = "controller/"
BEAT_S = 15.0
"""Time between two signs of life of a driver on storage that cannot be locked."""
SILENT_BEATS = 3
"""A driver that gave no sign for so long is gone."""
SETTLE_S = 2.0
"""Longer than it takes to write one small file: drivers that begin at the same time see who wrote last."""
logger = logging.getLogger(__name__)


def controller_name(store: RunStore) -> str:
    """Name of a run's controller in its cluster."""
    return f"{PREFIX}{store.name}"


def controllers() -> dict[str, Any]:
    """Controllers of the searches that run in the cluster that this process is connected to, by their own names."""
    import ray

    found = {}
    for name in sorted(n for n in ray.util.list_named_actors() if n.startswith(PREFIX)):
        with suppress(ValueError):  # it ended a moment ago
            found[name] = ray.get_actor(name)
    return found


class Presence:
    """Held by the driver of a run while it works.

    On a local (or NFS) file system it is a lock, which goes when the process does, and `running.json` only says where
    the driver is. On other storage `running.json` is the lock: it names its owner and is written again every `BEAT_S`.
    Whoever finds it watches whether it changes: if not, its driver is gone. It may outlive a killed driver everywhere.

    Args:
        say: told in one line what is waited for.
        sleep: waits.

    Raises:
        UserError: another process holds the run.
    """

    def __init__(
        self,
        store: RunStore,
        *,
        say: Callable[[str], None] = logger.info,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.store, self._say, self._sleep = store, say, sleep
        self._lost = ""
        self._tell_lost: Callable[[str], object] = logger.error
        self._lock = None if "://" in store.uri else filelock.FileLock(f"{store.path}/{LOCK}", timeout=GLANCE_S)
        self._said: dict[str, Any] = {"owner": secrets.token_hex(16), "beat": 0, **this_process()}
        self._ours = False
        self._writing = threading.Lock()
        self._quit = threading.Event()
        self._heart = threading.Thread(target=self._keep_beating, name="presence", daemon=True)

    def __enter__(self) -> "Presence":
        if self._lock is None:
            self._take()
            self._heart.start()
        else:
            try:
                self._lock.acquire()
            except filelock.Timeout:
                raise self._refused(where(self.store), f"its lock is {self.store.path}/{LOCK}") from None
        with suppress(OSError):  # they take room, and do nothing else
            self.store.remove_drafts()
            self.store.remove_drafts(EVENTS)
        return self

    def __exit__(self, *_: object) -> None:
        self._quit.set()
        with self._writing, suppress(OSError):  # what is left is silent
            if self._ours and self._is_holder(self._holder()):
                self.store.delete(RUNNING)
        self._ours = False
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
        """Say where the search runs, unless another driver has taken the run over meanwhile: see `on_lost`.

        Args:
            address: of the Ray cluster.
        Raises:
            OSError: storage fails.
        """
        with self._writing:
            if self._lock or self._still_holds():
                self._said["address"] = address
                self._write()

    def beat(self) -> bool:
        """Give a sign of life, where there is no lock.

        Returns:
            Whether the run is still ours.
        Raises:
            OSError: storage fails; the next beat may come through.
        """
        with self._writing:
            if not self._still_holds():
                return False
            self._said["beat"] += 1
            self._write()
            return True

    def _still_holds(self) -> bool:
        """Whether nobody else has taken the run; whoever writes asks this first, or would take it back."""
        holder = self._holder() if self._ours else {}
        if holder and not self._is_holder(holder):
            self._ours = False
            self._lost = str(self._refused(holder, "it took over while this driver gave no sign of life"))
            self._tell_lost(self._lost)
        return self._ours

    def on_lost(self, tell: Callable[[str], object]) -> None:
        """Whom to tell, in one line, that another driver has taken the run over; it may have happened already. It does
        to a driver that could not write for `SILENT_BEATS`, which must end then.
        """
        self._tell_lost = tell
        if self._lost:
            tell(self._lost)

    def _keep_beating(self) -> None:
        """Until the end; a storage that fails for a while is tried again with the next beat."""
        while not self._quit.wait(BEAT_S):
            try:
                if not self.beat():
                    return
            except OSError as error:
                logger.warning("no sign of life could be given: %s", first_line(error))

    def _take(self) -> None:
        """Take the run, unless whoever holds it is alive."""
        first = now = self._holder()
        if first:
            wait_s = BEAT_S * (SILENT_BEATS + 1)
            self._say(f"run {self.store.uri} has a driver; watching for {wait_s:g} s whether it is alive")
        for _ in range(SILENT_BEATS + 1):
            if not now:
                break
            self._sleep(BEAT_S)
            now = self._holder()
            if now and now != first:
                raise self._refused(now, "it gives signs of life")
        self._write()
        self._sleep(SETTLE_S)
        if not self._is_holder(now := self._holder()):
            self._ours = False
            raise self._refused(now, "it began at the same time")

    def _is_holder(self, holder: dict[str, Any]) -> bool:
        return bool(holder.get("owner") == self._said["owner"])

    def _holder(self) -> dict[str, Any]:
        """What `running.json` says; empty: it is not there, or says nothing."""
        if not self.store.exists(RUNNING):
            return {}
        try:
            values = parse_json(self.store.read(RUNNING))
        except ValueError:
            return {}
        return values if isinstance(values, dict) else {}

    def _write(self) -> None:
        self.store.write(json.dumps(self._said).encode(), RUNNING)
        self._ours = True

    def _refused(self, holder: dict[str, Any] | None, why: str) -> UserError:
        known = holder and {"pid", "host"} <= set(holder)
        by = f" by process {holder['pid']} on {holder['host']}" if holder and known else ""
        law = f"run {self.store.uri} is worked on already{by} ({why})"
        return UserError(f"{law}; watch it with python -m lfs.status {self.store.shown}")


def is_held(store: RunStore) -> bool:
    """Whether a driver works on a run, from its files alone and at once.

    On storage that cannot be locked a driver counts as alive for as long after its last sign of life as another one
    would wait for the next, by the clocks of the storage and of this machine.
    """
    if "://" in store.uri:
        said = store.retrying(lambda: store.files.info(store.at(RUNNING)))
        return said is not None and time.time() - said.changed < BEAT_S * (SILENT_BEATS + 1)
    try:
        with open_file(store.at(LOCK)) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is none, or none that we may look at
        return False
    return False


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
