"""The fast loss against a slow, obvious one, and its behaviour at the extremes."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch.nn import functional

from search_space.modulation import modulated_cross_entropy, probability_bin

SHIFTS = {"global": (5.0,), "local": (0.0, 7.5, 1.0, 3.0, 0.5, 9.0, 2.0, 4.0, 0.0, 6.0)}


def slow_loss(logits, target, shift, scale=1.0):
    """softmax -> bin -> h(a, p) * p -> log, one sample after the other, in float64."""
    total = 0.0
    for row, label in zip(logits.detach().double().numpy(), target.tolist(), strict=True):
        e = np.exp(scale * row - np.max(scale * row))
        p = e[label] / e.sum()
        j = max(math.ceil(p * len(shift)) - 1, 0)
        a = 1 - math.exp(shift[j])
        total -= math.log(p / (a * p + 1 - a))
    return total / len(logits)


def slow_gradient(logits, target, shift, scale=1.0, step=1e-5):
    """Central differences of `slow_loss`, element by element."""
    gradient = np.zeros(logits.shape)
    for index in np.ndindex(*logits.shape):
        up, down = logits.detach().double().clone(), logits.detach().double().clone()
        up[index] += step
        down[index] -= step
        gradient[index] = (slow_loss(up, target, shift, scale) - slow_loss(down, target, shift, scale)) / (2 * step)
    return gradient


def made(batch=12, classes=7, dtype=torch.float64, spread=2.0, seed=0):
    """Logits whose target probabilities go over all bins, and targets."""
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(batch, classes, generator=generator, dtype=torch.float64)
    target = torch.randint(classes, (batch,), generator=generator)
    logits[torch.arange(batch), target] += torch.linspace(-2, 6, batch, dtype=torch.float64)
    return logits.to(dtype).requires_grad_(), target


@pytest.mark.parametrize("form", SHIFTS)
@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize(
    ("dtype", "loss_tolerance", "gradient_tolerance"),
    [
        (torch.float64, 1e-12, 1e-7),
        (torch.float32, 1e-5, 1e-5),
        (torch.bfloat16, 1e-5, 4e-3),
        (torch.float16, 1e-5, 1e-3),
    ],
)
def test_equals_the_slow_loop(form, scale, dtype, loss_tolerance, gradient_tolerance):
    logits, target = made(dtype=dtype)
    loss = modulated_cross_entropy(logits, target, SHIFTS[form], scale=scale)
    loss.backward()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert logits.grad.dtype == dtype
    assert loss.item() == pytest.approx(slow_loss(logits, target, SHIFTS[form], scale), rel=loss_tolerance)
    expected = slow_gradient(logits, target, SHIFTS[form], scale)
    np.testing.assert_allclose(logits.grad.double().numpy(), expected, atol=gradient_tolerance, rtol=gradient_tolerance)


def test_every_bin_is_met_by_the_made_logits():
    logits, target = made(batch=64)
    p = logits.softmax(1)[torch.arange(64), target]
    assert set(probability_bin(p, 10).tolist()) == set(range(10))
    assert modulated_cross_entropy(logits, target, SHIFTS["local"]).item() == pytest.approx(
        slow_loss(logits, target, SHIFTS["local"]), rel=1e-12
    )


@pytest.mark.parametrize("form", SHIFTS)
def test_gradcheck(form):
    logits, target = made()
    p = logits.detach().softmax(1)[torch.arange(len(target)), target] * 10
    assert (p - p.round()).abs().min() > 1e-4  # away from edges, where the piecewise loss jumps
    assert torch.autograd.gradcheck(lambda x: modulated_cross_entropy(x, target, SHIFTS[form], scale=1.5), logits)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_constant_a_is_cosface(dtype):
    scale, margin = 32.0, 0.35
    a = 1 - math.exp(scale * margin)
    cosines = (made(batch=32, classes=50, spread=0.2)[0].detach().to(dtype) / 8).clamp(-1, 1).requires_grad_()
    target = torch.arange(32)
    [gradient] = torch.autograd.grad(modulated_cross_entropy(cosines, target, [math.log(1 - a)], scale=scale), cosines)
    lowered = cosines - margin * functional.one_hot(target, 50)
    expected = functional.cross_entropy(scale * lowered, target)
    [expected_gradient] = torch.autograd.grad(expected, cosines)
    for num_bins in (1, 10):
        loss = modulated_cross_entropy(cosines, target, [math.log(1 - a)] * num_bins, scale=scale)
        torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("num_bins", [1, 10])
def test_zero_a_is_plain_cross_entropy(num_bins):
    logits, target = made(dtype=torch.float32)
    [gradient] = torch.autograd.grad(modulated_cross_entropy(logits, target, [0.0] * num_bins), logits)
    [expected] = torch.autograd.grad(functional.cross_entropy(logits, target), logits)
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(
        modulated_cross_entropy(logits, target, [0.0] * num_bins), functional.cross_entropy(logits, target)
    )


@pytest.mark.parametrize("form", SHIFTS)
@pytest.mark.parametrize("own", [-1.0, 1.0])
def test_extreme_cosines_at_scale_64_stay_finite(form, own):
    cosines = torch.full((2, 1000), -own)
    cosines[:, 3] = own
    cosines.requires_grad_()
    loss = modulated_cross_entropy(cosines, torch.tensor([3, 3]), SHIFTS[form], scale=64.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(cosines.grad).all()
    shift = SHIFTS[form][0 if own < 0 else -1]
    d = 2 * 64 * own - math.log(999) - shift
    assert loss.item() == pytest.approx(math.log1p(math.exp(-d)) if d > 0 else -d, rel=1e-5)
    assert cosines.grad[0, 3].item() == pytest.approx(-64 / 2 / (1 + math.exp(d)), rel=1e-4)


def test_a_million_in_the_logits_stays_finite():
    logits = torch.tensor([[1e6, -1e6, 0.0], [-1e6, 1e6, 0.0]], requires_grad=True)
    loss = modulated_cross_entropy(logits, torch.tensor([0, 0]), [10.0])
    loss.backward()
    assert loss.item() == pytest.approx(1e6 + 5, rel=1e-7)
    np.testing.assert_allclose(logits.grad.numpy(), [[0, 0, 0], [-0.5, 0.5, 0]], atol=1e-7)


@pytest.mark.parametrize("gap", [1.0, 10.0, 17.0, 25.0, 60.0])
def test_gradient_is_accurate_as_p_comes_close_to_1(gap):
    """In float32 1 - p is 0 for a gap of 17 already; the true gradient is not."""
    logits = torch.tensor([[gap, 0.0]], requires_grad=True)
    loss = modulated_cross_entropy(logits, torch.tensor([0]), [0.0])
    loss.backward()
    assert loss.item() == pytest.approx(math.log1p(math.exp(-gap)), rel=1e-6)
    assert logits.grad.tolist()[0] == pytest.approx([-1 / (1 + math.exp(gap)), 1 / (1 + math.exp(gap))], rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_bins", [1, 2, 3, 10, 100])
def test_bins_are_open_below_and_closed_above(num_bins, dtype):
    edges = torch.arange(num_bins + 1, dtype=dtype) / num_bins
    assert probability_bin(edges, num_bins).tolist() == [0, *range(num_bins)]
    above = torch.nextafter(edges[:-1], torch.ones((), dtype=dtype))
    assert probability_bin(above, num_bins).tolist() == list(range(num_bins))


@pytest.mark.parametrize(
    ("logits", "expected_bin"), [([0.0, 0.0], 4), ([1e-6, 0.0], 5), ([-1e5, 0.0], 0), ([1e5, 0.0], 9)]
)
def test_bin_of_a_sample(logits, expected_bin):
    shift = torch.arange(10.0) + 1
    loss = modulated_cross_entropy(torch.tensor([logits]), torch.tensor([0]), shift)
    d = logits[0] - (expected_bin + 1)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-d)) if d > -50 else -d, rel=1e-6)


@given(
    seed=st.integers(0, 2**31),
    classes=st.integers(2, 9),
    shift=st.lists(st.floats(0, 40), min_size=1, max_size=12),
    scale=st.floats(0.1, 64),
)
@settings(max_examples=40, deadline=None)
def test_properties(seed, classes, shift, scale):
    generator = torch.Generator().manual_seed(seed)
    cosines = (torch.rand(4, classes, generator=generator, dtype=torch.float64) * 2 - 1).requires_grad_()
    target = torch.randint(classes, (4,), generator=generator)
    loss = modulated_cross_entropy(cosines, target, shift, scale=scale)
    loss.backward()
    plain = functional.cross_entropy(scale * cosines, target)
    assert plain.item() - 1e-9 <= loss.item() <= plain.item() + max(shift) + 1e-9
    own = cosines.grad.gather(1, target[:, None])
    assert (own <= 0).all()
    assert (cosines.grad.scatter(1, target[:, None], 0) >= 0).all()
    torch.testing.assert_close(cosines.grad.sum(1), torch.zeros(4, dtype=torch.float64), atol=1e-10, rtol=0)


def test_the_logits_are_left_alone_and_backward_runs_again():
    logits, target = made(dtype=torch.float32)
    before = logits.detach().clone()
    loss = modulated_cross_entropy(logits, target, SHIFTS["local"])
    [first] = torch.autograd.grad(loss, logits, retain_graph=True)
    [second] = torch.autograd.grad(2 * loss, logits)
    assert torch.equal(logits, before)
    assert torch.equal(second, 2 * first)


def test_no_gradient_through_the_gradient():
    logits, target = made()
    [gradient] = torch.autograd.grad(modulated_cross_entropy(logits, target, [1.0]), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_autocast_computes_in_float32():
    features, weight = torch.randn(8, 16), torch.randn(5, 16, requires_grad=True)
    target = torch.arange(8) % 5
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = features @ weight.T
        assert logits.dtype == torch.bfloat16
        loss = modulated_cross_entropy(logits, target, SHIFTS["local"])
    assert loss.dtype == torch.float32
    assert torch.equal(loss, modulated_cross_entropy(logits.float(), target, SHIFTS["local"]))
    loss.backward()
    assert torch.isfinite(weight.grad).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_logit_that_is_not_finite_makes_the_loss_so(bad):
    logits, target = made(dtype=torch.float32)
    logits.data[0, (target[0] + 1) % 7] = bad
    assert not torch.isfinite(modulated_cross_entropy(logits, target, SHIFTS["local"]))


@pytest.mark.parametrize(
    ("shape", "target", "shift", "message"),
    [
        ((4, 3), [0, 1], [0.0], r"target \[batch\], got \(4, 3\) and \(2,\)"),
        ((2, 1), [0, 0], [0.0], "classes >= 2"),
        ((2, 3), [0, 0], [], r"shift \[num_bins\], got \(0,\)"),
        ((2, 3), [0, 0], torch.zeros(2, 1), r"got \(2, 1\)"),
    ],
)
def test_shapes_that_do_not_fit(shape, target, shift, message):
    with pytest.raises(ValueError, match=message):
        modulated_cross_entropy(torch.zeros(shape), torch.tensor(target), shift)
