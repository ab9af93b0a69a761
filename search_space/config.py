"""What a user may set about the search space and the policy; checked when made."""

import math
from dataclasses import dataclass

from search_space.errors import require

MAX_SCALE = 350.0
"""Largest scale: `a = 1 - exp(s * m)` stays finite in float64 up to the largest possible margin, 2."""


@dataclass(frozen=True, kw_only=True)
class SpaceConfig:
    """Which losses are searched. `None` stands for the space's own default."""

    name: str = "global"
    """`global` and `local` search the margin, one for all samples or one per bin of the target probability;
    `paper_global` and `paper_local` are the published parameterisation."""

    scale: float = 32.0
    """Scale `s` of the cosine logits."""

    num_bins: int | None = None
    """Bins of the target probability in the local spaces, default 10; the global spaces have one and refuse others."""

    mean0: float | None = None
    """First mean of the policy in every dimension: a margin (default 0.25); in the paper's spaces `x`, default 0."""

    std: float | None = None
    """Standard deviation of the policy, fixed: of a margin (default 0.12); in the paper's spaces of `x` (0.2)."""

    m_max: float | None = None
    """Largest margin in `global` and `local`, default 0.5; larger actions are clamped to it. Refused elsewhere."""

    warmup_action: float | None = None
    """Action of the fixed loss of the warm-up generations, in every dimension: a margin (default: `mean0`); in the
    paper's spaces `x`, default -1."""

    def __post_init__(self) -> None:
        require(0 < self.scale <= MAX_SCALE, f"space scale must be in (0, {MAX_SCALE:g}]", self.scale)
        good_bins = self.num_bins is None or 1 <= self.num_bins <= 1000
        require(good_bins, "space num_bins must be in 1..1000", self.num_bins)
        require(self.mean0 is None or math.isfinite(self.mean0), "space mean0 must be finite", self.mean0)
        require(self.std is None or 0 < self.std < math.inf, "space std must be > 0 and finite", self.std)
        require(self.m_max is None or 0 < self.m_max <= 2, "space m_max must be in (0, 2], cosines", self.m_max)
        finite = self.warmup_action is None or math.isfinite(self.warmup_action)
        require(finite, "space warmup_action must be finite", self.warmup_action)


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
