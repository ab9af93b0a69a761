"""One loss that contains CosFace, ArcFace, MV-softmax, CurricularFace and the focal loss as points.

With scale s, target cosine c_y, cosine c of another class, p the probability of the target after all of this:

    target     f(c_y) = cos(theta_y + m_arc) - m_cos, extended beyond pi - m_arc as in `margins.Arc`
    negatives  a class is hard where c > f(c_y), else easy;
               g(c) = c + t_hard * w(c) + curriculum * c * (e + c - 1) if hard,    c + t_easy * w(c) if easy
               with w(c) = c + 1 (adaptive) or 1, and e the running mean of c_y
    outer      L = (1 - p)^gamma * -log p
    scale      s

m_cos alone is CosFace, m_arc alone ArcFace, either with t_hard MV-softmax, m_arc with curriculum = 1 CurricularFace
(`c + c * (e + c - 1) = c * (e + c)`), gamma alone the focal loss, and all at 0 `norm_softmax`. Sources: `margins.py`,
`hard_negatives.py`; Lin et al., ICCV 2017, arXiv 1708.02002 (focal loss).
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from search_space.class_products import Cosines
from search_space.config import MAX_SCALE
from search_space.errors import require
from search_space.hard_negatives import hard_classes
from search_space.loss import Loss, LossContext, register_loss
from search_space.margin_loss import add_angle
from search_space.modulation import log_odds, target_products
from search_space.unified_parameters import PARAMETERS

SCALE_UNIT = 2.5
"""What one unit of the action is worth in the logarithm of the scale; it may go from half to twice the configured."""


@register_loss
@dataclass(frozen=True, kw_only=True)
class Unified(Loss):
    """A point of the unified space, see above. All parameters at 0, as they are by default: `norm_softmax`.

    The running mean is brought up to date in each call with gradients enabled, before it is used.
    """

    name: ClassVar[str] = "unified"
    needs_context: ClassVar[bool] = True

    m_arc: float = 0.0
    m_cos: float = 0.0
    t_hard: float = 0.0
    t_easy: float = 0.0
    curriculum: float = 0.0
    gamma: float = 0.0
    adaptive: bool = True
    momentum: float = 0.99
    """Share of the old value in the running mean; CurricularFace's."""

    def __post_init__(self) -> None:
        require(0 < self.scale <= MAX_SCALE, f"unified scale must be in (0, {MAX_SCALE:g}]", self.scale)
        for name, limits in PARAMETERS.items():
            value = getattr(self, name)
            law = f"unified {name} must be in [{limits.low:g}, {limits.high:g}]"
            require(limits.low <= value <= limits.high, law, value)
        require(0 <= self.momentum <= 1, "unified momentum must be in [0, 1]", self.momentum)

    def parameters(self) -> dict[str, float]:
        return {name: float(getattr(self, name)) for name in (*PARAMETERS, "scale")}

    @property
    def proven_usable(self) -> bool:
        """All is bounded within the ranges of `PARAMETERS`. With d the log odds, dL/dd is in (-2, 0]: both terms of
        -sigmoid(-d)^gamma * (sigmoid(-d) + gamma * softplus(-d) * sigmoid(d)) have the same sign.

        Target: f' is 1, or cos m + sin m * c / sqrt(1 - c^2) >= 0 for c > -cos m; 0 is met only at that end, within
        1e-14 in floating point. At c_y = 0 and hardest negative 0.95, d < 0, so -dL/dd > (1/2)^(gamma + 1) >= 1/16, and
        f' = cos m > 0.8: a gradient beyond s / 20, against which 2 * s * 1e-14 is below `usable.TOLERANCE`.
        Negatives: g' is 1 + t_easy >= 0.7 where easy, and where hard, c >= 0 and the running mean e is 0 within 1e-6,
        at least 1 - curriculum * (1 - e): above 0 but for a curriculum of 1, which is left to the grid.
        """
        return self.scale >= 1 and self.curriculum <= 0.99

    def initial_state(self) -> dict[str, Tensor]:
        """The running mean, also where `curriculum` is 0: the next candidate's may not be."""
        return {"t": torch.zeros(())}

    def target_cosine(self, cosine: Tensor) -> Tensor:
        """f, [batch]."""
        return (add_angle(cosine, self.m_arc) if self.m_arc else cosine) - self.m_cos

    def negative_map(self, mean: Tensor, cosines: Tensor, changed_target: Tensor) -> tuple[Tensor, Tensor | None]:
        """g and its derivative, each [batch, classes]. It is linear but for the curriculum."""
        hard = hard_classes(cosines, changed_target)
        weight = (hard * (self.t_hard - self.t_easy)).add_(self.t_easy)
        slope: Tensor | None
        if self.adaptive:
            changed, slope = torch.addcmul(cosines, weight, cosines + 1), weight.add_(1)
        else:
            changed, slope = cosines + weight, None
        if self.curriculum:
            slope = torch.ones_like(weight) if slope is None else slope
            share = hard.mul_(self.curriculum)
            distance = cosines + (mean.to(cosines.dtype) - 1)
            changed.addcmul_(share, cosines * distance)
            slope.addcmul_(share, distance.add_(cosines))
        return changed, slope

    def per_sample(self, cosines: Cosines, target: Tensor, context: LossContext | None = None) -> Tensor:
        if context is None:
            raise ValueError(f"{self.name} needs a LossContext, got None")
        mean = context.state["t"]
        if torch.is_grad_enabled():
            own = target_products(cosines, target)
            mean.lerp_(own.mean(dtype=mean.dtype), 1 - self.momentum)
        edited = self.t_hard or self.t_easy or self.curriculum
        odds = log_odds(
            cosines,
            target,
            scale=self.scale,
            target_map=self.target_cosine,
            negative_map=partial(self.negative_map, mean.clone()) if edited else None,
        )
        loss = -functional.logsigmoid(odds)
        return loss * (self.gamma * functional.logsigmoid(-odds)).exp() if self.gamma else loss
