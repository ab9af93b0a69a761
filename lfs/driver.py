"""Starts a search and sees it through: data check, run directory, Ray, controller, trainers, view, outcome."""

import contextlib
import hashlib
import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from lfs.board import pinned, started
from lfs.config import SearchConfig
from lfs.generation import fixed_losses
from lfs.run_store import RunStore
from lfs.view import View
from search_space.errors import UserError, require
from search_space.spaces import get_space
from trainers.backbones import plan_backbone
from trainers.config import DataConfig, PairsConfig
from trainers.data.builtin import ensure_builtin_faces
from trainers.data.check import check_data, overlap_warning

logger = logging.getLogger(__name__)
Config = TypeVar("Config", bound=SearchConfig)
POLL_S = 1.0
CONNECT_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a search ended."""

    run: str
    error: str
    status: dict[str, Any]
    """The controller's last status: summaries, test scores."""


def resolve(config: Config, view: View) -> Config:
    """Fill in what depends on this machine: built-in faces where no data is named, absolute paths, B.

    Raises:
        UserError: the space's settings do not fit each other, or the data cannot be used.
    """
    get_space(config.space)
    if config.mode == "fixed":
        fixed_losses(config)
    if config.start:
        config = replace(config, start=pinned(config.start))
        started(config)
    data = config.data
    if not data.train:
        named: dict[str, object] = {"data.root": data.root}
        for purpose, sets in (("data.reward", data.reward), ("data.test", data.test)):
            named |= {purpose: sets.lmdb or sets.pairs or sets.labels}
        for name, value in named.items():
            require(not value, f"{name} needs data.train too, without which the built-in faces are used", value)
        data = ensure_builtin_faces(progress=view.progress("making the built-in faces")).data_config(data)
    data = absolute(data)
    return replace(config, data=data, population_size=config.population)


def absolute(data: DataConfig) -> DataConfig:
    """The same data by absolute paths, which mean the same to every process."""
    root = Path(data.root).expanduser().resolve()
    at: Callable[[tuple[str, ...]], tuple[str, ...]] = lambda paths: tuple(  # noqa: E731
        str(root / Path(path).expanduser()) for path in paths
    )
    sets: Callable[[PairsConfig], PairsConfig] = lambda p: replace(  # noqa: E731
        p, lmdb=at(p.lmdb), pairs=at(p.pairs), labels=at(p.labels)
    )
    return replace(
        data, root="", train=at(data.train), train_list=at(data.train_list),
        reward=sets(data.reward), test=sets(data.test),
    )  # fmt: skip


def new_run(config: SearchConfig, view: View) -> tuple[RunStore, SearchConfig]:
    """Check everything that can be known before a trainer starts, then make the run directory."""
    store = RunStore(f"{config.storage.rstrip('/')}/{config.name}")
    store.require_absent()
    config = resolve(config, view)
    check(config, view)
    store.create(config)
    return store, config


def old_run(store: RunStore, changes: dict[str, Any], view: View) -> SearchConfig:
    """The configuration of a run to go on with; `changes` are fields that may differ (see lfs/config.py).

    Raises:
        UserError: the run is damaged, or its data is no longer what it was.
    """
    config = replace(store.load_config(), **changes)
    store.load_last()
    store.summaries()
    check(config, view)
    if changes:
        store.write_config(config)
    return config


def check(config: SearchConfig, view: View) -> None:
    """Refuse bad data and networks that cannot be built now, and say what is there."""
    plan_backbone(config.trainer.backbone, config.trainer.embedding_dim, config.data.input_size)
    report = check_data(config.data, config.trainer.batch_size, config.reward)
    view.say(str(report))
    for line in report.warnings:
        view.warn(line)
    warning = overlap_warning(config.data)
    if warning:
        view.warn(warning)


@contextlib.contextmanager
def ray_cluster(config: SearchConfig) -> Iterator[None]:
    """Ray, joined or started; what this started ends with the block. Its console noise goes to its own logs."""
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = joins(config)
    if address:
        prepare_to_join(address)
    import ray

    quiet = {"log_to_driver": False, "logging_level": "ERROR", "namespace": "lfs"}
    try:
        if address:
            with silent_stderr():  # Ray's C++ side repeats there what the exception says
                ray.init(address=address, **quiet)
        else:
            # "local", since without an address Ray would join whatever cluster was last started on this machine.
            ray.init("local", include_dashboard=config.dashboard, dashboard_host="127.0.0.1", **quiet)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        line = str(error).strip().split("\n")[0]
        hint = "is it running, and is its token in ~/.ray/auth_token or RAY_AUTH_TOKEN?" if address else "see ~/.ray"
        raise UserError(f"Ray at {address or 'this machine'} cannot be reached: {line}; {hint}") from None
    try:
        log_errors_of_nodes()
        yield
    finally:
        ray.shutdown()


def log_errors_of_nodes() -> None:
    """Log what Ray says of its nodes (one died, and its stack), which it prints whatever `log_to_driver` says."""
    from ray._private import worker  # there is no setting for it

    log = logging.getLogger("ray.nodes")
    worker.print_worker_logs = lambda data, *_, **__: log.warning("%s", "\n".join(data["lines"]))


def joins(config: SearchConfig) -> str:
    """Address of the cluster to join; empty: the search starts one of its own, which nobody else will join."""
    return config.address or os.environ.get("RAY_ADDRESS", "")


def prepare_to_join(address: str) -> None:
    """Fail fast where nobody listens, and send the cluster's token: a joining process does so only when told to."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "://" not in address:
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
        except OSError as error:
            raise UserError(f"no Ray cluster answers at {address}: {error}; see --address") from None
    token_file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    if "RAY_AUTH_TOKEN" in os.environ or token_file.exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Send file descriptor 2 nowhere."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def fit_workers(config: SearchConfig, resources: dict[str, float]) -> tuple[float, int]:
    """GPUs per trainer, and how many trainers the cluster holds now.

    Raises:
        UserError: not a single one fits; the resource is named.
    """
    gpus = config.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if resources.get("GPU", 0) >= 1 else 0.0
    needs = {"CPU": config.cpus_per_worker, "GPU": gpus}
    for resource, need in needs.items():
        have = resources.get(resource, 0)
        if need > have:
            raise UserError(
                f"a trainer needs {need:g} {resource}, the cluster has {have:g}; see --{resource.lower()}s-per-worker"
            )
    fits = min(int(resources.get(r, 0) / need + 1e-9) for r, need in needs.items() if need)
    return gpus, min(fits, config.num_workers)


def run_search(store: RunStore, config: SearchConfig, view: View) -> Outcome:
    """Run a search, new or resumed, to its end, an error or a stop.

    Raises:
        UserError: it could not start: no Ray, or no room for a single trainer.
    """
    with ray_cluster(config), quiet_logs(store):
        import ray

        from lfs.controller import start_controller
        from lfs.trainable import WhenOver

        gpus, fits = fit_workers(config, ray.cluster_resources())
        say_workers(config, gpus, fits, view)
        name = f"controller/{store.name}-{hashlib.sha256(store.uri.encode()).hexdigest()[:8]}"
        try:
            controller = start_controller(store.uri, name)
            last: dict[str, Any] = ray.get(controller.status.remote())
        except (ray.exceptions.RayError, ValueError) as error:  # ValueError: its name is taken, by the same run
            raise UserError(f"the controller cannot start: {str(error).strip().splitlines()[-1]}") from None
        watch = Watch(controller, view, last)
        with watch, interrupts(watch.stop_asked), WhenOver.told_by(name, watch.over):
            try:
                num_trials = config.num_workers if joins(config) else fits
                tune_trials(store, config, gpus, name, num_trials)
            except (OSError, ray.tune.TuneError) as error:  # Tune's own files, on the same storage as the run
                watch.trouble = f"Ray Tune stopped: {' '.join(str(error).split())}"
        reason = watch.status["error"] or watch.trouble
        if not reason and not watch.status["finished"]:
            reason = "every trainer ended before the search did; their logs are in its tune folder"
        return Outcome(run=store.shown, error=reason, status=watch.status)


def say_workers(config: SearchConfig, gpus: float, fits: int, view: View) -> None:
    """How many trainers run, in one line."""
    each = f"{config.cpus_per_worker:g} CPU" + (f" + {gpus:g} GPU" if gpus else "")
    fewer = f" of the {config.num_workers} asked for" if fits < config.num_workers else ""
    later = " (more join when there is room)" if fewer and joins(config) else ""
    view.say(f"{fits} trainer(s) of {each} fit{fewer}{later}; they share {config.population} candidates a generation")


class Watch:
    """A thread that shows the controller's status and notices the end."""

    def __init__(self, controller: Any, view: View, first: dict[str, Any]) -> None:
        self.controller, self.view, self.status = controller, view, first
        self.over = threading.Event()
        self.trouble = ""
        self.stop_asked = threading.Event()
        self._stop_said = self._blind = False
        self._quit = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> "Watch":
        self.view.start(self.status)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._quit.set()
        self._thread.join()
        self.view.stop()

    def _run(self) -> None:
        while not self._quit.is_set():
            self._look()
            self._quit.wait(POLL_S)
        self._look()

    def _look(self) -> None:
        """One look. An unreachable controller is being restarted, see the next look; a dead one is the end."""
        import ray

        try:
            if self.stop_asked.is_set():
                self._ask_to_stop()
            self.status = ray.get(self.controller.status.remote(), timeout=30)
            if self.status["finished"]:
                self.over.set()
            self._show()
        except ray.exceptions.ActorDiedError as error:
            self.trouble = f"the controller is gone: {str(error).strip().splitlines()[-1]}"
            self.over.set()
        except ray.exceptions.RayError:
            logger.warning("the controller does not answer")

    def _ask_to_stop(self) -> None:
        import ray

        ray.get(self.controller.stop.remote(), timeout=30)
        if not self._stop_said:  # asked again at every look: a restarted controller has forgotten it
            self._stop_said = True
            self.view.say("stopping after this generation; Ctrl-C again stops now (committed generations stay)")

    def _show(self) -> None:
        """Show the status; where nobody reads any more (a closed pipe, a full disk), the search goes on unseen."""
        if not self._blind:
            try:
                self.view.update(self.status)
            except (OSError, SystemExit):
                self._blind = True


def tune_trials(store: RunStore, config: SearchConfig, gpus: float, controller: str, num_trials: int) -> None:
    """Trainers as Tune trials: restarted without end when they die, all stopped when the search is over."""
    from ray import tune

    from lfs.trainable import Trainer, WhenOver

    session = next(n for n in count(1) if not store.exists(session_name(n)))
    resources = {"cpu": config.cpus_per_worker} | ({"gpu": gpus} if gpus else {})
    run_config = tune.RunConfig(
        name=session_name(session), storage_path=store.uri, verbose=0, stop=WhenOver(controller), log_to_file=True,
        failure_config=tune.FailureConfig(max_failures=-1),
        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
    )  # fmt: skip
    space = {"trainer": tune.grid_search(list(range(num_trials))), "controller": controller}
    settings = tune.TuneConfig(trial_dirname_creator=lambda t: f"trainer-{t.config['trainer']:03d}")
    tune.Tuner(
        tune.with_resources(Trainer, resources), param_space=space, run_config=run_config, tune_config=settings
    ).fit()


def session_name(number: int) -> str:
    """Folder of Tune's experiment in the run directory: one for each time that the search was started."""
    return "tune" if number == 1 else f"tune-{number}"


@contextlib.contextmanager
def interrupts(stop_asked: threading.Event) -> Iterator[None]:
    """Ctrl-C once: stop after this generation. Twice: stop now; what is committed stays."""

    def on_signal(number: int, frame: object) -> None:
        stop_asked.set()  # others look at it: a signal handler must neither call Ray nor print
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class LogFile(logging.FileHandler):
    """A log that is given up, not complained about, when its disk is full."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Say nothing on the terminal: what matters there is said by the search."""


@contextlib.contextmanager
def quiet_logs(store: RunStore) -> Iterator[None]:
    """Ray's and Tune's messages go to driver.log in the run directory (local runs), never to the terminal."""
    handler: logging.Handler = logging.NullHandler()
    if "://" not in store.uri:
        handler = LogFile(f"{store.path}/driver.log", delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train", "ray.air", "lfs", "py.warnings")]
    before = [(log, log.handlers[:], log.propagate) for log in loggers]
    for log in loggers:
        log.handlers, log.propagate = [handler], False
    logging.captureWarnings(True)
    try:
        with warnings.catch_warnings():
            yield
    finally:
        logging.captureWarnings(False)
        for log, handlers, propagate in before:
            log.handlers, log.propagate = handlers, propagate
        with contextlib.suppress(OSError):
            handler.close()
