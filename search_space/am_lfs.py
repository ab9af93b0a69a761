"""The loss of AM-LFS: one piecewise-linear function of the target cosine, one of its probability.

`L = -log tau(p)`, where `p` is the softmax probability of the target class after its cosine `c` was replaced by `t(c)`:

    t(c) = a_i * c + b_i on the M equal intervals of [-1, 1],    tau(p) = a_i * p + b_i on those of [0, 1]

The slope of t weighs samples of one class against each other; that of tau, easy samples against hard ones.

Source: Li et al., ICCV 2019, arXiv 1905.07375. The paper leaves open, and we took:
* where the intervals lie: equal ones of the whole range of a cosine and of a probability, each closed above; what lies
  outside by rounding belongs to the nearest. M = 6 by default.
* where a continuous function is held: `t(-1) = -1` and `tau(0) = 0`, as the identity has it. Then the slopes of t make
  a margin where samples lie, and a hard sample keeps its gradient: `tau(p) / p` tends to a_0, not to infinity.
* where the search starts: at the identity, `t(c) = c` and `tau(p) = p`, which is `norm_softmax`.
* sigma = 0.2 and, in `PolicyConfig`, Adam with lr = 0.05: those of the code of Wang et al. 2020, which follows AM-LFS.
  The population B is that of the search.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from search_space.class_products import Cosines
from search_space.loss import Loss, LossContext, register_loss
from search_space.modulation import log_odds, probability_bin
from search_space.policy import Array

Numbers = tuple[float, ...]


@register_loss
@dataclass(frozen=True, kw_only=True)
class AMLFS(Loss):
    """`-log tau(p)` of one pair of functions. Any finite numbers make one; `usable.py` says which may be trained.

    Where tau is negative the loss is NaN. With free intercepts the functions jump between intervals; the gradient is
    that of the sample's own interval all the same.
    """

    name: ClassVar[str] = "am_lfs"

    t_slopes: Numbers
    tau_slopes: Numbers
    t_intercepts: Numbers = ()
    """Empty: those that make t continuous from `t(-1) = -1`."""
    tau_intercepts: Numbers = ()
    """Empty: those that make tau continuous from `tau(0) = 0`."""

    def __post_init__(self) -> None:
        numbers = (*self.t_slopes, *self.tau_slopes, *self.t_intercepts, *self.tau_intercepts, self.scale)
        fits = all(len(b) in (0, len(a)) and a for a, b in (self._t, self._tau))
        if not (fits and np.isfinite(numbers).all() and self.scale > 0):
            raise ValueError(f"expected finite slopes, no or as many intercepts, and a scale > 0, got {self}")

    @property
    def _t(self) -> tuple[Numbers, Numbers]:
        return self.t_slopes, self.t_intercepts

    @property
    def _tau(self) -> tuple[Numbers, Numbers]:
        return self.tau_slopes, self.tau_intercepts

    def fault(self) -> str:
        for name, slopes in (("t", self.t_slopes), ("tau", self.tau_slopes)):
            for i, slope in enumerate(slopes):
                if slope < 0:
                    return f"{name} falls in interval {i} (slope {slope:.2f})"
        return ""

    def parameters(self) -> dict[str, float]:
        groups = {"t_slope": self.t_slopes, "tau_slope": self.tau_slopes}
        groups |= {"t_intercept": self.t_intercepts, "tau_intercept": self.tau_intercepts}
        return {f"{name}_{i}": x for name, numbers in groups.items() for i, x in enumerate(numbers)}

    def t(self, cosine: Tensor) -> Tensor:
        """What stands in for the target cosine."""
        slopes, intercepts = _table(cosine, self.t_slopes, self.t_intercepts, start=-1, length=2)
        interval = probability_bin((cosine.detach() + 1) / 2, len(slopes))
        return slopes[interval] * cosine + intercepts[interval]

    def minus_log_tau(self, odds: Tensor) -> Tensor:
        """`-log tau(p)` from the log odds of p."""
        log_p = functional.logsigmoid(odds)  # exp(log_p), unlike sigmoid(odds), has an exact gradient as p nears 1
        slopes, intercepts = _table(odds, self.tau_slopes, self.tau_intercepts, start=0, length=1)
        interval = probability_bin(log_p.detach().exp(), len(slopes))
        slope, intercept = slopes[interval], intercepts[interval]  # [batch]
        # Through 0: log(a * p) = log a + log p, of which the second must not go through p, which underflows.
        through_0 = intercept == 0
        outside = torch.where(through_0, log_p, 0)
        inside = torch.where(through_0, 0, log_p).exp()  # 1 where log p is outside
        return -(outside + (slope * inside + intercept).log())

    def per_sample(self, cosines: Cosines, target: Tensor, context: LossContext | None = None) -> Tensor:
        return self.minus_log_tau(log_odds(cosines, target, scale=self.scale, target_map=self.t))


def _table(like: Tensor, slopes: Numbers, intercepts: Numbers, *, start: float, length: float) -> tuple[Tensor, Tensor]:
    """Slopes and intercepts [M] as tensors; the intercepts that make the function continuous if there are none."""
    a = np.asarray(slopes)
    b = np.asarray(intercepts) if intercepts else continuous_intercepts(a, start=start, length=length)
    slope = torch.as_tensor(a, dtype=like.dtype, device=like.device)
    return slope, torch.as_tensor(b, dtype=like.dtype, device=like.device)


def continuous_intercepts(slopes: Array, *, start: float, length: float) -> Array:
    """[M] intercepts of the continuous function with these slopes that maps `start`, the least argument, to itself.

    At the inner end z_i of two intervals `a_(i-1) * z_i + b_(i-1) = a_i * z_i + b_i`.
    """
    ends = start + length * np.arange(1, len(slopes)) / len(slopes)  # [M - 1]
    first = start * (1 - slopes[0])
    intercepts: Array = first - np.concatenate([[0.0], (np.diff(slopes) * ends).cumsum()])
    return intercepts
