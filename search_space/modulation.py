"""The loss of a margin softmax, by the identity that makes it as cheap and as stable as plain cross-entropy.

`p` is the softmax probability of the target class. The unified form of margin softmax is `p_m = h(a, p) * p` with
`h(a, p) = 1 / (a * p + 1 - a)` and `a <= 0` (Wang et al. 2020). Its odds are those of `p` divided by a number, so the
logit of `p_m` is that of `p` minus `shift = log(1 - a)`, and everything is a function of one number per sample:

    d = target logit - logsumexp(other logits) - shift,    -log p_m = softplus(-d),    1 - p_m = sigmoid(-d)

`1 - p_m` scales the whole gradient and is never formed from `p_m`, so that it stays exact as `p_m` comes close to 1.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


def modulated_cross_entropy(
    logits: Tensor, target: Tensor, shift: Tensor | Sequence[float], *, scale: float = 1.0
) -> Tensor:
    """Mean of `-log(h(a, p) * p)` over the batch.

    Computed in float32, in float64 for float64 logits, whatever autocast says. `logits` is left as it is. Backward may
    run several times, but has no gradient of its own.

    Args:
        logits: [batch, classes], at least 2 classes; effective logits are `scale * logits`.
        target: [batch] int64.
        shift: [num_bins] `log(1 - a) >= 0` of the samples with p in bin `(j / num_bins, (j + 1) / num_bins]`, p = 0
            belonging to the first; one bin is the global form. A constant: p decides the bin, but the gradient is
            that of the fixed `a` of the bin, and none flows to `shift`.
        scale: scale `s`, if `logits` are cosines.
    Returns:
        Scalar, float32 or float64.
    Raises:
        ValueError: shapes do not fit.
    Source: Wang et al. 2020, Sec. 3. Differs: published as softmax, modulation, log, which underflows at s = 64.
    """
    [batch, num_classes] = logits.shape
    if target.shape != (batch,) or num_classes < 2:
        got = f"{tuple(logits.shape)} and {tuple(target.shape)}"
        raise ValueError(f"expected logits [batch, classes >= 2] and target [batch], got {got}")
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    shift = torch.as_tensor(shift, dtype=dtype, device=logits.device)
    if shift.ndim != 1 or not len(shift):
        raise ValueError(f"expected shift [num_bins], got {tuple(shift.shape)}")
    loss: Tensor = _ModulatedCrossEntropy.apply(logits, target, shift, scale)  # type: ignore[no-untyped-call]
    return loss


def probability_bin(p: Tensor, num_bins: int) -> Tensor:
    """Index j of the bin `(j / num_bins, (j + 1) / num_bins]` of each p in [0, 1]; p = 0 is in bin 0."""
    edges = torch.arange(1, num_bins, dtype=p.dtype, device=p.device) / num_bins
    return torch.bucketize(p, edges)


class _ModulatedCrossEntropy(torch.autograd.Function):
    """Written out because autograd would copy and keep [batch, classes] once more for the shifted target column."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, shift: Tensor, scale: float) -> Tensor:
        column = target[:, None]
        others = torch.mul(logits.to(shift.dtype), scale)  # [batch, classes], our own copy: from here on in place
        target_logit = others.gather(1, column)  # [batch, 1]
        others.scatter_(1, column, -torch.inf)
        # A head that is sharded over classes reduces these two, and the target logit, over the shards.
        peak = others.amax(1, keepdim=True)  # [batch, 1]
        total = others.sub_(peak).exp_().sum(1, keepdim=True)  # [batch, 1]
        log_odds = target_logit - (peak + total.log())  # of p, [batch, 1]
        d = log_odds - shift[probability_bin(log_odds.sigmoid(), len(shift))]
        miss = torch.sigmoid(-d)  # 1 - p_m, [batch, 1]
        ctx.save_for_backward(others, total, miss, column)
        ctx.scale, ctx.dtype = scale, logits.dtype
        return -functional.logsigmoid(d).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, None, None, None]:
        others, total, miss, column = ctx.saved_tensors
        pull = miss * (grad_loss * ctx.scale / len(miss))  # [batch, 1]
        grad = others * (pull / total)  # [batch, classes], 0 in the target's column
        return grad.scatter_(1, column, -pull).to(ctx.dtype), None, None, None
