"""Search spaces: what an action means as a loss."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from statistics import NormalDist
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional

from search_space.am_lfs import AMLFS
from search_space.class_products import Cosines
from search_space.config import MAX_SCALE, SpaceConfig
from search_space.errors import UserError, require, shown
from search_space.loss import Loss, LossContext, loss_from_dict, register_loss
from search_space.modulation import log_odds, shifted
from search_space.plugins import Names, allow
from search_space.policy import Array, PolicyState
from search_space.unified import SCALE_UNIT, Unified
from search_space.unified_parameters import PARAMETERS

_PROVEN_SHIFT = 1e6
"""Far beyond every margin, far from overflow."""


@register_loss
@dataclass(frozen=True, kw_only=True)
class LossParameters(Loss):
    """A margin softmax: `a` for each bin `(j/k, (j+1)/k]` of the target probability; one bin is the global form."""

    name: ClassVar[str] = "modulated"

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

    def parameters(self) -> dict[str, float]:
        return dict(zip(_margin_names(len(self.shift)), self.margins, strict=True))

    @property
    def proven_usable(self) -> bool:
        """With d the log odds of p, the loss is softplus(shift - d) and its derivative by d is -sigmoid(shift - d).

        Finite for finite shifts. By the target cosine the gradient is -s * sigmoid(shift - d), never positive; by the
        negatives it is s * sigmoid(shift - d) times their softmax, never negative, neither in floating point: all
        factors are >= 0. At target cosine -0.96 and hardest negative 0.95, d < 0, so sigmoid > 1/2 and the gradient of
        the target cosine is beyond s / 2.
        """
        return 1 <= self.scale <= MAX_SCALE and max(self.shift) <= _PROVEN_SHIFT

    def per_sample(self, cosines: Cosines, target: Tensor, context: LossContext | None = None) -> Tensor:
        return -functional.logsigmoid(shifted(log_odds(cosines, target, scale=self.scale), self.shift))


def _margin_names(num_bins: int) -> tuple[str, ...]:
    return ("margin",) if num_bins == 1 else tuple(f"margin_{j}" for j in range(num_bins))


class SearchSpace(ABC):
    """A set of losses, indexed by actions `[dim]`, and where the policy starts in it.

    To add one, subclass; one of this project decorates its maker with `register`, a plug-in's class is its own maker.

    Args:
        config: name and scale are taken from here; everything else is up to the subclass.
        mean0: [dim] first mean of the policy.
        std: [dim], or one for all: its standard deviation.
        low, high: likewise: the policy's mean stays between them.
        takes: names of the settings that apply to this space. Name, scale and std always do.
    """

    def __init__(
        self,
        config: SpaceConfig,
        *,
        mean0: npt.ArrayLike,
        std: npt.ArrayLike,
        low: npt.ArrayLike = -np.inf,
        high: npt.ArrayLike = np.inf,
        takes: tuple[str, ...] = (),
    ) -> None:
        for field in fields(config):
            value = getattr(config, field.name)
            if value is not None and field.name not in ("name", "scale", "std", *takes):
                raise UserError(f"space {field.name} does not apply to {config.name}, got {value!r}: leave it out")
        self.name = config.name
        self.scale = config.scale
        self._start = PolicyState.start(mean0, std, low=low, high=high)
        [self.dim] = self._start.mean.shape

    @property
    @abstractmethod
    def parameter_names(self) -> tuple[str, ...]:
        """Names of `decode(action).parameters()`, the same for every action, in order."""

    @abstractmethod
    def loss(self, action: Array) -> Loss:
        """What `decode` returns, from an action that has been checked."""

    def initial_policy(self) -> PolicyState:
        """The policy before the first generation."""
        return self._start

    def warmup_action(self) -> Array:
        """[dim] action of the fixed loss of the warm-up generations: the first mean, unless a space knows better."""
        return self._start.mean.copy()

    def decode(self, action: npt.ArrayLike) -> Loss:
        """The loss that `action` [dim] stands for."""
        action = np.asarray(action, np.float64)
        if action.shape != (self.dim,) or not np.isfinite(action).all():
            raise ValueError(f"an action of {self.name} is {self.dim} finite numbers, got {action!r}")
        return self.loss(action)

    def parameter_statistics(self, policy: PolicyState) -> tuple[Array, Array]:
        """Mean and standard deviation of the decoded loss's parameters under `policy`, each [parameters].

        By quantiles of every dimension at once, which is right as long as each parameter hangs on one dimension only.
        """
        actions = policy.mean + policy.std * _NORMAL_QUANTILES[:, None]  # [quantiles, dim]
        parameters = np.array([list(self.decode(action).parameters().values()) for action in actions])
        return parameters.mean(axis=0), parameters.std(axis=0)


_NORMAL_QUANTILES = np.array([NormalDist().inv_cdf((i + 0.5) / 512) for i in range(512)])


class ModulatedSpace(SearchSpace):
    """Margin softmax: each dimension is one bin's `a`, however written."""

    @abstractmethod
    def shifts(self, action: Array) -> Array:
        """`log(1 - a)` of each element of `action`, same shape."""

    @property
    def parameter_names(self) -> tuple[str, ...]:
        return _margin_names(self.dim)

    def loss(self, action: Array) -> LossParameters:
        return LossParameters(scale=self.scale, shift=tuple(self.shifts(action).tolist()))

    def margin_statistics(self, policy: PolicyState) -> tuple[Array, Array]:
        """Mean and standard deviation of the decoded margins under `policy`, each [dim], for reports."""
        margins = self.shifts(policy.mean + policy.std * _NORMAL_QUANTILES[:, None]) / self.scale  # [quantiles, dim]
        return margins.mean(axis=0), margins.std(axis=0)

    def parameter_statistics(self, policy: PolicyState) -> tuple[Array, Array]:
        return self.margin_statistics(policy)


class MarginSpace(ModulatedSpace):
    """The action is the margin: `m = clamp(x, 0, m_max)`, `a = 1 - exp(s * m)`."""

    def __init__(self, config: SpaceConfig, dim: int) -> None:
        # Defaults: the rehearsed search whose winners' margins went from 0.25 to 0.44 and back.
        mean0, std = _given(config.mean0, 0.25), _given(config.std, 0.12)
        self.m_max = _given(config.m_max, 0.5)
        self._warmup = _given(config.warmup_action, mean0)
        for field, value in (("mean0", mean0), ("warmup_action", self._warmup)):
            if not 0 <= value <= self.m_max:
                law = f"space {field} of {config.name} must be a margin in [0, m_max={self.m_max}]"
                raise UserError(f"{law}, got {value!r}")
        takes = ("num_bins", "mean0", "m_max", "warmup_action")
        super().__init__(config, mean0=np.full(dim, mean0), std=std, low=0, high=self.m_max, takes=takes)

    def shifts(self, action: Array) -> Array:
        return self.scale * np.clip(action, 0, self.m_max)

    def warmup_action(self) -> Array:
        return np.full(self.dim, self._warmup)


class PaperSpace(ModulatedSpace):
    """The published parameterisation: `a = -|x| * exp(s / 3)` (global) or `-|x| * exp(s / 2)` (local)."""

    def __init__(self, config: SpaceConfig, dim: int, *, divisor: float) -> None:
        mean0 = np.full(dim, _given(config.mean0, 0.0))
        super().__init__(config, mean0=mean0, std=_given(config.std, 0.2), takes=("num_bins", "mean0", "warmup_action"))
        self._warmup = _given(config.warmup_action, -1.0)
        self._log_factor = config.scale / divisor

    def shifts(self, action: Array) -> Array:
        with np.errstate(divide="ignore"):  # x = 0 is a = 0: log 0 = -inf is right here
            return np.logaddexp(0, np.log(np.abs(action)) + self._log_factor)

    def warmup_action(self) -> Array:
        return np.full(self.dim, self._warmup)


class AMLFSSpace(SearchSpace):
    """The action is the slopes of t and tau and, if they are free, the intercepts; as they are, nothing is clamped.

    The mean starts at the identity and stays where draws are likely to be usable: slopes one standard deviation above 0
    or more, so that most draws rise; free intercepts of tau where, with slope 1, tau is not negative.
    """

    def __init__(self, config: SpaceConfig) -> None:
        num, std = _given(config.num_intervals, 6), _given(config.std, 0.2)
        mean0, low = [1.0] * (2 * num), [min(std, 1.0)] * (2 * num)  # slopes of t, of tau
        if config.intercepts == "free":  # of t, of tau
            mean0 += [0.0] * (2 * num)
            low += [-math.inf] * num + [-i / num for i in range(num)]
        super().__init__(config, mean0=mean0, std=std, low=low, takes=("num_intervals", "intercepts"))
        self._num_intervals = num

    @property
    def parameter_names(self) -> tuple[str, ...]:
        return tuple(self.loss(self.warmup_action()).parameters())

    def loss(self, action: Array) -> AMLFS:
        groups = [tuple(group) for group in action.reshape(-1, self._num_intervals).tolist()]
        return AMLFS(scale=self.scale, **dict(zip(_AM_LFS_GROUPS, groups, strict=False)))


_AM_LFS_GROUPS = ("t_slopes", "tau_slopes", "t_intercepts", "tau_intercepts")


class UnifiedSpace(SearchSpace):
    """The action is the searched parameters, each in its own unit and clamped to its range; that of the scale, searched
    from half to twice the configured one, is the logarithm of the ratio.
    """

    def __init__(self, config: SpaceConfig) -> None:
        parts = _given(config.search, ("target", "negatives"))
        values, given = {}, [name for name in PARAMETERS if getattr(config, name) is not None]
        for name, p in PARAMETERS.items():
            values[name] = _given(getattr(config, name), p.start if p.part in parts else p.fixed)
            law = f"space {name} must be in [{p.low:g}, {p.high:g}]"
            require(p.low <= values[name] <= p.high, law, values[name])
        self._searched = {name: p for name, p in PARAMETERS.items() if p.part in parts}
        self._fixed = {name: value for name, value in values.items() if name not in self._searched}
        self._fixed["adaptive"] = _given(config.adaptive, True)
        self._with_scale = "scale" in parts
        mean0 = [values[name] / p.unit for name, p in self._searched.items()]
        bounds = [(p.low / p.unit, p.high / p.unit) for p in self._searched.values()]
        if self._with_scale:
            mean0.append(0.0)
            highest = min(math.log(2), math.log(MAX_SCALE / config.scale))
            bounds.append((-math.log(2) / SCALE_UNIT, highest / SCALE_UNIT))
        low, high = np.transpose(bounds)
        takes = ("search", "adaptive", *given)
        super().__init__(config, mean0=mean0, std=_given(config.std, 0.12), low=low, high=high, takes=takes)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        return (*PARAMETERS, "scale")

    def loss(self, action: Array) -> Unified:
        action = np.clip(action, self._start.low, self._start.high)
        values: dict[str, Any] = dict(self._fixed)
        for (name, p), x in zip(self._searched.items(), action, strict=False):
            values[name] = float(np.clip(x * p.unit, p.low, p.high))
        scale = min(self.scale * math.exp(action[-1] * SCALE_UNIT), MAX_SCALE) if self._with_scale else self.scale
        return Unified(scale=scale, **values)


_Value = TypeVar("_Value")


def _given(value: _Value | None, default: _Value) -> _Value:
    return default if value is None else value


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
    name = NAMES.spelled(config.name)
    space = (_SPACES.get(name) or NAMES.plugin(name))(config)
    return space if name in _SPACES else _tried(space)


def _fault(found: object, path: str) -> str:
    """What must be changed in a plug-in's class for it to be a space; empty: nothing."""
    if not (isinstance(found, type) and issubclass(found, SearchSpace)):
        return f"be a subclass of {SearchSpace.__module__}.{SearchSpace.__name__}, got {shown(found)}"
    missing = ", ".join(sorted(found.__abstractmethods__))
    return f"have {missing}" if missing else ""


NAMES: Names[Callable[[SpaceConfig], SearchSpace]] = Names("space name", "lfs.spaces", _SPACES, _fault)


def _tried(space: SearchSpace) -> SearchSpace:
    """A plug-in's space, once its first loss is known to be one that a run can store.

    Raises:
        UserError: what is wrong with it.
    """
    loss = space.decode(space.warmup_action())
    law = f"loss of space {space.name} must"
    require(isinstance(loss, Loss), f"{law} be a {Loss.__module__}.Loss", loss)
    allow([type(loss).__module__])  # the space, which was let in, has imported it
    names = tuple(loss.parameters())
    require(names == space.parameter_names, f"{law} have the parameters {space.parameter_names}", names)
    require(loss_from_dict(loss.to_dict()) == loss, f"{law} come back from its to_dict", loss)
    return space


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


@register("am_lfs")
def _am_lfs(config: SpaceConfig) -> SearchSpace:
    return AMLFSSpace(config)


@register("unified")
def _unified(config: SpaceConfig) -> SearchSpace:
    return UnifiedSpace(config)
