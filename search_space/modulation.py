"""Softmax losses on the log odds of the target class, at the cost and the stability of plain cross-entropy.

`p` is the softmax probability of the target class. Every loss here is a function of one number per sample, the log
odds of `p` after the target's logit, and perhaps the other logits, were changed:

    d = target logit - logsumexp(other logits),    -log p = softplus(-d),    1 - p = sigmoid(-d)

`1 - p` scales the whole gradient and is never formed from `p`, so that it stays exact as `p` comes close to 1.

The unified form of margin softmax is `p_m = h(a, p) * p` with `h(a, p) = 1 / (a * p + 1 - a)` and `a <= 0` (Wang et al.
2020). Its odds are those of `p` divided by a number: its `d` is that of `p` minus `shift = log(1 - a)`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from search_space.class_products import LOG2_E, ClassProducts, Cosines

TargetMap = Callable[[Tensor], Tensor]
"""Target cosines [batch] -> changed target cosines [batch], differentiable by autograd. Pure: may be called twice."""

NegativeMap = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""(cosines [batch, classes], changed target cosines [batch, 1]), both without gradient and not to be changed -> changed
cosines of all other classes and the derivative of each by its own cosine (None: 1), both [batch, classes] or broadcast
to it; the target's column of either is not read. The target cosine is a constant here: only the decision which classes
are hard may hang on it. Elementwise and pure: it may be given any part of the classes, and again in backward."""


def target_products(cosines: Cosines, target: Tensor) -> Tensor:
    """Cosine of the target class, [batch], without gradient."""
    if isinstance(cosines, ClassProducts):
        return cosines.target_products(target)
    return cosines.detach().gather(1, target[:, None])[:, 0]


def target_and_rest(cosines: Cosines, target: Tensor, *, scale: float | Tensor) -> tuple[Tensor, Tensor]:
    """Cosine of the target class, and `logsumexp over j != y of s * cos_j`; each [batch], as of `log_odds`."""
    if isinstance(cosines, ClassProducts):
        _check_shapes(cosines, target)
        return cosines.own_and_rest(target, scale=scale)
    return _target_and_rest(cosines, target, scale, None, None)


def log_odds(
    cosines: Cosines,
    target: Tensor,
    *,
    scale: float | Tensor,
    target_map: TargetMap | None = None,
    negative_map: NegativeMap | None = None,
) -> Tensor:
    """`s * f(cos_y) - logsumexp over j != y of s * g(cos_j)`: log odds of the target after both maps.

    Computed in float32, in float64 for float64 cosines, whatever autocast says. `cosines` is left as it is. Backward
    may run several times, but has no gradient of its own.

    Args:
        cosines: [batch, classes], at least 2 classes; or what stands in for them.
        target: [batch] int64.
        scale: scale `s`; a tensor is a scalar without gradient.
        target_map: `f`; None: left as it is. Gradient also flows to whatever else it closes over (norms, say).
        negative_map: `g`; None: left as they are.
    Returns:
        [batch] float32 or float64.
    Raises:
        ValueError: shapes do not fit.
    """
    if isinstance(cosines, ClassProducts):
        _check_shapes(cosines, target)
        own, rest = cosines.own_and_rest(target, scale=scale, target_map=target_map, negative_map=negative_map)
    else:
        others, slope = _mapped(cosines, target, target_map, negative_map) if negative_map else (None, None)
        own, rest = _target_and_rest(cosines, target, scale, others, slope)
    with torch.autocast(cosines.device.type, enabled=False):
        return (target_map(own) if target_map else own) * scale - rest


def _mapped(
    cosines: Tensor, target: Tensor, target_map: TargetMap | None, negative_map: NegativeMap
) -> tuple[Tensor, Tensor | None]:
    """What `negative_map` makes of all cosines."""
    with torch.no_grad(), torch.autocast(cosines.device.type, enabled=False):
        _check_shapes(cosines, target)
        known = cosines.detach().to(compute_dtype(cosines))
        own = known.gather(1, target[:, None])[:, 0]
        return negative_map(known, (target_map(own) if target_map else own)[:, None])


def compute_dtype(cosines: Cosines) -> torch.dtype:
    """float64 for float64, float32 for everything else."""
    return torch.float64 if cosines.dtype == torch.float64 else torch.float32


def _check_shapes(cosines: Cosines, target: Tensor) -> None:
    [batch, num_classes] = cosines.shape
    if target.shape != (batch,) or num_classes < 2:
        got = f"{tuple(cosines.shape)} and {tuple(target.shape)}"
        raise ValueError(f"expected logits [batch, classes >= 2] and target [batch], got {got}")


def _target_and_rest(
    cosines: Tensor, target: Tensor, scale: float | Tensor, others: Tensor | None, slope: Tensor | None
) -> tuple[Tensor, Tensor]:
    _check_shapes(cosines, target)
    with torch.autocast(cosines.device.type, enabled=False):
        own, rest = _TargetAndRest.apply(cosines, target, others, slope, scale)  # type: ignore[no-untyped-call]
    return own, rest


def modulated_cross_entropy(
    logits: Cosines, target: Tensor, shift: Tensor | Sequence[float], *, scale: float = 1.0
) -> Tensor:
    """Mean of `-log(h(a, p) * p)` over the batch.

    Args:
        logits: [batch, classes], at least 2 classes; effective logits are `scale * logits`.
        target: [batch] int64.
        shift: [num_bins], see `shifted`.
        scale: scale `s`, if `logits` are cosines.
    Returns:
        Scalar, float32 or float64.
    Raises:
        ValueError: shapes do not fit.
    Source: Wang et al. 2020, Sec. 3. Differs: published as softmax, modulation, log, which underflows at s = 64.
    """
    return -functional.logsigmoid(shifted(log_odds(logits, target, scale=scale), shift)).mean()


def shifted(odds: Tensor, shift: Tensor | Sequence[float]) -> Tensor:
    """Log odds of `p_m` from those of `p`.

    Args:
        odds: [batch] log odds of p.
        shift: [num_bins] `log(1 - a)` of the samples with p in bin `(j / num_bins, (j + 1) / num_bins]`, p = 0
            belonging to the first; one bin is the global form. A constant: p decides the bin, but the gradient is
            that of the fixed `a` of the bin, and none flows to `shift`.
    Returns:
        [batch].
    """
    table = torch.as_tensor(shift, dtype=odds.dtype, device=odds.device).detach()
    if table.ndim != 1 or not len(table):
        raise ValueError(f"expected shift [num_bins], got {tuple(table.shape)}")
    return odds - table[probability_bin(odds.detach().sigmoid(), len(table))]


def probability_bin(p: Tensor, num_bins: int) -> Tensor:
    """Index j of the bin `(j / num_bins, (j + 1) / num_bins]` of each p in [0, 1]; p = 0 is in bin 0."""
    edges = torch.arange(1, num_bins, dtype=p.dtype, device=p.device) / num_bins
    return torch.bucketize(p, edges)


class _TargetAndRest(torch.autograd.Function):
    """Written out because autograd would copy and keep [batch, classes] several times more."""

    @staticmethod
    def forward(
        ctx: Any,
        cosines: Tensor,
        target: Tensor,
        others: Tensor | None,  # [batch, classes] or broadcast to it
        other_slope: Tensor | None,  # [batch, classes] or broadcast to it
        scale: float | Tensor,
    ) -> tuple[Tensor, Tensor]:
        column = target[:, None]
        own = cosines.gather(1, column)[:, 0].to(compute_dtype(cosines))  # [batch]
        negatives = cosines.to(own.dtype) if others is None else others.expand(cosines.shape)
        logits = torch.mul(negatives, scale)  # our own copy: in place now
        logits.scatter_(1, column, -torch.inf)
        peak = logits.amax(1, keepdim=True)  # [batch, 1]
        total = logits.sub_(peak).mul_(LOG2_E).exp2_().sum(1, keepdim=True)  # [batch, 1]
        ctx.save_for_backward(logits, total, column, other_slope)
        ctx.scale, ctx.dtype = scale, cosines.dtype
        return own, (peak + total.log())[:, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_own: Tensor, grad_rest: Tensor) -> tuple[Tensor | None, ...]:
        exponentials, total, column, other_slope = ctx.saved_tensors
        grad_cosines = exponentials * ((grad_rest * ctx.scale)[:, None] / total)  # 0 in the target's column
        if other_slope is not None:
            grad_cosines *= other_slope
        grad_cosines.scatter_(1, column, grad_own[:, None])
        return grad_cosines.to(ctx.dtype), None, None, None, None
