"""What goes into a trainer and what comes out: plain values, no Ray, no files."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # torch takes seconds, and whoever reads a run does without
    from search_space.loss import Loss

Weights = dict[str, npt.NDArray[np.generic]]
"""A model by name: `backbone.*` and `head.*` parameters and buffers, `momentum.*` buffers of SGD, `loss.*` state of a
loss that has any, `average.*` mean of the backbone over the last steps if one is taken; arrays, which an object store
hands on without copying."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One sampled point of the search space in one generation."""

    generation: int
    """Counted from 0; decides which batches are seen and the learning rate."""

    index: int
    """Place in its generation; decides nothing about the training, which depends on the loss alone."""

    loss: "Loss"
    """The loss to train with."""

    order: int = 0
    """Which order (and flips) of the pictures: 0 is that of every search; others are other draws of the same luck."""


@dataclass(frozen=True, kw_only=True)
class CandidateResult:
    """The outcome of training and validating one candidate."""

    generation: int
    index: int
    reward: float
    """The configured metric on the reward pairs; NaN if `diverged`."""

    reward_se: float
    """Standard error of `reward` over the pairs, bootstrap."""

    replicates: npt.NDArray[np.float64]
    """[num_bootstrap] the reward on each resample; the resamples are common to all candidates, so the standard
    deviation of a difference of two candidates' replicates is the standard error of their paired difference."""

    metrics: dict[str, float]
    """`train_loss`, `accuracy`, `accuracy_se`, `auc`, ... for the record."""

    diverged: bool = False
    """Loss, weights, embeddings or reward were not finite."""

    reason: str = ""
    """What was not finite, and at which step."""

    weights: Weights = field(default_factory=dict, repr=False)
    """The trained model; empty if `diverged`."""

    num_images: int = 0
    """Training pictures seen."""

    train_s: float = 0.0
    validate_s: float = 0.0
