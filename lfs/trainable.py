"""A trainer as Ray Tune sees it: a long-lived trial that pulls candidates until there are none.

One Tune result is one candidate. Nothing is checkpointed here: the state of a search is the controller's, and a
trainer that starts afresh only asks for work again.
"""

import logging
import os
import time
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError

from lfs.config import SearchConfig
from lfs.connect import NAMESPACE
from lfs.messages import Lease, as_report
from lfs.rank_actors import BaseWeights, Team, candidate_of
from lfs.tune_row import GIVEN_UP, LEAVES, Rows
from search_space.errors import UserError

RETRY_S = 0.5
GOLDEN = (5**0.5 - 1) / 2
MAX_RAY_ERRORS = 5
"""Failures of Ray in a row (a base that cannot be fetched, say) after which this process gives up to a fresh one."""
logger = logging.getLogger(__name__)


class Trainer(tune.Trainable):
    """Evaluates candidates, one after the other, for the controller named in its configuration."""

    def setup(self, config: dict[str, Any]) -> None:
        """Load data and build the network once; candidates only load weights."""
        self.number: int = config["trainer"]
        self.label = trainer_label(config)
        self.controller = ray.get_actor(config["controller"], namespace=NAMESPACE)
        self.me = ray.get_runtime_context().current_actor
        self.incarnation = ray.get_runtime_context().get_actor_id()
        self.node = ray.get_runtime_context().get_node_id()
        self.base = BaseWeights()
        self.next_lease: Lease | None = None
        self.working_on: Lease | None = None
        self.ray_errors = 0
        try:
            self.search: SearchConfig = ray.get(self.controller.get_config.remote())
            versions, run = ray.get([self.controller.get_versions.remote(), self.controller.where.remote()])
            self.team = Team(self.search, self.label, versions, run, self._rank_failed)
            self.trainer = self.team.trainer()
            self.rows = Rows(self.search, self.label, self.trainer.metric_names)
        except Exception as error:
            logger.exception("%s cannot start", self.label)
            if not ray.get(self.controller.broken.remote(self.label, _line(error), isinstance(error, UserError))):
                raise  # Tune starts a fresh process
            self.next_lease = Lease(kind="stop")

    def step(self) -> dict[str, Any]:
        """Train one candidate. The next lease is taken at the end, so that the last result can say so."""
        lease = self.next_lease or self._next()
        if lease.kind != "train":
            return (self.rows.empty() if hasattr(self, "rows") else {}) | _last(lease)
        row = self._train(lease)
        self.next_lease = self._next()
        return row | _last(self.next_lease)

    def alive(self) -> int:
        """Answers between two candidates; fails at once when this process is dead. The controller waits on it."""
        return os.getpid()

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Nothing to save: see the module."""
        return {}

    def cleanup(self) -> None:
        """The other ranks end with this one."""
        if hasattr(self, "team"):
            self.team.end()

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Nothing to load."""

    def _next(self) -> Lease:
        """The next candidate, `leave` or `stop`; a test of the final model is done on the way."""
        while True:
            lease: Lease = ray.get(self.controller.lease.remote(self.label, self.incarnation, self.me, self.node))
            self.working_on = lease
            if lease.kind in ("train", "leave", "stop"):
                return lease
            if lease.kind == "test":
                self._test(lease)

    def _test(self, lease: Lease) -> None:
        try:
            metrics = self.team.together(
                "test", lease, mine=lambda: self.trainer.test(self.base.of(lease) or self.trainer.initial_weights())
            )
            ray.get(self.controller.tested.remote(metrics))
        except Exception as error:
            self._failed(lease, error)

    def _train(self, lease: Lease) -> dict[str, Any]:
        """Train, validate and report the leased candidate; its row for Tune's result table."""
        candidate, progress = candidate_of(self.search, lease), Progress(self, lease)
        began = time.perf_counter()
        try:
            result = self.team.together(
                "train", lease, mine=lambda: self.trainer.run(candidate, self.base.of(lease), progress=progress)
            )
            weights = [] if result.diverged else [ray.put(result.weights)]
            report = as_report(result, self.label)
            ray.get(self.controller.report.remote(report, weights))
            self.ray_errors = 0
        except UnwantedError:
            return self.rows.without_outcome(lease, GIVEN_UP)
        except Exception as error:
            self._failed(lease, error)
            return self.rows.without_outcome(lease, _line(error))
        return self.rows.with_outcome(lease, report, time.perf_counter() - began)

    def _failed(self, lease: Lease, error: Exception) -> None:
        """Tell the controller, unless it was Ray's doing: then the candidate is simply asked for again.

        Where one rank of several failed, the others cannot go on: Tune starts all of them afresh.
        """
        logger.error("candidate %d of generation %d failed", lease.index, lease.generation, exc_info=error)
        self.base.forget()
        if isinstance(error, RayError):
            self.ray_errors += 1
            if self.ray_errors >= MAX_RAY_ERRORS or self.team.size > 1:
                raise error
            time.sleep(RETRY_S)
            return
        fatal = isinstance(error, UserError)
        ray.get(self.controller.failed.remote(self.label, lease.generation, lease.index, _line(error), fatal))
        if self.team.size > 1:
            raise error

    def _rank_failed(self, error: Exception) -> None:
        """Say what this process is about to end for; where a rank just died, the candidate is asked for again."""
        lease, fatal = self.working_on, isinstance(error, UserError)
        if lease is None:
            ray.get(self.controller.broken.remote(self.label, _line(error), fatal))
        elif not isinstance(error, RayError):
            ray.get(self.controller.failed.remote(self.label, lease.generation, lease.index, _line(error), fatal))


class UnwantedError(Exception):
    """Somebody else has trained this candidate, or the search went on without it."""


class Progress:
    """Passes a candidate's progress to the controller, as often as the lease says, and never waits for it.

    Raises:
        UnwantedError: when called, if the answer to the message before says so. Where several ranks train together it
            goes on: the others would wait for this one.
    """

    def __init__(self, trainer: Trainer, lease: Lease) -> None:
        self.lease, self.progress_s = lease, lease.progress_s
        self.controller, self.label = trainer.controller, trainer.label
        self.batch_size = trainer.trainer.config.batch_size
        self.may_give_up = trainer.team.size == 1
        self.answer: Any = None
        self.began = time.monotonic()
        self.last = self.began - self.progress_s * phase(trainer.number)

    def __call__(self, done: int, total: int) -> None:
        """`done` of `total` steps are behind."""
        now = time.monotonic()
        if now - self.last < self.progress_s:
            return
        if self.answer is not None and self.may_give_up and not self._wanted():
            raise UnwantedError
        self.last = now
        rate = done * self.batch_size / (now - self.began)
        lease = self.lease
        self.answer = self.controller.progress.remote(self.label, lease.generation, lease.index, done, total, rate)

    def _wanted(self) -> bool:
        """What the last answer says; yes, while there is none."""
        try:
            return bool(ray.get(self.answer, timeout=0))
        except RayError:  # it is late, or the controller is being restarted
            return True


def trainer_label(config: dict[str, Any]) -> str:
    """A trainer's name to the controller and in results."""
    return f"trainer-{config['trainer']:03d}"


def phase(number: int) -> float:
    """In [0, 1), evenly for any number of trainers: a generation begins for all at once, their messages must not."""
    return number * GOLDEN % 1


def _last(lease: Lease) -> dict[str, bool]:
    """Whether this is a trainer's last result, for now or for good."""
    return {tune.result.DONE: lease.kind == "stop", LEAVES: lease.kind == "leave"}


def _line(error: Exception) -> str:
    """An error in one line; what is not the user's doing says its kind."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
