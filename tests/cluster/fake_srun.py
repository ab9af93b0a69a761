"""`srun` for tests/cluster/lab.py: the step's command on the chosen hosts, over ssh; SIGTERM goes on to it.

When the command ends, all that it started is killed, daemons too, as Slurm does.
"""

import ctypes
import json
import os
import shlex
import signal
import subprocess
import sys
import uuid
from pathlib import Path

SSH = [
    "ssh",
    "-i",
    "/mnt/shared/key",
    "-oStrictHostKeyChecking=no",
    "-oUserKnownHostsFile=/dev/null",
    "-oLogLevel=ERROR",
]
PR_SET_CHILD_SUBREAPER = 36


def srun() -> int:
    """Run one step; its exit code is the worst of its tasks."""
    arguments = sys.argv[1:]
    own = arguments[: next(i for i, argument in enumerate(arguments) if not argument.startswith("--"))]
    options = dict(argument.lstrip("-").partition("=")[::2] for argument in own)
    addresses = json.loads(Path("/mnt/shared/hosts.json").read_text())
    names = options.get("nodelist") or os.environ["SLURM_JOB_NODELIST"]
    chosen = [name for name in names.split(",") if name != options.get("exclude")]
    assert len(chosen) == int(options["nodes"]), (chosen, options)
    kept = {name: value for name, value in os.environ.items() if name.startswith(("SLURM_", "RAY_", "PYTHON", "PATH"))}
    step = f"/mnt/shared/step-{uuid.uuid4().hex}"
    task = [sys.executable, __file__, "task", f"{step}-$HOST", *arguments[len(own) :]]
    line = shlex.join(["env", *(f"{name}={value}" for name, value in kept.items()), *task])

    def end(*_: object) -> None:
        for name in chosen:
            subprocess.run([*SSH, addresses[name], f"kill -TERM $(cat {step}-{name})"], check=False)

    signal.signal(signal.SIGTERM, end)
    running = [
        subprocess.Popen([*SSH, addresses[name], line.replace("$HOST", name)], stdin=subprocess.DEVNULL)
        for name in chosen
    ]
    return max(process.wait() for process in running)


def task(pid_file: Path, command: list[str]) -> int:
    """Run a step's command on this host, and end what it leaves."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what loses its parent becomes a child of this one
    running = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, lambda *_: running.terminate())
    pid_file.write_text(str(os.getpid()))
    code = running.wait()
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while left := children.read_text().split():
        for pid in left:
            os.kill(int(pid), signal.SIGKILL)
            os.waitpid(int(pid), 0)
    pid_file.unlink()
    return code


if __name__ == "__main__":
    sys.exit(task(Path(sys.argv[2]), sys.argv[3:]) if sys.argv[1] == "task" else srun())
