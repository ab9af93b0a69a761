"""What Tune's loggers write: the rows of candidates, by the names of lfs/tune_row.py, whichever logger it is."""

import re
from collections import Counter
from typing import Any

from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback, TBXLoggerCallback
from ray.tune.result import AUTO_RESULT_KEYS, DONE, EXPERIMENT_TAG, TIMESTEPS_TOTAL, TRIAL_ID

from lfs.config import SearchConfig
from lfs.tune_row import LEAVES

MAX_RESULTS = 10_000
"""Results of one trial that Tune's files keep, about 32 MB of each kind: `lfs.results` has the candidates of all."""
NOT_OURS = {*AUTO_RESULT_KEYS, DONE, EXPERIMENT_TAG, TRIAL_ID, LEAVES} - {TIMESTEPS_TOTAL}
"""In a result: what Tune knows of its trials."""
DESCRIBING = (
    "name", "mode", "seed", "order", "generations", "warmup_generations", "population_size", "space.name",
    "space.scale", "loss.name", "policy.lr", "policy.advantage", "trainer.backbone", "trainer.embedding_dim",
    "trainer.batch_size", "trainer.lr", "trainer.generation_length", "trainer.generation_unit", "trainer.average",
    "reward.metric",
)  # fmt: skip
"""Settings that tell searches apart, in the configuration of every trial."""
SUMMARY = ("reward", "reward_se", "margin_mean", "train_loss", "images_per_s", "train_s", "validate_s", "overhead_s")
"""Columns that TensorBoard shows of each trainer beside its hyperparameters."""
PREFIX = "ray/tune/"
"""Before the names of Tune's scalars in TensorBoard."""


def described(config: SearchConfig) -> dict[str, Any]:
    """Settings that describe a search, by their names in config.yaml; those that are empty are left out."""
    found = {}
    for name in DESCRIBING:
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part)
        found[name] = value
    return {name: value for name, value in found.items() if value not in ("", None)}


def row_of(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what Tune adds to it."""
    return {name: value for name, value in result.items() if name not in NOT_OURS}


def spelled(name: str) -> str:
    """A column where no more than letters, digits and `_-./` are allowed: `tar@far=0.01` is `tar_far_0.01`."""
    return re.sub(r"[^-/\w.]", "_", name)


class Bounded:
    """Before one of Tune's loggers: the results of candidates, the first so many of each trial."""

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        """One more result."""
        counts = self.__dict__.setdefault("_written", Counter())
        if result.get("candidate") is not None and counts[trial.trial_id] < MAX_RESULTS:
            counts[trial.trial_id] += 1
            super().log_trial_result(iteration, trial, result)  # type: ignore[misc]


class CandidatesCSV(Bounded, CSVLoggerCallback):
    """Tune's progress.csv, whose columns are those of the first row."""


class CandidatesJson(Bounded, JsonLoggerCallback):
    """Tune's result.json."""


class Scalars(TBXLoggerCallback):
    """Tune's TensorBoard events, without what is known of the trial alone, and with hyperparameters from the first
    candidate on: Tune writes those at the end of a trial, which one that is killed never sees."""

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        """One more candidate. Its step is its place in the search."""
        first = not self._trial_result.get(trial)
        super().log_trial_result(iteration, trial, {spelled(name): value for name, value in row_of(result).items()})
        if first:
            self._try_log_hparams(trial, self._trial_result[trial])

    def _try_log_hparams(self, trial: Any, result: dict[str, Any]) -> None:
        """The trial's settings, and the columns that matter, of which the last values are shown."""
        from tensorboardX.summary import hparams

        settings = {name: value for name, value in trial.config.items() if name != "controller"}
        for summary in hparams(settings, {f"{PREFIX}{name}": None for name in SUMMARY}):
            self._trial_writer[trial].file_writer.add_summary(summary)


class CandidatesTensorBoard(Bounded, Scalars):
    """Tune's TensorBoard events."""
