"""MobileFaceNet. Source: Chen, Liu, Gao, Han 2018, arXiv 1804.07573, Table 1."""

from torch import Tensor, nn

from trainers.backbones.sizes import final_size

# expansion t, channels c, repeats n, stride s of the first repeat: the bottleneck rows of Table 1
BOTTLENECKS = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))


def conv_bn(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, pad: int = 0, groups: int = 1
) -> list[nn.Module]:
    """Linear convolution: no bias, batch norm, no activation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, pad, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class Bottleneck(nn.Module):
    """Inverted residual: 1x1 up, 3x3 depthwise, linear 1x1 down; added to its input where shapes agree."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.body = nn.Sequential(
            *conv_bn(inputs, hidden, 1),
            nn.PReLU(hidden),
            *conv_bn(hidden, hidden, 3, stride=stride, pad=1, groups=hidden),
            nn.PReLU(hidden),
            *conv_bn(hidden, outputs, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out + x if self.residual else out


class MobileFaceNet(nn.Module):
    """`[N, 3, S, S] -> [N, embedding_dim]`; the global depthwise kernel is S / 16, 7x7 at S = 112.

    Source: Chen et al. 2018, Table 1. Differs: none at `embedding_dim=128`, `input_size=112`.
    """

    def __init__(self, embedding_dim: int, input_size: int) -> None:
        super().__init__()
        kernel = final_size("mobilefacenet", input_size)
        self.stem = nn.Sequential(
            *conv_bn(3, 64, 3, stride=2, pad=1),
            nn.PReLU(64),
            *conv_bn(64, 64, 3, pad=1, groups=64),
            nn.PReLU(64),
        )
        units: list[nn.Module] = []
        inputs = 64
        for expansion, outputs, repeats, stride in BOTTLENECKS:
            for repeat in range(repeats):
                units.append(Bottleneck(inputs, outputs, expansion, stride if repeat == 0 else 1))
                inputs = outputs
        self.units = nn.Sequential(*units)
        self.last = nn.Sequential(*conv_bn(inputs, 512, 1), nn.PReLU(512))
        self.pool = nn.Sequential(*conv_bn(512, 512, kernel, groups=512))
        self.embed = nn.Sequential(*conv_bn(512, embedding_dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.units(self.stem(x)))  # [batch, 512, S/16, S/16]
        embedding: Tensor = self.embed(self.pool(x))  # [batch, embedding_dim, 1, 1]
        return embedding.flatten(1)
