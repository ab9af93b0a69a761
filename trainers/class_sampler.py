"""Class sampling (Partial FC): in each step a head has only a sample of its classes, and only these are trained.

Source: An et al., arXiv 2010.05222, and CVPR 2022, arXiv 2203.15565. All classes of the batch are in the sample; others
fill it up at random. No logit is corrected for the classes left out, as there.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

CLASS_STREAM = 0x636C6173
"""Keeps the draws of classes apart from everything else that the same seed and step are used for."""

FEWEST_ROWS = 2
"""Rows that each shard takes at least, if it has them: a loss needs one class beside that of the target."""

Rows = npt.NDArray[np.int64]


class SampledClasses(NamedTuple):
    """The classes of one step."""

    classes: Tensor
    """[rows] int64, rising."""

    weight: nn.Parameter
    """[rows, dim] their weights, which the optimizer moves in the stead of the head's."""


def sampled_rows(positives: Rows, num_rows: int, rate: float, *, seed: int, step: int, rank: int) -> Rows:
    """Rows of one shard that take part in a step; decided by the arguments alone.

    Args:
        positives: [n] distinct rows, rising, that must be in.
        num_rows: rows of the shard.
        rate: share of the rows that take part, in (0, 1]; more do if there are more positives.
    Returns:
        [max(n, rate * num_rows)] distinct rows, rising.
    """
    missing = min(max(round(rate * num_rows), FEWEST_ROWS), num_rows) - len(positives)
    if missing <= 0:
        return positives
    key = np.random.SeedSequence([seed, CLASS_STREAM, step, rank])
    generator = np.random.Generator(np.random.Philox(key))
    others = generator.choice(num_rows - len(positives), missing, replace=False, shuffle=False)
    # The i-th of the rows that are no positives lies behind as many positives as have at most i such rows before them.
    others += np.searchsorted(positives - np.arange(len(positives)), others, side="right")
    return np.sort(np.concatenate([positives, others]))


class ClassSampler:
    """Takes a sample of the rows of a head's weight out for one step, and puts them back.

    Between `take` and `give_back` these rows, and their momentum, are a parameter that the optimizer knows. The head's
    own weight stays in the optimizer, which passes over it, as it never gets a gradient: rows that are not in the
    sample keep weight and momentum, bit for bit; neither decays.

    Args:
        weight: [rows, dim] of one shard of a head.
        first: class of the first row.
        optimizer: has `weight`, and its momentum buffer before the first `take`, if there is momentum.
        rate: share of the classes, in (0, 1).
        rank: of the shard.
    """

    def __init__(
        self, weight: nn.Parameter, optimizer: torch.optim.SGD, *, rate: float, first: int = 0, rank: int = 0
    ) -> None:
        self._weight, self._optimizer = weight, optimizer
        self._rate, self._first, self._rank = rate, first, rank
        [own] = [group for group in optimizer.param_groups if any(p is weight for p in group["params"])]
        optimizer.add_param_group({**own, "params": []})
        self._group = optimizer.param_groups[-1]
        self._taken: tuple[Tensor, nn.Parameter] | None = None

    def take(self, target: Tensor, step: int, seed: int) -> SampledClasses:
        """The classes of a step, of which all in `target` that are of this shard.

        Args:
            target: [batch] int64, all of the batch, in every shard.
            step: steps since the start of training.
            seed: the sample depends on it, on `step` and on the shard; and on the targets.
        """
        assert self._taken is None, "the rows of the last step were not given back"
        rows = np.unique(target.cpu().numpy()) - self._first
        positives = rows[(rows >= 0) & (rows < len(self._weight))]
        taken = sampled_rows(positives, len(self._weight), self._rate, seed=seed, step=step, rank=self._rank)
        index = torch.from_numpy(taken).to(self._weight.device)
        sample = nn.Parameter(self._weight.detach()[index])
        if (momentum := self._momentum()) is not None:
            self._optimizer.state[sample] = {"momentum_buffer": momentum[index]}
        self._group["params"] = [sample]
        self._taken = index, sample
        return SampledClasses(index + self._first, sample)

    @torch.no_grad()
    def give_back(self) -> None:
        """Put the rows of the last `take` back, as the optimizer has left them."""
        assert self._taken is not None, "no rows were taken"
        index, sample = self._taken
        self._weight.index_copy_(0, index, sample)
        state = self._optimizer.state.pop(sample, {})
        if (momentum := self._momentum()) is not None:
            momentum.index_copy_(0, index, state["momentum_buffer"])
        self._group["params"] = []
        self._taken = sample.grad = None  # whoever still has the sample need not keep its gradient

    def _momentum(self) -> Tensor | None:
        buffer: Tensor | None = (
            self._optimizer.state[self._weight]["momentum_buffer"] if self._group["momentum"] else None
        )
        return buffer
