"""The processes that train one model together, one per device: each has its rows of a batch, its share of the classes.

    rank 0 (gives the result)        rank 1                          ...
      rows 0 .. b/R of a batch         rows b/R .. 2b/R                decoded and embedded where they are trained
      gather: embeddings [b, dim] ---- the same ------------------     in every rank
      classes 0 .. C/R of the head     classes C/R .. 2C/R             products, loss and gradient of the whole batch
      gradients of the backbone: summed over ranks by DistributedDataParallel

A loss is that of the whole batch, the same number in every rank, and the gradient of the embeddings is whole in each.
"""

import inspect
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import psutil
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import TCPStore

from search_space.class_products import Shards
from search_space.errors import UserError

Value = TypeVar("Value")
TIMEOUT_S = 1800.0
"""A rank that hears nothing from another for this long gives up."""


def contiguous_part(count: int, rank: int, size: int) -> slice:
    """What rank `rank` of `size` has of `count` things: as many as any other, or one more or less."""
    return slice(rank * count // size, (rank + 1) * count // size)


def listen(host: str, *, timeout_s: float = TIMEOUT_S) -> tuple[TCPStore, str]:
    """Where the ranks of one trainer meet, on a free port of this machine's address `host`.

    Returns:
        The store, to be handed to rank 0, and its `host:port` for the others.
    """
    listener = socket.create_server((host, 0))
    port = listener.getsockname()[1]
    store = TCPStore(
        host, port, is_master=True, timeout=timedelta(seconds=timeout_s), wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )  # fmt: skip
    return store, f"{host}:{port}"


class Ranks(Shards):
    """This process among those of its trainer. All of them call the same operations in the same order.

    A process is a rank of one trainer at most: the process group is torch's default one.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    @classmethod
    def alone(cls) -> "Ranks":
        """A trainer of one process: no process group, every operation gives back what it got."""
        return cls(0, 1)

    @classmethod
    def connect(
        cls, *, rank: int, size: int, address: str | TCPStore, host: str, device: str = "cpu",
        timeout_s: float = TIMEOUT_S,
    ) -> "Ranks":  # fmt: skip
        """Join the other ranks; returns when all are there. NCCL between GPUs, gloo between CPUs.

        Args:
            address: `host:port` where rank 0 listens; rank 0 gives the store that `listen` made.
            host: this machine's own address, by which the other ranks reach it.
            device: `cuda` or `cpu`.
            timeout_s: of the meeting, and of each operation.
        Raises:
            UserError: this machine has no such address.
            RuntimeError: the others did not come (torch.distributed's own errors).
        """
        timeout = timedelta(seconds=timeout_s)
        if isinstance(address, str):
            name, _, port = address.rpartition(":")
            address = TCPStore(name, int(port), timeout=timeout, wait_for_workers=False)
        # On GPUs gloo too: weights and embeddings on their way to rank 0 are in host memory.
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        with _gloo_at(host):
            dist.init_process_group(backend, store=address, rank=rank, world_size=size, timeout=timeout)
        return cls(rank, size)

    def close(self) -> None:
        """Leave; what the other ranks still wait for fails."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def share(self, count: int) -> slice:
        """This rank's part of `count` things."""
        return contiguous_part(count, self.rank, self.size)

    def sum_(self, tensor: Tensor) -> None:
        """Make it the sum over ranks, in place; the same bits in each."""
        if self.size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.SUM)

    def max_(self, tensor: Tensor) -> None:
        """Make it the elementwise maximum over ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX)

    def mean_(self, tensor: Tensor) -> None:
        """Make it the mean over ranks, in place."""
        if self.size > 1:
            self.sum_(tensor)
            tensor /= self.size

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over ranks; its gradient is the sum of the ranks' gradients."""
        return cast(Tensor, _Sum.apply(tensor, self)) if self.size > 1 else tensor  # type: ignore[no-untyped-call]

    def gather(self, rows: Tensor) -> Tensor:
        """[b, dim] of each rank -> [size * b, dim], the same in every rank.

        Backward takes a rank's own rows of a gradient that is complete in every rank, times `size`: data parallelism
        takes the mean over ranks, and the loss is already the mean over the whole batch.
        """
        return cast(Tensor, _Gather.apply(rows, self)) if self.size > 1 else rows  # type: ignore[no-untyped-call]

    def gather_objects(self, value: Any) -> list[Any]:
        """A picklable value of each rank, in every rank."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def broadcast_object(self, value: Any) -> Any:
        """The picklable value of rank 0, in every rank."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def agreed(self, make: Callable[[], Value]) -> Value:
        """What `make` gives in this rank.

        Raises:
            UserError: in every rank, where `make` refuses in any of them, lest the others wait for it.
        """
        if self.size == 1:
            return make()
        try:
            value, refusal = make(), ""
        except UserError as error:
            refusal = str(error)
        for line in filter(None, self.gather_objects(refusal)):
            raise UserError(line)
        return value

    def stack(self, part: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """[rows, ...] of each rank, below each other in rank 0's host memory; in the others [0, ...]."""
        if self.size == 1:
            return part
        counts = self.gather_objects(len(part))
        if self.rank > 0:
            if len(part):
                dist.send(torch.from_numpy(np.require(part, requirements=["C", "W"])), 0)
            return part[:0]
        whole = np.empty((sum(counts), *part.shape[1:]), part.dtype)
        whole[: counts[0]] = part
        for rank, end in enumerate(np.cumsum(counts).tolist()):
            if rank > 0 and counts[rank]:
                dist.recv(torch.from_numpy(whole[end - counts[rank] : end]), rank)
        return whole

    def parallel(self, module: nn.Module) -> nn.Module:
        """The module to call when training: its gradients come out as the mean over ranks."""
        if self.size == 1:
            return module
        kind = nn.parallel.DistributedDataParallel
        newer = "forward_sync_buffers" in inspect.signature(kind).parameters
        # Its buffers are a rank's own statistics of batch norm, see `Model.share_statistics`.
        own: dict[str, Any] = {"forward_sync_buffers" if newer else "broadcast_buffers": False}
        return kind(module, gradient_as_bucket_view=True, **own)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return _summed(tensor, ranks)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _summed(gradients[0], ctx.ranks), None


def _summed(tensor: Tensor, ranks: Ranks) -> Tensor:
    total = tensor.clone(memory_format=torch.contiguous_format)
    ranks.sum_(total)
    return total


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        everyone = rows.new_empty(ranks.size * len(rows), *rows.shape[1:])
        dist.all_gather(list(everyone.chunk(ranks.size)), rows.contiguous())
        return everyone

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0][ctx.ranks.share(len(gradients[0]))] * ctx.ranks.size, None


@contextmanager
def _gloo_at(host: str) -> Iterator[None]:
    """Make gloo use the network interface of this address; by itself it takes what the host's name resolves to.

    Raises:
        UserError: this machine has no such address.
    """
    interfaces = psutil.net_if_addrs()
    names = [name for name, addresses in interfaces.items() if any(one.address == host for one in addresses)]
    if not names:
        have = ", ".join(one.address for addresses in interfaces.values() for one in addresses)
        raise UserError(f"a rank must be given an address of its own machine ({have}), got {host}")
    given = os.environ.get("GLOO_SOCKET_IFNAME")
    os.environ["GLOO_SOCKET_IFNAME"] = given or names[0]
    try:
        yield
    finally:
        if given is None:
            del os.environ["GLOO_SOCKET_IFNAME"]
