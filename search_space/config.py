"""What a user may set about the search space and the policy; checked when made."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from search_space.errors import require

MAX_SCALE = 350.0
"""Largest scale: `a = 1 - exp(s * m)` stays finite in float64 up to the largest possible margin, 2."""

INTERCEPTS = ("continuous", "free")
PARTS = ("target", "negatives", "outer", "scale")


@dataclass(frozen=True, kw_only=True)
class SpaceConfig:
    """Which losses are searched. `None` stands for the space's own default."""

    name: str = "global"
    """`global` and `local` search the margin, one for all samples or one per bin of the target probability;
    `paper_global` and `paper_local` are the published parameterisation. `am_lfs` searches piecewise-linear functions of
    the target cosine and of its probability, `unified` the parameters that CosFace, ArcFace, MV-softmax, CurricularFace
    and the focal loss have in common; `MODULE:NAME` is a plug-in's. Settings that do not apply to a space are
    refused."""

    scale: float = 32.0
    """Scale `s` of the cosine logits."""

    num_bins: int | None = None
    """Bins of the target probability in the local spaces, default 10; the global spaces have one and refuse others."""

    mean0: float | None = None
    """First mean of the policy in every dimension: a margin (default 0.25); in the paper's spaces `x`, default 0.
    Refused in `am_lfs`, which starts from the identity, and in `unified`, where each parameter has its own."""

    std: float | None = None
    """Standard deviation of the policy, fixed: of a margin (default 0.12); in the paper's spaces of `x` (0.2); in
    `am_lfs` of slopes and intercepts (0.2); in `unified` of margins, other parameters by their own unit (0.12)."""

    m_max: float | None = None
    """Largest margin in `global` and `local`, default 0.5; larger actions are clamped to it. Refused elsewhere."""

    warmup_action: float | None = None
    """Action of the fixed loss of the warm-up generations, in every dimension: a margin (default: `mean0`); in the
    paper's spaces `x`, default -1. The other spaces begin with the loss at the policy's first mean."""

    num_intervals: int | None = None
    """`am_lfs`: equal intervals of the target cosine, and as many of its probability, default 6."""

    intercepts: str | None = None
    """`am_lfs`: `continuous` (default: slopes are searched, intercepts follow) or `free` (both are searched)."""

    search: tuple[str, ...] | None = None
    """`unified`: the parts that are searched, of `target`, `negatives`, `outer` and `scale`; the other ones are fixed.
    Default: `target,negatives`."""

    m_arc: float | None = None
    """`unified`, target: ArcFace's margin, radians. Of this and the following parameters: the first mean where its part
    is searched (default 0.1), the value itself where it is fixed (default 0)."""

    m_cos: float | None = None
    """`unified`, target: CosFace's margin, cosines; 0.15 if searched, else 0."""

    t_hard: float | None = None
    """`unified`, negatives: MV-softmax's weight of hard classes; 0.1 if searched, else 0."""

    t_easy: float | None = None
    """`unified`, negatives: the same of all other classes; 0."""

    curriculum: float | None = None
    """`unified`, negatives: share of CurricularFace's map of hard classes, 1 for all of it; 0.2 if searched, else 0."""

    gamma: float | None = None
    """`unified`, outer: exponent of the focal loss; 0.5 if searched, else 0."""

    adaptive: bool | None = None
    """`unified`, negatives: whether the weight of a class grows with its cosine, default true."""

    parameters: dict[str, float] | None = None
    """Settings of a plug-in's space, `a=1 b=0.5`."""

    def __post_init__(self) -> None:
        require(0 < self.scale <= MAX_SCALE, f"space scale must be in (0, {MAX_SCALE:g}]", self.scale)
        good_bins = self.num_bins is None or 1 <= self.num_bins <= 1000
        require(good_bins, "space num_bins must be in 1..1000", self.num_bins)
        require(self.mean0 is None or math.isfinite(self.mean0), "space mean0 must be finite", self.mean0)
        require(self.std is None or 0 < self.std < math.inf, "space std must be > 0 and finite", self.std)
        require(self.m_max is None or 0 < self.m_max <= 2, "space m_max must be in (0, 2], cosines", self.m_max)
        finite = self.warmup_action is None or math.isfinite(self.warmup_action)
        require(finite, "space warmup_action must be finite", self.warmup_action)
        good_intervals = self.num_intervals is None or 1 <= self.num_intervals <= 100
        require(good_intervals, "space num_intervals must be in 1..100", self.num_intervals)
        known = self.intercepts in (None, *INTERCEPTS)
        require(known, f"space intercepts must be one of {INTERCEPTS}", self.intercepts)
        known = self.search is None or (
            set(self.search) <= set(PARTS) and len(set(self.search)) == len(self.search) > 0
        )
        require(known, f"space search must be one or more of {PARTS}, each once", self.search)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """A fixed, hand-crafted loss. `None` stands for the loss's own default; what a loss does not take is refused."""

    name: str = ""
    """`softmax`, `norm_softmax`, `a_softmax`, `v_softmax`, `arc`, `am`, `mv_am`, `mv_arc`, `combined`, `curricular`,
    `adaface`, `magface`, `elastic_arc`, `elastic_am`, `adacos`, `circle`, or `MODULE:NAME` of a plug-in."""

    scale: float | None = None
    """Scale `s`. Default: that of the search space, but 256 in `circle`. `softmax`, `a_softmax`, `v_softmax` and
    `adacos` have their own."""

    margin: float | None = None
    """The margin: radians in `arc`, `mv_arc`, `curricular`, `adaface`, `elastic_arc`; cosines in `am`, `mv_am`,
    `elastic_am`, `circle`; times the angle in `a_softmax`."""

    m1: float | None = None
    """`combined`: the angle is multiplied by it (default 1) ..."""

    m2: float | None = None
    """... it is added to the angle, radians (0.3) ..."""

    m3: float | None = None
    """... and subtracted from the cosine (0.2)."""

    t: float | None = None
    """`mv_am`, `mv_arc`: weight of hard classes, default 0.2."""

    adaptive: bool | None = None
    """`mv_am`, `mv_arc`: whether the weight of a hard class grows with its cosine, default true."""

    momentum: float | None = None
    """`curricular`, `adaface`: share of the old value in the running means, default 0.99."""

    h: float | None = None
    """`adaface`: how fast the margin changes with the length of the embedding, default 0.333."""

    l_a: float | None = None
    """`magface`: shortest and ..."""

    u_a: float | None = None
    """... longest length of embeddings, default 10 and 110; they get the margins ..."""

    l_m: float | None = None
    """... at the shortest and ..."""

    u_m: float | None = None
    """... at the longest, radians, default 0.45 and 0.8."""

    lambda_g: float | None = None
    """`magface`: weight of the term that makes embeddings longer, default 35."""

    std: float | None = None
    """`elastic_arc`, `elastic_am`: standard deviation of the random margins, default 0.0125."""

    lambda_min: float | None = None
    """`a_softmax`: lambda, the weight of softmax, goes down to it, default 5 ..."""

    lambda_max: float | None = None
    """... from here, default 1000 ..."""

    gamma: float | None = None
    """... as `lambda_max * (1 + gamma * step)^-power`, default 0.12 ..."""

    power: float | None = None
    """... and 1."""

    dynamic: bool | None = None
    """`adacos`: whether the scale follows the training, default true; else it hangs on the number of classes alone."""

    parameters: dict[str, float] | None = None
    """Parameters of a plug-in's loss that have no flag of their own, `a=1 b=0.5`."""

    @classmethod
    def of(cls, name: str, values: Mapping[str, Any]) -> "LossConfig":
        """A loss with parameters by name, whether or not they have a setting of their own."""
        own = {field.name for field in fields(cls)} - {"name", "parameters"}
        rest = {key: value for key, value in values.items() if key not in own}
        return cls(name=name, **{key: values[key] for key in own & set(values)}, parameters=rest or None)


ADVANTAGE_KINDS = ("range", "standardize", "rank")
NOISE_FLOOR_UNITS = ("reward", "paired_se")


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """How rewards move the policy's mean."""

    lr: float = 0.05
    """Learning rate of Adam, in units of the action: the longest way the mean goes in one generation, roughly."""

    betas: tuple[float, float] = (0.5, 0.999)
    """Decay rates of Adam's two moments."""

    eps: float = 1e-8
    """Added to the root of Adam's second moment."""

    advantage: str = "range"
    """Reward to advantage: `range` (the published one), `standardize` or `rank`."""

    noise_floor: float = 0.0
    """A spread of a generation's rewards up to this counts as a tie and moves nothing; 0: exact ties only."""

    noise_floor_unit: str = "reward"
    """Unit of `noise_floor`: `reward`, or `paired_se`, the standard error of the difference of two candidates."""

    def __post_init__(self) -> None:
        require(0 < self.lr < math.inf, "policy lr must be > 0 and finite", self.lr)
        good_betas = len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas)
        require(good_betas, "policy betas must be two numbers in [0, 1)", self.betas)
        require(0 < self.eps < math.inf, "policy eps must be > 0 and finite", self.eps)
        known = self.advantage in ADVANTAGE_KINDS
        require(known, f"policy advantage must be one of {ADVANTAGE_KINDS}", self.advantage)
        require(0 <= self.noise_floor < math.inf, "policy noise_floor must be >= 0 and finite", self.noise_floor)
        known = self.noise_floor_unit in NOISE_FLOOR_UNITS
        require(known, f"policy noise_floor_unit must be one of {NOISE_FLOOR_UNITS}", self.noise_floor_unit)
