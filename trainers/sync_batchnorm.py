"""Batch norm over the pictures of all ranks. Torch's own is for GPUs alone; on CPUs the same arithmetic here."""

import torch
from torch import Tensor, nn

from trainers.ranks import Ranks

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


def synchronised(module: nn.Module, ranks: Ranks, device: torch.device) -> nn.Module:
    """The module with each batch norm replaced; parameters, buffers and their names stay."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-any-return,no-untyped-call]
    for name, child in module.named_children():
        replaced = (
            CpuSyncBatchNorm(child, ranks) if isinstance(child, BatchNorm) else synchronised(child, ranks, device)
        )
        module.add_module(name, replaced)
    return module


class CpuSyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """A batch norm with mean and variance of the rows of all ranks, which all have equally many.

    Args:
        like: the batch norm that it takes the place of, whose tensors it takes over.
    """

    def __init__(self, like: BatchNorm, ranks: Ranks) -> None:
        super().__init__(like.num_features, like.eps, like.momentum, like.affine, like.track_running_stats)
        self._ranks = ranks
        self._parameters.update(like._parameters)
        self._buffers.update(like._buffers)
        self.training = like.training

    def _check_input_dim(self, input: Tensor) -> None:
        """Any: the batch norm that this one replaces stood there."""

    def forward(self, input: Tensor) -> Tensor:
        """[n, channels, ...] of this rank, normalised over all ranks; in evaluation by the running statistics."""
        if not self.training:
            return super().forward(input)
        x = input.float()
        dims = [d for d in range(x.dim()) if d != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean = self._ranks.sum(x.mean(dims)) / self._ranks.size  # [channels]
        centred = x - mean.view(shape)
        variance = self._ranks.sum(centred.square().mean(dims)) / self._ranks.size  # [channels]
        self._track(mean.detach(), variance.detach(), self._ranks.size * x.numel() // x.shape[1])
        y = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * (count / (count - 1)), share)
