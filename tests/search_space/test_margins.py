"""Every hand-crafted loss against a slow loop over samples, written from its paper's formula."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.nn import functional

from search_space.adaptive import AdaCos, AdaFace, ElasticAM, ElasticArc, MagFace
from search_space.hard_negatives import MVAM, Circle, Curricular, MVArc
from search_space.loss import LossContext, effective_margin
from search_space.margin_loss import falling_cosine
from search_space.margins import AM, LOSSES, Arc, ASoftmax, Combined, NormSoftmax, Softmax, VSoftmax
from search_space.spaces import LossParameters

SEED, STEP = 5, 7


class Point(NamedTuple):
    """A batch as the formulas see it."""

    products: np.ndarray
    c: np.ndarray
    norms: np.ndarray
    class_norms: np.ndarray
    y: list[int]

    @classmethod
    def of(cls, x, W, y):
        norms, class_norms = np.linalg.norm(x, axis=1), np.linalg.norm(W, axis=1)
        return cls(x @ W.T, x @ W.T / norms[:, None] / class_norms, norms, class_norms, list(y))

    def others(self, i):
        return [j for j in range(self.c.shape[1]) if j != self.y[i]]

    def own(self, i):
        return self.c[i, self.y[i]]


def arc(c, m):
    theta = math.acos(c)
    return math.cos(theta + m) if theta <= math.pi - m else c - m * math.sin(m)


def psi(theta):
    k = 0
    while theta > (k + 1) * math.pi:
        k += 1
    return (-1) ** k * math.cos(theta) - 2 * k


def softmax(loss, now, frozen, i):
    return now.products[i, now.y[i]], [now.products[i, j] for j in now.others(i)]


def norm_softmax(loss, now, frozen, i):
    return loss.scale * now.own(i), [loss.scale * now.c[i, j] for j in now.others(i)]


def a_softmax(loss, now, frozen, i):
    weight = max(loss.lambda_min, loss.lambda_max * (1 + loss.gamma * STEP) ** -loss.power)
    f = (weight * now.own(i) + psi(loss.margin * math.acos(now.own(i)))) / (1 + weight)
    return now.norms[i] * f, [now.norms[i] * now.c[i, j] for j in now.others(i)]


def v_softmax(loss, now, frozen, i):
    own, others = softmax(loss, now, frozen, i)
    return own, [*others, now.class_norms[now.y[i]] * now.norms[i]]


def cosine_form(f):
    """A loss that only changes the target cosine."""

    def slow(loss, now, frozen, i):
        return loss.scale * f(loss, now, frozen, i), [loss.scale * now.c[i, j] for j in now.others(i)]

    return slow


def support_vector_guided(f):
    def slow(loss, now, frozen, i):
        logits = []
        for j in now.others(i):
            c, hard = now.c[i, j], now.c[i, j] > f(loss, now.own(i))
            h = (loss.t * (c + 1) if loss.adaptive else loss.t) if hard else 0
            logits.append(loss.scale * (c + h))
        return loss.scale * f(loss, now.own(i)), logits

    return slow


def curricular(loss, now, frozen, i):
    t = (1 - loss.momentum) * np.mean([frozen.own(k) for k in range(len(frozen.y))])
    f = arc(now.own(i), loss.margin)
    return loss.scale * f, [loss.scale * (c if c <= f else c * (t + c)) for c in now.c[i, now.others(i)]]


def adaface(loss, now, frozen, i):
    lengths = frozen.norms.clip(0.001, 100)
    spread = lengths.std(ddof=1) if len(lengths) > 1 else 0.0
    mean = loss.momentum * 20 + (1 - loss.momentum) * lengths.mean()
    std = loss.momentum * 100 + (1 - loss.momentum) * spread
    z = min(max(loss.h * (lengths[i] - mean) / (std + 0.001), -1), 1)
    theta = min(max(math.acos(now.own(i)) - loss.margin * z, 0.001), math.pi - 0.001)
    return math.cos(theta) - (loss.margin + loss.margin * z)


def magface(loss, now, frozen, i):
    r = min(max(now.norms[i], loss.l_a), loss.u_a)
    return arc(now.own(i), (loss.u_m - loss.l_m) / (loss.u_a - loss.l_a) * (r - loss.l_a) + loss.l_m)


def drawn(loss, num, high):
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([SEED, 0x6D617267, STEP])))
    return np.clip(loss.margin + loss.std * generator.standard_normal(num), 0, high)


def adacos(loss, now, frozen, i):
    s = math.sqrt(2) * math.log(now.c.shape[1] - 1)
    if loss.dynamic:
        b = np.mean([sum(math.exp(s * frozen.c[k, j]) for j in frozen.others(k)) for k in range(len(frozen.y))])
        angles = sorted(math.acos(frozen.own(k)) for k in range(len(frozen.y)))
        s = math.log(b) / math.cos(min(math.pi / 4, angles[(len(angles) - 1) // 2]))
    return s * now.own(i), [s * now.c[i, j] for j in now.others(i)]


def circle(loss, now, frozen, i):
    m = loss.margin
    own = max(1 + m - frozen.own(i), 0) * (now.own(i) - (1 - m))
    others = [max(frozen.c[i, j] + m, 0) * (now.c[i, j] - m) for j in now.others(i)]
    return loss.scale * own, [loss.scale * other for other in others]


REFERENCES = {
    "softmax": softmax,
    "norm_softmax": norm_softmax,
    "a_softmax": a_softmax,
    "v_softmax": v_softmax,
    "arc": cosine_form(lambda loss, now, frozen, i: arc(now.own(i), loss.margin)),
    "am": cosine_form(lambda loss, now, frozen, i: now.own(i) - loss.margin),
    "mv_am": support_vector_guided(lambda loss, c: c - loss.margin),
    "mv_arc": support_vector_guided(lambda loss, c: arc(c, loss.margin)),
    "combined": cosine_form(
        lambda loss, now, frozen, i: psi(loss.m1 * math.acos(now.own(i)) + loss.m2) - loss.m3,
    ),
    "curricular": curricular,
    "adaface": cosine_form(adaface),
    "magface": cosine_form(magface),
    "elastic_arc": cosine_form(lambda loss, now, frozen, i: arc(now.own(i), drawn(loss, len(now.y), 1.57)[i])),
    "elastic_am": cosine_form(lambda loss, now, frozen, i: now.own(i) - drawn(loss, len(now.y), 2)[i]),
    "adacos": adacos,
    "circle": circle,
}


def slow_loss(loss, now, frozen):
    """[batch]; what passes no gradient is taken from `frozen`."""
    values = []
    for i in range(len(now.y)):
        own, others = REFERENCES[loss.name](loss, now, frozen, i)
        value = -own + math.log(math.exp(own) + sum(math.exp(other) for other in others))
        if loss.name == "magface":
            r = min(max(now.norms[i], loss.l_a), loss.u_a)
            value += loss.lambda_g * (1 / r + r / loss.u_a**2)
        values.append(value)
    return np.array(values)


VARIANTS = [
    Softmax(),
    NormSoftmax(scale=8),
    ASoftmax(),
    ASoftmax(margin=2.5, lambda_min=0.5, lambda_max=0),
    VSoftmax(),
    Arc(scale=8),
    Arc(scale=8, margin=1.3),
    AM(scale=8),
    MVAM(scale=8),
    MVAM(scale=8, margin=0.1, t=0.4, adaptive=False),
    MVArc(scale=8),
    MVArc(scale=8, margin=0.2, t=0.4, adaptive=False),
    Combined(scale=8),
    Combined(scale=8, m1=2.2, m2=0.4, m3=0.1),
    Curricular(scale=8, momentum=0.3),
    AdaFace(scale=8, momentum=0.1, h=0.8),
    AdaFace(scale=8, momentum=0, h=1.0),
    MagFace(scale=8, l_a=1.75, u_a=2.3, lambda_g=3),
    ElasticArc(scale=8, std=0.2),
    ElasticAM(scale=8, std=0.2),
    AdaCos(),
    AdaCos(dynamic=False),
    Circle(scale=8),
    Circle(scale=8, margin=0.6),
]


def label(loss):
    return ",".join([loss.name, *(f"{k}={v:g}" for k, v in loss.parameters().items())])


def made(batch, classes, dim=5, seed=0):
    """Embeddings, class weights and targets; some samples lie near their class, one nearly opposite to it."""
    generator = np.random.default_rng(seed)
    W = generator.standard_normal((classes, dim))
    y = generator.integers(classes, size=batch)
    pull = np.linspace(-3, 2, batch)[:, None] if batch > 1 else 1.0
    return 0.7 * generator.standard_normal((batch, dim)) + pull * W[y] / 2, W, y


def context_of(loss, norms, target_norms):
    state = {key: value.double() for key, value in loss.initial_state().items()}
    return LossContext(norms=norms, target_norms=target_norms, step=STEP, seed=SEED, state=state)


def fast_loss(loss, x, W, y):
    """[batch], from embeddings and weights as a trainer would go about it."""
    norms, class_norms = x.norm(dim=1), W.norm(dim=1)
    left = x / norms[:, None] if loss.normalise_embedding else x
    right = W / class_norms[:, None] if loss.normalise_weight else W
    context = context_of(loss, norms, class_norms[y]) if loss.needs_context else None
    return loss.per_sample(left @ right.T, torch.from_numpy(y), context)


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
