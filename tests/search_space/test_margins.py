"""Every hand-crafted loss against its slow loop, at its limits, in half precision, and its state and random margins."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from search_space.adaptive import AdaCos, AdaFace, ElasticAM, ElasticArc, MagFace
from search_space.hard_negatives import MVAM, Curricular, MVArc
from search_space.loss import LossContext, effective_margin
from search_space.margin_loss import falling_cosine
from search_space.margins import AM, LOSSES, Arc, ASoftmax, Combined, NormSoftmax
from search_space.spaces import LossParameters
from tests.search_space.slow_losses import (
    REFERENCES,
    VARIANTS,
    Point,
    arc,
    context_of,
    fast_loss,
    label,
    made,
    slow_loss,
)


def test_every_loss_has_a_reference():
    assert {loss.name for loss in VARIANTS} == set(LOSSES) == set(REFERENCES)


@pytest.mark.parametrize("loss", VARIANTS, ids=label)
@pytest.mark.parametrize(("batch", "classes"), [(6, 5), (9, 3), (1, 7)])
def test_equals_the_slow_loop_and_its_finite_differences(loss, batch, classes):
    x, W, y = made(batch, classes)
    frozen = Point.of(x, W, y)
    tensors = [torch.from_numpy(x).requires_grad_(), torch.from_numpy(W).requires_grad_()]
    values = fast_loss(loss, *tensors, y)
    np.testing.assert_allclose(values.detach().numpy(), slow_loss(loss, frozen, frozen), rtol=1e-9)

    values.mean().backward()
    for which, tensor in enumerate(tensors):
        gradient = np.zeros(tensor.shape)
        for index in np.ndindex(*tensor.shape):
            sides = []
            for step in (1e-6, -1e-6):
                moved = [t.detach().numpy().copy() for t in tensors]
                moved[which][index] += step
                sides.append(slow_loss(loss, Point.of(*moved, y), frozen).mean())
            gradient[index] = (sides[0] - sides[1]) / 2e-6
        np.testing.assert_allclose(tensor.grad.numpy(), gradient, atol=2e-7, rtol=1e-6)


def test_the_made_batch_meets_every_case():
    now = Point.of(*made(6, 5))
    own = [now.own(i) for i in range(6)]
    assert min(own) < -math.cos(0.5)  # beyond pi - m
    for f in (lambda c: c - 0.1, lambda c: arc(c, 0.2)):
        hard = [now.c[i, j] > f(own[i]) for i in range(6) for j in now.others(i)]
        assert any(hard)
        assert not all(hard)
    assert min(now.norms) < 1.75 < sorted(now.norms)[2] < 2.3 < max(now.norms)  # MagFace clips some
    z = (now.norms - now.norms.mean()) / now.norms.std(ddof=1)
    assert min(z) < -1 < sorted(z)[2] < 1 < max(z)  # AdaFace clips some


SMOOTH = [loss for loss in VARIANTS if loss.name not in ("circle", "adacos") or loss.parameters().get("dynamic") == 0]


@pytest.mark.parametrize("loss", SMOOTH, ids=label)
def test_gradcheck(loss):
    if "momentum" in loss.parameters():
        loss = type(loss)(scale=8, momentum=1.0)  # a running mean that follows the input has no gradient by design
    x, W, y = made(4, 6, seed=1)
    now = Point.of(x, W, y)
    first = torch.from_numpy(now.c if loss.normalise_embedding else now.products).requires_grad_()
    if loss.name == "a_softmax":
        first = torch.from_numpy(now.c * now.norms[:, None]).requires_grad_()
    wants = loss.name in ("a_softmax", "v_softmax", "magface")
    norms = torch.from_numpy(now.norms).requires_grad_(wants)
    class_norms = torch.from_numpy(now.class_norms).requires_grad_(loss.name == "v_softmax")
    target = torch.from_numpy(y)

    def of(first, norms, class_norms):
        return loss.per_sample(first, target, context_of(loss, norms, class_norms[target]))

    assert torch.autograd.gradcheck(of, (first, norms, class_norms))


def cosines_of(batch=32, classes=50, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    cosines = torch.rand(batch, classes, generator=generator, dtype=torch.float64) * 1.6 - 0.8
    return cosines.to(dtype).requires_grad_(), torch.arange(batch) % classes


def value_and_gradient(loss, cosines, target, context=None):
    value = loss(cosines, target, context)
    return value, *torch.autograd.grad(value, cosines)


@pytest.mark.parametrize(
    "loss",
    [
        Arc(margin=0),
        AM(margin=0),
        MVAM(margin=0, t=0),
        MVArc(margin=0, t=0, adaptive=False),
        Combined(m1=1, m2=0, m3=0),
        AdaFace(margin=0),
        MagFace(l_m=0, u_m=0, lambda_g=0),
        ElasticArc(margin=0, std=0),
        ElasticAM(margin=0, std=0),
    ],
    ids=label,
)
def test_without_a_margin_it_is_norm_softmax(loss):
    cosines, target = cosines_of(dtype=torch.float64)
    context = context_of(loss, torch.full((32,), 20.0), torch.ones(50))
    torch.testing.assert_close(
        value_and_gradient(loss, cosines, target, context), value_and_gradient(NormSoftmax(), cosines, target)
    )


def test_a_softmax_without_a_margin_is_cross_entropy_of_the_products():
    cosines, target = cosines_of(dtype=torch.float64)
    norms = torch.linspace(1, 20, 32, dtype=torch.float64)
    products = (cosines.detach() * norms[:, None]).requires_grad_()
    context = LossContext(norms=norms, target_norms=torch.ones(32))
    value, gradient = value_and_gradient(ASoftmax(margin=1), products, target, context)
    expected = functional.cross_entropy(products, target)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, *torch.autograd.grad(expected, products))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("loss", "shift"),
    [(NormSoftmax(scale=32), 0.0), (AM(scale=32, margin=0.35), 32 * 0.35), (AM(scale=64, margin=0.1), 6.4)],
    ids=["norm_softmax", "am", "am-64"],
)
def test_points_of_the_searched_space(loss, shift, dtype):
    cosines, target = cosines_of(dtype=dtype)
    searched = LossParameters(scale=loss.scale, shift=(shift,))
    torch.testing.assert_close(value_and_gradient(loss, cosines, target), value_and_gradient(searched, cosines, target))
    assert loss.margins == pytest.approx(searched.margins)
    assert loss.a == pytest.approx(searched.a)


def test_points_of_one_another():
    cosines, target = cosines_of(dtype=torch.float64)
    near = (cosines.detach().abs() - 0.1).requires_grad_()  # theta <= pi - m everywhere
    for loss, combined in ((Arc(margin=0.5), Combined(m2=0.5, m3=0)), (AM(margin=0.2), Combined(m2=0, m3=0.2))):
        torch.testing.assert_close(value_and_gradient(loss, near, target), value_and_gradient(combined, near, target))
    sphere = ASoftmax(margin=3, lambda_min=0, lambda_max=0)
    context = LossContext(norms=torch.full((32,), 32.0, dtype=torch.float64), target_norms=torch.ones(32))
    torch.testing.assert_close(
        sphere(32 * cosines, target, context), Combined(scale=32, m1=3, m2=0, m3=0)(cosines, target)
    )


def test_psi_of_integer_m_is_the_multiple_angle_polynomial():
    c = torch.linspace(-1, 1, 501, dtype=torch.float64)
    theta = c.acos()
    k = (4 * theta / math.pi).floor()
    expected = (-1) ** k * (8 * c**4 - 8 * c**2 + 1) - 2 * k
    torch.testing.assert_close(falling_cosine(4 * theta), expected)


@pytest.mark.parametrize("m", [1.0, 1.35, 2.0, 3.7, 4.0])
def test_psi_falls_without_a_jump_for_every_m(m):
    values = falling_cosine(m * torch.linspace(0, math.pi, 20_001, dtype=torch.float64))
    assert (values.diff() <= 0).all()
    assert values.diff().abs().max() < 1.01 * m * math.pi / 20_000


@pytest.mark.parametrize("margin", [0.1, 0.5, 1.0, 1.57])
def test_arc_falls_over_all_angles(margin):
    theta = torch.linspace(0, math.pi, 10_001, dtype=torch.float64)
    f = Arc(margin=margin).target_cosine(theta.cos())
    assert (f.diff() < 1e-12).all()
    before = theta < math.pi - margin - 1e-9
    torch.testing.assert_close(f[before], (theta + margin).cos()[before], atol=1e-7, rtol=0)
    assert f[-1].item() == pytest.approx(-1 - margin * math.sin(margin))


def test_effective_margin_of_a_constant_margin():
    p = torch.linspace(0.01, 0.99, 9)
    torch.testing.assert_close(
        effective_margin(AM(scale=32, margin=0.3), p, 1000), torch.full((9,), 0.3, dtype=torch.float64)
    )


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("own", [-1.0, 1.0, 1.0000001])
def test_the_ends_of_the_cosine_stay_finite(name, own):
    loss = LOSSES[name]()
    cosines = torch.full((4, 1000), -own)
    cosines[:, 3] = own
    norms = torch.full((4,), 1.0, requires_grad=True)
    context = LossContext(norms=norms, target_norms=torch.ones(4, requires_grad=True), state=loss.initial_state())
    cosines.requires_grad_()
    value = loss(cosines, torch.full((4,), 3), context)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(cosines.grad).all()
    assert norms.grad is None or torch.isfinite(norms.grad).all()
    assert (cosines.grad[:, 3] <= 0).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_cosines(name, dtype):
    loss = LOSSES[name]()
    cosines, target = cosines_of(dtype=dtype)
    exact = cosines.detach().double().requires_grad_()
    results = []
    for given in (cosines, exact):
        context = context_of(loss, torch.linspace(1, 40, 32), torch.ones(32))
        loss_value = loss(given, target, context)
        loss_value.backward()
        results.append(loss_value)
    assert results[0].dtype == torch.float32
    assert cosines.grad.dtype == dtype
    torch.testing.assert_close(results[0].double(), results[1].detach().double(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(cosines.grad.double(), exact.grad, rtol=0.02, atol=2e-3)


def norms_context(loss, norms, step=0, seed=0):
    return LossContext(
        norms=norms, target_norms=torch.ones_like(norms), step=step, seed=seed, state=loss.initial_state()
    )


def test_the_states_follow_the_training_and_only_that():
    cosines, target = cosines_of()
    norms = torch.linspace(1, 30, 32)
    own = cosines.detach().gather(1, target[:, None])
    for loss in (Curricular(momentum=0.9), AdaFace(momentum=0.9), AdaCos()):
        context = norms_context(loss, norms)
        live = dict(context.state)
        with torch.no_grad():
            before = loss(cosines, target, context)
        torch.testing.assert_close(context.state, loss.initial_state(), rtol=0, atol=0)
        first = loss(cosines, target, context)
        after = {key: value.clone() for key, value in context.state.items()}
        assert first != before
        with torch.no_grad():
            assert loss(cosines, target, context) == first  # with the state as it stands
        first.backward()
        loss(cosines, target, context)
        assert all(context.state[key] is live[key] for key in live)  # in place
        if loss.name == "curricular":
            assert after["t"].item() == pytest.approx(0.1 * own.mean().item(), rel=1e-5)
            assert context.state["t"].item() == pytest.approx(0.19 * own.mean().item(), rel=1e-5)
        elif loss.name == "adaface":
            assert context.state["mean"].item() == pytest.approx(0.81 * 20 + 0.19 * norms.mean().item(), rel=1e-5)
            assert context.state["std"].item() == pytest.approx(0.81 * 100 + 0.19 * norms.std().item(), rel=1e-5)
        else:
            assert 0 < after["scale"] != context.state["scale"]


def test_random_margins_hang_on_seed_and_step_alone():
    cosines, target = cosines_of()
    norms = torch.ones(32)
    for loss in (ElasticArc(std=0.1), ElasticAM(std=0.1)):
        torch.manual_seed(1)
        first = loss.per_sample(cosines, target, norms_context(loss, norms, step=3, seed=4))
        torch.manual_seed(2)
        assert torch.equal(first, loss.per_sample(cosines, target, norms_context(loss, norms, step=3, seed=4)))
        for step, seed in ((4, 4), (3, 5)):
            other = loss.per_sample(cosines, target, norms_context(loss, norms, step=step, seed=seed))
            assert (first != other).all()


def test_random_margins_are_the_same_everywhere_for_ever():
    zeros = torch.zeros(3, 50, dtype=torch.float64)
    loss = ElasticAM(scale=1, margin=0.5, std=0.1)
    values = loss.per_sample(zeros, torch.zeros(3, dtype=torch.int64), norms_context(loss, torch.ones(3), 2, 1))
    margins = torch.expm1(values).log() - math.log(49)
    assert margins.tolist() == pytest.approx([0.3731866337952394, 0.4797607283057004, 0.3800519879726072], abs=1e-12)


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.needs_context])
def test_a_context_that_is_missing(name):
    cosines, target = cosines_of()
    with pytest.raises(ValueError, match=f"{name} needs a LossContext"):
        LOSSES[name]()(cosines, target)


def test_adacos_follows_the_median_angle_of_a_trained_batch():
    angles = torch.tensor([0.7, 0.1, 0.3, 0.2], dtype=torch.float64)  # all below pi / 4: the lower median is 0.2
    cosines = torch.zeros(4, 50, dtype=torch.float64)
    cosines[:, 0] = angles.cos()
    context = norms_context(AdaCos(), torch.ones(4))
    AdaCos()(cosines.requires_grad_(), torch.zeros(4, dtype=torch.int64), context)
    assert context.state["scale"].item() == pytest.approx(math.log(49) / math.cos(0.2), rel=1e-6)


def test_adacos_of_two_classes():
    with pytest.raises(ValueError, match="adacos needs at least 3 classes, got 2"):
        AdaCos(dynamic=False)(
            torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), norms_context(AdaCos(), torch.ones(1))
        )
