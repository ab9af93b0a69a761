"""A real Ray cluster of several nodes on this machine, whose processes can be found and killed one by one.

Every node is a session of its own (`ray start --block`), with a folder of its own: Ray names sockets in a folder one
after the other, and two nodes that start at once would take the same name.
"""

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from tests.lfs.conftest import Command, free_address

ROOT = Path(__file__).parents[2]
STORE_BYTES = 80 * 2**20
STARTED = "Ray runtime started"
OBSERVING = "observing"
TRAINER, CONTROLLER, RAYLET = "ray::ResourceTrainable", "ray::Controller", "raylet/raylet"
GONE_S = 20.0


def kill(pids: Iterable[int]) -> list[int]:
    """End processes with -9; those that were there."""
    killed = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
    return killed


def label_of(pid: int) -> str:
    """Name of the trainer that a process is, from Tune's folder that it works in; empty: it is only starting."""
    try:
        name = Path(os.readlink(f"/proc/{pid}/cwd")).name
    except OSError:
        return ""
    return "-".join(name.split("-")[:2]) if name.startswith("trainer-") else ""


class Cluster:
    """A head without CPUs, nodes with trainers, and an observer; a context manager.

    Args:
        folder: for logs.
        num_cpus: of each node but the head.
    """

    def __init__(self, folder: Path, num_cpus: tuple[int, ...]) -> None:
        self.folder, self.num_cpus = folder, num_cpus
        self.temporary = Path(tempfile.mkdtemp(prefix="ft-"))  # short: paths of sockets have at most 107 bytes
        self.address = free_address()
        self.observed = folder / "observed.jsonl"
        self._started: list[Command] = []
        self.nodes: dict[int, Command] = {}
        self.due: dict[int, float] = {}
        """Nodes to be started again, and when."""

    def __enter__(self) -> "Cluster":
        try:
            port = self.address.rpartition(":")[2]
            self.head = self._node("head", "--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false")
            self.head.wait_for_line(STARTED, 90)
            for number in range(len(self.num_cpus)):
                self.start_node(number)
            self.wait_for_nodes()
            self.observer = self._command("observer", "tests.fault.observer", self.address, str(self.observed))
            self.observer.wait_for_line(OBSERVING, 90)
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _command(self, name: str, module: str, *arguments: str, **variables: str) -> Command:
        place = self.folder / f"{len(self._started):03d}-{name}"
        place.mkdir(parents=True)
        self._started.append(Command(place, module, *arguments, PYTHONPATH=str(ROOT), **variables))
        return self._started[-1]

    def _node(self, name: str, *arguments: str, **variables: str) -> Command:
        start = ("start", "--block", "--disable-usage-stats", f"--object-store-memory={STORE_BYTES}", *arguments)
        place = f"--temp-dir={self.temporary}/{len(self._started)}"
        return self._command(name, "ray.scripts.scripts", *start, place, **variables)

    def start_node(self, number: int) -> None:
        """Start a node (again), without waiting for it."""
        self.due.pop(number, None)
        address, cpus = f"--address={self.address}", f"--num-cpus={self.num_cpus[number]}"
        self.nodes[number] = self._node(f"node-{number}", address, cpus, RAY_AUTH_MODE="token")

    def tick(self) -> None:
        """Start nodes that are due to come back."""
        for number in [n for n, at in self.due.items() if time.monotonic() >= at]:
            self.start_node(number)

    def wait_for_nodes(self, timeout_s: float = 90) -> None:
        """Until all nodes are there."""
        for number in list(self.due):
            self.start_node(number)
        for node in self.nodes.values():
            node.wait_for_line(STARTED, timeout_s)

    def trainers(self) -> list[int]:
        """Processes that are trainers."""
        return [pid for node in self.nodes.values() for pid in node.family(TRAINER)]

    def controllers(self) -> list[int]:
        """Processes that are controllers."""
        return self.head.family(CONTROLLER)

    def kill_node(self, number: int, back_s: float) -> list[int]:
        """End a node's raylet, on which all else on the node ends; the node comes back."""
        self.due[number] = time.monotonic() + back_s
        return kill(self.nodes[number].family(RAYLET))

    def kill_everything(self) -> list[int]:
        """Every process of the cluster at once."""
        return kill(pid for command in self._started for pid in command.family())

    def settle(self) -> list[str]:
        """Wait until nothing of a search that ended is left in the cluster; what is left after all."""
        deadline = time.monotonic() + GONE_S
        while left := [f"trainer {p}" for p in self.trainers()] + [f"controller {p}" for p in self.controllers()]:
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        return left

    def end(self) -> None:
        """End everything, and wait until it is gone.

        Raises:
            RuntimeError: processes are left.
        """
        for command in self._started:
            command.clean()
        deadline = time.monotonic() + GONE_S
        while (left := self.strays()) and time.monotonic() < deadline:
            time.sleep(0.05)
        shutil.rmtree(self.temporary, ignore_errors=True)
        if left:
            raise RuntimeError(f"processes of the cluster are left: {left}")

    def strays(self) -> list[str]:
        """Processes of the cluster's sessions, or with its folder on their command line, that live."""
        found = [f"{pid}" for command in self._started for pid in command.family()]
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if str(self.temporary).encode() in entry.read_bytes():
                    found.append(entry.parent.name)
        return sorted(set(found))
