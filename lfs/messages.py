"""What passes between trainers, controller and run directory: frozen values that name their generation."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from search_space.policy import PolicyState

if TYPE_CHECKING:  # torch takes seconds, and whoever reads a run does without
    from search_space.loss import Loss
    from trainers.candidate import CandidateResult


@dataclass(frozen=True, kw_only=True)
class Lease:
    """One piece of work for one trainer."""

    kind: str
    """`train` a candidate, `test` the final model, `wait` and ask again, `leave` until you are wanted again,
    `stop`: the search is over."""

    generation: int = 0
    index: int = 0
    action: tuple[float, ...] = ()
    loss: "Loss | None" = None
    """What the action stands for: the loss to train with."""

    policy_mean: tuple[float, ...] = ()
    policy_std: tuple[float, ...] = ()
    """Mean and standard deviation of each of the loss's parameters under the policy that it was drawn from."""

    base: Any = None
    """Handle of the weights to start from (to test, for `test`); None: the initial weights."""

    progress_s: float = 2.0
    """Least time between two messages about the progress."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The outcome of one candidate, as it crosses from trainer to controller; the weights stay behind a handle."""

    generation: int
    index: int
    reward: float
    reward_se: float
    replicates: npt.NDArray[np.float64]
    diverged: bool
    reason: str
    metrics: dict[str, float]
    num_images: int
    train_s: float
    validate_s: float
    trainer: str


def as_report(result: "CandidateResult", trainer: str) -> Report:
    """A result as it goes to the controller: without the weights."""
    return Report(
        generation=result.generation, index=result.index, reward=result.reward, reward_se=result.reward_se,
        replicates=result.replicates, diverged=result.diverged, reason=result.reason, metrics=result.metrics,
        num_images=result.num_images, train_s=result.train_s, validate_s=result.validate_s, trainer=trainer,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SearchState:
    """What a search is between two generations: everything that the next generation follows from, but the weights."""

    generation: int
    """The generation to run next."""

    policy: PolicyState
    num_images: int = 0
    """Training pictures seen by all candidates so far: the cost."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, exact."""
        return {"generation": self.generation, "policy": self.policy.to_dict(), "num_images": self.num_images}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SearchState":
        """Inverse of `to_dict`."""
        return cls(
            generation=values["generation"],
            policy=PolicyState.from_dict(values["policy"]),
            num_images=values["num_images"],
        )


@dataclass(frozen=True, kw_only=True)
class GenerationRecord:
    """One closed generation: what was tried, what came of it, and the state that follows."""

    generation: int
    winner: int
    rows: list[dict[str, Any]]
    """One per candidate, in order: the table that results show."""

    summary: dict[str, Any]
    """The generation in one line."""

    state: SearchState
    """The state of the search after it."""
