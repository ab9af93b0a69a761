"""Search spaces: what an action means as a loss."""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from search_space.config import SpaceConfig
from search_space.errors import UserError
from search_space.modulation import modulated_cross_entropy
from search_space.policy import Array, PolicyState


@dataclass(frozen=True, kw_only=True)
class LossParameters:
    """A margin softmax: `a` for each bin `(j/k, (j+1)/k]` of the target probability; one bin is the global form."""

    scale: float
    """Scale `s` of the cosine logits."""

    shift: tuple[float, ...]
    """`log(1 - a)` per bin: what the target logit is lowered by."""

    def __post_init__(self) -> None:
        if not (0 < self.scale < np.inf and self.shift and all(0 <= x < np.inf for x in self.shift)):
            raise ValueError(f"scale must be > 0 and every shift >= 0, all finite, got {self}")

    @property
    def a(self) -> tuple[float, ...]:
        """The paper's `a <= 0` per bin."""
        return tuple((-np.expm1(self.shift)).tolist())

    @property
    def margins(self) -> tuple[float, ...]:
        """The CosFace margin `m = log(1 - a) / s` per bin."""
        return tuple(x / self.scale for x in self.shift)

    def __call__(self, cosines: Tensor, target: Tensor) -> Tensor:
        """Mean loss of `cosines` [batch, classes] and `target` [batch] int64."""
        return modulated_cross_entropy(cosines, target, self.shift, scale=self.scale)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers; the JSON round trip is exact."""
        return {"scale": self.scale, "shift": list(self.shift)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LossParameters":
        """The loss that `to_dict` described, bit for bit."""
        return cls(scale=values["scale"], shift=tuple(values["shift"]))


class SearchSpace(ABC):
    """A set of losses, indexed by actions `[dim]`, and where the policy starts in it.

    To add one, subclass and decorate with `register`; `decode` may return any object with the interface of
    `LossParameters`.
    """

    mean0: float
    std: float
    bounds: tuple[float, float] = (-np.inf, np.inf)
    """Range of actions outside of which the loss does not change; the policy's mean stays inside."""

    def __init__(self, config: SpaceConfig, dim: int) -> None:
        self.name = config.name
        self.scale = config.scale
        self.dim = dim

    @abstractmethod
    def shifts(self, action: Array) -> Array:
        """`log(1 - a)` of each element of `action`, same shape."""

    @abstractmethod
    def warmup_action(self) -> Array:
        """[dim] action of the fixed loss of the warm-up generations."""

    def initial_policy(self) -> PolicyState:
        """The policy before the first generation."""
        low, high = self.bounds
        return PolicyState.start(np.full(self.dim, self.mean0), self.std, low=low, high=high)

    def decode(self, action: npt.ArrayLike) -> LossParameters:
        """The loss that `action` [dim] stands for."""
        action = np.asarray(action, np.float64)
        if action.shape != (self.dim,) or not np.isfinite(action).all():
            raise ValueError(f"an action of {self.name} is {self.dim} finite numbers, got {action!r}")
        return LossParameters(scale=self.scale, shift=tuple(self.shifts(action).tolist()))

    def margin_statistics(self, policy: PolicyState) -> tuple[Array, Array]:
        """Mean and standard deviation of the decoded margins under `policy`, each [dim], for reports."""
        margins = self.shifts(policy.mean + policy.std * _NORMAL_QUANTILES[:, None]) / self.scale  # [quantiles, dim]
        return margins.mean(axis=0), margins.std(axis=0)


_NORMAL_QUANTILES = np.array([NormalDist().inv_cdf((i + 0.5) / 512) for i in range(512)])


class MarginSpace(SearchSpace):
    """The action is the margin: `m = clamp(x, 0, m_max)`, `a = 1 - exp(s * m)`."""

    def __init__(self, config: SpaceConfig, dim: int) -> None:
        super().__init__(config, dim)
        # Defaults: the rehearsed search whose winners' margins went from 0.25 to 0.44 and back.
        self.mean0 = 0.25 if config.mean0 is None else config.mean0
        self.std = 0.12 if config.std is None else config.std
        self.m_max = 0.5 if config.m_max is None else config.m_max
        self.bounds = (0.0, self.m_max)
        self._warmup = self.mean0 if config.warmup_action is None else config.warmup_action
        for field, value in (("mean0", self.mean0), ("warmup_action", self._warmup)):
            if not 0 <= value <= self.m_max:
                law = f"space {field} of {self.name} must be a margin in [0, m_max={self.m_max}]"
                raise UserError(f"{law}, got {value!r}")

    def shifts(self, action: Array) -> Array:
        return self.scale * np.clip(action, 0, self.m_max)

    def warmup_action(self) -> Array:
        return np.full(self.dim, self._warmup)


class PaperSpace(SearchSpace):
    """The published parameterisation: `a = -|x| * exp(s / 3)` (global) or `-|x| * exp(s / 2)` (local)."""

    def __init__(self, config: SpaceConfig, dim: int, *, divisor: float) -> None:
        super().__init__(config, dim)
        if config.m_max is not None:
            raise UserError(f"space m_max does not apply to {self.name}, got {config.m_max!r}: leave it out")
        self.mean0 = 0.0 if config.mean0 is None else config.mean0
        self.std = 0.2 if config.std is None else config.std
        self._warmup = -1.0 if config.warmup_action is None else config.warmup_action
        self._log_factor = config.scale / divisor

    def shifts(self, action: Array) -> Array:
        with np.errstate(divide="ignore"):  # x = 0 is a = 0: log 0 = -inf is right here
            return np.logaddexp(0, np.log(np.abs(action)) + self._log_factor)

    def warmup_action(self) -> Array:
        return np.full(self.dim, self._warmup)


_SPACES: dict[str, Callable[[SpaceConfig], SearchSpace]] = {}


def register(name: str) -> Callable[[Callable[[SpaceConfig], SearchSpace]], Callable[[SpaceConfig], SearchSpace]]:
    """Make the decorated function of a `SpaceConfig` the maker of space `name`."""

    def add(make: Callable[[SpaceConfig], SearchSpace]) -> Callable[[SpaceConfig], SearchSpace]:
        _SPACES[name] = make
        return make

    return add


def get_space(config: SpaceConfig) -> SearchSpace:
    """The space that `config` names.

    Raises:
        UserError: no such space (the nearest names are given), or a setting does not fit this space.
    """
    if config.name not in _SPACES:
        nearest = " or ".join(difflib.get_close_matches(config.name, _SPACES, n=2, cutoff=0))
        law = f"space name must be one of {', '.join(_SPACES)}"
        raise UserError(f"{law}, got {config.name!r}; did you mean {nearest}?")
    return _SPACES[config.name](config)


def _one_bin(config: SpaceConfig) -> int:
    if config.num_bins not in (None, 1):
        raise UserError(f"space num_bins does not apply to {config.name}, got {config.num_bins!r}: leave it out")
    return 1


def _num_bins(config: SpaceConfig) -> int:
    return 10 if config.num_bins is None else config.num_bins


@register("global")
def _global(config: SpaceConfig) -> SearchSpace:
    return MarginSpace(config, _one_bin(config))


@register("local")
def _local(config: SpaceConfig) -> SearchSpace:
    return MarginSpace(config, _num_bins(config))


@register("paper_global")
def _paper_global(config: SpaceConfig) -> SearchSpace:
    return PaperSpace(config, _one_bin(config), divisor=3)


@register("paper_local")
def _paper_local(config: SpaceConfig) -> SearchSpace:
    return PaperSpace(config, _num_bins(config), divisor=2)
