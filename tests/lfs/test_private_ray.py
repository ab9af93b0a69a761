"""A search's own cluster lets nobody in: loopback alone, and there only with its token, which is written nowhere.

It ends with the search, also by SIGTERM.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from lfs.commands import INTERRUPTED
from tests.lfs.test_search_ray import Start

pytestmark = pytest.mark.ray

KNOCK = """
import sys
from lfs.commands import INTERRUPTED
from lfs import connect
import ray
with connect.loopback():
    ray.init(address=sys.argv[1], namespace="lfs", log_to_driver=False, logging_level="ERROR")
    print("inside:", ray.get(ray.get_actor("controller/run").where.remote(), timeout=20))
"""


def knock(address: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Somebody on this machine who knows the address, and has his own home."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment = plain | {"HOME": str(home), **variables}
    return subprocess.run(
        [sys.executable, "-c", KNOCK, address], env=environment, capture_output=True, text=True, timeout=120
    )


def test_only_this_machine_with_the_token_reaches_a_running_search(
    run_command: Start, recipe_file: Callable[..., str], tmp_path: Path
) -> None:
    token = secrets.token_hex(24)
    run = tmp_path / "run"
    arguments = ("--config", recipe_file(generations=400), "--storage", str(tmp_path), "--name", "run")
    search = run_command("lfs.search", *arguments, RAY_AUTH_TOKEN=token, RAY_AUTH_MODE="disabled")  # not here
    search.wait_for(run / "generations" / "000000" / "COMMIT")

    listening = {
        connection.laddr.ip
        for pid in search.family()
        for connection in psutil.Process(pid).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening
    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}

    address = json.loads((run / "running.json").read_text())["address"]
    home = tmp_path / "home"
    home.mkdir()
    tokens = ({"RAY_AUTH_TOKEN": token}, {"RAY_AUTH_TOKEN": secrets.token_hex(24)}, {"RAY_AUTH_MODE": "disabled"})
    with ThreadPoolExecutor() as pool:
        friend, *strangers = pool.map(lambda own: knock(address, home, **({"RAY_AUTH_MODE": "token"} | own)), tokens)
    assert friend.stdout == f"inside: {run}\n", friend.stderr
    for stranger in strangers:
        assert stranger.returncode != 0
        assert "inside" not in stranger.stdout
        assert "token" in stranger.stderr.lower(), stranger.stderr

    status = run_command("lfs.status", "--storage", str(tmp_path), RAY_AUTH_TOKEN=token)
    assert status.wait() == 0, status.err.read_text()
    assert "run" in status.out.read_text()

    files = [path for path in run.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not [path for path in files if token.encode() in path.read_bytes()]
    assert token not in search.out.read_text() + search.err.read_text() + status.out.read_text()

    os.kill(search.process.pid, signal.SIGTERM)
    assert search.wait(60) == INTERRUPTED
    assert f"stopped at once; continue with python -m lfs.search --resume {run}" in search.err.read_text()
    assert "Traceback" not in search.err.read_text()
    assert not search.family()
