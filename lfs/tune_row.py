"""What Ray Tune, and with it every logger, is told of a candidate: one flat row, the same columns whatever came of it.

Names are those of candidates.parquet where they mean the same, see docs/formats.md. Files such as progress.csv have
the columns of their first row, so that one is complete too, and what is not known is None: a NaN would stay for ever in
what Tune makes of a column (its maximum, say).
"""

from collections.abc import Sequence
from typing import Any

from ray.tune.result import TIMESTEPS_TOTAL

from lfs.config import SearchConfig
from lfs.generation import fixed_losses
from lfs.messages import Lease, Report
from search_space.spaces import get_space

LEAVES = "leaves"
"""In a result: the trainer is not wanted at present."""
GIVEN_UP = "given up: somebody else has trained it, or the search goes on without it"
OWN = (
    "generation", "candidate", TIMESTEPS_TOTAL, "trainer", "reward", "reward_se", "diverged", "reason", "margin_mean",
    "num_images", "images_per_s", "train_s", "validate_s", "overhead_s",
)  # fmt: skip
"""Columns that every search has."""


class Rows:
    """Rows of one trainer.

    Args:
        trainer: its label.
        metrics: names of the metrics of a candidate, see `CandidateTrainer.metric_names`.
    Raises:
        UserError: the space, or a fixed loss, cannot be made.
    """

    def __init__(self, config: SearchConfig, trainer: str, metrics: Sequence[str]) -> None:
        self.config, self.trainer = config, trainer
        names = parameter_names(config)
        policy = [] if config.mode == "fixed" else [name for x in names for name in (policy_mean(x), policy_std(x))]
        self.columns = tuple(dict.fromkeys([*OWN, *names, *policy, *metrics]))

    def empty(self) -> dict[str, Any]:
        """The row of no candidate."""
        return dict.fromkeys(self.columns)

    def without_outcome(self, lease: Lease, reason: str) -> dict[str, Any]:
        """The row of a candidate that this trainer has not brought to its end, and why not."""
        assert lease.loss is not None
        parameters, margins = lease.loss.parameters(), lease.loss.margins
        statistics: dict[str, Any] = {}
        for name, mean, std in zip(parameters, lease.policy_mean, lease.policy_std, strict=False):
            statistics |= {policy_mean(name): mean, policy_std(name): std}
        own = {
            "generation": lease.generation, "candidate": lease.index, "trainer": self.trainer,
            TIMESTEPS_TOTAL: place(self.config, lease.generation, lease.index), "diverged": False, "reason": reason,
            "margin_mean": sum(margins) / len(margins) if margins else None,
        }  # fmt: skip
        return self.empty() | parameters | statistics | own

    def with_outcome(self, lease: Lease, report: Report, took_s: float) -> dict[str, Any]:
        """The row of a candidate that was trained, also if it diverged: then it has no reward.

        Args:
            took_s: from its lease to its report.
        """
        rewards = {} if report.diverged else {"reward": report.reward, "reward_se": report.reward_se}
        own = {
            "diverged": report.diverged, "num_images": report.num_images,
            "images_per_s": report.num_images / max(report.train_s, 1e-9), "train_s": report.train_s,
            "validate_s": report.validate_s, "overhead_s": took_s - report.train_s - report.validate_s,
        }  # fmt: skip
        return self.without_outcome(lease, report.reason) | report.metrics | rewards | own


def policy_mean(parameter: str) -> str:
    """Column of a parameter's mean under the policy."""
    return f"policy_mean/{parameter}"


def policy_std(parameter: str) -> str:
    """Column of a parameter's standard deviation under the policy."""
    return f"policy_std/{parameter}"


def parameter_names(config: SearchConfig) -> list[str]:
    """Names of the parameters of all losses of a search."""
    if config.mode == "fixed":
        return list(dict.fromkeys(name for loss in fixed_losses(config) for name in loss.parameters()))
    return list(get_space(config.space).parameter_names)


def place(config: SearchConfig, generation: int, index: int) -> int:
    """Where a candidate stands among all of the search, from 1: the step of every logger.

    It is the order in which a single trainer would train them. A trial's own count of its results would begin anew when
    its trainer is restarted, and says nothing about other trainers.
    """
    warm = min(generation, config.warmup_generations)
    return warm + (generation - warm) * config.population + index + 1
