"""Improved residual networks for faces, LResNet-E-IR. Source: Deng et al. 2019, ArcFace, arXiv 1801.07698."""

from torch import Tensor, nn

from trainers.backbones.sizes import final_size


class Unit(nn.Module):
    """BN - 3x3 conv - BN - PReLU - 3x3 conv (stride) - BN, added to its input (projected where shapes differ)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x) + self.skip(x)
        return out


class IResNet(nn.Module):
    """`[N, 3, S, S] -> [N, embedding_dim]`, four stages that each halve the picture, then BN - flatten - linear - BN.

    Source: Deng et al. 2019. Differs: no dropout before the linear layer, and the last batch norm learns its scale.
    """

    def __init__(self, name: str, layout: tuple[int, int, int, int], embedding_dim: int, input_size: int) -> None:
        super().__init__()
        size = final_size(name, input_size)
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64))
        units: list[nn.Module] = []
        inputs = 64
        for outputs, repeats in zip((64, 128, 256, 512), layout, strict=True):
            for repeat in range(repeats):
                units.append(Unit(inputs, outputs, 2 if repeat == 0 else 1))
                inputs = outputs
        self.units = nn.Sequential(*units)
        self.norm = nn.BatchNorm2d(512)
        self.embed = nn.Sequential(nn.Linear(512 * size * size, embedding_dim), nn.BatchNorm1d(embedding_dim))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.units(self.stem(x)))  # [batch, 512, S/16, S/16]
        # contiguous: the same bits in every memory format, and no warning from flattening channels-last
        embedding: Tensor = self.embed(x.contiguous().flatten(1))
        return embedding


def resnet50(embedding_dim: int, input_size: int) -> IResNet:
    """3-4-14-3 units, 24 in all with two convolutions each."""
    return IResNet("resnet50", (3, 4, 14, 3), embedding_dim, input_size)


def resnet101(embedding_dim: int, input_size: int) -> IResNet:
    """3-13-30-3 units, 49 in all with two convolutions each."""
    return IResNet("resnet101", (3, 13, 30, 3), embedding_dim, input_size)
