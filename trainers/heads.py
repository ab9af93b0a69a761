"""Classification heads: from embeddings to the cosines that a loss works on."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from search_space.class_products import ONE_SHARD, ClassProducts, Shards
from trainers.backbones.initialise import HEAD_PURPOSE, keyed_generator
from trainers.class_sampler import SampledClasses
from trainers.ranks import contiguous_part

BLOCK_ROWS = 4096
"""Rows drawn at a time for a shard. A multiple of 16: torch draws normals 16 at a time, and in whole blocks of them the
numbers are those of a single draw."""


class CosineHead(nn.Module):
    """Cosine (or inner product) of each embedding with one learned weight vector per class.

    Args:
        embedding_dim: length of the embeddings.
        num_classes: training identities.
        seed: of the initial directions, normal(0, 0.01); torch's global generator is neither read nor moved.
        rank: which shard of the classes to hold.
        size: shards of the classes; those of one seed are the rows of one matrix.
    """

    def __init__(self, embedding_dim: int, num_classes: int, seed: int = 0, *, rank: int = 0, size: int = 1) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.classes = contiguous_part(num_classes, rank, size)
        """The classes whose weights are here."""
        self.weight = nn.Parameter(_initial_rows(embedding_dim, num_classes, seed, self.classes))

    def forward(self, embedding: Tensor, *, normalise_embedding: bool = True, normalise_weight: bool = True) -> Tensor:
        """Cosines; inner products without either normalisation.

        Args:
            embedding: [batch, embedding_dim], of any floating type, not normalised.
        Returns:
            [batch, classes here] float32, cosines in [-1, 1] up to rounding. Never under autocast: at s = 64 the 8 bits
            of bfloat16 would be an error of a quarter in a logit.
        """
        with torch.autocast(embedding.device.type, enabled=False):
            x, weight = embedding.float(), self.weight.float()
            x = F.normalize(x) if normalise_embedding else x
            return F.linear(x, F.normalize(weight) if normalise_weight else weight)

    def products(
        self,
        embedding: Tensor,
        *,
        normalise_embedding: bool = True,
        normalise_weight: bool = True,
        chunk: int = 0,
        sample: SampledClasses | None = None,
        shards: Shards = ONE_SHARD,
    ) -> ClassProducts:
        """The same, to be made in chunks.

        Args:
            embedding: [batch, embedding_dim], not normalised; all of the batch, in every shard.
            chunk: classes whose products are held at a time; 0: all that are here.
            sample: the classes that take part; None: all.
            shards: reduces over the shards of the head.
        """
        with torch.autocast(embedding.device.type, enabled=False):
            x = F.normalize(embedding.float()) if normalise_embedding else embedding.float()
            weight = self.weight.float() if sample is None else sample.weight
        return ClassProducts(
            embeddings=x,
            weight=weight,
            normalise_weight=normalise_weight,
            num_classes=self.num_classes,
            classes=None if sample is None else sample.classes,
            first=self.classes.start,
            chunk=chunk or max(1, len(weight)),
            shards=shards,
        )


def _initial_rows(dim: int, num_classes: int, seed: int, rows: slice) -> Tensor:
    """Rows of the initial matrix [num_classes, dim], in little more memory than they take."""
    generator = keyed_generator(seed, HEAD_PURPOSE)
    weight = torch.empty(rows.stop - rows.start, dim, device="cpu")
    if len(weight) == num_classes:
        return weight.normal_(0.0, 0.01, generator=generator)
    start = 0
    while start < rows.stop:
        # The last block takes what would be too little for one of its own, since fewer than 16 are drawn otherwise.
        stop = start + BLOCK_ROWS if num_classes - start >= 2 * BLOCK_ROWS else num_classes
        block = torch.empty(stop - start, dim, device="cpu").normal_(0.0, 0.01, generator=generator)
        low, high = max(start, rows.start), min(stop, rows.stop)
        if low < high:
            weight[low - rows.start : high - rows.start] = block[low - start : high - start]
        start = stop
    return weight
