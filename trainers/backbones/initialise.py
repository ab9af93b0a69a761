"""Weights from a seed: the same bits wherever and whenever a network is built."""

import math

import numpy as np
import torch
from torch import nn

BACKBONE_PURPOSE = 0x0BAC
HEAD_PURPOSE = 0x4EAD


def keyed_generator(seed: int, purpose: int) -> torch.Generator:
    """CPU generator that depends on its two keys alone, not on torch's global state."""
    [key] = np.random.SeedSequence([seed, purpose]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(key))


@torch.no_grad()
def initialise(module: nn.Module, seed: int) -> None:
    """Set every parameter and buffer of a backbone anew, in place.

    Convolutions: He normal over the fan-in (of one group). Linear layers, after which no rectifier comes: normal with
    variance 1 / fan-in. Batch norm: the identity with fresh statistics. PReLU: slope 0.25.

    Args:
        module: made of convolutions, linear layers, batch norm and PReLU; on any device.
        seed: >= 0; equal seeds give equal bits on every device, since numbers are drawn on the CPU.
    """
    generator = keyed_generator(seed, BACKBONE_PURPOSE)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            gain = 2.0 if isinstance(layer, nn.Conv2d) else 1.0
            std = math.sqrt(gain / layer.weight[0].numel())
            layer.weight.copy_(torch.empty(layer.weight.shape, device="cpu").normal_(0.0, std, generator=generator))
            if layer.bias is not None:
                layer.bias.zero_()
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.reset_parameters()
        elif isinstance(layer, nn.PReLU):
            layer.weight.fill_(layer.init)
        else:
            assert not list(layer.parameters(recurse=False)), f"no rule to initialise {type(layer).__name__}"
