"""Hand-crafted losses whose margin or scale differs from sample to sample or step to step; symbols: `margins.py`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from search_space.class_products import Cosines
from search_space.errors import require
from search_space.loss import LossContext, register_loss
from search_space.margin_loss import ANGLE, COSINE, Grid, MarginLoss, Range, add_angle, angle, cross_entropy
from search_space.modulation import compute_dtype, log_odds, target_and_rest

MARGIN_STREAM = 0x6D617267
"""Keeps the draws of margins apart from everything else that the same seed and step are used for."""


@register_loss
@dataclass(frozen=True, kw_only=True)
class AdaFace(MarginLoss):
    """`f(c) = cos(theta - m * z) - m * (1 + z)`, `z = clip(h * (|x| - mean) / std, -1, 1)`: easy pictures (long
    embeddings) get an additive margin, hard ones an angular one.

    Mean and standard deviation of the lengths, each clipped to [0.001, 100], are running ones over batches
    (`<- momentum * old + (1 - momentum) * batch`), 20 and 100 at the start; no gradient passes through them or z. The
    angle after the margin is clipped to [0.001, pi - 0.001].

    Source: Kim et al., CVPR 2022, arXiv 2204.00964; m = 0.4, h = 0.333, s = 64, momentum 0.99; bounds and starting
    values as in its published code.
    """

    name: ClassVar[str] = "adaface"
    needs_context: ClassVar[bool] = True
    grid: ClassVar[Grid] = (("margin", (0.1, 0.2, 0.3, 0.4)),)
    ranges: ClassVar[Mapping[str, Range]] = {"margin": ANGLE, "h": Range(0, 10), "momentum": Range(0, 1)}

    margin: float = 0.4
    h: float = 0.333
    momentum: float = 0.99

    def initial_state(self) -> dict[str, Tensor]:
        return {"mean": torch.tensor(20.0), "std": torch.tensor(100.0)}

    def quality(self, context: LossContext) -> Tensor:
        """z, [batch]; brings the running mean and standard deviation up to date."""
        mean, std = context.state["mean"], context.state["std"]
        norms = context.norms.detach().clamp(0.001, 100)
        if torch.is_grad_enabled():
            spread = norms.std(correction=min(1, len(norms) - 1))
            mean.lerp_(norms.mean().to(mean.dtype), 1 - self.momentum)
            std.lerp_(spread.to(std.dtype), 1 - self.momentum)
        return (self.h * (norms - mean) / (std + 1e-3)).clamp(-1, 1)

    def per_sample(self, cosines: Cosines, target: Tensor, context: LossContext | None = None) -> Tensor:
        z = self.quality(self.needed(context))

        def target_map(cosine: Tensor) -> Tensor:
            moved = (angle(cosine) - self.margin * z).clamp(1e-3, math.pi - 1e-3)
            return moved.cos() - self.margin * (1 + z)

        return cross_entropy(log_odds(cosines, target, scale=self.scale, target_map=target_map))


@register_loss
@dataclass(frozen=True, kw_only=True)
class MagFace(MarginLoss):
    """`f(c) = cos(theta + m(r))`, `m(r) = l_m + (u_m - l_m) * (r - l_a) / (u_a - l_a)`, where r is |x| clipped to
    [l_a, u_a]; the loss of a sample has `lambda_g * (1 / r + r / u_a^2)` added, which makes embeddings longer. Gradient
    flows to r, but not through the clipping: embeddings shorter than l_a are not made longer by it.

    Source: Meng et al., CVPR 2021, arXiv 2103.06627; l_a = 10, u_a = 110, l_m = 0.45, u_m = 0.8, lambda_g = 35, s = 64.
    Beyond pi - m(r) as in `Arc`.
    """

    name: ClassVar[str] = "magface"
    needs_context: ClassVar[bool] = True
    grid: ClassVar[Grid] = (("l_m", (0.15, 0.25, 0.35, 0.45)), ("u_m", (0.3, 0.45, 0.6, 0.8)))
    ranges: ClassVar[Mapping[str, Range]] = {
        "l_a": Range(0, 1e6, above_low=True),
        "u_a": Range(0, 1e6, above_low=True),
        "l_m": ANGLE,
        "u_m": ANGLE,
        "lambda_g": Range(0, 1e6),
    }

    l_a: float = 10.0
    u_a: float = 110.0
    l_m: float = 0.45
    u_m: float = 0.8
    lambda_g: float = 35.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.l_a < self.u_a, "loss l_a of magface must be less than u_a", (self.l_a, self.u_a))
        require(self.l_m <= self.u_m, "loss l_m of magface must not exceed u_m", (self.l_m, self.u_m))

    def per_sample(self, cosines: Cosines, target: Tensor, context: LossContext | None = None) -> Tensor:
        r = self.needed(context).norms.clamp(self.l_a, self.u_a)  # [batch]
        margin = self.l_m + (self.u_m - self.l_m) / (self.u_a - self.l_a) * (r - self.l_a)
        odds = log_odds(cosines, target, scale=self.scale, target_map=lambda c: add_angle(c, margin))
        return cross_entropy(odds) + self.lambda_g * (1 / r + r / self.u_a**2)


def drawn_margins(loss: "ElasticArc | ElasticAM", cosines: Cosines, context: LossContext) -> Tensor:
    """[batch] margins `~ N(m, std)`, clipped to the range of m; decided by seed and step alone, not by the device."""
    key = np.random.SeedSequence([context.seed, MARGIN_STREAM, context.step])
    normals = np.random.Generator(np.random.Philox(key)).standard_normal(len(cosines))
    limits = loss.ranges["margin"]
    margins = (loss.margin + loss.std * normals).clip(limits.low, limits.high)
    return torch.from_numpy(margins).to(cosines.device, compute_dtype(cosines))


@register_loss
@dataclass(frozen=True, kw_only=True)
class ElasticArc(MarginLoss):
    """ElasticFace-Arc: `f(c) = cos(theta + E)`, `E ~ N(m, std)` for each sample and step. Extended as in `Arc`.

    Source: Boutros et al., CVPRW 2022, arXiv 2109.09416; m = 0.5, std = 0.0125 (the default of its published class; its
    recipe says 0.05), s = 64. Differs: E is clipped to the range of a margin; seeded by step.
    """

    name: ClassVar[str] = "elastic_arc"
    needs_context: ClassVar[bool] = True
    grid: ClassVar[Grid] = (("margin", (0.2, 0.3, 0.4, 0.5)),)
    ranges: ClassVar[Mapping[str, Range]] = {"margin": ANGLE, "std": Range(0, 1, "radians")}

    margin: float = 0.5
    std: float = 0.0125

    def per_sample(self, cosines: Cosines, target: Tensor, context: LossContext | None = None) -> Tensor:
        margins = drawn_margins(self, cosines, self.needed(context))
        odds = log_odds(cosines, target, scale=self.scale, target_map=lambda c: add_angle(c, margins))
        return cross_entropy(odds)


@register_loss
@dataclass(frozen=True, kw_only=True)
class ElasticAM(MarginLoss):
    """ElasticFace-Cos: `f(c) = c - E`, `E ~ N(m, std)` for each sample and step.

    Source: Boutros et al., CVPRW 2022, arXiv 2109.09416; m = 0.35, std = 0.0125, s = 64. Differs: as `ElasticArc`.
    """

    name: ClassVar[str] = "elastic_am"
    needs_context: ClassVar[bool] = True
    grid: ClassVar[Grid] = (("margin", (0.1, 0.2, 0.3, 0.4)),)
    ranges: ClassVar[Mapping[str, Range]] = {"margin": COSINE, "std": Range(0, 1, "cosines")}

    margin: float = 0.35
    std: float = 0.0125

    def per_sample(self, cosines: Cosines, target: Tensor, context: LossContext | None = None) -> Tensor:
        margins = drawn_margins(self, cosines, self.needed(context))
        odds = log_odds(cosines, target, scale=self.scale, target_map=lambda c: c - margins)
        return cross_entropy(odds)


@register_loss
@dataclass(frozen=True, kw_only=True)
class AdaCos(MarginLoss):
    """No margin; the scale sets itself. Fixed: `s = sqrt(2) * log(C - 1)` for C classes. Dynamic, from there on:
    `s <- log(B) / cos(min(pi / 4, theta_med))`, where B is the mean over the batch of `sum over j != y of exp(s * c_j)`
    with the old s, and theta_med the median angle to the target class (the lower of two).

    The field `scale` plays no part in the loss: it is only the unit of its reported margin.

    Source: Zhang et al., CVPR 2019, arXiv 1905.00292. Differs: a dynamic s does not fall below 1; where all other
    classes lie behind x, the equation gives a negative one, which would turn the loss round.
    """

    name: ClassVar[str] = "adacos"
    needs_context: ClassVar[bool] = True
    takes_scale: ClassVar[bool] = False
    grid: ClassVar[Grid] = (("dynamic", (False, True)),)

    dynamic: bool = True

    def initial_state(self) -> dict[str, Tensor]:
        """0 stands for the fixed scale, which hangs on the number of classes."""
        return {"scale": torch.zeros(())} if self.dynamic else {}

    def per_sample(self, cosines: Cosines, target: Tensor, context: LossContext | None = None) -> Tensor:
        num_classes = cosines.shape[1]
        require(num_classes > 2, "loss adacos needs at least 3 classes", num_classes)
        fixed = math.sqrt(2) * math.log(num_classes - 1)
        scale = self._dynamic(cosines, target, fixed, self.needed(context)) if self.dynamic else fixed
        return cross_entropy(log_odds(cosines, target, scale=scale))

    def _dynamic(self, cosines: Cosines, target: Tensor, fixed: float, context: LossContext) -> Tensor:
        state = context.state["scale"]
        old = torch.where(state > 0, state, fixed)
        if torch.is_grad_enabled():
            with torch.no_grad():
                own, rest = target_and_rest(cosines, target, scale=old)
                log_b = rest.logsumexp(0) - math.log(len(rest))
                state.copy_((log_b / angle(own).median().clamp_max(math.pi / 4).cos()).clamp_min(1))
            return state.clone()
        return old
