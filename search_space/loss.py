"""What every loss is to a trainer: searched or hand-crafted, one small frozen object."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from search_space.class_products import Cosines
from search_space.errors import UserError, shown
from search_space.plugins import Names


@dataclass(kw_only=True)
class LossContext:
    """What a loss may want to know beside cosines and targets. Made anew for each step, but for `state`."""

    norms: Tensor
    """[batch] lengths of the embeddings, with gradient."""

    target_norms: Tensor
    """[batch] length of the class weight of each sample's target, with gradient."""

    step: int = 0
    """Steps since the start of training; the learning rate counts by it too."""

    seed: int = 0
    """Whatever a loss draws is keyed by (seed, step)."""

    state: dict[str, Tensor] = field(default_factory=dict)
    """The live tensors of `initial_state`, on the device; changed in place, inherited and stored like weights."""


@dataclass(frozen=True, kw_only=True)
class Loss(ABC):
    """A loss on cosines. Subclasses are frozen dataclasses of plain numbers: their parameters, validated when made."""

    name: ClassVar[str]
    """The name under which `margins.make_loss` or a stored run finds it; of a plug-in, its dotted path."""

    normalise_embedding: ClassVar[bool] = True
    """Whether the first argument is divided by the length of the embedding ..."""

    normalise_weight: ClassVar[bool] = True
    """... and by that of the class weight; with both it is the cosine, with neither the inner product."""

    needs_context: ClassVar[bool] = False
    """Whether a call without context is an error."""

    scale: float = 32.0
    """Scale `s` of the cosines."""

    def __init_subclass__(cls) -> None:
        if "name" not in cls.__dict__:
            cls.name = f"{cls.__module__}:{cls.__qualname__}"

    @abstractmethod
    def per_sample(self, cosines: Cosines, target: Tensor, context: LossContext | None = None) -> Tensor:
        """Loss of each sample, [batch], from `cosines` [batch, classes] and `target` [batch] int64.

        The cosines need not all be there at once (`ClassProducts`): ask `log_odds`, `target_and_rest` and
        `target_products` of `modulation` for what is made of them.
        """

    def __call__(self, cosines: Cosines, target: Tensor, context: LossContext | None = None) -> Tensor:
        """Mean loss of the batch."""
        return self.per_sample(cosines, target, context).mean()

    def initial_state(self) -> dict[str, Tensor]:
        """Tensors that the loss carries from step to step (a running mean, say), as they are at the start."""
        return {}

    def fault(self) -> str:
        """Why it must not be trained, where its parameters alone say so (see `usable.why_unusable`); empty: nothing."""
        return ""

    @property
    def proven_usable(self) -> bool:
        """Whether its form alone proves that `usable.fault_on_grid` would find nothing; if not, it has to look."""
        return False

    def parameters(self) -> dict[str, float]:
        """Name and value of every parameter, flat, for tables and logs."""
        return {key: float(value) for key, value in asdict(self).items() if isinstance(value, int | float)}

    @property
    def a(self) -> tuple[float, ...]:
        """The paper's `a <= 0` per bin of the target probability; empty where the loss is not of that form."""
        return ()

    @property
    def margins(self) -> tuple[float, ...]:
        """CosFace margin per bin of the target probability, cosines; empty where the loss is not of that form."""
        return ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values under the loss's own field names, and its name under `loss`; the JSON round trip is exact."""
        return {"loss": self.name, **{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Loss":
        """The loss that `to_dict` of the same class described, bit for bit."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k != "loss"}
        return cls(**fields)


_LOSS_CLASSES: dict[str, type[Loss]] = {}
LOSS_PLUGINS = "lfs.losses"
"""Group of the entry points of losses."""
_HOMES = ("search_space.margins", "search_space.spaces")  # importing these two registers every loss of this version

_AnyLoss = TypeVar("_AnyLoss", bound=type[Loss])


def register_loss(cls: _AnyLoss) -> _AnyLoss:
    """Class decorator: make `loss_from_dict` know the class by its `name`. Names are unique."""
    if _LOSS_CLASSES.setdefault(cls.name, cls) is not cls:
        raise ValueError(f"loss name {cls.name!r} is taken by {_LOSS_CLASSES[cls.name].__qualname__}")
    return cls


def fault_of_class(found: object, path: str, base: "type[Loss]" = Loss) -> str:
    """What must be changed in a class, or whatever a plug-in has in its place, for it to be a loss; empty: nothing."""
    if not (isinstance(found, type) and issubclass(found, base)):
        return f"be a subclass of {base.__module__}.{base.__name__}, got {shown(found)}"
    if missing := ", ".join(sorted(getattr(found, "__abstractmethods__", ()))):
        return f"have {missing}"
    parameters = found.__dict__.get("__dataclass_params__")
    if not (parameters and parameters.frozen):
        return "have the decorator @dataclass(frozen=True, kw_only=True)"
    if found.name != path:
        return f"go by where it is defined, {found.__module__}:{found.__qualname__}, without a `name` of its own"
    return ""


_STORED: Names[type[Loss]] = Names("stored loss", LOSS_PLUGINS, _LOSS_CLASSES, fault_of_class)


def loss_from_dict(values: Mapping[str, Any]) -> Loss:
    """The loss, searched or hand-crafted, whose `to_dict` gave `values`; bit for bit.

    Raises:
        UserError: this version knows no such loss, or not with these parameters.
    """
    for home in _HOMES:
        importlib.import_module(home)
    name = _STORED.spelled(values.get("loss"))
    cls = _LOSS_CLASSES.get(name) or _STORED.plugin(name)
    try:
        return cls.from_dict(values)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"stored loss {name} must have parameters that this version accepts: {error}") from error


def effective_margin(loss: Loss, p: Tensor, num_classes: int, context: LossContext | None = None) -> Tensor:
    """The CosFace margin that would give each sample the same loss, in cosines.

    The sample has target probability p under `scale` alone, its other classes all lie at cosine 0; so the target cosine
    is `(logit(p) + log(num_classes - 1)) / scale`, which may lie beyond 1 for the largest p: NaN there.

    Args:
        p: [n] in (0, 1).
    Returns:
        [n] float64 without gradient. For a context with norms or state, `context` holds them for n samples.
    """
    p = p.detach().to(torch.float64)
    background = torch.log(torch.tensor(float(num_classes - 1), dtype=torch.float64))
    own = (torch.logit(p) + background) / loss.scale  # [n]
    cosines = torch.zeros(len(p), num_classes, dtype=torch.float64)
    cosines[:, 0] = own.clamp(-1, 1)
    with torch.no_grad():
        values = loss.per_sample(cosines, torch.zeros(len(p), dtype=torch.int64), context)
    odds = -torch.log(torch.expm1(values))  # of p_m: loss = softplus(-odds)
    margin = (torch.logit(p) - odds) / loss.scale
    return torch.where(own.abs() <= 1, margin, torch.nan)
