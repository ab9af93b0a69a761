"""Networks from aligned face pictures to embeddings, by name."""

from collections.abc import Callable

import torch
from torch import nn

from search_space.errors import UserError, first_line, require, shown
from search_space.plugins import Names
from trainers.backbones.initialise import fault_of_layers, initialise
from trainers.backbones.iresnet import resnet50, resnet101
from trainers.backbones.mobilefacenet import MobileFaceNet
from trainers.backbones.small import SmallNet

BACKBONES: dict[str, Callable[[int, int], nn.Module]] = {
    "mobilefacenet": MobileFaceNet,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "small": SmallNet,
}

Maker = Callable[[int, int], nn.Module]
"""Of the embedding's length and the side of the pictures."""

NAMES: Names[Maker] = Names(
    "backbone",
    "lfs.backbones",
    BACKBONES,
    lambda found, _: (
        "" if callable(found) else f"be a class or function of (embedding_dim, input_size), got {shown(found)}"
    ),
)

__all__ = ["BACKBONES", "build_backbone", "initialise", "plan_backbone"]


def build_backbone(name: str, embedding_dim: int, input_size: int, seed: int = 0) -> nn.Module:
    """Network `[N, 3, input_size, input_size] -> [N, embedding_dim]` on the CPU, in training mode.

    Args:
        name: a key of `BACKBONES`, or that of a plug-in.
        embedding_dim: length of the embedding, which is not normalised.
        input_size: side of the pictures, pixels; layers that see the whole feature map follow it.
        seed: of the initial weights, see `initialise`; torch's global generator is neither read nor moved.
    Raises:
        UserError: unknown name, a size that the network cannot take, or a plug-in that is no backbone.
    """
    backbone = plan_backbone(name, embedding_dim, input_size)
    backbone.to_empty(device="cpu")
    initialise(backbone, seed)
    return backbone


def plan_backbone(name: str, embedding_dim: int, input_size: int) -> nn.Module:
    """The network of `build_backbone` without memory, on the "meta" device: shapes only, or the same errors at once."""
    name = NAMES.spelled(name)
    make = BACKBONES.get(name) or NAMES.plugin(name)
    # On "meta", constructors draw no numbers: building is quick and leaves the global generator alone.
    with torch.device("meta"):
        backbone = make(embedding_dim, input_size)
        if name not in BACKBONES:
            _try(name, backbone, embedding_dim, input_size)
    return backbone


def _try(name: str, backbone: nn.Module, embedding_dim: int, input_size: int) -> None:
    """Raise `UserError` unless what a plug-in made is a network that can be initialised, stored and trained."""
    require(isinstance(backbone, nn.Module), f"backbone {name} must make a torch.nn.Module", backbone)
    if fault := fault_of_layers(backbone):
        raise UserError(f"backbone {name} must {fault}")
    try:
        found = backbone.eval()(torch.empty(2, 3, input_size, input_size))
    except Exception as error:  # whatever the code of a plug-in raises
        law = f"backbone {name} must take pictures [N, 3, {input_size}, {input_size}]"
        raise UserError(f"{law}: {type(error).__name__}: {first_line(error)}") from None
    backbone.train()
    shape = list(getattr(found, "shape", ()))
    require(
        shape == [2, embedding_dim], f"backbone {name} must give embeddings [N, {embedding_dim}] of 2 pictures", shape
    )
