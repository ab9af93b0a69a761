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
    variance 1 / fan-in. Batch norm: the identity with fresh statistics. PReLU: slope 0.25. Any other layer: its own
    `reset_parameters`, under a seed of its own.

    Args:
        module: one of which `fault_of_layers` says nothing; on any device, but other layers on the CPU.
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
        elif holds_numbers(layer):
            [key] = torch.empty((), dtype=torch.int64).random_(generator=generator)[None].tolist()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(key)
                layer.reset_parameters()  # type: ignore[operator]


def holds_numbers(layer: nn.Module) -> bool:
    """Whether a layer has parameters or buffers itself, not only its parts."""
    return any(True for tensors in (layer.parameters, layer.buffers) for _ in tensors(recurse=False))


def fault_of_layers(module: nn.Module) -> str:
    """What must be changed in a network for it to be initialised and stored; empty: nothing."""
    stored = set(module.state_dict())
    if left_out := sorted({name for name, _ in module.named_buffers()} - stored):
        return f"have no buffer that is not stored (persistent=False), got {left_out[0]}"
    known = nn.Conv2d | nn.Linear | nn.BatchNorm1d | nn.BatchNorm2d | nn.PReLU
    for name, layer in module.named_modules():
        if holds_numbers(layer) and not isinstance(layer, known) and not hasattr(layer, "reset_parameters"):
            where = f"{name or 'itself'}, a {type(layer).__name__}"
            return f"have reset_parameters() in each layer that holds parameters or buffers, which {where}, lacks"
    return ""
