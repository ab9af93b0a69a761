"""`srun` for tests/cluster/lab.py: the step's command on the chosen hosts, over ssh; SIGTERM goes on to it.

What a step leaves behind is killed when it ends, as Slurm does by its control groups; here by an environment variable.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import uuid
from pathlib import Path

END = """
import os, pathlib, sys
for entry in pathlib.Path("/proc").iterdir():
    try:
        if entry.name != str(os.getpid()) and b"SLURM_STEP=%s" in (entry / "environ").read_bytes():
            os.kill(int(entry.name), %d)
    except (OSError, ValueError):
        pass
"""
SSH = [
    "ssh",
    "-i",
    "/mnt/shared/key",
    "-oStrictHostKeyChecking=no",
    "-oUserKnownHostsFile=/dev/null",
    "-oLogLevel=ERROR",
]


def main() -> int:
    """Run one step."""
    arguments = sys.argv[1:]
    own = arguments[: next(i for i, a in enumerate(arguments) if not a.startswith("--"))]
    options = dict(argument.lstrip("-").partition("=")[::2] for argument in own)
    command = arguments[len(own) :]
    addresses = json.loads(Path("/mnt/shared/hosts.json").read_text())
    names = options.get("nodelist") or os.environ["SLURM_JOB_NODELIST"]
    chosen = [name for name in names.split(",") if name != options.get("exclude")]
    assert len(chosen) == int(options["nodes"]), (chosen, options)
    step = uuid.uuid4().hex
    kept = {name: value for name, value in os.environ.items() if name.startswith(("SLURM_", "RAY_", "PYTHON", "PATH"))}
    line = shlex.join(["env", *(f"{name}={value}" for name, value in kept.items()), f"SLURM_STEP={step}", *command])

    def end(number: int) -> None:
        script = END % (step, number)
        for name in chosen:
            subprocess.run([*SSH, addresses[name], shlex.join(["python3", "-c", script])], check=False)

    signal.signal(signal.SIGTERM, lambda *_: end(signal.SIGTERM))
    running = [subprocess.Popen([*SSH, addresses[name], line], stdin=subprocess.DEVNULL) for name in chosen]
    codes = [process.wait() for process in running]
    end(signal.SIGKILL)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
