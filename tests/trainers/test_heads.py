"""The cosine head."""

import pytest
import torch

from trainers.heads import CosineHead


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
