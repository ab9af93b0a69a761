"""MLflow and Weights & Biases, if a search is told to: Ray's own callbacks, fed with the rows of candidates.

One run of theirs is one trainer, its steps are places in the search. Both log to where they do by themselves, or to
where their own environment variables say, which is also where they find their credentials: none pass through here, so
that none can get into a run.
"""

import contextlib
import importlib.util
import io
import logging
import os
import socket
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
from ray.air.integrations import mlflow as ray_mlflow
from ray.air.integrations import wandb as ray_wandb
from ray.tune.logger import LoggerCallback
from ray.tune.result import TIMESTAMP, TIMESTEPS_TOTAL
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lfs.aside import Aside, without_passwords
from lfs.config import SearchConfig
from lfs.tune_loggers import Bounded, row_of, spelled
from search_space.errors import UserError, first_line

CONNECT_S = 5.0
UPLOAD_S = 50
"""For what Weights & Biases still has to upload at the end of a search; the rest stays in its folder."""
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # its own: 120 s, seven times
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true", "WANDB_SILENT": "true",
}  # fmt: skip
"""What both take from the environment, unless the user has said otherwise: neither waits long, nor prints."""
PACKAGES = {"mlflow": ("mlflow", "sqlalchemy", "alembic"), "wandb": ("wandb",)}
EARLY = ("WANDB_ERROR_REPORTING", "WANDB_SILENT")
"""What W&B looks for when it is imported, and no secrets."""
PROJECT = "lfs"
"""Of Weights & Biases, unless $WANDB_PROJECT names another one."""


class MLflowRuns(ray_mlflow.MLflowLoggerCallback):
    """An MLflow run for each trainer, with the search's settings as parameters.

    Ray's own would write every number by a request of its own, and open a run without a name whenever the server does
    not answer to whether the right one is there.
    """

    def log_trial_start(self, trial: Any) -> None:
        """A trainer starts, or starts again."""
        from mlflow.entities import Param

        if trial not in self._trial_runs:
            run = self.mlflow_util.start_run(run_name=str(trial), tags={**self.tags, "trial_name": str(trial)})
            settings = [Param(name, str(value)) for name, value in trial.config.items() if name != "controller"]
            self.mlflow_util._get_client().log_batch(run.info.run_id, params=settings)
            self._trial_runs[trial] = run.info.run_id

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        """One more candidate, in one request. Its step is its place in the search."""
        from mlflow.entities import Metric

        if trial not in self._trial_runs:  # the server did not answer when it started
            self.log_trial_start(trial)
        row, at = row_of(result), round(1000 * result[TIMESTAMP])
        numbers = {spelled(name): float(value) for name, value in row.items() if isinstance(value, int | float)}
        metrics = [Metric(name, value, at, row[TIMESTEPS_TOTAL]) for name, value in numbers.items()]
        self.mlflow_util._get_client().log_batch(self._trial_runs[trial], metrics=metrics)

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        """A trainer ended."""
        if trial in self._trial_runs:
            super().log_trial_end(trial, failed)


class CandidatesMLflow(Bounded, MLflowRuns):
    """MLflow."""


class WandbWriter(ray_wandb._WandbLoggingActor):
    """Ray's actor that writes the W&B run of one trainer, with the place in the search as the axis of its charts."""

    _begun = False

    def run(self) -> None:
        """Write the run, with the variables of the driver's environment that come first in the queue."""
        os.environ.update(self.queue.get())
        super().run()

    def _handle_result(self, result: dict[str, Any]) -> Any:
        if not self._begun:
            self._begun = True
            self._wandb.define_metric("*", step_metric=TIMESTEPS_TOTAL)
        return super()._handle_result(result)


class WandbRuns(ray_wandb.WandbLoggerCallback):
    """A W&B run for each trainer, written by an actor of Ray's that runs beside the driver."""

    _logger_actor_cls = WandbWriter
    _remote_logger_class: Any

    def setup(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: `refuse_loggers` has had Ray's own look for the key."""

    def log_trial_start(self, trial: Any) -> None:
        """A trainer starts, or starts again.

        As Ray's own, but its actor knows all that this process knows of W&B, also in a cluster that was joined: else it
        would look for its server, and for whether to use one, in the environment of the cluster. Ray logs a runtime
        environment and keeps it with the cluster's metadata, as it does with what an actor is made of: the key, and
        addresses that may hold a password, are in neither.
        """
        if not self._remote_logger_class:
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            early = {name: os.environ[name] for name in EARLY if name in os.environ}
            options = {"num_cpus": 0, "scheduling_strategy": here, "runtime_env": {"env_vars": early}}
            self._remote_logger_class = ray.remote(**options)(self._logger_actor_cls)
        trial.init_local_path()
        super().log_trial_start(trial)

    def _start_logging_actor(self, trial: Any, *args: Any, **kwargs: Any) -> None:
        new = trial not in self._trial_logging_futures
        super()._start_logging_actor(trial, *args, **kwargs)
        if new:
            own = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
            self._trial_queues[trial].put(own)

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        """One more candidate, unless its actor has failed."""
        future = self._trial_logging_futures.get(trial)
        if future is not None and ray.wait([future], timeout=0)[0]:
            ray.get(future)
        super().log_trial_result(iteration, trial, row_of(result))


class CandidatesWandb(Bounded, WandbRuns):
    """Weights & Biases."""


def mlflow_logger(search: str) -> LoggerCallback:
    """MLflow's, into the experiment of a search's name unless $MLFLOW_EXPERIMENT_NAME or _ID names another one."""
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or search
    return CandidatesMLflow(experiment_name=experiment, tags={"search": search})


def wandb_logger(search: str) -> LoggerCallback:
    """That of Weights & Biases: the runs of a search are one group."""
    folder = Path(os.environ.get("WANDB_DIR") or ".").expanduser().absolute()
    mode = {"mode": os.environ["WANDB_MODE"]} if os.environ.get("WANDB_MODE") else {}
    settings = dict.fromkeys(("silent", "disable_git", "disable_code", "x_disable_meta", "x_disable_stats"), True)
    return CandidatesWandb(
        project=os.environ.get("WANDB_PROJECT") or PROJECT, group=search, excludes=["controller"], dir=str(folder),
        upload_timeout=UPLOAD_S, settings={"console": "off", **settings}, **mode,
    )  # fmt: skip


MAKERS = {"mlflow": mlflow_logger, "wandb": wandb_logger}


def asides(config: SearchConfig, controller: str) -> list[Aside]:
    """The loggers that a search is told to use, as callbacks of Tune."""
    return [Aside(name, partial(MAKERS[name], config.name), controller) for name in config.loggers]


def refuse_loggers(config: SearchConfig) -> None:
    """Set the loggers up once, before anything starts.

    Raises:
        UserError: one is not installed, has no credentials, or does not reach its server.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in config.loggers:
        missing = [package for package in PACKAGES[name] if not is_installed(package)]
        if missing:
            raise UserError(f"--loggers {name} needs {', '.join(missing)}: pip install 'lfs[{name}]'")
        if name == "mlflow":
            refuse_unreachable(os.environ.get("MLFLOW_TRACKING_URI", ""))
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # W&B says there that Ray's question for a key is outdated
                MAKERS[name](config.name).setup() if name == "mlflow" else refuse_without_key()
        except Exception as error:  # theirs, and those of their servers and databases
            raise UserError(f"--loggers {name} cannot be used: {hint(name, error)}") from None


def is_installed(package: str) -> bool:
    """Whether there is such a package; a mere folder of the name, which W&B makes where it logs to, is none."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def refuse_without_key() -> None:
    """Raise `ValueError` if Weights & Biases is to use its server and has no API key, as Ray looks for it."""
    ray_wandb.WandbLoggerCallback(project=PROJECT).setup()


def refuse_unreachable(address: str) -> None:
    """Raise `UserError` if nobody listens where an MLflow server should: MLflow itself would try for long."""
    try:
        parts = urlsplit(address)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:  # MLflow says what is wrong with it
        return
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return
    try:
        socket.create_connection((parts.hostname, port), timeout=CONNECT_S).close()
    except OSError as error:
        law = f"--loggers mlflow: no server answers at {parts.hostname}:{port} ({first_line(error)})"
        raise UserError(f"{law}; see $MLFLOW_TRACKING_URI") from None


def hint(name: str, error: Exception) -> str:
    """What a logger complains of, in one line with the way out."""
    if name == "wandb" and isinstance(error, ValueError):
        return "it has no API key; set WANDB_API_KEY, run `wandb login`, or log without a network: WANDB_MODE=offline"
    line = without_passwords(f"{type(error).__name__}: {first_line(error)}")
    return f"{line}; leave it out with another --loggers"
