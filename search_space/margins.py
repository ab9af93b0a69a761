"""Hand-crafted losses as named objects, one per equation of its paper, and the table of all of them.

`s` is the scale, `c_j = cos(theta_j)` the cosine between embedding x and class weight W_j, y the target class, and
`odds = s * f(c_y) - logsumexp over j != y of s * g(c_j)`; loss = `log(1 + exp(-odds))`. An equation names only what
differs from f(c) = g(c) = c.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from search_space.adaptive import AdaCos, AdaFace, ElasticAM, ElasticArc, MagFace
from search_space.class_products import Cosines
from search_space.config import LossConfig
from search_space.errors import UserError, first_line
from search_space.hard_negatives import MVAM, Circle, Curricular, MVArc
from search_space.loss import LOSS_PLUGINS, Loss, LossContext, fault_of_class, register_loss
from search_space.margin_loss import (
    ANGLE,
    COSINE,
    Grid,
    MarginLoss,
    Range,
    add_angle,
    angle,
    cross_entropy,
    falling_cosine,
)
from search_space.modulation import log_odds, target_and_rest
from search_space.plugins import Names


@register_loss
@dataclass(frozen=True, kw_only=True)
class Softmax(MarginLoss):
    """Inner products without bias, `W_j . x`: nothing is normalised. No parameters.

    Source: the first row of the table of Wang et al. 2020 (arXiv 2007.06542).
    """

    name: ClassVar[str] = "softmax"
    normalise_embedding: ClassVar[bool] = False
    normalise_weight: ClassVar[bool] = False
    takes_scale: ClassVar[bool] = False
    ranges: ClassVar[Mapping[str, Range]] = {"scale": Range(1, 1)}

    scale: float = 1.0


@register_loss
@dataclass(frozen=True, kw_only=True)
class NormSoftmax(MarginLoss):
    """Cosines: no margin. Its grid is over the scale.

    Source: Wang et al., "NormFace", ACM MM 2017, arXiv 1704.06369. Differs: the scale is fixed, not learned.
    """

    name: ClassVar[str] = "norm_softmax"
    grid: ClassVar[Grid] = (("scale", (16.0, 24.0, 32.0, 48.0)),)

    @property
    def a(self) -> tuple[float, ...]:
        return (0.0,)

    @property
    def margins(self) -> tuple[float, ...]:
        return (0.0,)


@register_loss
@dataclass(frozen=True, kw_only=True)
class ASoftmax(MarginLoss):
    """SphereFace: `f(c) = (lambda * c + psi(theta)) / (1 + lambda)`, `psi = (-1)^k cos(m * theta) - 2 k` with
    `k = floor(m * theta / pi)`; weights normalised, embeddings not, so that their length stands for the scale.

    `lambda = max(lambda_min, lambda_max * (1 + gamma * step)^-power)` anneals from softmax to the margin.

    Source: Liu et al., CVPR 2017, arXiv 1704.08063; m = 4 and the annealing as in its published solver settings. Same
    for integer m; psi with floor(m * theta / pi) is continuous and falling for every real m > 0, too. `step` counts the
    steps since the start of training.
    """

    name: ClassVar[str] = "a_softmax"
    normalise_embedding: ClassVar[bool] = False
    needs_context: ClassVar[bool] = True
    takes_scale: ClassVar[bool] = False
    grid: ClassVar[Grid] = (("margin", (1.5, 2.0, 3.0, 4.0)),)
    ranges: ClassVar[Mapping[str, Range]] = {
        "scale": Range(1, 1),
        "margin": Range(1, 10, "times the angle"),
        "lambda_min": Range(0, 1e6),
        "lambda_max": Range(0, 1e6),
        "gamma": Range(0, 1e6),
        "power": Range(0, 100),
    }

    scale: float = 1.0
    margin: float = 4.0
    lambda_min: float = 5.0
    lambda_max: float = 1000.0
    gamma: float = 0.12
    power: float = 1.0

    def annealing(self, step: int) -> float:
        """lambda at `step`."""
        return max(self.lambda_min, self.lambda_max * math.exp(-self.power * math.log1p(self.gamma * step)))

    def per_sample(self, cosines: Cosines, target: Tensor, context: LossContext | None = None) -> Tensor:
        context = self.needed(context)
        weight = self.annealing(context.step)
        norms = context.norms.clamp_min(1e-12)  # an embedding of 0 has cosine 0

        def target_map(product: Tensor) -> Tensor:  # |x| cos(theta), and so it stays
            psi = falling_cosine(self.margin * angle(product / norms))
            return (weight * product + norms * psi) / (1 + weight)

        return cross_entropy(log_odds(cosines, target, scale=self.scale, target_map=target_map))


@register_loss
@dataclass(frozen=True, kw_only=True)
class VSoftmax(Softmax):
    """Virtual softmax: inner products, and one more negative class in the direction of x itself, whose logit is
    `|W_y| * |x|`. No parameters.

    Source: Chen et al., NeurIPS 2018, arXiv 1811.12611.
    """

    name: ClassVar[str] = "v_softmax"
    needs_context: ClassVar[bool] = True

    def per_sample(self, cosines: Cosines, target: Tensor, context: LossContext | None = None) -> Tensor:
        context = self.needed(context)
        own, rest = target_and_rest(cosines, target, scale=self.scale)
        virtual = (context.target_norms * context.norms).to(rest.dtype)  # [batch]
        return cross_entropy(own - rest.logaddexp(virtual))


@register_loss
@dataclass(frozen=True, kw_only=True)
class Arc(MarginLoss):
    """ArcFace: `f(c) = cos(theta + m)`, and `c - m * sin(m)` where theta > pi - m (see `add_angle`).

    Source: Deng et al., CVPR 2019, arXiv 1801.07698; m = 0.5 at s = 64. The extension is that of its published code.
    """

    name: ClassVar[str] = "arc"
    grid: ClassVar[Grid] = (("margin", (0.2, 0.3, 0.4, 0.5)),)
    ranges: ClassVar[Mapping[str, Range]] = {"margin": ANGLE}

    margin: float = 0.5

    def target_cosine(self, cosine: Tensor) -> Tensor:
        return add_angle(cosine, self.margin)


@register_loss
@dataclass(frozen=True, kw_only=True)
class AM(MarginLoss):
    """AM-softmax, CosFace: `f(c) = c - m`. The point `a = 1 - exp(s * m)` of the searched space.

    Source: Wang et al., arXiv 1801.05599, and Wang et al., CVPR 2018, arXiv 1801.09414; m = 0.35.
    """

    name: ClassVar[str] = "am"
    grid: ClassVar[Grid] = (("margin", (0.1, 0.2, 0.3, 0.4, 0.5)),)
    ranges: ClassVar[Mapping[str, Range]] = {"margin": COSINE}

    margin: float = 0.35

    def target_cosine(self, cosine: Tensor) -> Tensor:
        return cosine - self.margin

    @property
    def a(self) -> tuple[float, ...]:
        return (-math.expm1(self.scale * self.margin),)

    @property
    def margins(self) -> tuple[float, ...]:
        return (self.margin,)


@register_loss
@dataclass(frozen=True, kw_only=True)
class Combined(MarginLoss):
    """All three margins: `f(c) = psi(m1 * theta + m2) - m3`, where psi is the cosine up to pi.

    Source: Deng et al., arXiv 1801.07698; (1, 0.3, 0.2) is one of the settings of its ablation. Differs: beyond
    pi, where the cosine would rise again, SphereFace's psi (see `falling_cosine`).
    """

    name: ClassVar[str] = "combined"
    grid: ClassVar[Grid] = (("m2", (0.1, 0.2, 0.3, 0.3)), ("m3", (0.1, 0.1, 0.1, 0.2)))
    ranges: ClassVar[Mapping[str, Range]] = {"m1": Range(0.1, 10, "times the angle"), "m2": ANGLE, "m3": COSINE}

    m1: float = 1.0
    m2: float = 0.3
    m3: float = 0.2

    def target_cosine(self, cosine: Tensor) -> Tensor:
        return falling_cosine(self.m1 * angle(cosine) + self.m2) - self.m3


_ALL: tuple[type[MarginLoss], ...] = (
    *(Softmax, NormSoftmax, ASoftmax, VSoftmax, Arc, AM, MVAM, MVArc),
    *(Combined, Curricular, AdaFace, MagFace, ElasticArc, ElasticAM, AdaCos, Circle),
)
LOSSES: dict[str, type[Loss]] = {cls.name: cls for cls in _ALL}
"""Every hand-crafted loss by name."""


def make_loss(config: LossConfig, *, scale: float) -> Loss:
    """The hand-crafted loss, or that of a plug-in, which `config` names.

    Args:
        scale: scale of the search space, for losses that neither are given a scale nor have one of their own.
    Raises:
        UserError: no such loss (the nearest names are given), or a parameter is not one of this loss, or out of range.
    """
    cls = _find(config.name)
    given = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in ("name", "parameters")}
    given = {key: value for key, value in given.items() if value is not None} | (config.parameters or {})
    for key in given:
        if key not in cls.takes():
            takes = ", ".join(cls.takes()) or "no parameters"
            raise UserError(f"loss {key} does not apply to {cls.name}, which takes {takes}; got {given[key]!r}")
    if cls.takes_scale and not cls.own_scale:
        given.setdefault("scale", scale)
    return cls(**given)


def grid_of(name: str) -> list[dict[str, float]]:
    """The declared grid of a loss's own margin: parameters of each point; `[{}]` if it has none.

    Raises:
        UserError: no such loss.
    """
    grid = _find(name).grid
    if not grid:
        return [{}]
    names = [key for key, _ in grid]
    return [dict(zip(names, point, strict=True)) for point in zip(*(values for _, values in grid), strict=True)]


def parameters_of(name: str) -> tuple[str, ...]:
    """Names of the parameters that a loss takes.

    Raises:
        UserError: no such loss.
    """
    return _find(name).takes()


_ELSEWHERE = {
    "normface": "norm_softmax",
    "sphereface": "a_softmax",
    "arcface": "arc",
    "cosface": "am",
    "mv_softmax": "mv_am",
    "elasticface": "elastic_arc",
}
"""What some are called elsewhere; only to guess what was meant."""


def _fault(found: object, path: str) -> str:
    """What must be changed in a plug-in's class for it to be trained with by name; empty: nothing."""
    if fault := fault_of_class(found, path, MarginLoss):
        return fault
    assert isinstance(found, type)
    try:
        loss: MarginLoss = found()
    except TypeError as error:
        return f"have a default for each parameter: {first_line(error)}"
    context = LossContext(norms=torch.ones(2), target_norms=torch.ones(2), state=loss.initial_state())
    values = loss.per_sample(torch.tensor([[0.5, 0.1, 0.0], [0.2, 0.3, 0.1]]), torch.tensor([0, 1]), context)
    good = isinstance(values, Tensor) and values.shape == (2,) and bool(values.isfinite().all())
    return "" if good else "give one finite value per sample, [batch], in per_sample"


NAMES: Names[type[MarginLoss]] = Names("loss name", LOSS_PLUGINS, [cls.name for cls in _ALL], _fault, _ELSEWHERE)


def _find(name: str) -> type[MarginLoss]:
    name = NAMES.spelled(name)
    return {cls.name: cls for cls in _ALL}.get(name) or NAMES.plugin(name)
