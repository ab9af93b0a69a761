"""Hosts on this machine, for tests and benchmarks: namespaces with addresses of their own, one Ray node in each.

                 switch (network namespace, bridge)
            port0 |          port1 |          port2 |      <- cut(i): down, restore(i): up, traffic(): its counters
     host 0, head |   host 1       |   host 2       |
     198.18.0.1   |   198.18.0.2   |   198.18.0.3   |      198.18.0.0/15 is reserved for benchmarks (RFC 2544)

Every host has its own network, processes, host name, /run and /dev/shm; the rest of the file system is shared by all,
as if mounted from a file server. No address or interface of it shows on the machine, and nothing outlives the process
that made it: the first process of each namespace ends when its standard input does, and the kernel ends all others.
"""

import contextlib
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

RAY = (sys.executable, "-m", "ray.scripts.scripts")
STORE_BYTES = 300 * 2**20
NAMESPACES = ("--net", "--pid", "--mount", "--uts")
FIRST = "mount -t tmpfs none /run && mount -t tmpfs none /dev/shm && ip link set lo up && echo ready && read -r _"
"""What the first process of a namespace does: it waits, and adopts and reaps what is orphaned."""
SUPERVISOR = 'while :; do "$@"; echo "ray ended with $?"; sleep 1; done'
"""What an init system does for Ray on a real host: a node that the cluster gave up ends, and is started again."""
STARTED = "Ray runtime started"
SHORT_DETECTION = {
    "RAY_health_check_initial_delay_ms": "1000", "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000", "RAY_health_check_failure_threshold": "4",
}  # fmt: skip
"""Ray's environment for a host that does not answer to be given up after some 6 s instead of a good minute."""


@functools.cache
def why_not() -> str:
    """Why hosts cannot be made here; empty if they can."""
    if os.geteuid() != 0:
        return "needs root"
    command = ["unshare", *NAMESPACES, "--fork", "--mount-proc", "--kill-child", "sh", "-c"]
    try:
        done = subprocess.run(
            [*command, "ip link add br0 type bridge && command -v tc"], capture_output=True, text=True
        )
    except FileNotFoundError as error:
        return f"needs {error.filename}"
    return f"cannot make network namespaces: {done.stderr.strip() or 'no tc'}" if done.returncode else ""


class Namespace:
    """A first process in namespaces of its own, inside those of `parent`."""

    def __init__(self, parent: "Namespace | None" = None) -> None:
        inside = parent.enter if parent else []
        # Without --kill-child the child of a killed `unshare` would live on; without `read`, that of a killed Python.
        make = ["unshare", *NAMESPACES, "--fork", "--mount-proc", "--kill-child", "bash", "-c", FIRST]
        self.process = subprocess.Popen([*inside, *make], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n", f"no namespace: {why_not()}"
        self.pid = self.process.pid
        while children := Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            self.pid = int(children[0])

    @property
    def enter(self) -> list[str]:
        """The start of a command line whose rest runs inside."""
        return ["nsenter", f"--target={self.pid}", *NAMESPACES, "--"]

    def run(self, command: str) -> str:
        """Run a command of plain words inside; its output."""
        return subprocess.run([*self.enter, *command.split()], check=True, capture_output=True, text=True).stdout

    def path(self, inside: str) -> Path:
        """Where a path inside is found from outside."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def close(self) -> None:
        """End everything inside."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


class Hosts:
    """Connected hosts with a Ray cluster over all of them, a context manager.

    Args:
        folder: shared by the hosts: logs of Ray (`host-I.log`), and a home directory that holds the cluster's token.
        num_cpus: of each host, the head's first.
        environment: of everything that runs on the hosts, over what this process has.
    """

    def __init__(self, folder: Path, num_cpus: Sequence[int], environment: Mapping[str, str] | None = None) -> None:
        self.folder, self.num_cpus = folder, tuple(num_cpus)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "TUNE_", "OMP_"))}
        own = {"HOME": str(folder / "home"), "TMPDIR": "/run", "RAY_TMPDIR": "/run/ray", "CUDA_VISIBLE_DEVICES": ""}
        own["RAY_AUTH_MODE"] = "token"
        own["PYTHONPATH"] = str(Path(__file__).parents[1])  # where `tests` is
        self.environment = inherited | own | dict(environment or {})
        self.hosts: list[Namespace] = []
        self._everything = contextlib.ExitStack()

    def __enter__(self) -> "Hosts":
        (self.folder / "home").mkdir(parents=True)
        with contextlib.ExitStack() as so_far:
            self.switch = self._namespace(so_far)
            self.switch.run("ip link add br0 type bridge")
            self.switch.run("ip link set br0 up")
            for number in range(len(self.num_cpus)):
                self.hosts.append(self._namespace(so_far, self.switch))
                self._connect(number)
            self.popen(
                0, *RAY, "get-auth-token", "--generate", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ).wait()
            for number in range(len(self.num_cpus)):
                self._start_ray(number)
                if number == 0:
                    self.wait_for_ray(number)
            for number in range(1, len(self.num_cpus)):
                self.wait_for_ray(number)
            self._everything = so_far.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._everything.close()

    @staticmethod
    def _namespace(stack: contextlib.ExitStack, parent: Namespace | None = None) -> Namespace:
        made = Namespace(parent)
        stack.callback(made.close)
        return made

    @staticmethod
    def ip(number: int) -> str:
        """Address of a host."""
        return f"198.18.0.{number + 1}"

    @property
    def address(self) -> str:
        """Address of the cluster, valid on the hosts."""
        return f"{self.ip(0)}:6379"

    def _connect(self, number: int) -> None:
        host, switch = self.hosts[number], self.switch
        switch_side = f"port{number}"
        subprocess.run(
            ["nsenter", f"--target={switch.pid}", "--net", "--", "ip", "link", "add", switch_side, "type", "veth",
             "peer", "name", "eth0", "netns", str(host.pid)], check=True,
        )  # fmt: skip
        switch.run(f"ip link set {switch_side} master br0 up")
        host.run(f"hostname host-{number}")
        host.run(f"ip address add {self.ip(number)}/24 dev eth0")
        host.run("ip link set eth0 up")
        host.run("ip route add default dev eth0")  # by which Ray finds out the host's own address

    def _start_ray(self, number: int) -> None:
        head = ("--head", "--port=6379", "--include-dashboard=false")
        where = head if number == 0 else (f"--address={self.address}",)
        options = (f"--num-cpus={self.num_cpus[number]}", f"--node-ip-address={self.ip(number)}", "--temp-dir=/run/ray")
        rest = (f"--object-store-memory={STORE_BYTES}", "--disable-usage-stats", "--block")
        ray = [*RAY, "start", *where, *options, *rest]
        with (self.folder / f"host-{number}.log").open("ab") as log:
            self.popen(number, "bash", "-c", SUPERVISOR, "ray", *ray, stdout=log, stderr=log)

    def starts(self, number: int) -> int:
        """How often Ray has started on a host."""
        return (self.folder / f"host-{number}.log").read_text(errors="replace").count(STARTED)

    def wait_for_ray(self, number: int, times: int = 1, timeout_s: float = 90) -> None:
        """Until Ray has started on a host so many times."""
        wait_for(lambda: self.starts(number) >= times, f"Ray on host {number}", timeout_s=timeout_s)

    def popen(self, number: int, *command: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a command on a host."""
        inside = [*self.hosts[number].enter, *command]
        settings = {"stdin": subprocess.DEVNULL, "env": self.environment, "cwd": self.folder} | options
        return subprocess.Popen(inside, **settings)

    def signal(self, number: int, pid: int, which: int) -> None:
        """Send a signal to a process of a host, by its number there."""
        self.hosts[number].run(f"kill -{which:d} {pid}")

    def cut(self, number: int) -> None:
        """Pull a host's plug out of the switch; everything on it runs on."""
        self.switch.run(f"ip link set port{number} down")

    def restore(self, number: int) -> None:
        """Put the plug back."""
        self.switch.run(f"ip link set port{number} up")

    def limit(self, number: int, rate: str) -> None:
        """Limit what flows from and to a host, each way, to a rate that `tc` understands, `100mbit`."""
        for side, port in ((self.switch, f"port{number}"), (self.hosts[number], "eth0")):
            side.run(f"tc qdisc replace dev {port} root tbf rate {rate} burst 128kb latency 200ms")

    def traffic(self) -> list[tuple[int, int]]:
        """Bytes into and out of each host since it exists, headers included."""
        links = {link["ifname"]: link["stats64"] for link in json.loads(self.switch.run("ip -json -statistics link"))}
        ports = [links[f"port{number}"] for number in range(len(self.hosts))]
        return [(port["tx"]["bytes"], port["rx"]["bytes"]) for port in ports]


def wait_for(
    condition: Callable[[], bool], what: str, process: "subprocess.Popen[bytes] | None" = None, timeout_s: float = 120
) -> None:
    """Until a condition holds.

    Raises:
        TimeoutError: it never did.
        RuntimeError: the process that was to bring it about ended before.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"ended with {process.returncode} before there was a {what}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} within {timeout_s:g} s")
        time.sleep(0.02)
