"""Hand-crafted losses that change the logits of the other classes, too. Symbols as in `margins.py`.

A class j is hard where its cosine lies above the changed target cosine, `c_j > f(c_y)`: with its margin, the sample is
on the wrong side. Which classes are hard is decided without gradient.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from search_space.class_products import Cosines
from search_space.loss import LossContext, register_loss
from search_space.margin_loss import ANGLE, COSINE, Grid, MarginLoss, Range, add_angle, cross_entropy
from search_space.modulation import NegativeMap, log_odds, target_products


def hard_classes(cosines: Tensor, changed_target: Tensor) -> Tensor:
    """1 where hard, else 0, in the dtype of the cosines: on the CPU, anything with booleans takes ten times as long."""
    return torch.gt(cosines, changed_target, out=torch.empty_like(cosines))


@dataclass(frozen=True, kw_only=True)
class _SupportVectorGuided(MarginLoss):
    """`g(c) = c + t` (fixed) or `c + t * (c + 1)` (adaptive) for hard classes.

    Source: Wang et al., AAAI 2020, arXiv 1912.00833; first as arXiv 1812.11317. Adaptive, t = 0.2 and s = 32 as in its
    published code. Differs: no "easy margin", which leaves out the margin of samples with c_y <= 0.
    """

    margin: float
    t: float = 0.2
    adaptive: bool = True

    @abstractmethod
    def target_cosine(self, cosine: Tensor) -> Tensor: ...

    def negative_map(self, cosines: Tensor, changed_target: Tensor) -> tuple[Tensor, Tensor | None]:
        weight = hard_classes(cosines, changed_target).mul_(self.t)  # [batch, classes]
        if not self.adaptive:
            return weight.add_(cosines), None
        return torch.addcmul(cosines, weight, cosines + 1), weight.add_(1)

    def per_sample(self, cosines: Cosines, target: Tensor, context: LossContext | None = None) -> Tensor:
        odds = log_odds(
            cosines, target, scale=self.scale, target_map=self.target_cosine, negative_map=self.negative_map
        )
        return cross_entropy(odds)


@register_loss
@dataclass(frozen=True, kw_only=True)
class MVAM(_SupportVectorGuided):
    """MV-AM-softmax: `f(c) = c - m`; hard classes by `g(c) = c + t` (fixed) or `c + t * (c + 1)` (adaptive).

    Source: Wang et al., AAAI 2020, arXiv 1912.00833; m = 0.35, t = 0.2, adaptive as in its published code. Differs: no
    "easy margin", which leaves out the margin of samples with c_y <= 0.
    """

    name: ClassVar[str] = "mv_am"
    grid: ClassVar[Grid] = (("margin", (0.1, 0.2, 0.3, 0.4)),)
    ranges: ClassVar[Mapping[str, Range]] = {"margin": COSINE, "t": Range(0, 2, "cosines")}

    margin: float = 0.35

    def target_cosine(self, cosine: Tensor) -> Tensor:
        return cosine - self.margin


@register_loss
@dataclass(frozen=True, kw_only=True)
class MVArc(_SupportVectorGuided):
    """MV-Arc-softmax: `f(c) = cos(theta + m)`, extended as in `Arc`; hard classes as in `MVAM`.

    Source: as `MVAM`; m = 0.5.
    """

    name: ClassVar[str] = "mv_arc"
    grid: ClassVar[Grid] = (("margin", (0.2, 0.3, 0.4, 0.5)),)
    ranges: ClassVar[Mapping[str, Range]] = {"margin": ANGLE, "t": Range(0, 2, "cosines")}

    margin: float = 0.5

    def target_cosine(self, cosine: Tensor) -> Tensor:
        return add_angle(cosine, self.margin)


@register_loss
@dataclass(frozen=True, kw_only=True)
class Curricular(MarginLoss):
    """CurricularFace: `f(c) = cos(theta + m)`, extended as in `Arc`; `g(c) = c * (t + c)` for hard classes, where
    `t <- momentum * t + (1 - momentum) * (mean of c_y over the batch)`, 0 at the start.

    Source: Huang et al., CVPR 2020, arXiv 2004.00288; m = 0.5, s = 64, momentum 0.99. Differs: beyond pi - m a class is
    hard by the extended f(c_y), which is what the logits hold, too.
    """

    name: ClassVar[str] = "curricular"
    needs_context: ClassVar[bool] = True
    grid: ClassVar[Grid] = (("margin", (0.2, 0.3, 0.4, 0.5)),)
    ranges: ClassVar[Mapping[str, Range]] = {"margin": ANGLE, "momentum": Range(0, 1)}

    margin: float = 0.5
    momentum: float = 0.99

    def initial_state(self) -> dict[str, Tensor]:
        return {"t": torch.zeros(())}

    def target_cosine(self, cosine: Tensor) -> Tensor:
        return add_angle(cosine, self.margin)

    def per_sample(self, cosines: Cosines, target: Tensor, context: LossContext | None = None) -> Tensor:
        t = self.needed(context).state["t"]
        if torch.is_grad_enabled():
            own = target_products(cosines, target)
            t.lerp_(own.mean(dtype=t.dtype), 1 - self.momentum)
        negative_map: NegativeMap = partial(_modulated, t.clone())  # as it is now, in backward, too
        odds = log_odds(cosines, target, scale=self.scale, target_map=self.target_cosine, negative_map=negative_map)
        return cross_entropy(odds)


def _modulated(t: Tensor, cosines: Tensor, changed_target: Tensor) -> tuple[Tensor, Tensor]:
    """Hard classes to `c * (t + c) = c + c * (c + t - 1)`, with its derivative."""
    hard = hard_classes(cosines, changed_target)  # [batch, classes]
    excess = (cosines + (t - 1).to(cosines.dtype)).mul_(hard)
    others = torch.addcmul(cosines, cosines, excess)
    return others, excess.add_(1).addcmul_(hard, cosines)


@register_loss
@dataclass(frozen=True, kw_only=True)
class Circle(MarginLoss):
    """Circle loss with class labels: `f(c) = [1 + m - c]+ * (c - (1 - m))`, `g(c) = [c + m]+ * (c - m)`; the weights in
    brackets pass no gradient, as in the paper's derivatives, so the gradient is not that of the loss's value.

    Source: Sun et al., CVPR 2020, arXiv 2002.10857; m = 0.25 and s (its gamma) = 256, as for faces.
    """

    name: ClassVar[str] = "circle"
    own_scale: ClassVar[bool] = True
    grid: ClassVar[Grid] = (("scale", (64.0, 64.0, 128.0, 256.0)), ("margin", (0.25, 0.4, 0.25, 0.25)))
    ranges: ClassVar[Mapping[str, Range]] = {"margin": Range(0, 1, "cosines")}

    scale: float = 256.0
    margin: float = 0.25

    def target_cosine(self, cosine: Tensor) -> Tensor:
        return (1 + self.margin - cosine.detach()).clamp_min(0) * (cosine - (1 - self.margin))

    def negative_map(self, cosines: Tensor, changed_target: Tensor) -> tuple[Tensor, Tensor | None]:
        weight = (cosines + self.margin).clamp_min_(0)  # [batch, classes]
        return (cosines - self.margin).mul_(weight), weight

    def per_sample(self, cosines: Cosines, target: Tensor, context: LossContext | None = None) -> Tensor:
        odds = log_odds(
            cosines, target, scale=self.scale, target_map=self.target_cosine, negative_map=self.negative_map
        )
        return cross_entropy(odds)
