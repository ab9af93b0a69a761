"""A loss as curves: margin against the probability of the target class, loss against its cosine.

All cosines but the target's are 0, embeddings are of length `NORM`, and running means are as they are at the start.
"""

import math

import torch
from torch import Tensor

from search_space.config import LossConfig
from search_space.loss import Loss, LossContext, effective_margin
from search_space.margins import make_loss

NORM = 20.0
"""Length of embeddings, for losses that ask for it."""
MAX_LOG_ODDS = 14.0
"""Where the axis of p ends: the loss without margin is 1e-6 there."""
CHUNK = 32
"""Samples at a time: [samples, classes] stays small with 100,000 classes."""


def default_references(scale: float) -> list[tuple[str, Loss]]:
    """Name and loss of AM and Arc at their papers' margins and of normalised softmax."""
    am, arc = (make_loss(LossConfig(name=name), scale=scale) for name in ("am", "arc"))
    softmax = make_loss(LossConfig(name="norm_softmax"), scale=scale)
    return [
        (f"AM, m = {am.parameters()['margin']:g}", am),
        (f"Arc, m = {arc.parameters()['margin']:g}", arc),
        ("Softmax", softmax),
    ]


def target_cosines(scale: float, num_classes: int) -> Tensor:
    """[n] from -0.2 to 1, closer together where the bins of the local form are."""
    wide = torch.linspace(-0.2, 1, 240, dtype=torch.float64)
    narrow = (torch.linspace(-2.5, 2.5, 160, dtype=torch.float64) + math.log(num_classes - 1)) / scale
    return torch.cat([wide, narrow[narrow <= 1]]).sort().values


def target_probabilities(cosine: Tensor, scale: float, num_classes: int) -> Tensor:
    """[<= n] what the cosines stand for without a margin, as far as the axis of p goes."""
    odds = cosine * scale - math.log(num_classes - 1)
    return odds[odds <= MAX_LOG_ODDS].sigmoid()


def margins_at(loss: Loss, p: Tensor, num_classes: int) -> Tensor:
    """[n] CosFace margin of the same loss at probabilities, in cosines; NaN where it is that of no margin."""
    parts = [effective_margin(loss, part, num_classes, _context(loss, part)) for part in torch.split(p, CHUNK)]
    margins = torch.cat(parts)
    return torch.where(margins.isfinite(), margins, torch.nan)


def losses_at(loss: Loss, cosine: Tensor, num_classes: int) -> Tensor:
    """[n] loss at cosines of the target, in nats."""
    values = []
    for part in torch.split(cosine, CHUNK):
        cosines = torch.zeros(len(part), num_classes, dtype=torch.float64)
        cosines[:, 0] = part
        with torch.no_grad():
            values.append(loss.per_sample(cosines, torch.zeros(len(part), dtype=torch.int64), _context(loss, part)))
    return torch.cat(values)


def _context(loss: Loss, samples: Tensor) -> LossContext:
    norms = torch.full((len(samples),), NORM, dtype=torch.float64)
    return LossContext(norms=norms, target_norms=torch.ones_like(norms), state=loss.initial_state())
