"""The shared Gaussian over actions, as pure functions on an immutable state: ask, tell.

In the paper's symbols (Wang et al. 2020, Sec. 3.3): actions `x_i ~ N(mu, sigma^2)`, rewards `R_i`, and the ascent

    mu <- mu + eta * (1/B) * sum_i R_i * d/dmu log N(x_i; mu, sigma),    d/dmu log N = (x_i - mu) / sigma^2

with advantages in place of raw rewards and one Adam step of rate eta in place of the plain one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from search_space.config import PolicyConfig
from search_space.errors import UserError

Array = npt.NDArray[np.float64]

_ARRAYS = ("mean", "std", "low", "high", "adam_m", "adam_v")

ACTION_STREAM = 0x61637469
"""Keeps the draws of actions apart from everything else that is keyed by the same seed."""

MAX_ATTEMPTS = 1000
"""Draws for one candidate, all unusable, after which the policy counts as lost."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PolicyState:
    """The policy between two generations. Arrays are `[dim]` float64, read-only copies."""

    mean: Array
    std: Array
    low: Array
    """The mean is kept in `[low, high]`, infinite if it may go anywhere. Where the decoder clamps, both sides of the
    edge decode to the same loss: a mean that went far beyond it would see no reward for coming back."""
    high: Array
    adam_m: Array
    adam_v: Array
    step: int = 0
    """Adam steps taken; a generation of ties takes none."""

    @classmethod
    def start(
        cls,
        mean: npt.ArrayLike,
        std: npt.ArrayLike,
        *,
        low: npt.ArrayLike = -np.inf,
        high: npt.ArrayLike = np.inf,
    ) -> "PolicyState":
        """The policy before its first step, at `mean` `[dim]`; the others are broadcast to it."""
        mean = np.array(mean, np.float64)
        std, low, high, zeros = (np.broadcast_to(x, mean.shape) for x in (std, low, high, 0.0))
        return cls(mean=mean, std=std, low=low, high=high, adam_m=zeros, adam_v=zeros)

    def __post_init__(self) -> None:
        for name in _ARRAYS:
            array = np.array(getattr(self, name), np.float64)
            if array.ndim != 1 or array.shape != np.shape(self.mean) or np.isnan(array).any():
                raise ValueError(f"policy {name} must be numbers, as many as the mean has, got {array!r}")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        if not (np.isfinite(self.mean) & (self.low <= self.mean) & (self.mean <= self.high)).all():
            raise ValueError(f"policy mean must be finite and in [low, high], got {self.to_dict()}")
        if not (np.isfinite(self.std) & (self.std > 0)).all():
            raise ValueError(f"policy std must be > 0 and finite, got {self.std}")
        if not (np.isfinite(self.adam_m) & np.isfinite(self.adam_v) & (self.adam_v >= 0)).all() or self.step < 0:
            raise ValueError(f"policy moments must be finite, adam_v and step >= 0, got {self.to_dict()}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PolicyState) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, `None` for no bound; JSON writes floats with `repr`: the round trip is exact."""
        arrays = {name: [x if np.isfinite(x) else None for x in getattr(self, name).tolist()] for name in _ARRAYS}
        return {**arrays, "step": self.step}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PolicyState":
        """The state that `to_dict` described, bit for bit."""
        no_bound = {"low": -np.inf, "high": np.inf}
        arrays: dict[str, Any] = {name: [no_bound[name] if x is None else x for x in values[name]] for name in _ARRAYS}
        return cls(**arrays, step=values["step"])


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """The actions of one generation, and what it took to find them."""

    actions: Array
    """[n, dim]."""

    rejected: int
    """Unusable draws that were thrown away."""


def ask(
    state: PolicyState, n: int, *, seed: int, generation: int, usable: Callable[[Array], bool] | None = None
) -> Array:
    """Sample the actions of one generation: those of `ask_usable`, [n, dim] float64."""
    return ask_usable(state, n, seed=seed, generation=generation, usable=usable).actions


def ask_usable(
    state: PolicyState, n: int, *, seed: int, generation: int, usable: Callable[[Array], bool] | None = None
) -> Asked:
    """Sample the actions of one generation, drawing anew while a draw is not usable.

    The policy is then a Gaussian truncated to the usable actions, `q = N / Z(mu)` there, and `d/dmu log q` is `score`
    minus `d/dmu log Z`. That term is the same for every candidate: weighted with advantages that sum to 0 it drops out
    of the policy gradient, so `tell` needs neither Z nor the number of rejected draws.

    Args:
        n: candidates; attempt `k` of candidate `i` is keyed by (seed, generation, i, k) alone, so a candidate is the
            same for every `n`, and the same as without `usable` if its first draw is usable.
        seed: seed of the search, >= 0.
        generation: counted from 0.
        usable: whether an action [dim] may be trained; pure. None: all may.
    Raises:
        UserError: `MAX_ATTEMPTS` draws for one candidate were all unusable.
    """
    [dim] = state.mean.shape
    actions, rejected = np.empty((n, dim)), 0
    for i in range(n):
        for attempt in range(MAX_ATTEMPTS):
            actions[i] = _draw(state, [seed, ACTION_STREAM, generation, i], attempt)
            if usable is None or usable(actions[i].copy()):
                break
            rejected += 1
        else:
            raise UserError(
                f"a policy must give a usable loss within {MAX_ATTEMPTS} draws, got none for candidate {i} of "
                f"generation {generation + 1}: set a smaller space std, or start the search nearer to usable losses"
            )
    return Asked(actions=actions, rejected=rejected)


def _draw(state: PolicyState, key: list[int], attempt: int) -> Array:
    sequence = np.random.SeedSequence(key, spawn_key=(attempt,) if attempt else ())
    normals = np.random.Generator(np.random.Philox(sequence)).standard_normal(len(state.mean))
    action: Array = state.mean + state.std * normals
    return action


def score(state: PolicyState, actions: Array) -> Array:
    """Gradient of `log_prob` with respect to the mean: `(x - mu) / sigma^2`, [n, dim]."""
    gradient: Array = (actions - state.mean) / np.square(state.std)
    return gradient


def log_prob(state: PolicyState, actions: Array) -> Array:
    """Log density of raw actions [n, dim] under the policy, [n]. Folding or clamping belongs to the decoder."""
    normalised = (actions - state.mean) / state.std
    terms = -0.5 * np.square(normalised) - np.log(state.std) - 0.5 * np.log(2 * np.pi)  # [n, dim]
    density: Array = terms.sum(axis=1)
    return density


def tell(state: PolicyState, actions: Array, advantages: Array, config: PolicyConfig) -> PolicyState:
    """Move the mean towards actions of positive advantage: one Adam step, then back into `[low, high]`.

    Args:
        actions: [B, dim] raw, as `ask` gave them.
        advantages: [B], mean 0. If all are exactly 0, nothing was learned and the state is returned as it is: the
            mean does not move, not even by Adam's momentum, and the moments and the step count stay.
    Raises:
        ValueError: shapes do not fit, or an advantage is not finite.
    """
    [dim] = state.mean.shape
    if actions.shape != (len(advantages), dim) or not len(advantages) or not np.isfinite(advantages).all():
        raise ValueError(f"expected finite advantages [B] and actions [B, {dim}], got {advantages!r}, {actions.shape}")
    if not np.any(advantages):
        return state
    # Adam minimises, the search maximises the reward: hence the minus.
    grad_mean = -(advantages[:, None] * score(state, actions)).mean(axis=0)  # [dim]
    return _adam_step(state, grad_mean, config)


def _adam_step(state: PolicyState, grad: Array, config: PolicyConfig) -> PolicyState:
    """Kingma and Ba 2015, Algorithm 1."""
    beta1, beta2 = config.betas
    step = state.step + 1
    m = beta1 * state.adam_m + (1 - beta1) * grad
    v = beta2 * state.adam_v + (1 - beta2) * np.square(grad)
    m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
    mean = state.mean - config.lr * m_hat / (np.sqrt(v_hat) + config.eps)
    return replace(state, mean=np.clip(mean, state.low, state.high), adam_m=m, adam_v=v, step=step)
