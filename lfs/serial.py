"""A whole run in one process, without Ray: the same states, rewards and weights as on any number of trainers."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lfs.board import Board, continued
from lfs.config import refuse_ranks
from lfs.messages import GenerationRecord, Lease, as_report
from lfs.run_store import RunStore
from search_space.errors import UserError
from trainers.candidate import Candidate
from trainers.trainer import CandidateTrainer

ME = "trainer-000"
SHOW_S = 0.25


class SerialRun:
    """Trains a run from where it stands; every generation is committed before the next one begins.

    Args:
        store: the run directory, which holds the configuration and all committed state.
        device: as torch names it; None: the GPU if there is one, else the CPU.
        num_threads: torch threads on a CPU; 0: as the run's configuration says.
    """

    def __init__(self, store: RunStore, *, device: str | None = None, num_threads: int = 0) -> None:
        self.store, self.config = store, store.load_config()
        refuse_ranks(self.config)
        self.search, base, summaries = continued(store, self.config)
        self.search.base = base
        self.board = Board(self.search, summaries)
        self.stop_asked = threading.Event()
        config = self.config
        trainer = replace(config.trainer, num_threads=max(config.trainer.num_threads, num_threads))
        self.trainer = CandidateTrainer(trainer, config.data, config.reward, seed=config.seed, device=device)
        self._shown = 0.0

    def status(self) -> dict[str, Any]:
        """Everything a view shows."""
        own: dict[str, Any] = {
            "state": "testing" if self.search.trained else "running",
            "notes": [],
            "run": self.store.uri,
        }
        return self.board.status(trainers=1, settled=True) | own

    def run(self, show: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Go on to the end, or to the end of the generation in which `stop_asked` is set.

        Args:
            show: called with the status a few times a second.
        Returns:
            The last status.
        Raises:
            UserError: a whole generation diverged (`DivergedError`), or hardly any draw of the policy is a usable loss.
        """
        while not self.search.over:
            self.generation(show)
            show(self.status())
        if self.search.error:
            raise UserError(self.search.error)
        return self.status()

    def generation(self, show: Callable[[dict[str, Any]], None] | None = None) -> GenerationRecord | None:
        """Train, close and commit the next generation; after the last one, test the model and return None.

        Args:
            show: as in `run`; None: nobody watches.
        """
        while not self.search.ready_to_close:
            lease = self.search.lease(ME)
            if lease.kind != "train":
                self._test(lease)
                return None
            self.board.times.leased(ME, lease)
            result = self.trainer.run(self._candidate(lease), lease.base, progress=show and self._progress(show))
            report = as_report(result, ME)
            if self.search.report(report, result.weights):
                self.board.took(report)
        record, weights = self.search.close(), self.search.best_weights
        self.board.closed(record)
        self.store.commit(record, weights)
        self.store.prune(record.generation, self.config.keep_generations)
        self.search.stop_requested = self.stop_asked.is_set()
        self.search.advance(record, weights)
        return record

    def _candidate(self, lease: Lease) -> Candidate:
        assert lease.loss is not None
        return Candidate(generation=lease.generation, index=lease.index, loss=lease.loss, order=self.config.order)

    def _test(self, lease: Lease) -> None:
        if lease.kind != "test":
            return
        metrics = self.trainer.test(lease.base or self.trainer.initial_weights())
        state = self.search.state
        self.store.write_result({"generation": state.generation - 1, "test": metrics, "num_images": state.num_images})
        self.search.tested(metrics)

    def _progress(self, show: Callable[[dict[str, Any]], None]) -> Callable[[int, int], None]:
        began = time.monotonic()

        def update(done: int, total: int) -> None:
            now = time.monotonic()
            if now - self._shown >= SHOW_S or done == total:
                self._shown = now
                rate = done * self.config.trainer.batch_size / max(now - began, 1e-9)
                self.board.progress[ME] = {"done": done, "total": total, "images_per_s": rate}
                show(self.status())

        return update
