"""cluster/local.yaml over sshd: check, `ray up`, `ray submit`, `ray job submit`, `ray rsync-down`, `ray down`.

Laptop, head and worker are namespaces of this machine (tests/cluster/lab.py).
"""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lfs.run_store import RunStore
from tests.cluster.files import ROOT, filled
from tests.cluster.lab import Lab
from tests.lfs.test_search_ray import digest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
FILE = "/mnt/shared/local.yaml"
VALUES = {"HEAD_IP": "10.77.0.2", "WORKER_IP": "10.77.0.3", "SSH_USER": "root", "SSH_KEY": "/mnt/shared/key"}


def until(happened: Callable[[], bool], what: str, timeout_s: float = 90) -> None:
    """Look again and again."""
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(1)


@pytest.mark.parametrize(
    ("values", "code", "said"),
    [
        ({}, 0, "local.yaml: provider local, head 10.77.0.2, 1 worker; ssh works"),
        (
            {"SSH_KEY": "/mnt/shared/wrong_key"},
            1,
            "line 11: head 10.77.0.2 does not let root in with key /mnt/shared/w",
        ),
        ({"HEAD_IP": "10.77.0.1"}, 1, "line 6: head 10.77.0.1 cannot be used: connect to host 10.77.0.1 port 22: Conn"),
        ({"HEAD_IP": "10.77.0.9"}, 1, "line 6: head 10.77.0.9 cannot be used: connect to host 10.77.0.9 port 22: "),
    ],
    ids=["ok", "wrong key", "closed port", "nobody there"],
)
def test_check_tries_the_head(lab: Lab, values: dict[str, str], code: int, said: str) -> None:
    (lab.folder / "local.yaml").write_text(filled("local.yaml", VALUES | values))
    start_s = time.monotonic()
    done = lab.run("python", "-m", "lfs.cluster", "check", FILE)
    assert done.returncode == code, done.stderr
    [line] = (done.stdout + done.stderr).splitlines()
    assert said in line
    assert time.monotonic() - start_s < 30  # most of it starts Python on a busy machine


def test_from_ray_up_to_ray_down(lab: Lab) -> None:
    outside = Path("~/.ray/auth_token").expanduser()
    token_outside = outside.read_bytes() if outside.exists() else b""
    (lab.folder / "local.yaml").write_text(filled("local.yaml", VALUES))
    up = lab.run("ray", "up", "-y", FILE, timeout_s=300)
    assert up.returncode == 0, up.stdout + up.stderr
    until(lambda: any("raylet" in line for line in lab.processes("worker")), "a raylet on the worker")
    until(
        lambda: "2 local.cluster.node" in lab.run("ray", "exec", FILE, "ray status").stdout, "both nodes in the cluster"
    )
    for host in lab.hosts:
        token = lab.folder / "homes" / host / ".ray" / "auth_token"
        assert token.read_bytes() == (lab.folder / "homes/laptop/.ray/auth_token").read_bytes() != token_outside
        assert token.stat().st_mode & 0o777 == 0o600

    settings = ("--config", "/mnt/shared/tiny.yaml", "--storage", "/mnt/shared/runs", "--num-workers")
    submit = ("ray", "submit", FILE, "cluster/search.py", "--", *settings, "4", "--name")
    done = lab.run(*submit, "submitted")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 trainer(s) of 1 CPU fit" in done.stdout  # two per node: both are in it, with the token
    done = lab.run(*submit, "submitted")
    assert done.returncode != 0
    assert "lfs.search: " in done.stdout

    done = lab.run("ray", "rsync-down", FILE, "/mnt/shared/runs/", "/mnt/home/fetched/")
    assert done.returncode == 0, done.stderr
    fetched = lab.folder / "homes/laptop/fetched/submitted"
    assert RunStore(str(fetched)).load_result()
    assert digest(fetched) == digest(lab.folder / "runs" / "submitted")

    tunnel = lab.start("dashboard.log", "ray", "dashboard", FILE)
    until(lambda: lab.run("python", "-c", LISTENS).returncode == 0, "the dashboard on the laptop's loopback")
    job = ("ray", "job", "submit", "--address", "http://127.0.0.1:8265", "--working-dir", ".")
    job += ("--", "python", "-m", "lfs.search", *settings, "2", "--name", "job")
    done = lab.run(*job)
    assert done.returncode != 0
    assert "Missing authentication token" in done.stderr  # the README says to export RAY_AUTH_MODE
    done = lab.run("env", "RAY_AUTH_MODE=token", *job)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "generation 3/3: best" in done.stdout
    assert digest(lab.folder / "runs" / "job") == digest(lab.folder / "runs" / "submitted")
    done = lab.run("env", "RAY_AUTH_MODE=token", *job)
    assert done.returncode == 1
    assert "lfs.search: " in done.stdout
    tunnel.send_signal(signal.SIGTERM)
    tunnel.wait(20)

    done = lab.run("ray", "down", "-y", FILE)
    assert done.returncode == 0, done.stderr
    assert lab.run(*lab.ssh("worker", "~/lfs-env/bin/ray stop")).returncode == 0  # Ray does not do it, says the README
    for host in lab.hosts:
        until(lambda host=host: not [line for line in lab.processes(host) if "ray" in line], f"no Ray on {host}", 30)
    assert not Path("/tmp/ray/cluster-lfs.state").exists()
    assert (outside.read_bytes() if outside.exists() else b"") == token_outside
    assert not (ROOT / "runs").exists()


LISTENS = "import socket; socket.create_connection(('127.0.0.1', 8265), 1)"
