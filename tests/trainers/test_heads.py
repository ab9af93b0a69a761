"""The cosine head."""

import pytest
import torch

from search_space.modulation import target_and_rest
from trainers.heads import BLOCK_ROWS, CosineHead
from trainers.ranks import contiguous_part


def test_cosines_equal_a_loop():
    head = CosineHead(5, 3, seed=1)
    embedding = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)) * 7
    cosines = head(embedding)
    assert cosines.shape == (4, 3)
    for row in range(4):
        for column in range(3):
            a, b = embedding[row].double(), head.weight[column].double()
            assert cosines[row, column].item() == pytest.approx((a @ b / (a.norm() * b.norm())).item(), abs=1e-6)


def test_cosines_are_bounded_whatever_the_length():
    head = CosineHead(64, 50)
    directions = head.weight.detach()
    cosines = head(torch.cat([1e6 * directions, -1e-6 * directions, torch.zeros(1, 64)]))
    assert cosines.abs().max() <= 1 + 1e-6
    torch.testing.assert_close(cosines[:50].diagonal(), torch.ones(50))
    assert (cosines[-1] == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_cosines_are_float32_even_under_autocast(dtype):
    head = CosineHead(16, 9)
    embedding = torch.randn(4, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = head(embedding.float())
    with torch.autocast("cpu", torch.bfloat16):
        cosines = head(embedding)
    assert cosines.dtype == torch.float32
    torch.testing.assert_close(cosines, expected, rtol=0, atol=0)


def test_backward_is_finite_and_orthogonal_to_what_it_normalises():
    head = CosineHead(8, 4)
    embedding = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    head(embedding)[:, 0].sum().backward()
    assert torch.isfinite(head.weight.grad).all()
    assert head.weight.grad.abs().sum() > 0
    torch.testing.assert_close((embedding * embedding.grad).sum(1), torch.zeros(3), rtol=0, atol=1e-6)


def test_initial_weights_depend_on_the_seed_alone():
    torch.manual_seed(0)
    first = CosineHead(128, 400, seed=3)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), after), "the global generator moved"
    assert torch.equal(CosineHead(128, 400, seed=3).weight, first.weight)
    assert not torch.equal(CosineHead(128, 400, seed=4).weight, first.weight)
    assert first.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert abs(first.weight.mean().item()) < 2e-4
    assert list(first.state_dict()) == ["weight"]
    assert first.weight.shape == (400, 128)


@pytest.mark.parametrize(("num_classes", "dim"), [(23, 8), (40, 3), (33, 7), (5, 2)])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shards_are_the_rows_of_the_whole_head(num_classes, dim, size, monkeypatch):
    monkeypatch.setattr("trainers.heads.BLOCK_ROWS", 16)
    shards = [CosineHead(dim, num_classes, seed=3, rank=rank, size=size) for rank in range(size)]
    assert torch.equal(torch.cat([shard.weight for shard in shards]), CosineHead(dim, num_classes, seed=3).weight)
    assert {len(shard.weight) - num_classes // size for shard in shards} <= {0, 1}
    for rank, shard in enumerate(shards):
        assert shard.classes == contiguous_part(num_classes, rank, size)


def test_a_shard_of_a_real_size_has_the_bits_of_the_whole():
    num_classes = 2 * BLOCK_ROWS + 37
    whole = CosineHead(33, num_classes, seed=3).weight
    for rank in range(3):
        shard = CosineHead(33, num_classes, seed=3, rank=rank, size=3)
        assert torch.equal(shard.weight, whole[shard.classes])


@pytest.mark.parametrize("normalised", [True, False])
def test_products_are_the_cosines(normalised):
    head = CosineHead(5, 30, seed=1)
    embedding = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)) * 7
    target = torch.tensor([0, 29, 3, 3])
    how = {"normalise_embedding": normalised, "normalise_weight": normalised}
    cosines = head(embedding, **how)
    for chunk in (0, 7):
        with torch.autocast("cpu", torch.bfloat16):
            products = head.products(embedding, **how, chunk=chunk)
        assert products.chunk == (chunk or 30)
        torch.testing.assert_close(products.target_products(target), cosines.gather(1, target[:, None])[:, 0])
        for found, expected in zip(
            target_and_rest(products, target, scale=3.0), target_and_rest(cosines, target, scale=3.0), strict=True
        ):
            torch.testing.assert_close(found, expected)
