"""cluster/slurm.sh on two hosts, with `srun` and `scontrol` played by scripts and a real Ray (tests/cluster/lab.py)."""

import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.files import ROOT, filled
from tests.cluster.lab import Lab
from tests.lfs.test_search_ray import digest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
SCRIPTS = {
    "srun": f'exec /mnt/home/lfs-env/bin/python {ROOT}/tests/cluster/fake_srun.py "$@"',
    "scontrol": 'echo "$3" | tr , "\\n"',
}


@pytest.fixture(autouse=True)
def slurm(lab: Lab) -> Iterator[None]:
    """The commands of Slurm that the script uses, and the script with its marked lines filled in."""
    (lab.folder / "bin").mkdir()
    for name, line in SCRIPTS.items():
        (lab.folder / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (lab.folder / "bin" / name).chmod(0o755)
    text = filled("slurm.sh", {"VENV": "/mnt/home/lfs-env", "STORAGE": "/mnt/shared/runs"})
    settings = [line for line in text.splitlines() if line.startswith("settings=")]
    (lab.folder / "slurm.sh").write_text(text.replace(settings[0], "settings=(--config /mnt/shared/tiny.yaml)"))
    yield
    lab.run("rm", "-r", "/mnt/shared/bin")


def submit(lab: Lab, number: int, nodes: str, name: str) -> "subprocess.Popen[bytes]":
    """Run the script on the first of its nodes, as sbatch does."""
    variables = {
        "SLURM_JOB_ID": number, "SLURM_JOB_NUM_NODES": len(nodes.split(",")), "SLURM_JOB_NODELIST": nodes,
        "SLURM_CPUS_PER_TASK": 2, "PATH": f"/mnt/shared/bin:{os.environ['PATH']}", "PYTHONPATH": ROOT,
    }  # fmt: skip
    script = f"echo $$ > /mnt/shared/job-{number}; exec bash /mnt/shared/slurm.sh {name}"
    line = shlex.join(["env", *(f"{key}={value}" for key, value in variables.items()), "bash", "-c", script])
    return lab.start(f"job-{number}.log", *lab.ssh(nodes.split(",")[0], line))


def test_a_job_ends_when_told_to_beside_another_on_its_node_and_the_next_one_goes_on(lab: Lab) -> None:
    runs = lab.folder / "runs"
    told, alone = submit(lab, 1, "head,worker", "one"), submit(lab, 2, "head", "two")
    committed = runs / "one" / "generations" / "000000" / "COMMIT"
    deadline = time.monotonic() + 200
    while not committed.exists():
        assert told.poll() is None, log(lab, 1)
        assert time.monotonic() < deadline, log(lab, 1)
        time.sleep(0.1)
    [token] = (runs / ".job-1").iterdir()
    assert token.stat().st_mode & 0o777 == 0o600
    assert lab.run(*lab.ssh("head", "kill -TERM $(cat /mnt/shared/job-1)")).returncode == 0
    assert told.wait(200) == 0, log(lab, 1)
    assert "4 trainer(s) of 1 CPU fit" in log(lab, 1)  # two on each node, so all nodes were waited for
    assert "told to end: after this generation" in log(lab, 1)
    assert "continue with python -m lfs.search --resume /mnt/shared/runs/one" in log(lab, 1)
    assert not (runs / "one" / "result.json").exists()
    assert alone.wait(200) == 0, log(lab, 2)
    refuse_leftovers(lab)

    assert submit(lab, 3, "worker", "one").wait(200) == 0, log(lab, 3)
    assert "resuming at generation" in log(lab, 3)
    assert (runs / "one" / "result.json").read_text() == (runs / "two" / "result.json").read_text()
    assert digest(runs / "one") == digest(runs / "two")
    refuse_leftovers(lab)


def log(lab: Lab, number: int) -> str:
    """What a job printed."""
    return (lab.folder / f"job-{number}.log").read_text()


def refuse_leftovers(lab: Lab) -> None:
    """Nothing of a job may stay: processes, folders on nodes, tokens."""
    for host in lab.hosts:
        assert not [line for line in lab.processes(host) if "ray" in line or "lfs" in line]
        assert lab.run(*lab.ssh(host, "ls -d /tmp/lfs-[0-9]*/")).stdout == ""
    assert not list((lab.folder / "runs").glob(".job-*"))
    assert not Path("/tmp/lfs-1").exists()
