"""The unified loss: its points are the published losses, and everything between follows its equations."""

import json
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from search_space.config import PARTS, LossConfig, SpaceConfig
from search_space.errors import UserError
from search_space.loss import LossContext, loss_from_dict
from search_space.margins import make_loss
from search_space.spaces import get_space
from search_space.unified import Unified
from search_space.unified_parameters import PARAMETERS
from search_space.usable import why_unusable

SCALE = 32.0


def made(dtype=torch.float64, batch=200, classes=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    cosines = torch.rand(batch, classes, generator=generator, dtype=torch.float64) * 1.98 - 0.99
    return cosines.to(dtype).requires_grad_(), torch.randint(classes, (batch,), generator=generator)


def context(mean=0.0, dtype=torch.float32):
    return LossContext(
        norms=torch.ones(200), target_norms=torch.ones(200), state={"t": torch.tensor(mean, dtype=dtype)}
    )


def shifted_target(loss, theta):
    """cos(theta + m_arc) - m_cos, falling on beyond pi."""
    added = math.cos(theta + loss.m_arc)
    if theta + loss.m_arc >= math.pi:
        added = math.cos(theta) - loss.m_arc * math.sin(loss.m_arc)
    return added - loss.m_cos


def slow(loss, cosines, target, mean):
    """Value of one sample and its gradient [classes], by autograd through one plain loop from the equations.

    The mean moves by the batch first; hard classes are found without gradient.
    """
    logits = []
    own = cosines[target]
    theta = torch.acos(own)
    beyond = theta.item() + loss.m_arc >= math.pi
    changed = own - loss.m_arc * math.sin(loss.m_arc) if beyond else torch.cos(theta + loss.m_arc)
    changed = changed - loss.m_cos
    assert changed.item() == pytest.approx(shifted_target(loss, theta.item()))
    for j, c in enumerate(cosines):
        if j == target:
            logits.append(loss.scale * changed)
            continue
        weight = c + 1 if loss.adaptive else 1.0
        if c.item() > changed.item():
            c = c + loss.t_hard * weight + loss.curriculum * c * (mean + c - 1)
        else:
            c = c + loss.t_easy * weight
        logits.append(loss.scale * c)
    total = torch.stack(logits)
    minus_log_p = torch.logsumexp(total, 0) - total[target]
    others = torch.logsumexp(torch.cat([total[:target], total[target + 1 :]]), 0)
    log_rest = others - torch.logsumexp(total, 0)  # log(1 - p)
    return torch.exp(loss.gamma * log_rest) * minus_log_p


POINTS = {
    "plain": {},
    "cosface": {"m_cos": 0.35},
    "arcface": {"m_arc": 0.5},
    "both": {"m_arc": 0.3, "m_cos": 0.2},
    "mv fixed": {"m_cos": 0.35, "t_hard": 0.2, "adaptive": False},
    "mv adaptive": {"m_arc": 0.5, "t_hard": 0.2},
    "curricular": {"m_arc": 0.5, "curriculum": 1.0},
    "focal": {"gamma": 2.0},
    "easy": {"t_easy": -0.2, "m_cos": 0.1},
    "all": {"m_arc": 0.2, "m_cos": 0.1, "t_hard": 0.3, "t_easy": 0.1, "curriculum": 0.4, "gamma": 0.7},
    "all fixed": {"m_cos": 0.1, "t_hard": 0.3, "t_easy": -0.1, "curriculum": 0.4, "gamma": 0.7, "adaptive": False},
}


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)
def test_value_and_gradient_are_those_of_the_equations(point):
    loss = Unified(scale=8.0, **point)
    cosines, target = made()
    state = context(mean=0.3)
    values = loss.per_sample(cosines, target, state)
    [gradient] = torch.autograd.grad(values.sum(), cosines)
    own = cosines.detach().gather(1, target[:, None]).mean().item()
    mean = 0.99 * 0.3 + 0.01 * own
    assert state.state["t"].item() == pytest.approx(mean, rel=1e-6)
    mean = state.state["t"].item()
    expected = torch.stack([slow(loss, row, y, mean) for row, y in zip(cosines, target.tolist(), strict=True)])
    [slow_gradient] = torch.autograd.grad(expected.sum(), cosines)
    torch.testing.assert_close(values, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradient, slow_gradient, rtol=1e-9, atol=1e-12)


KNOWN = {
    "norm_softmax": ({}, {}),
    "am": ({"margin": 0.35}, {"m_cos": 0.35}),
    "arc": ({"margin": 0.5}, {"m_arc": 0.5}),
    "mv_am": ({"margin": 0.3, "t": 0.2}, {"m_cos": 0.3, "t_hard": 0.2}),
    "mv_arc": ({"margin": 0.4, "t": 0.3, "adaptive": False}, {"m_arc": 0.4, "t_hard": 0.3, "adaptive": False}),
    "curricular": ({"margin": 0.5}, {"m_arc": 0.5, "curriculum": 1.0}),
}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_contains_the_hand_crafted_loss(name, dtype):
    theirs, ours = KNOWN[name]
    known = make_loss(LossConfig(name=name, **theirs), scale=SCALE)
    loss = Unified(scale=SCALE, **ours)
    cosines, target = made(dtype)
    first, second = context(mean=0.2, dtype=dtype), context(mean=0.2, dtype=dtype)
    close = {"rtol": 1e-5, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-11}
    for _ in range(2):  # the running mean moves along
        a, b = known.per_sample(cosines, target, first), loss.per_sample(cosines, target, second)
        torch.testing.assert_close(a, b, **close)
        [x], [y] = torch.autograd.grad(a.sum(), cosines), torch.autograd.grad(b.sum(), cosines)
        torch.testing.assert_close(x, y, **close)
    if name == "curricular":
        assert first.state["t"] == second.state["t"] != 0.2


@pytest.mark.parametrize("name", KNOWN)
def test_a_space_with_all_parts_reaches_the_hand_crafted_loss(name):
    ours = dict(KNOWN[name][1])
    space = get_space(SpaceConfig(name="unified", search=PARTS, adaptive=ours.pop("adaptive", None)))
    action = [ours.get(key, 0.0) / p.unit for key, p in PARAMETERS.items()] + [0.0]
    assert space.decode(action) == Unified(scale=SCALE, **KNOWN[name][1])


def test_a_hard_sample_keeps_its_gradient_and_float32_is_stable():
    loss = Unified(scale=64.0, m_arc=0.5, t_hard=0.2, gamma=2.0)
    own = torch.linspace(-1, 1, 41)
    cosines = torch.stack([own, -own, torch.full_like(own, -0.5)], 1).requires_grad_()
    values = loss.per_sample(cosines, torch.zeros(41, dtype=torch.int64), context())
    [gradient] = torch.autograd.grad(values.sum(), cosines)
    assert values.isfinite().all()
    assert gradient.isfinite().all()
    assert gradient[2, 0].item() < -60


def test_the_running_mean_moves_with_gradients_only():
    loss, state = Unified(m_cos=0.2), context(mean=0.5)
    cosines, target = made()
    with torch.no_grad():
        loss(cosines, target, state)
    assert state.state["t"].item() == 0.5
    loss(cosines, target, state)
    assert state.state["t"].item() != 0.5
    assert {key: x.shape for key, x in loss.initial_state().items()} == {"t": ()}
    with pytest.raises(ValueError, match="unified needs a LossContext, got None"):
        loss(cosines, target)


@pytest.mark.parametrize(
    ("search", "dim"), [(None, 5), (("target",), 2), (("negatives",), 3), (("outer",), 1), (("scale",), 1), (PARTS, 7)]
)
def test_each_part_can_be_searched_or_fixed(search, dim):
    space = get_space(SpaceConfig(name="unified", search=search, m_cos=0.4, gamma=1.5, t_easy=0.05))
    searched = search or ("target", "negatives")
    assert space.dim == dim
    here = space.decode(space.warmup_action()).parameters()
    there = space.decode(space.warmup_action() + 0.05).parameters()
    assert (here["m_cos"], here["gamma"], here["t_easy"], here["scale"]) == pytest.approx((0.4, 1.5, 0.05, SCALE))
    part = {name: p.part for name, p in PARAMETERS.items()} | {"scale": "scale"}
    assert {name for name in here if here[name] != there[name]} == {name for name in part if part[name] in searched}
    if "target" not in searched:
        assert here["m_arc"] == 0  # the default of what is fixed has no effect


def test_the_order_of_parts_does_not_matter():
    one, other = (SpaceConfig(name="unified", search=search) for search in (PARTS, PARTS[::-1]))
    assert get_space(one).initial_policy() == get_space(other).initial_policy()


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("scale", [32.0, 300.0])
def test_actions_are_clamped_where_the_mean_is_bounded(sign, scale):
    space = get_space(SpaceConfig(name="unified", search=PARTS, scale=scale))
    policy = space.initial_policy()
    bound = policy.high if sign > 0 else policy.low
    loss = space.decode(bound + sign * 3.0)
    assert loss == space.decode(bound)
    for name, p in PARAMETERS.items():
        assert getattr(loss, name) == pytest.approx(p.high if sign > 0 else p.low)
    assert loss.scale == pytest.approx(min(350, scale * 2) if sign > 0 else scale / 2)
    assert why_unusable(loss) == ""


def test_the_start_is_inside_with_room_on_both_sides():
    policy = get_space(SpaceConfig(name="unified", search=PARTS)).initial_policy()
    assert (policy.mean > policy.low).all()
    assert (policy.mean < policy.high).all()
    assert set(policy.std) == {0.12}


def test_plain_is_cross_entropy_and_round_trips():
    cosines, target = made()
    loss = Unified(scale=SCALE)
    expected = cross_entropy(SCALE * cosines, target, reduction="none")
    torch.testing.assert_close(loss.per_sample(cosines, target, context()), expected)
    loss = Unified(scale=20.0, **POINTS["all fixed"])
    assert loss_from_dict(json.loads(json.dumps(loss.to_dict()))) == loss


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"m_arc": -0.1}, r"unified m_arc must be in \[0, 0.6\], got -0.1"),
        ({"curriculum": 1.1}, r"unified curriculum must be in \[0, 1\]"),
        ({"gamma": math.nan}, "unified gamma must be in"),
        ({"scale": 0.0}, r"unified scale must be in \(0, 350\]"),
        ({"momentum": 2.0}, r"unified momentum must be in \[0, 1\]"),
    ],
)
def test_parameters_out_of_range_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        Unified(**values)


def test_negatives_are_edited_in_the_dtype_of_the_cosines():
    cosines, target = made()
    loss = Unified(t_hard=0.1, t_easy=0.3)
    own = cosines.detach().gather(1, target[:, None])
    changed, slope = loss.negative_map(torch.zeros(()), cosines.detach(), own)
    assert changed.dtype == slope.dtype == torch.float64
    np.testing.assert_allclose(sorted(set(np.unique(slope.numpy().round(12)))), [1.1, 1.3], rtol=1e-12)
