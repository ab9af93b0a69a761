"""Whether a loss can be trained with at all, told from the loss alone, before any training."""

import contextlib
import functools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from search_space.loss import Loss, LossContext

TARGETS = torch.linspace(-0.96, 0.96, 41, dtype=torch.float64)
"""Target cosines; their mean is 0, so running means of it stay as they are at the start."""
HARDEST = torch.tensor([0.05, 0.2, 0.4, 0.6, 0.8, 0.95], dtype=torch.float64)
"""Cosines of the hardest negative. The law holds from 0 on, where the hardest of many classes lies: below,
CurricularFace's published `c * (t + c)` falls as c rises."""
BACKGROUNDS = torch.tensor([-0.3, 0.0, 0.3], dtype=torch.float64)
"""Cosines of all other classes."""
FINE_TARGETS = torch.linspace(-0.995, 0.995, 1001, dtype=torch.float64)
"""Target cosines beside one hardest negative (0.2) and background (-0.3): so close that, at scale 32, no interval of
the target cosine or of its probability that is wider than 0.02 falls between two of them."""
NORM = 20.0
"""Length of embeddings, where a loss asks for it."""
TOLERANCE = 1e-9
"""Gradient of the wrong sign that counts as rounding, as a share of the largest one."""
SMALLEST = 1e-6
"""Largest gradient with respect to the target cosine, below which a loss teaches nothing."""


def why_unusable(loss: Loss, *, num_classes: int = 10_000) -> str:
    """Why `loss` must not be trained, for a reader; empty if it may.

    Its parameters may say so by themselves (`Loss.fault`), or that it may (`Loss.proven_usable`); else
    `fault_on_grid` looks.

    Args:
        num_classes: classes of the head, at least 3.
    """
    if num_classes < 3:
        raise ValueError(f"expected num_classes >= 3, got {num_classes}")
    return loss.fault() or ("" if loss.proven_usable else fault_on_grid(loss, num_classes=num_classes))


def fault_on_grid(loss: Loss, *, num_classes: int = 10_000) -> str:
    """Which law `loss` breaks on a grid of target cosines, hardest negatives and backgrounds, its state at the start.

    * loss and gradient are finite;
    * the loss never grows with the target cosine, nor shrinks as the cosine of a negative grows;
    * the gradient of the target cosine is not 0 everywhere.

    Growing and shrinking are read off the gradient, which is what trains. The value may jump, even up where the target
    cosine grows: the published piecewise ("local") margins do so between bins of p, free intercepts between intervals.

    Args:
        num_classes: classes of the head, at least 3; the background is one class in the stead of `num_classes - 2`.
    """
    grid = _grid()
    products = grid * (1.0 if loss.normalise_embedding else NORM)  # class weights have length 1
    products[:, 2] += math.log(num_classes - 2) / loss.scale
    products.requires_grad_()
    with torch.enable_grad(), _one_thread():
        values = loss.per_sample(products, torch.zeros(len(grid), dtype=torch.int64), _context(loss, len(grid)))
        [gradient] = torch.autograd.grad(values.sum(), products)
        return _broken_law(grid, products, values.detach(), gradient)


def _broken_law(grid: Tensor, products: Tensor, values: Tensor, gradient: Tensor) -> str:
    def at(bad: Tensor) -> str:
        target, hardest, background = grid[int(bad.nonzero()[0, 0])].tolist()
        return f"at target cosine {target:.2f}, hardest negative {hardest:.2f}, background {background:.2f}"

    finite = values.isfinite() & gradient.isfinite().all(1)
    if not finite.all():
        return f"loss or gradient is not finite {at(~finite)}"
    rounding = TOLERANCE * gradient.abs().max()
    if (wrong := gradient[:, 0] > rounding).any():
        return f"loss rises with the target cosine {at(wrong)}"
    if (wrong := ((gradient[:, 1:] < -rounding) & (products[:, 1:] >= 0)).any(1)).any():
        return f"loss falls as the cosine of a negative rises {at(wrong)}"
    if gradient[:, 0].min() > -SMALLEST:
        return "loss does not depend on the target cosine"
    return ""


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """A few thousand numbers gain nothing from a second thread, and waiting for it costs 40 times the work where other
    processes keep its core busy."""
    before = torch.get_num_threads()
    if before > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if before > 1:
            torch.set_num_threads(before)


@functools.cache
def _grid() -> Tensor:
    """[points, 3] cosines of target, hardest negative and background; shared, not to be changed."""
    fine = torch.cartesian_prod(FINE_TARGETS, HARDEST[1:2], BACKGROUNDS[:1])
    return torch.cat([torch.cartesian_prod(TARGETS, HARDEST, BACKGROUNDS), fine])


def _context(loss: Loss, batch: int) -> LossContext:
    return LossContext(
        norms=torch.full((batch,), NORM, dtype=torch.float64),
        target_norms=torch.ones(batch, dtype=torch.float64),
        state=loss.initial_state(),
    )
