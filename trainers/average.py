"""The mean of weights over the last steps of a generation: what a slower learning rate would have come to.

At a high learning rate two models of the same loss differ mostly by the noise of their last steps, and so do their
rewards. The mean of many steps has little of that noise and costs nothing but memory (Izmailov et al., UAI 2018,
arXiv 1803.05407; here over the steps of one generation, and batch-norm statistics are averaged like weights).
"""

from collections.abc import Mapping

import torch
from torch import Tensor


class RunningMean:
    """Mean of live tensors over steps, each counting alike.

    Args:
        slots: live tensors by name, floating; none: nothing is done.
        first_step: steps of the generation that do not count.
    """

    def __init__(self, slots: Mapping[str, Tensor], *, first_step: int) -> None:
        self._slots, self._first_step = dict(slots), first_step
        self.means = {name: slot.detach().clone() for name, slot in slots.items()}
        """As they were when made, until the first step that counts."""

    @torch.no_grad()
    def add(self, step: int) -> None:
        """Count the tensors as they are after step number `step`, from 1."""
        count = step - self._first_step
        if self._slots and count >= 1:
            torch._foreach_lerp_(list(self.means.values()), list(self._slots.values()), 1 / count)

    @torch.no_grad()
    def take_over(self) -> None:
        """Put the means into the live tensors."""
        for name, slot in self._slots.items():
            slot.copy_(self.means[name])
