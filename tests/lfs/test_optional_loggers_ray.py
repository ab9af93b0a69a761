"""Whole searches that log to MLflow and Weights & Biases besides, also while their server dies."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from lfs.optional_loggers import ray_wandb
from lfs.tune_loggers import spelled
from lfs.tune_row import OWN
from tests.lfs.mlflow_server import SERVER, MLflowServer
from tests.lfs.test_optional_loggers import mlflow_history, mlflow_runs
from tests.lfs.test_search_ray import Start, digest, readme_snippets
from tests.lfs.wandb_reader import offline_run

pytestmark = [
    pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600),
    pytest.mark.skipif(not SERVER, reason="needs a whole MLflow, with its server"),
    pytest.mark.skipif(ray_wandb.wandb is None, reason="needs the extra wandb"),
]  # fmt: skip
SECRETS = (b"pass-of-mlflow", b"0123456789abcdef0123456789abcdef01234567")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MLflowServer]:
    made = MLflowServer(tmp_path)
    yield made
    made.stop()


def environment(server: MLflowServer) -> dict[str, str]:
    """Of a user who has credentials, and no network for W&B."""
    address = server.uri.replace("//", f"//me:{SECRETS[0].decode()}@")
    wandb = {"WANDB_MODE": "offline", "WANDB_API_KEY": SECRETS[1].decode(), "WANDB_PROJECT": "faces"}
    return {"MLFLOW_TRACKING_URI": address, "MLFLOW_DISABLE_TELEMETRY": "true", **wandb}


def assert_no_secrets(folder: Path) -> None:
    """None of the credentials is in any file."""
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(secret in content for secret in SECRETS), path


def test_all_loggers_have_what_tune_has(
    server: MLflowServer, undisturbed: Path, run_command: Start, recipe_file: Callable[..., str], tmp_path: Path
) -> None:
    arguments = ("--config", recipe_file(), "--num-workers", "1", "--storage", str(tmp_path), "--name", "run")
    command = run_command("lfs.search", *arguments, "--loggers", "mlflow,wandb", **environment(server))
    assert command.wait(400) == 0, command.err.read_text()
    assert command.err.read_text() == ""
    assert digest(tmp_path / "run") == digest(undisturbed)
    assert_no_secrets(tmp_path / "run")

    table = pd.read_csv(tmp_path / "run" / "tune" / "trainer-000" / "progress.csv")
    first = list(table).index("generation")
    columns = [name for name in list(table)[first : list(table).index("done")] if name not in ("trainer", "reason")]
    assert set(OWN) - {"trainer", "reason"} < set(columns)
    [run] = mlflow_runs(server.uri, "run").values()
    assert set(run.data.metrics) == set(map(spelled, columns))
    steps = list(range(1, 14))
    for name in ("reward", "policy_mean/margin", "tar@far=0.1", "images_per_s"):
        values = pytest.approx(table[name].tolist())
        history = mlflow_history(server.uri, run, spelled(name))
        assert ([step for step, _ in history], [value for _, value in history]) == (steps, values)
    assert run.data.params["space.name"] == "global"
    [snippet] = [code for code in readme_snippets() if "mlflow" in code]
    code, asked = snippet.replace("NAME", "run"), {**os.environ, "MLFLOW_TRACKING_URI": server.uri}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=asked)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split()[:2] == ["trainer-000", "0.1"]

    [path] = tmp_path.glob("command-*/cwd/wandb/offline-run-*/*.wandb")
    offline = offline_run(path)
    assert (offline["name"], offline["group"], offline["project"]) == ("trainer-000", "run", "faces")
    assert offline["config"]["seed"] == 5
    assert offline["axis"] == {"timesteps_total"}
    history = pd.DataFrame(offline["history"])
    assert set(columns) <= set(history)
    assert history["timesteps_total"].tolist() == steps
    assert history["reward"].tolist() == pytest.approx(table["reward"].tolist())


def test_a_server_that_dies_neither_stops_nor_changes_the_search(
    server: MLflowServer, undisturbed: Path, run_command: Start, recipe_file: Callable[..., str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = ("--config", recipe_file(), "--num-workers", "1", "--storage", str(tmp_path), "--name", "run")
    command = run_command("lfs.search", *arguments, "--loggers", "mlflow", **environment(server))
    command.wait_for(run / "generations" / "000000" / "COMMIT")
    server.stop()
    assert command.wait(400) == 0, command.err.read_text()
    said = command.err.read_text()
    assert "warning: mlflow does not take results, the search goes on" in said
    assert "of its messages were lost; the run has all results" in said
    assert SECRETS[0].decode() not in said
    assert digest(run) == digest(undisturbed)
    assert_no_secrets(run)
    assert len(pd.read_csv(run / "tune" / "trainer-000" / "progress.csv")) == 13
    resumed = run_command("lfs.search", "--resume", str(run), "--generations", "5", **environment(server))
    assert resumed.wait() == 1
    assert "--loggers mlflow: no server answers at 127.0.0.1" in resumed.err.read_text()
    without = ("--resume", str(run), "--generations", "5", "--loggers", "")
    resumed = run_command("lfs.search", *without, **environment(server))
    assert resumed.wait(400) == 0, resumed.err.read_text()
    assert len(digest(run)) == 5
    assert (run / "tune-2").exists()
