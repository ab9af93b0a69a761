"""Products of embeddings and class weights, never all at once: in chunks of classes, in shards of classes.

A loss reads two numbers per sample from its `cosines` [batch, classes]: the product of the target class, and a
logsumexp over all other classes. Both can be had, and their gradient too, with the products of one chunk of classes at
a time: the logsumexp from a running peak and a running total (Milakov and Gimelshein, arXiv 1805.02867), the gradient
by making each chunk's products once more. What is left to do over shards of the classes is to reduce [batch] numbers:
own products and totals are summed, peaks compared, and the gradients of the embeddings summed.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from search_space.modulation import NegativeMap, TargetMap

LOG2_E = 1 / math.log(2)
"""exp(x) = exp2(x * LOG2_E), which PyTorch computes in a third of the time on the CPU."""

SHORTEST = 1e-12
"""A class weight is divided by its length or by this, as `torch.nn.functional.normalize` does it."""


class Shards(ABC):
    """The shards of one trainer's classes. All of them make the same calls in the same order, in backward, too."""

    @abstractmethod
    def sum_(self, tensor: Tensor) -> None:
        """Make `tensor` the sum over all shards, in place; the same bits in each."""

    @abstractmethod
    def max_(self, tensor: Tensor) -> None:
        """Make `tensor` the elementwise maximum over all shards, in place."""


class _OnlyShard(Shards):
    def sum_(self, tensor: Tensor) -> None:
        pass

    def max_(self, tensor: Tensor) -> None:
        pass


ONE_SHARD = _OnlyShard()
"""All classes are here."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassProducts:
    """What stands in for `cosines` [batch, classes] wherever a loss takes them; see the top of this module.

    The loss of the whole batch, and all that a loss does beside, is the same in every shard; call backward in each. The
    gradient of the embeddings is then complete in every shard, that of `weight` belongs to the shard.

    With a sample of the classes (Partial FC), the classes that are left out are in no sum; every target must be in.

    Raises:
        ValueError: shapes or types do not fit.
    """

    embeddings: Tensor
    """[batch, dim] float32 or float64, all of the batch in every shard, with gradient; normalised if that is wanted."""

    weight: Tensor
    """[rows, dim] weights, as they are, of the classes that are here, with gradient; of the type of the embeddings."""

    normalise_weight: bool = True
    """Whether products are divided by the length of the class weight."""

    num_classes: int
    """Classes of all shards together, sampled or not."""

    classes: Tensor | None = None
    """[rows] int64, rising: number of the class of each row. None: they follow each other from `first` on."""

    first: int = 0

    chunk: int
    """Classes whose products are held at a time."""

    shards: Shards = ONE_SHARD

    def __post_init__(self) -> None:
        [_, dim], [rows, width] = self.embeddings.shape, self.weight.shape
        if dim != width or (self.classes is not None and self.classes.shape != (rows,)):
            got = [tuple(t.shape) for t in (self.embeddings, self.weight, self.classes) if t is not None]
            raise ValueError(f"expected embeddings [batch, dim], weight [rows, dim] and classes [rows], got {got}")
        if self.embeddings.dtype != self.weight.dtype or self.dtype not in (torch.float32, torch.float64):
            dtypes = f"{self.embeddings.dtype} and {self.weight.dtype}"
            raise ValueError(f"expected embeddings and weight both float32 or both float64, got {dtypes}")
        if self.chunk < 1:
            raise ValueError(f"expected a chunk of at least 1 class, got {self.chunk}")

    def __len__(self) -> int:
        return len(self.embeddings)

    @property
    def shape(self) -> tuple[int, int]:
        """(batch, classes), as of the cosines."""
        return len(self.embeddings), self.num_classes

    @property
    def dtype(self) -> torch.dtype:
        return self.embeddings.dtype

    @property
    def device(self) -> torch.device:
        return self.embeddings.device

    def rows_of(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """Row of each target [batch] int64 in `weight`, and whether it is there at all; else the row is any."""
        if self.classes is None:
            row = target - self.first
            return row, (row >= 0) & (row < len(self.weight))
        row = torch.searchsorted(self.classes, target).clamp_max(max(len(self.classes) - 1, 0))
        here = self.classes[row] == target if len(self.classes) else torch.zeros_like(target, dtype=torch.bool)
        return row, here

    @torch.no_grad()
    def target_products(self, target: Tensor) -> Tensor:
        """[batch] product of each sample with its own class, wherever that is; without gradient."""
        rows, here = self._target_weights(target)
        with torch.autocast(self.device.type, enabled=False):
            own = (self.embeddings * rows).sum(1)
            if self.normalise_weight:
                own /= rows.norm(dim=1).clamp_min_(SHORTEST)
        own = torch.where(here, own, 0)
        self.shards.sum_(own)
        return own

    def target_norms(self, target: Tensor) -> Tensor:
        """[batch] length of the weight of each sample's own class, wherever that is; the gradient goes there."""
        rows, here = self._target_weights(target)
        # Where a class is elsewhere, the row stands for nothing; the length of 0 has gradient 0.
        norms = torch.where(here[:, None], rows, 0).norm(dim=1)
        summed: Tensor = _SumOverShards.apply(norms, self.shards)  # type: ignore[no-untyped-call]
        return summed

    def _target_weights(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """Weight [batch, dim] of each sample's own class, and whether it is here; else it is any."""
        row, here = self.rows_of(target)
        if not len(self.weight):
            return self.weight.new_zeros(len(target), self.weight.shape[1]), here
        return self.weight[torch.where(here, row, 0)], here

    def own_and_rest(
        self,
        target: Tensor,
        *,
        scale: float | Tensor,
        target_map: "TargetMap | None" = None,
        negative_map: "NegativeMap | None" = None,
    ) -> tuple[Tensor, Tensor]:
        """Product of the target class, and `logsumexp over j != y of s * g(product_j)`; each [batch], as `log_odds`."""
        own = self.target_products(target)
        with torch.autocast(self.device.type, enabled=False):
            mapped: _Mapped | None = None
            if negative_map:
                with torch.no_grad():
                    mapped = _Mapped(negative_map, (target_map(own) if target_map else own)[:, None])
            own, rest = _OwnAndRest.apply(  # type: ignore[no-untyped-call]
                self.embeddings, self.weight, self, target, own, scale, mapped
            )
        return own, rest


Cosines = Tensor | ClassProducts
"""[batch, classes] cosines, or inner products: all of them, or what they can be made from."""


class _SumOverShards(torch.autograd.Function):
    """A sum whose gradient is whole in each shard already."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, shards: Shards) -> Tensor:
        summed = tensor.clone()
        shards.sum_(summed)
        return summed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient, None


class _Mapped(NamedTuple):
    negative_map: "NegativeMap"
    changed_target: Tensor  # [batch, 1]


class _Part(NamedTuple):
    """What is known about one chunk of classes."""

    rows: slice
    weight: Tensor  # [n, dim]
    logits: Tensor  # [batch, n], to the base of 2; to be overwritten by whoever likes
    products: Tensor  # [batch, n], or the logits, which are `unit` times as large
    slope: Tensor | None  # [batch, n] or broadcast to it


class _Sweep:
    """Goes over the classes that are here, chunk by chunk, in buffers that all chunks share."""

    def __init__(
        self, embeddings: Tensor, weight: Tensor, inverse: Tensor | None, chunk: int, scale: float | Tensor,
        mapped: _Mapped | None,
    ) -> None:  # fmt: skip
        self._scale = scale * LOG2_E
        self.unit = 1.0 if mapped else self._scale
        self._left = embeddings if mapped else embeddings * self._scale
        self._weight, self._inverse, self._mapped = weight, inverse, mapped
        self._chunk = min(chunk, len(weight))
        self._buffers: dict[str, Tensor] = {}

    def buffer(self, name: str, num_rows: int) -> Tensor:
        """[batch, num_rows] of memory that the next chunk overwrites."""
        batch = len(self._left)
        if name not in self._buffers:
            self._buffers[name] = self._left.new_empty(batch * self._chunk)
        return self._buffers[name][: batch * num_rows].view(batch, num_rows)

    def parts(self, *, measure: bool = False) -> Iterator[_Part]:
        """The chunks, one after the other; with `measure`, the inverse lengths are made on the way."""
        for start in range(0, len(self._weight), self._chunk or 1):
            rows = slice(start, min(start + self._chunk, len(self._weight)))
            weight = self._weight[rows]
            products = torch.mm(self._left, weight.t(), out=self.buffer("products", len(weight)))
            if self._inverse is not None:
                inverse = self._inverse[rows]
                if measure:
                    torch.linalg.vector_norm(weight, dim=1, out=inverse).clamp_min_(SHORTEST).reciprocal_()
                products *= inverse
            if self._mapped:
                others, slope = self._mapped.negative_map(products, self._mapped.changed_target)
                logits = torch.mul(others.expand_as(products), self._scale, out=self.buffer("logits", len(weight)))
                yield _Part(rows, weight, logits, products, slope)
            else:
                yield _Part(rows, weight, products, products, None)


class _OwnAndRest(torch.autograd.Function):
    """As `modulation._TargetAndRest`, but makes the products itself, and once more in backward."""

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        weight: Tensor,
        made_of: ClassProducts,
        target: Tensor,
        own: Tensor,  # [batch] products of the targets
        scale: float | Tensor,
        mapped: _Mapped | None,
    ) -> tuple[Tensor, Tensor]:
        row, here = made_of.rows_of(target)
        inverse = weight.new_empty(len(weight)) if made_of.normalise_weight else None
        sweep = _Sweep(embeddings, weight, inverse, made_of.chunk, scale, mapped)
        # Not -inf, of which a chunk of nothing but targets would make NaN.
        peak = embeddings.new_full((len(embeddings), 1), torch.finfo(embeddings.dtype).min / 2)
        total = torch.zeros_like(peak)
        for part in sweep.parts(measure=True):
            _put(part.logits, part.rows, row, here, torch.full_like(own, -torch.inf))
            higher = torch.maximum(peak, part.logits.amax(1, keepdim=True))
            total.mul_((peak - higher).exp2_()).add_(part.logits.sub_(higher).exp2_().sum(1, keepdim=True))
            peak = higher
        highest = peak.clone()
        made_of.shards.max_(highest)
        total.mul_((peak - highest).exp2_())
        made_of.shards.sum_(total)
        rest = highest.add_(total.log2_())  # [batch, 1], to the base of 2
        ctx.save_for_backward(embeddings, weight, inverse, row, here, rest)
        ctx.chunk, ctx.shards, ctx.scale, ctx.mapped = made_of.chunk, made_of.shards, scale, mapped
        return own.clone(), rest[:, 0] / LOG2_E

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_own: Tensor, grad_rest: Tensor) -> tuple[Tensor | None, ...]:
        embeddings, weight, inverse, row, here, rest = ctx.saved_tensors
        grad_embeddings = torch.zeros_like(embeddings) if ctx.needs_input_grad[0] else None
        grad_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        sweep = _Sweep(embeddings, weight, inverse, ctx.chunk, ctx.scale, ctx.mapped)
        factor = (grad_rest * ctx.scale)[:, None]
        with torch.autocast(embeddings.device.type, enabled=False):
            for part in sweep.parts():
                gradient = torch.sub(part.logits, rest, out=sweep.buffer("gradient", len(part.weight))).exp2_()
                gradient *= factor  # [batch, n], of the products
                if part.slope is not None:
                    gradient *= part.slope
                _put(gradient, part.rows, row, here, grad_own)
                radial = None
                if inverse is not None:
                    radial = (
                        _radial(gradient, part, inverse[part.rows], sweep.unit) if grad_weight is not None else None
                    )
                    gradient *= inverse[part.rows]
                if grad_embeddings is not None:
                    grad_embeddings.addmm_(gradient, part.weight)
                if grad_weight is not None:
                    grad_rows = torch.mm(gradient.t(), embeddings, out=grad_weight[part.rows])
                    if radial is not None:
                        grad_rows.addcmul_(part.weight, radial[:, None], value=-1)
        if grad_embeddings is not None:
            ctx.shards.sum_(grad_embeddings)
        return grad_embeddings, grad_weight, None, None, None, None, None


def _put(matrix: Tensor, rows: slice, row: Tensor, here: Tensor, values: Tensor) -> None:
    """Write `values` [batch] into the target's column of a chunk [batch, n], where that is in it."""
    column = row - rows.start
    inside = here & (column >= 0) & (column < matrix.shape[1])
    column = torch.where(inside, column, 0)[:, None]
    matrix.scatter_(1, column, torch.where(inside[:, None], values[:, None], matrix.gather(1, column)))


def _radial(gradient: Tensor, part: _Part, inverse: Tensor, unit: float | Tensor) -> Tensor:
    """[n] what the length of each class weight W takes from its gradient, as a multiple of W."""
    along = part.products.mul_(gradient).sum(0) * inverse * inverse / unit
    return along.masked_fill_(inverse * SHORTEST > 0.999999, 0)  # of lengths that are not divided by
