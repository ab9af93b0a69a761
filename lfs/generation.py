"""The state machine of one search: lease candidates, take reports, close generations. No Ray, no clock, no files.

    trainer --lease--> candidate i of generation g        caller    | call             | changes
    trainer --report(i, reward, weights)--> kept if best  trainer   | lease, report    | leases, outcomes, best
    all B outcomes in: close() -> record of g             watcher   | release          | leases
                       advance(record) -> g + 1           controller| close, advance   | generation, policy, base

Wang et al. 2020, Algorithm 1, with the outer loop pulled apart into leases so that the number of trainers, their
deaths and their order cannot change what comes out: actions are keyed by (seed, generation, candidate), and a
generation closes on its outcomes alone.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lfs.config import SearchConfig
from lfs.messages import GenerationRecord, Lease, Report, SearchState
from lfs.open_generation import OpenGeneration, count
from lfs.record import outcome, summary, tried_row
from search_space.advantage import advantages
from search_space.errors import UserError, require
from search_space.loss import Loss, loss_from_dict
from search_space.margins import make_loss
from search_space.policy import Asked, PolicyState, ask_usable, tell
from search_space.spaces import get_space
from search_space.usable import why_unusable

MAX_FAILURES = 3
"""Errors of one candidate after which the search stops: the same error would come back for ever."""

MAX_LOSSES = 20
"""Deaths of the process that trains one candidate after which the search stops: it likely kills it (memory)."""


class DivergedError(UserError):
    """A whole generation diverged: trained again, it would diverge again."""


class Search:
    """One search. Weights are opaque handles here (an object reference under Ray, a plain dict in a test).

    Args:
        config: the resolved configuration.
        state: where to go on; None: the beginning.
        base: handle of the weights that the state's generation starts from; None: the initial weights.
    """

    def __init__(self, config: SearchConfig, state: SearchState | None = None, base: Any = None) -> None:
        self.config = config
        self.space = get_space(config.space)
        self._losses = fixed_losses(config) if config.mode == "fixed" else []
        self.state = state or first_state(config)
        self.base = base
        self.error = ""
        self.stop_requested = False
        self._stopped = self._ended = False
        self.test_metrics: dict[str, float] | None = None
        self._testing: str | None = None
        self._described: tuple[PolicyState | None, dict[str, Any]] = (None, {})
        self._begin(self.prepare(self.state))

    def prepare(self, state: SearchState) -> OpenGeneration:
        """The candidates of a state's generation; in the warm-up, the one fixed loss.

        The slow part of `advance`. It changes nothing, so that it may run in a thread beside leases and reports.
        """
        over = self._stopped or state.generation >= self.config.generations
        fixed = np.zeros(0) if self._losses else self.space.warmup_action()
        asked, error = Asked(actions=np.array(fixed, dtype=np.float64)[None], rejected=0), ""  # [1, dim]
        if not (self._losses or over or state.generation < self.config.warmup_generations):
            try:
                asked = self._ask(state)  # [B, dim]
            except UserError as failure:  # hardly any draw is a usable loss
                error = str(failure)
        fixed_loss = self._losses[min(state.generation, len(self._losses) - 1)] if self._losses else None
        losses = [fixed_loss or self.space.decode(action) for action in asked.actions]
        return OpenGeneration(actions=asked.actions, losses=losses, rejected=asked.rejected, error=error)

    def _ask(self, state: SearchState) -> Asked:
        """Candidates of a generation; a draw that is no usable loss is drawn again."""

        def usable(action: npt.NDArray[np.float64]) -> bool:
            return not why_unusable(self.space.decode(action))

        seed, population = self.config.seed, self.config.population
        return ask_usable(state.policy, population, seed=seed, generation=state.generation, usable=usable)

    def _begin(self, opened: OpenGeneration) -> None:
        self._open = opened
        if opened.error and not self.trained:
            self.fail(opened.error)

    @property
    def trained(self) -> bool:
        """Whether all generations are closed, or the search was asked to stop after the last one."""
        return self._stopped or self.state.generation >= self.config.generations

    @property
    def over(self) -> bool:
        """Whether no work is left at all."""
        complete = self.state.generation >= self.config.generations
        done = self.trained and (not complete or self.test_metrics is not None)
        return bool(self.error) or self._ended or done

    @property
    def ready_to_close(self) -> bool:
        """Whether every candidate of the running generation has its outcome."""
        return not self.trained and self._open.complete

    @property
    def running(self) -> dict[str, int]:
        """Trainer -> candidate, of the running generation."""
        return dict(self._open.leases)

    def holds(self, trainer: str) -> bool:
        """Whether a trainer has a piece of work."""
        return trainer in self._open.leases or trainer == self._testing

    @property
    def actions(self) -> npt.NDArray[np.float64]:
        """[B, dim] the running generation's candidates."""
        return self._open.actions

    @property
    def rejected(self) -> int:
        """Draws of the running generation that were no usable loss."""
        return self._open.rejected

    @property
    def reports(self) -> dict[int, Report]:
        """Outcomes of the running generation so far."""
        return dict(self._open.reports)

    @property
    def dropped(self) -> dict[int, str]:
        """Candidates that the running generation goes on without, and why."""
        return dict(self._open.dropped)

    @property
    def best_trainer(self) -> str:
        """Who brought the best weights so far; empty: nobody."""
        best = self._open.best
        return "" if best is None else self._open.reports[best].trainer

    @property
    def best_weights(self) -> Any:
        """Handle of the best candidate's weights so far; None if there is none or it was lost."""
        return self._open.best_weights

    def loss_of(self, index: int) -> Loss:
        """The loss of a candidate of the running generation."""
        return self._open.losses[index]

    def lease(self, trainer: str) -> Lease:
        """The next piece of work for a trainer; asked again, the same piece (a lost answer costs nothing)."""
        if self.over:
            return Lease(kind="stop")
        if self.trained:
            if self._testing not in (None, trainer):
                return Lease(kind="wait")
            self._testing = trainer
            return Lease(kind="test", generation=self.state.generation, base=self.base)
        index = self._open.hand_out(trainer)
        if index is None:
            return Lease(kind="wait")
        action = tuple(float(x) for x in self.actions[index])
        policy = self.policy_of(self.state.policy)
        return Lease(
            kind="train", generation=self.state.generation, index=index, action=action, loss=self.loss_of(index),
            policy_mean=tuple(policy["policy_mean"]), policy_std=tuple(policy["policy_std"]), base=self.base,
        )  # fmt: skip

    def wants(self, generation: int, index: int) -> bool:
        """Whether a candidate's outcome would be news: if not, training it is of no use."""
        return not self.trained and generation == self.state.generation and self._open.wants(index)

    def hand_back(self, trainer: str) -> bool:
        """A trainer that may not live to its end gives its piece of work to others; if it does, the first one counts.

        Returns:
            Whether it had any.
        """
        held = self.holds(trainer)
        self._testing = None if self._testing == trainer else self._testing
        self._open.take_back(trainer)
        return held

    def drop(self, index: int, reason: str) -> bool:
        """Let the running generation close without a candidate. Returns whether it may: there must be a winner."""
        if self._open.best is None or not self._open.wants(index):
            return False
        self._open.drop(index, reason)
        return True

    def release(self, trainer: str) -> None:
        """The trainer is dead or starts afresh: its piece of work goes back to the front of the queue."""
        if self._testing == trainer:
            self._testing = None
            self._count_death(0, "the final test")
        elif (index := self._open.take_back(trainer)) is not None:
            self._count_death(index, f"candidate {index} of generation {self.state.generation + 1}")

    def _count_death(self, index: int, what: str) -> None:
        """Stop the search when the same piece of work is lost over and over."""
        deaths = count(self._open.deaths, index)
        if deaths >= MAX_LOSSES:
            self.fail(f"{what} lost its trainer {deaths} times; likely it kills it (out of memory?)")

    def report(self, report: Report, weights: Any) -> bool:
        """Take an outcome. Idempotent on (generation, index); anything late or early is dropped.

        An outcome counts whoever brings it, lease or not: it depends on the candidate alone.

        Returns:
            Whether it was news.
        """
        if not self.wants(report.generation, report.index):
            return False
        self._open.take(report, weights)
        return True

    def keep_best(self, weights: Any, kept: Any) -> None:
        """Hold the best weights by another handle, unless there are better ones by now."""
        if self._open.best_weights is weights:
            self._open.best_weights = kept

    def lose_best_weights(self) -> None:
        """The best candidate's weights died with their owner: train that candidate again (the same bits come out)."""
        if (lost := self._open.lose_best()) is not None:
            self._count_death(lost, f"the winner of generation {self.state.generation + 1}")

    def failed(self, trainer: str, generation: int, index: int, message: str, *, fatal: bool) -> None:
        """A trainer could not finish a candidate: hand it out again, or stop where that cannot help."""
        if generation != self.state.generation or self.over:
            return
        if self._testing == trainer:
            self._testing = None
        else:
            self._open.give_back(trainer, index)
        if count(self._open.failures, index) >= MAX_FAILURES or fatal:
            self.fail(message)

    def fail(self, message: str) -> None:
        """Stop the search: `message` is what the user reads."""
        self.error = self.error or message

    def tested(self, metrics: dict[str, float]) -> None:
        """The final model's scores on the test pairs: the last piece of work, unless the search was extended since."""
        if self.trained:
            self.test_metrics = metrics

    def stop_now(self) -> None:
        """End at once; what the running generation has is given up."""
        self.stop_requested = self._stopped = self._ended = True

    def extended(self, generations: int) -> SearchConfig:
        """The configuration with another number of generations.

        Raises:
            UserError: the search has ended, or as many are closed already.
        """
        law = f"generations must be more than the {self.state.generation} that are closed"
        require(generations > self.state.generation, law, generations)
        if self.over:
            raise UserError(
                "a search that has ended is continued with python -m lfs.search --resume RUN --generations N"
            )
        return replace(self.config, generations=generations)

    def extend(self, generations: int) -> None:
        """Go on to another number of generations, also when all were closed already.

        Raises:
            UserError: see `extended`.
        """
        was_trained = self.trained
        self.config, self.stop_requested = self.extended(generations), False
        if was_trained and not self.trained:
            self._testing = None
            self._begin(self.prepare(self.state))

    def close(self) -> GenerationRecord:
        """Outcomes -> advantages -> policy step -> record. Changes nothing yet; `advance` does.

        Raises:
            DivergedError: every candidate diverged, so there is no model to go on with.
        """
        work, config, before = self._open, self.config, self.state
        counted = sorted(work.reports)  # all of them, but for those that were dropped
        reports = [work.reports[i] for i in counted]
        if work.best is None:
            raise DivergedError(
                f"all {len(reports)} candidates of generation {before.generation + 1} diverged ({reports[0].reason}); "
                "lower --trainer.lr, or the margins of the space"
            )
        winner = reports[counted.index(work.best)]
        paired = [_paired_se(r, winner) for r in reports]
        warm = before.generation < config.warmup_generations
        gains = np.zeros(len(reports)) if warm else self._advantages(reports, paired)
        policy = before.policy
        if config.mode == "search" and not warm:
            policy = tell(policy, work.actions[counted], gains, config.policy)
        state = SearchState(
            generation=before.generation + 1,
            policy=policy,
            num_images=before.num_images + sum(r.num_images for r in reports),
        )
        rows = [tried_row(work, before.generation, index) for index in range(len(work.actions))]
        for report, gain, se in zip(reports, gains, paired, strict=True):
            rows[report.index] |= outcome(report, float(gain), se, won=report is winner)
        warmup, after = warm and config.mode != "fixed", self.policy_of(policy)
        return GenerationRecord(
            generation=before.generation,
            winner=winner.index,
            rows=rows,
            summary=summary(work, rows, winner, mode=config.mode, warmup=warmup) | after,
            state=state,
        )

    def _advantages(self, reports: list[Report], paired: list[float]) -> npt.NDArray[np.float64]:
        """Rewards to advantages, with the noise floor in the configured unit."""
        settings = self.config.policy
        rewards = np.array([r.reward for r in reports])
        diverged = np.array([r.diverged for r in reports])
        floor = settings.noise_floor
        if settings.noise_floor_unit == "paired_se":
            worst = min((r.reward, i) for i, r in enumerate(reports) if not r.diverged)[1]
            floor *= paired[worst]
        return advantages(rewards, kind=settings.advantage, noise_floor=floor, diverged=diverged)

    def policy_of(self, policy: PolicyState) -> dict[str, Any]:
        """Mean and standard deviation of the loss parameters that a policy samples, and their names."""
        if self._losses:
            return {"parameter_names": [], "policy_mean": [], "policy_std": []}
        known, described = self._described
        if known is not policy:  # asked for at every look of a view, changed once a generation
            mean, std = self.space.parameter_statistics(policy)
            names = list(self.space.parameter_names)
            described = {"parameter_names": names, "policy_mean": mean.tolist(), "policy_std": std.tolist()}
            self._described = policy, described
        return dict(described)

    def advance(self, record: GenerationRecord, base: Any, prepared: OpenGeneration | None = None) -> None:
        """Open the next generation from a closed one's record and the handle of its winner's weights.

        Args:
            prepared: the next generation's candidates, `prepare(record.state)`; None: they are sampled here.
        """
        assert record.generation == self.state.generation, "only the running generation can be advanced"
        self.state, self.base, self._stopped = record.state, base, self.stop_requested
        self._begin(prepared or self.prepare(record.state))


def fixed_losses(config: SearchConfig) -> list[Loss]:
    """The losses of mode `fixed` by generation, the last one to the end.

    Raises:
        UserError: a loss that this version does not know, or parameters that it does not take.
    """
    if config.schedule:
        return [loss_from_dict(values) for values in config.schedule]
    return [make_loss(config.loss, scale=config.space.scale)]


def first_state(config: SearchConfig, generation: int = 0) -> SearchState:
    """The state before the first generation, or before a later one when the model comes from another run."""
    fixed = config.mode == "fixed"
    policy = PolicyState.start([], 1.0) if fixed else get_space(config.space).initial_policy()
    return SearchState(generation=generation, policy=policy)


def _paired_se(report: Report, winner: Report) -> float:
    """Standard error of the difference of two rewards over the same resamples of the same pairs."""
    if report.diverged or report is winner:
        return 0.0
    return float(np.std(report.replicates - winner.replicates, ddof=1))
