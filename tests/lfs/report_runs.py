"""Runs for reports: made rewards, and times of a made clock, in the product's own record."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lfs.board import Board, continued
from lfs.run_store import RunStore
from lfs.timesheet import Timesheet
from tests.lfs.fakes import config, made_report

TRAINERS = ("trainer-000", "trainer-001")


class MadeRun:
    """A search without training: candidates take 30 s and 2 s of a made clock, on two trainers in turn.

    Args:
        changes: of the configuration.
    """

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.store = RunStore(str(folder))
        if not self.store.exists("config.yaml"):
            self.store.create(config(**changes))
        self.search, _, summaries = continued(self.store, self.store.load_config())
        self.board = Board(self.search, summaries)
        self.now = 1.7e9
        self.board.times = Timesheet(lambda: self.now)

    def generation(self, spoil: Callable[[dict[str, Any]], object] = lambda row: None) -> None:
        """Train, close and commit the next generation.

        Args:
            spoil: changes a row of a candidate before it is written.
        """
        turn = 0
        while not self.search.ready_to_close:
            trainer = TRAINERS[turn % 2]
            lease = self.search.lease(trainer)
            self.board.times.leased(trainer, lease)
            self.now += 32.0
            report = made_report(self.search.space, lease, trainer)
            assert self.search.report(report, "weights")
            self.board.took(report)
            turn += 1
        record = self.search.close()
        self.board.closed(record)
        for row in record.rows:
            spoil(row)
        self.store.commit(record, {"backbone.w": np.ones((2, 2), np.float32)})
        self.search.advance(record, "weights")

    def done(self) -> RunStore:
        """Go on to the end, with made test scores."""
        while not self.search.trained:
            self.generation()
        generation = self.search.state.generation - 1
        scores = {"accuracy": 0.8, "accuracy_se": 0.01, "tar@far=0.1": 0.7, "tar@far=0.1_se": 0.02, "tar@far=0.01": 0.4}
        self.store.write_result({"generation": generation, "test": scores, "num_images": 1})
        return self.store
