"""Classification heads: from embeddings to the cosines that a loss works on."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from trainers.backbones.initialise import HEAD_PURPOSE, keyed_generator


class CosineHead(nn.Module):
    """Cosine (or inner product) of each embedding with one learned weight vector per class.

    Args:
        embedding_dim: length of the embeddings.
        num_classes: training identities.
        seed: of the initial directions, normal(0, 0.01); torch's global generator is neither read nor moved.
    """

    def __init__(self, embedding_dim: int, num_classes: int, seed: int = 0) -> None:
        super().__init__()
        weight = torch.empty(num_classes, embedding_dim, device="cpu")
        self.weight = nn.Parameter(weight.normal_(0.0, 0.01, generator=keyed_generator(seed, HEAD_PURPOSE)))

    def forward(self, embedding: Tensor, *, normalise_embedding: bool = True, normalise_weight: bool = True) -> Tensor:
        """Cosines; inner products without either normalisation.

        Args:
            embedding: [batch, embedding_dim], of any floating type, not normalised.
        Returns:
            [batch, num_classes] float32, cosines in [-1, 1] up to rounding. Never under autocast: at s = 64 the 8 bits
            of bfloat16 would be an error of a quarter in a logit.
        """
        with torch.autocast(embedding.device.type, enabled=False):
            x, weight = embedding.float(), self.weight.float()
            x = F.normalize(x) if normalise_embedding else x
            return F.linear(x, F.normalize(weight) if normalise_weight else weight)
