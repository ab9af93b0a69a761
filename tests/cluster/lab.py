"""A laptop and hosts with sshd, each in namespaces of its own here, so that `ray stop` ends nobody else's Ray.

What a host has of its own: processes, an address, a home, /tmp, /run, /dev/shm. What all have: /mnt/shared, as by NFS.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOLS = ("unshare", "nsenter", "setpriv", "ip", "ssh", "ssh-keygen", "rsync", "/usr/sbin/sshd")
SSHD = "AuthorizedKeysFile .ssh/authorized_keys\nPasswordAuthentication no\nUsePAM no\nPrintMotd no\n"


def why_not() -> str:
    """What this machine lacks for namespaces with sshd; empty: nothing."""
    if any(path.is_relative_to(hidden) for path in (ROOT, Path(sys.prefix)) for hidden in ("/mnt", "/run")):
        return "the hosts have a /mnt and a /run of their own: the checkout and its environment must be elsewhere"
    if importlib.util.find_spec("aiohttp") is None:
        return "ray[default] is not installed, which setup.cfg asks for"
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        return f"{', '.join(missing)} not installed"
    if os.geteuid():
        return "namespaces need root"
    probe = "mount -t tmpfs t /mnt && mkdir /mnt/a /mnt/b && ip link add probe type bridge && "
    probe += "mount -t overlay o -o lowerdir=/tmp,upperdir=/mnt/a,workdir=/mnt/b /tmp"
    done = subprocess.run(
        ["unshare", "--mount", "--net", "sh", "-c", probe], capture_output=True, text=True, check=False
    )
    return f"namespaces cannot be made here: {done.stderr.strip()}" if done.returncode else ""


class Lab:
    """The running hosts. `run` and `start` act on the laptop, `ray` environments lie in every host's home."""

    def __init__(self, folder: Path, *hosts: str) -> None:
        self.folder = folder
        self.hosts = {name: f"10.77.0.{n}" for n, name in enumerate(hosts, start=2)}
        for name in ("laptop", *hosts):
            self._make_home(folder / "homes" / name)
        accounts = [line for line in Path("/etc/passwd").read_text().splitlines() if not line.startswith("root:")]
        (folder / "passwd").write_text("\n".join(["root:x:0:0:root:/mnt/home:/bin/bash", *accounts, ""]))
        (folder / "sshd_config").write_text(SSHD)
        for key in ("key", "wrong_key", "host_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True)
        for name in hosts:
            shutil.copy(folder / "key.pub", folder / "homes" / name / ".ssh" / "authorized_keys")
        outer = ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        outer += ["--net", "--mount", "bash", str(Path(__file__).with_name("lab.sh")), str(folder), *hosts]
        with (folder / "lab.log").open("ab") as log:
            self._outer = subprocess.Popen(outer, stdout=log, stderr=log)
        self._wait_until_up()

    def _make_home(self, home: Path) -> None:
        """A user's home: Python with this environment's packages, and a pip that gets nothing from anywhere."""
        (home / ".ssh").mkdir(parents=True, mode=0o700)
        environment = home / "lfs-env"
        make = [sys.executable, "-m", "venv", "--without-pip", str(environment)]
        subprocess.run(make, check=True)
        paths = sysconfig.get_paths(vars={"base": str(environment), "platbase": str(environment)})
        Path(paths["purelib"], "packages.pth").write_text("\n".join(p for p in sys.path if p.endswith("-packages")))
        activate = environment / "bin" / "activate"
        activate.write_text(activate.read_text().replace(str(home), "/mnt/home"))
        script = "import sys\nfrom ray.scripts.scripts import main\nsys.exit(main())\n"
        ray = environment / "bin" / "ray"
        ray.write_text(f"#!/mnt/home/lfs-env/bin/python\n{script}")
        ray.chmod(0o755)
        (home / ".config" / "pip").mkdir(parents=True)
        offline = "[global]\nno-index = true\nroot-user-action = ignore\n[install]\nno-build-isolation = false\n"
        (home / ".config" / "pip" / "pip.conf").write_text(offline)

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + 20
        while not (self.folder / "up").exists():
            assert self._outer.poll() is None, (self.folder / "lab.log").read_text()
            assert time.monotonic() < deadline, (self.folder / "lab.log").read_text()
            time.sleep(0.02)
        for address in self.hosts.values():
            while self.run(
                sys.executable, "-c", f"import socket; socket.create_connection(('{address}', 22))"
            ).returncode:
                assert time.monotonic() < deadline, f"no sshd at {address}"

    def command(self, *command: str) -> list[str]:
        """A command line for outside that runs one on the laptop."""
        first = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text().split()[0]
        variables = {
            "HOME": "/mnt/home", "PATH": f"/mnt/home/lfs-env/bin:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
            "USER": "root", "TERM": "dumb", "CUDA_VISIBLE_DEVICES": "",
        }  # fmt: skip
        environment = ["env", "-i", *(f"{name}={value}" for name, value in variables.items())]
        return ["nsenter", "-t", first, "-m", "-n", "-p", f"--wdns={ROOT}", *environment, *command]

    def run(self, *command: str, timeout_s: float = 240) -> "subprocess.CompletedProcess[str]":
        """Run a command on the laptop, in the checkout."""
        return subprocess.run(
            self.command(*command),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )

    def start(self, log: str, *command: str) -> "subprocess.Popen[bytes]":
        """Start a command on the laptop that ends with what is returned; its output goes to a file of the lab."""
        with (self.folder / log).open("ab") as out:
            return subprocess.Popen(
                self.command("setpriv", "--pdeathsig", "TERM", *command),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    def ssh(self, host: str, line: str) -> list[str]:
        """A laptop's command that runs a shell line on a host."""
        options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR")
        return ["ssh", "-i", "/mnt/shared/key", *(f"-o{option}" for option in options), self.hosts[host], line]

    def namespaces(self) -> set[str]:
        """The names of all hosts' process namespaces."""
        listed = self.run("sh", "-c", "readlink /proc/[0-9]*/ns/pid")
        return set(listed.stdout.split())

    def processes(self, host: str) -> list[str]:
        """Command lines on a host, without those of sshd."""
        pid = (self.folder / f"pid-{host}").read_text().strip()
        first = self.run("cat", f"/proc/{pid}/task/{pid}/children").stdout.split()[0]
        listed = self.run("nsenter", "-t", first, "-m", "-p", "ps", "-eo", "args=").stdout.splitlines()
        return [line for line in listed if "sshd" not in line and not line.startswith("ps -eo")]

    def close(self) -> None:
        """End every process of every host."""
        self._outer.kill()
        self._outer.wait(30)


@contextmanager
def hosts(folder: Path, *names: str) -> Iterator[Lab]:
    """A lab that is gone afterwards."""
    lab = Lab(folder, *names)
    try:
        yield lab
    finally:
        lab.close()
