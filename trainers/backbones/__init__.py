"""Networks from aligned face pictures to embeddings, by name."""

import difflib
from collections.abc import Callable

import torch
from torch import nn

from search_space.errors import UserError
from trainers.backbones.initialise import initialise
from trainers.backbones.iresnet import resnet50, resnet101
from trainers.backbones.mobilefacenet import MobileFaceNet
from trainers.backbones.small import SmallNet

BACKBONES: dict[str, Callable[[int, int], nn.Module]] = {
    "mobilefacenet": MobileFaceNet,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "small": SmallNet,
}

__all__ = ["BACKBONES", "build_backbone", "initialise", "plan_backbone"]


def build_backbone(name: str, embedding_dim: int, input_size: int, seed: int = 0) -> nn.Module:
    """Network `[N, 3, input_size, input_size] -> [N, embedding_dim]` on the CPU, in training mode.

    Args:
        name: a key of `BACKBONES`.
        embedding_dim: length of the embedding, which is not normalised.
        input_size: side of the pictures, pixels; layers that see the whole feature map follow it.
        seed: of the initial weights, see `initialise`; torch's global generator is neither read nor moved.
    Raises:
        UserError: unknown name, or a size that the network cannot take.
    """
    backbone = plan_backbone(name, embedding_dim, input_size)
    backbone.to_empty(device="cpu")
    initialise(backbone, seed)
    return backbone


def plan_backbone(name: str, embedding_dim: int, input_size: int) -> nn.Module:
    """The network of `build_backbone` without memory, on the "meta" device: shapes only, or the same errors at once."""
    if name not in BACKBONES:
        near = difflib.get_close_matches(name, BACKBONES, cutoff=0.5)
        hint = f": did you mean {' or '.join(near)}?" if near else ""
        raise UserError(f"backbone must be one of {', '.join(BACKBONES)}, got {name!r}{hint}")
    # On "meta", constructors draw no numbers: building is quick and leaves the global generator alone.
    with torch.device("meta"):
        return BACKBONES[name](embedding_dim, input_size)
