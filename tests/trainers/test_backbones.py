"""Backbones: shapes, sizes, weights from a seed, memory formats."""

import pytest
import torch
from torch import nn

from search_space.errors import UserError
from trainers.backbones import BACKBONES, build_backbone, initialise
from trainers.backbones.iresnet import resnet50, resnet101
from trainers.backbones.mobilefacenet import MobileFaceNet


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pictures(num, size):
    return torch.randn(num, 3, size, size, generator=torch.Generator().manual_seed(0))


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "size", "dim"),
    [
        *(("small", size, 32) for size in (16, 17, 31, 32, 48, 63, 64, 96, 112)),
        ("mobilefacenet", 112, 128),
        ("mobilefacenet", 32, 64),
        ("resnet50", 32, 512),
    ],
)
def test_shape_and_finite_backward(name, size, dim):
    backbone = build_backbone(name, dim, size)
    embedding = backbone(pictures(2, size))
    assert embedding.shape == (2, dim)
    assert embedding.dtype == torch.float32
    (embedding * torch.linspace(-1, 2, 2 * dim).view(2, dim) ** 2).sum().backward()
    for key, parameter in backbone.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


def test_embeddings_are_not_normalised():
    norms = build_backbone("small", 64, 32)(pictures(8, 32)).norm(dim=1)
    assert norms.std() > 0.1


# 0.99 M with 128 numbers (Chen et al. 2018); 43.6 M and 65.2 M are ArcFace's networks of 50 and 100 layers
@pytest.mark.parametrize(
    ("make", "low", "high"),
    [
        (lambda: MobileFaceNet(128, 112), 0.98e6, 1.02e6),
        (lambda: MobileFaceNet(512, 112), 1.15e6, 1.25e6),
        (lambda: resnet50(512, 112), 43.5e6, 43.7e6),
        (lambda: resnet101(512, 112), 65.0e6, 65.3e6),
        (lambda: BACKBONES["small"](128, 32), 0.1e6, 0.25e6),
        (lambda: BACKBONES["small"](512, 112), 0.1e6, 0.25e6),
    ],
)
def test_number_of_parameters(make, low, high):
    with torch.device("meta"):
        assert low < count(make()) < high


@pytest.mark.parametrize(("maker", "layers"), [(resnet50, 50), (resnet101, 100)])
def test_depth_of_the_residual_networks(maker, layers):
    with torch.device("meta"):
        network = maker(512, 112)
    spatial = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(spatial) + 1 == layers
    assert network.embed[0].in_features == 512 * 7 * 7


def test_global_depthwise_kernel_follows_the_input_size():
    with torch.device("meta"):
        assert MobileFaceNet(128, 112).pool[0].kernel_size == (7, 7)
        assert MobileFaceNet(128, 48).pool[0].kernel_size == (3, 3)


@pytest.mark.parametrize("name", ["small", "mobilefacenet"])
def test_weights_depend_on_the_seed_alone(name):
    torch.manual_seed(0)
    first = build_backbone(name, 64, 32, seed=5).state_dict()
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), after), "the global generator moved"
    again, other = (build_backbone(name, 64, 32, seed=seed).state_dict() for seed in (5, 6))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first if key.endswith("weight"))


def test_initialise_resets_everything():
    fresh = build_backbone("mobilefacenet", 64, 32, seed=5)
    used = build_backbone("mobilefacenet", 64, 32, seed=7)
    used(pictures(2, 32))
    with torch.no_grad():
        for tensor in (*used.parameters(), *used.buffers()):
            tensor.add_(1)
    initialise(used, 5)
    expected = fresh.state_dict()
    assert all(torch.equal(expected[key], value) for key, value in used.state_dict().items())


def test_initial_weights_have_the_variance_of_he():
    backbone = build_backbone("mobilefacenet", 128, 112)
    dense, depthwise = backbone.units[0].body[0].weight, backbone.pool[0].weight
    assert dense.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.05)
    assert depthwise.std().item() == pytest.approx((2 / 49) ** 0.5, rel=0.05)


@pytest.mark.parametrize("name", ["small", "mobilefacenet"])
def test_signal_neither_vanishes_nor_explodes(name):
    backbone = build_backbone(name, 64, 32)
    embedding = backbone(pictures(8, 32)).detach()
    assert 0.5 < embedding.std() < 2
    similarity = torch.corrcoef(embedding)
    assert similarity.fill_diagonal_(0).abs().max() < 0.99, "all pictures look alike"


@pytest.mark.parametrize("name", ["small", "mobilefacenet"])
def test_memory_format_changes_nothing_but_rounding(name):
    backbone = build_backbone(name, 64, 48)
    images = pictures(2, 48)
    backbone(images)  # batch statistics, so that evaluation is not the identity
    backbone.eval()
    with torch.no_grad():
        contiguous = backbone(images)
        swapped = backbone.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(swapped, contiguous, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["small", "mobilefacenet"])
def test_training_step_has_the_same_bits_twice(name):
    results = []
    for _ in range(2):
        backbone = build_backbone(name, 32, 32).to(memory_format=torch.channels_last)
        backbone(pictures(4, 32).to(memory_format=torch.channels_last)).pow(2)[:, :5].sum().backward()
        results.append([p.grad for p in backbone.parameters()] + list(backbone.buffers()))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_state_dict_names_are_stable():
    """Checkpoints name them: a change here breaks every stored model."""
    small = list(build_backbone("small", 32, 32).state_dict())
    assert small[:3] == ["body.0.weight", "body.1.weight", "body.1.bias"]
    assert {"pool.0.weight", "embed.0.weight", "embed.1.running_var"} <= set(small)
    with torch.device("meta"):
        mobile, residual = list(MobileFaceNet(32, 32).state_dict()), list(resnet50(32, 32).state_dict())
    assert {"stem.0.weight", "stem.3.weight", "units.0.body.0.weight", "units.14.body.7.running_var"} <= set(mobile)
    assert {"last.0.weight", "pool.0.weight", "embed.0.weight"} <= set(mobile)
    assert {"stem.0.weight", "units.0.skip.0.weight", "units.23.body.5.running_var", "norm.bias"} <= set(residual)
    assert {"embed.0.weight", "embed.0.bias", "embed.1.running_mean"} <= set(residual)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("mobilefacnet", r"'mobilefacnet'; did you mean mobilefacenet\?"),
        ("resnet100", r"'resnet100'; did you mean resnet101 or resnet50\?"),
        ("samll", r"'samll'; did you mean small\?"),
        ("?", r"resnet101, small, got '\?'$"),
    ],
)
def test_unknown_name_is_refused_with_its_neighbours(name, found):
    with pytest.raises(UserError, match=found):
        build_backbone(name, 64, 112)


@pytest.mark.parametrize(
    ("name", "size", "way_out"), [("mobilefacenet", 100, "96 or 112"), ("resnet50", 15, "take 16,")]
)
def test_size_that_does_not_divide_is_refused(name, size, way_out):
    with pytest.raises(UserError, match=f"{name} needs an input_size that is a multiple of 16, got {size}.*{way_out}"):
        build_backbone(name, 64, size)
