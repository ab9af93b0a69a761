"""Where a search stands: how it is taken up again from its run directory, and what a view shows of it."""

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from lfs.config import SearchConfig
from lfs.generation import Search, first_state
from lfs.messages import GenerationRecord, Report
from lfs.run_store import RunStore, start_of
from lfs.timesheet import Timesheet
from search_space.errors import UserError
from trainers.candidate import Weights
from trainers.config import TrainerConfig


def continued(store: RunStore, config: SearchConfig) -> tuple[Search, Weights | None, list[dict[str, Any]]]:
    """The search of a run where it stands, the weights that it goes on from (None: the initial ones), and the
    summaries of its committed generations.

    Raises:
        UserError: a committed file is damaged, or the run that this one starts from cannot be used.
    """
    state, base = store.load_last() or started(config)
    if state and len(state.policy.mean) != len(first_state(config).policy.mean):
        raise UserError(f"{store.uri}: damaged: its last generation has the policy of another space than config.yaml")
    search = Search(config, state)
    store.prune(search.state.generation - 1, config.keep_generations)
    untested: dict[str, float] | None = None if config.data.test.pairs or config.data.test.labels else {}
    tested = store.load_result() if search.trained else None  # else it is extended, and its test is to come
    search.test_metrics = (tested or {}).get("test", untested)
    return search, base, store.summaries()


def started(config: SearchConfig) -> tuple[Any, Weights | None]:
    """State and weights before the first generation: from scratch, or out of the run that `start` names.

    Raises:
        UserError: no such run or generation, or no generation is left after it.
    """
    if not config.start:
        return None, None
    source, number = start_of(config.start)
    there = source.load_config().trainer
    done = source.committed()
    generation = (done[-1] if done else -1) if number is None else number - 1
    if generation not in done:
        have = f"{done[0] + 1}..{done[-1] + 1}" if done else "none"
        raise UserError(f"start must be a run and one of its generations (it has {have}), got {config.start!r}")
    behind = begins_at(generation + 1, there, config.trainer)
    if behind >= config.generations:
        raise UserError(
            f"generations must be more than the {behind} that start has behind it, got {config.generations}"
        )
    return first_state(config, behind), source.load_weights(generation)


def begins_at(generations: int, there: TrainerConfig, here: TrainerConfig) -> int:
    """How many generations of our length so many of another run's are, since the learning rate counts on.

    Raises:
        UserError: not a whole number, or lengths in other units.
    """
    count = generations * there.generation_length / here.generation_length
    if there.generation_unit != here.generation_unit or abs(count - round(count)) > 1e-6:
        lengths = f"{there.generation_length:g} {there.generation_unit}"
        raise UserError(
            f"generation_length must divide the {generations} x {lengths} of the run that start names, "
            f"got {here.generation_length:g} {here.generation_unit}"
        )
    return round(count)


def pinned(text: str) -> str:
    """`RUN@G` in full: a run that is still trained would otherwise mean another model at each look."""
    source, number = start_of(text)
    source.load_config()
    last = max(source.committed(), default=-1) + 1
    return f"{source.uri}@{last if number is None else number}"


def filled_in(status: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """A status whose summaries are those since an earlier one, with all of them: a view looks every second, and a long
    search has thousands."""
    return status | {"summaries": known["summaries"] + status["summaries"]}


class Board:
    """Progress and times of a running search, for whoever watches; nothing here decides anything."""

    def __init__(self, search: Search, summaries: Sequence[dict[str, Any]]) -> None:
        self.search, self.summaries = search, list(summaries)
        self.progress: dict[str, dict[str, float]] = {}
        self.times = Timesheet()
        self._durations: deque[float] = deque(maxlen=64)
        self._opened = time.monotonic()
        self._described: tuple[int, list[dict[str, Any]]] = (-1, [])

    def took(self, report: Report) -> None:
        """Note how long a candidate took."""
        self._durations.append(report.train_s + report.validate_s)
        self.times.reported(report)

    def closed(self, record: GenerationRecord) -> None:
        """Note wall time and throughput of a closed generation in its summary, and who worked when."""
        now = time.monotonic()
        took_s, self._opened = now - self._opened, now
        record.summary["wall_s"] = took_s
        record.summary["images_per_s"] = sum(row["num_images"] for row in record.rows) / took_s
        self.times.write(record)
        self.summaries.append(record.summary)

    def status(self, *, trainers: int, settled: bool, since: int = 0) -> dict[str, Any]:
        """Everything a view shows.

        Args:
            trainers: how many are at work.
            settled: no close and no commit is under way.
            since: summaries that whoever asks has already; they are left out (see `filled_in`).
        """
        search, config = self.search, self.search.config
        return {
            "mode": config.mode,
            "generation": search.state.generation,
            "generations": config.generations,
            "warmup_generations": config.warmup_generations,
            "candidates": [] if search.trained else self._candidates(),
            "rejected": search.rejected,
            "testing": search.trained and not search.over,
            "trainers": trainers,
            "images_per_s": sum(p["images_per_s"] for p in self.progress.values()),
            "eta_s": self._eta_s(trainers),
            "summaries": self.summaries[since:],
            "best": max((s["best_reward"] for s in self.summaries), default=None),
            "test": search.test_metrics,
            "num_images": search.state.num_images,
            "error": search.error,
            "finished": search.over and settled,
            "name": config.name,
            **search.policy_of(search.state.policy),
        }

    def _candidates(self) -> list[dict[str, Any]]:
        """The running generation's candidates, in order."""
        if self._described[0] != self.search.state.generation:
            losses = [self.search.loss_of(i) for i in range(len(self.search.actions))]
            shown = [{"margins": list(loss.margins), "parameters": loss.parameters()} for loss in losses]
            self._described = self.search.state.generation, shown
        reports, runners = self.search.reports, {i: trainer for trainer, i in self.search.running.items()}
        return [
            {"index": i, **loss, **self._where(reports.get(i), runners.get(i), i in self.search.dropped)}
            for i, loss in enumerate(self._described[1])
        ]

    def _where(self, report: Report | None, runner: str | None, dropped: bool) -> dict[str, Any]:
        """How far a candidate is, who has it, and what came of it."""
        done = self.progress.get(runner or "", {})
        state = "diverged" if report and report.diverged else "done" if report else "running" if runner else "queued"
        state = "dropped" if dropped else state
        return {
            "state": state, "trainer": report.trainer if report else runner,
            "reward": report.reward if report else None, "reward_se": report.reward_se if report else None,
            "done": done.get("done", 0), "total": done.get("total", 0),
        }  # fmt: skip

    def _eta_s(self, trainers: int) -> float | None:
        """Seconds left, from the mean time of the last candidates and the trainers at work."""
        search, config = self.search, self.search.config
        if not self._durations or search.trained:
            return None
        here = len(search.actions) - len(search.reports)
        later = config.generations - search.state.generation - 1
        warm = max(0, config.warmup_generations - search.state.generation - 1)
        left = here + min(later, warm) + max(0, later - warm) * config.population
        return left * sum(self._durations) / len(self._durations) / max(1, trainers)
