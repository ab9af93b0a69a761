"""MLflow gets the rows of candidates by the same names; what cannot work with a logger is said before the start."""

import base64
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from lfs import aside, optional_loggers
from lfs.aside import Aside
from lfs.optional_loggers import asides, is_installed, refuse_loggers, refuse_unreachable, wandb_logger
from lfs.search import main
from lfs.tune_loggers import described, row_of, spelled
from lfs.watch import Watch
from search_space.errors import UserError
from tests.lfs.conftest import free_address
from tests.lfs.fakes import config
from tests.lfs.mlflow_server import CLIENT, SERVER, MLflowServer
from tests.lfs.test_tune_loggers import FakeTrial, result
from tests.lfs.wandb_reader import offline_run

needs_mlflow = pytest.mark.skipif(not CLIENT, reason="needs the extra mlflow")
needs_server = pytest.mark.skipif(not SERVER, reason="needs a whole MLflow, with its server")
needs_wandb = pytest.mark.skipif(optional_loggers.ray_wandb.wandb is None, reason="needs the extra wandb")
CONTROLLER = "controller/x"
SECRET = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def nothing_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings and no credentials but a test's own; what is logged by default is logged into its folder."""
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "WANDB_"))]:
        monkeypatch.delenv(name)
    for name in optional_loggers.ENVIRONMENT:
        monkeypatch.setenv(name, optional_loggers.ENVIRONMENT[name])
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What the view of the search is told."""
    lines: list[str] = []
    Watch.live[CONTROLLER] = SimpleNamespace(view=SimpleNamespace(warn=lines.append), reason="")  # type: ignore[assignment]
    yield lines
    del Watch.live[CONTROLLER]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MLflowServer]:
    made = MLflowServer(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.uri.replace("//", "//me:secret@"))
    yield made
    made.stop()


def mlflow_beside() -> Aside:
    [made] = asides(config(name="faces", loggers=("mlflow",)), CONTROLLER)
    made.setup()
    return made


def until(true: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def mlflow_runs(uri: str, experiment: str = "faces") -> dict[str, Any]:
    """Runs of an experiment by their names."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return {run.info.run_name: run for run in client.search_runs([found.experiment_id])}


def mlflow_history(uri: str, run: Any, name: str) -> list[tuple[int, float]]:
    """(step, value) of a metric."""
    from mlflow.tracking import MlflowClient

    found = MlflowClient(uri).get_metric_history(run.info.run_id, name)
    return sorted((metric.step, metric.value) for metric in found)


def timed(place: int, **values: Any) -> dict[str, Any]:
    return result(place, timestamp=1000 + place, **values)


@needs_mlflow
def test_mlflow_has_a_run_for_each_trainer_with_all_columns(tmp_path: Path, warnings: list[str]) -> None:
    trials = []
    for number in range(2):
        trials.append(FakeTrial(tmp_path, number))
        FakeTrial.__str__ = lambda self: f"trainer-{self.config['trainer']:03d}"  # type: ignore[method-assign]
    refuse_loggers(config(name="faces", loggers=("mlflow",)))
    beside = mlflow_beside()
    for trial in trials:
        beside.on_trial_start(1, [], trial)
    beside.on_trial_result(1, [], trials[0], timed(1))
    beside.on_trial_result(1, [], trials[0], timed(4, reward=None, diverged=True, reason="loss is nan"))
    beside.on_trial_result(1, [], trials[1], timed(2, reward=0.75))
    beside.on_trial_result(1, [], trials[1], {"candidate": None, "done": True})
    beside.on_trial_start(1, [], trials[0])  # it died and starts again
    beside.on_trial_result(1, [], trials[0], timed(3, reward=0.25))
    for trial in trials:
        beside.on_trial_complete(1, [], trial)
    beside.on_experiment_end([])
    assert warnings == []
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    runs = mlflow_runs(uri)
    assert set(runs) == {"trainer-000", "trainer-001"}
    first = runs["trainer-000"]
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert set(first.data.metrics) == {spelled(n) for n in row_of(result(1))} - {"trainer", "reason"}
    assert mlflow_history(uri, first, "reward") == [(1, 0.5), (3, 0.25)]
    assert mlflow_history(uri, first, "diverged") == [(1, 0.0), (3, 0.0), (4, 1.0)]
    assert mlflow_history(uri, runs["trainer-001"], "tar_far_0.01") == [(2, 0.25)]
    assert first.data.params == {"trainer": "0", "start": "1"} | {k: str(v) for k, v in described(config()).items()}


@needs_server
def test_a_server_that_goes_away_costs_what_comes_meanwhile(
    server: MLflowServer, tmp_path: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aside, "REST_S", 0.5)
    refuse_loggers(config(name="faces", loggers=("mlflow",)))
    beside, trial = mlflow_beside(), FakeTrial(tmp_path, 0)
    beside.on_trial_start(1, [], trial)
    beside.on_trial_result(1, [], trial, timed(1))
    until(lambda: beside._done == 2)
    server.stop()
    began = time.monotonic()
    for place in range(2, 500):
        beside.on_trial_result(1, [], trial, timed(place))
    assert time.monotonic() - began < 1  # Tune's loop is not held up
    until(lambda: bool(warnings))
    assert warnings[0].startswith("mlflow does not take results, the search goes on: MlflowException")
    assert "secret" not in warnings[0]
    until(beside._events.empty)
    server.start()
    time.sleep(1.0)
    beside.on_trial_result(1, [], trial, timed(500))
    beside.on_trial_complete(1, [], trial)
    beside.on_experiment_end([])
    [run] = mlflow_runs(server.uri).values()
    history = mlflow_history(server.uri, run, "reward")
    assert (history[0], history[-1]) == ((1, 0.5), (500, 0.5))
    assert warnings[-1].endswith("of its messages were lost; the run has all results")


@needs_server
def test_a_server_that_is_away_when_a_trainer_starts_gets_it_later(
    server: MLflowServer, tmp_path: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aside, "REST_S", 0.0)
    server.stop()
    beside, trial = mlflow_beside(), FakeTrial(tmp_path, 0)
    beside.on_trial_start(1, [], trial)
    until(lambda: beside.lost == 1)
    server.start()
    beside.on_trial_result(1, [], trial, timed(7))
    beside.on_experiment_end([])
    [run] = mlflow_runs(server.uri).values()
    assert mlflow_history(server.uri, run, "reward") == [(7, 0.5)]
    assert run.data.params["trainer.lr"] == str(config().trainer.lr)


# ---- the key of W&B


@needs_wandb
def test_ray_is_told_nothing_of_what_the_environment_says_of_wandb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"WANDB_API_KEY": SECRET, "WANDB_HTTPS_PROXY": f"http://me:{SECRET}@here", "WANDB_MODE": "offline"}
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    told: list[Any] = []  # what Ray logs, or keeps of an actor: its options and what it is made of
    done = SimpleNamespace(remote=lambda: "future")
    actor = SimpleNamespace(remote=lambda **made_of: told.append(made_of) or SimpleNamespace(run=done))
    context = SimpleNamespace(get_node_id=lambda: "1" * 56)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(ray, "remote", lambda **options: told.append(options) or (lambda _: actor))
    monkeypatch.setattr(optional_loggers.ray_wandb, "Queue", lambda **_: queue.Queue())
    made, trial = wandb_logger("faces"), FakeTrial(tmp_path, 0)
    made.log_trial_start(trial)
    made.log_trial_start(trial)  # it died and starts again, with the same actor
    made._trial_queues[trial].put("a result")
    assert len(told) == 2
    assert SECRET not in repr(told)
    first, second = told[1]["queue"].queue
    assert (first.items() >= own.items(), second) == (True, "a result")


@needs_wandb
@pytest.mark.timeout(120)
@pytest.mark.parametrize("own", [{"WANDB_API_KEY": SECRET}, {}])
def test_the_writer_of_a_run_takes_its_environment_from_its_queue(own: dict[str, str], tmp_path: Path) -> None:
    done = wandb_writer(tmp_path, own | {"WANDB_MODE": "offline"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"None {own.get('WANDB_API_KEY')}"
    [path] = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert [row["reward"] for row in offline_run(path)["history"]] == [0.5]
    assert SECRET.encode() not in path.read_bytes()


@needs_wandb
@pytest.mark.timeout(180)
def test_the_server_of_the_environment_is_asked_with_its_key(tmp_path: Path) -> None:
    keys = list[str]()

    class Refuses(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            keys.append(self.headers.get("Authorization", ""))
            self.send_error(401)

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        done = wandb_writer(tmp_path, {"WANDB_API_KEY": SECRET, "WANDB_BASE_URL": address, "WANDB_INIT_TIMEOUT": "20"})
        server.shutdown()
    assert done.returncode
    assert f"Basic {base64.b64encode(f'api:{SECRET}'.encode()).decode()}" in keys, done.stderr


def wandb_writer(folder: Path, own: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """A process that writes a run as Ray's actor does; `own` comes in its queue."""
    code = """
import json, os, queue, sys
from ray.air.integrations.wandb import _QueueItem
from lfs.optional_loggers import WandbWriter
before, items = os.environ.get("WANDB_API_KEY"), queue.Queue()
for item in (json.load(sys.stdin), (_QueueItem.RESULT, {"timesteps_total": 1, "reward": 0.5}), (_QueueItem.END, None)):
    items.put(item)
writer = WandbWriter(logdir=".", queue=items, exclude=[], to_config=[], project="faces", name="trainer-000")
writer.run()
print(before, os.environ.get("WANDB_API_KEY"))
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    asked = {"cwd": folder, "env": environment, "timeout": 150}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, input=json.dumps(own), capture_output=True, text=True, **asked)


# ---- what cannot work


def test_a_package_that_is_missing_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optional_loggers, "PACKAGES", {"mlflow": ("mlflow_that_is_missing",)})
    with pytest.raises(UserError) as caught:
        refuse_loggers(config(loggers=("mlflow",)))
    assert str(caught.value) == "--loggers mlflow needs mlflow_that_is_missing: pip install 'lfs[mlflow]'"


def test_a_folder_of_logs_is_no_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "logs_of_wandb").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not is_installed("logs_of_wandb")
    assert not is_installed("no_such_package")
    assert is_installed("numpy")


def test_the_extras_hold_what_the_loggers_need() -> None:
    text = (Path(__file__).parents[2] / "setup.cfg").read_text()
    for name, packages in optional_loggers.PACKAGES.items():
        part = text.partition(f"\n{name} =\n")[2]
        assert all(f"    {package}" in part.partition("\n[")[0] for package in packages), name


@needs_mlflow
@pytest.mark.timeout(120)
def test_a_server_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    address = free_address()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@{address}")
    with pytest.raises(UserError, match=f"--loggers mlflow: no server answers at {address}") as caught:
        refuse_loggers(config(loggers=("mlflow",)))
    assert "secret" not in str(caught.value)
    refuse_unreachable("sqlite:///here.db")
    refuse_unreachable("http://host:port")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://me:secret@x")
    with pytest.raises(UserError, match="--loggers mlflow cannot be used: ") as caught:
        refuse_loggers(config(loggers=("mlflow",)))
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@needs_wandb
@pytest.mark.timeout(60)
def test_without_an_api_key_wandb_is_refused_and_asks_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError) as caught:
        refuse_loggers(config(loggers=("wandb",)))
    assert "--loggers wandb cannot be used: it has no API key" in str(caught.value)
    assert "WANDB_MODE=offline" in str(caught.value)
    monkeypatch.setenv("WANDB_MODE", "offline")
    refuse_loggers(config(loggers=("wandb",)))
    assert capfd.readouterr().err == ""


def test_nothing_is_made_when_a_logger_is_refused(
    monkeypatch: pytest.MonkeyPatch, recipe_file: Callable[..., str], tmp_path: Path
) -> None:
    monkeypatch.setattr(optional_loggers, "PACKAGES", {"wandb": ("wandb_that_is_missing",)})
    arguments = ["--config", recipe_file(), "--storage", str(tmp_path), "--name", "run", "--loggers", "wandb"]
    with pytest.raises(UserError, match="wandb_that_is_missing"):
        main(arguments)
    assert not (tmp_path / "run").exists()


def test_unknown_loggers_are_refused() -> None:
    for loggers in (("mlflow", "mlflow"), ("neptune",)):
        with pytest.raises(UserError, match="loggers must be distinct ones of mlflow, wandb"):
            config(loggers=loggers)
