"""A real MLflow server on loopback, which can go away and come back with what it had."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

CLIENT = all(map(importlib.util.find_spec, ("mlflow", "sqlalchemy", "alembic")))
SERVER = CLIENT and all(map(importlib.util.find_spec, ("flask", "flask_cors", "graphene", "huey")))
"""Whether MLflow's server is here too, which the extra does without."""


class MLflowServer:
    """Started when it is made.

    Args:
        folder: for its database and log.
    """

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        store = f"sqlite:///{self.folder / 'server.db'}"
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--workers", "1"]
        place = ["--host", "127.0.0.1", "--port", str(self.port), "--artifacts-destination", str(self.folder / "files")]
        with (self.folder / "server.txt").open("ab") as log:
            environment = {**os.environ, "MLFLOW_TRACKING_URI": "", "MLFLOW_DISABLE_TELEMETRY": "true"}
            environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # its processes would outlive it
            self.process = subprocess.Popen(
                [*command, *place], stdout=log, stderr=log, start_new_session=True, env=environment
            )
        deadline = time.monotonic() + 120
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "server.txt").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def _answers(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=1) as answer:
            return bool(answer.status == 200)
        return False

    def stop(self) -> None:
        """It is gone, at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
