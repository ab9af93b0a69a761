"""What hand-crafted losses share: checked parameters, one function of the target cosine to override, angles."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from search_space.class_products import Cosines
from search_space.config import MAX_SCALE
from search_space.errors import require
from search_space.loss import Loss, LossContext
from search_space.modulation import log_odds

Grid = tuple[tuple[str, tuple[float, ...]], ...]
"""Parameters and the values that a comparison tries; several parameters move together, first with first."""


class Range(NamedTuple):
    """Where a parameter may lie."""

    low: float
    high: float
    unit: str = ""
    above_low: bool = False
    """Whether `low` itself is refused."""

    def law(self) -> str:
        """The range in words."""
        opening = "(" if self.above_low else "["
        return f"in {opening}{self.low:g}, {self.high:g}]" + (f", {self.unit}" if self.unit else "")

    def holds(self, value: float) -> bool:
        return (self.low < value if self.above_low else self.low <= value) and value <= self.high


ANGLE = Range(0, 1.57, "radians")
COSINE = Range(0, 2, "cosines")


@dataclass(frozen=True, kw_only=True)
class MarginLoss(Loss):
    """A hand-crafted loss. A subclass overrides the one function that its paper changes.

    Losses with a state (a running mean, say) bring it up to date once in each call with gradients enabled, before they
    use it, and leave it alone under `torch.no_grad`.
    """

    ranges: ClassVar[Mapping[str, Range]] = {}
    """Range of each numeric parameter but the scale."""

    grid: ClassVar[Grid] = ()
    """A few values of its own margin, so that a comparison can show the loss at its best. Around the paper's default,
    which is for s = 64 on millions of pictures, and down to what suits s = 32 and small data."""

    takes_scale: ClassVar[bool] = True
    """Whether the scale is a parameter; if not, the loss has its own rule."""

    own_scale: ClassVar[bool] = False
    """Whether the scale is the loss's own default, not that of the search space, when none is given."""

    def __post_init__(self) -> None:
        for name, limits in {"scale": Range(0, MAX_SCALE, above_low=True), **self.ranges}.items():
            value = getattr(self, name)
            require(limits.holds(value), f"loss {name} of {self.name} must be {limits.law()}", value)
        for field in fields(self):
            if field.type is bool:
                value = getattr(self, field.name)
                require(isinstance(value, bool), f"loss {field.name} of {self.name} must be true or false", value)

    @classmethod
    def takes(cls) -> tuple[str, ...]:
        """Names of the parameters that a user may set."""
        return tuple(f.name for f in fields(cls) if f.name != "scale" or cls.takes_scale)

    def parameters(self) -> dict[str, float]:
        return {name: float(getattr(self, name)) for name in self.takes()}

    def target_cosine(self, cosine: Tensor) -> Tensor:
        """What stands in for the target cosine, [batch]."""
        return cosine

    def per_sample(self, cosines: Cosines, target: Tensor, context: LossContext | None = None) -> Tensor:
        return cross_entropy(log_odds(cosines, target, scale=self.scale, target_map=self.target_cosine))

    def needed(self, context: LossContext | None) -> LossContext:
        """`context`, which this loss cannot do without."""
        if context is None:
            raise ValueError(f"{self.name} needs a LossContext, got None")
        return context


def cross_entropy(odds: Tensor) -> Tensor:
    """`-log p` from the log odds of p."""
    return -functional.logsigmoid(odds)


def angle(cosine: Tensor) -> Tensor:
    """theta in (0, pi); at the very ends, where its derivative is infinite, a constant."""
    limit = 1 - torch.finfo(cosine.dtype).eps
    return cosine.clamp(-limit, limit).acos()


def add_angle(cosine: Tensor, margin: Tensor | float) -> Tensor:
    """ArcFace's `cos(theta + m)`, m in [0, pi / 2], and `cos(theta) - m * sin(m)` where theta > pi - m.

    The cosine would rise again beyond pi - m: the sample furthest from its class would be pushed away from it. The
    field's extension falls on instead, with the slope of CosFace, from a step down of at most 0.6 at pi - m.
    """
    m = torch.as_tensor(margin, dtype=cosine.dtype, device=cosine.device)
    sine = ((1 - cosine) * (1 + cosine)).clamp_min(torch.finfo(cosine.dtype).eps).sqrt()
    added = cosine * m.cos() - sine * m.sin()
    return torch.where(cosine > -m.cos(), added, cosine - m * m.sin())


def falling_cosine(theta: Tensor) -> Tensor:
    """SphereFace's psi, `(-1)^k cos(theta) - 2 k` with `k = floor(theta / pi)`: the cosine, but falling for ever."""
    k = (theta.detach() / math.pi).floor()
    return (1 - 2 * (k % 2)) * theta.cos() - 2 * k
