"""The loss of AM-LFS beside plain loops from its equations, in mpmath where p or 1 - p underflow."""

import json
import math

import mpmath
import numpy as np
import pytest
import torch

from search_space.am_lfs import AMLFS, continuous_intercepts
from search_space.config import SpaceConfig
from search_space.errors import UserError
from search_space.loss import loss_from_dict
from search_space.modulation import modulated_cross_entropy
from search_space.policy import ask_usable
from search_space.spaces import get_space
from search_space.usable import why_unusable

CONTINUOUS = AMLFS(scale=16.0, t_slopes=(0.5, 1.5, 0.8, 1.3), tau_slopes=(1.2, 0.6, 1.4))
FREE = AMLFS(
    scale=16.0,
    t_slopes=(0.5, 1.5, 0.8, 1.3),
    tau_slopes=(1.2, 0.6, 1.4),
    t_intercepts=(0.2, -0.1, 0.0, 0.3),
    tau_intercepts=(0.05, 0.3, -0.2),
)


def made(dtype=torch.float64, batch=60, classes=5, spread=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    cosines = (torch.rand(batch, classes, generator=generator, dtype=torch.float64) * 2 - 1) * spread
    return cosines.to(dtype).requires_grad_(), torch.randint(classes, (batch,), generator=generator)


def interval_of(x, low, high, num):
    """Index of the interval (z_i, z_(i+1)] of num equal ones."""
    for i in range(num):
        if x <= low + (high - low) * (i + 1) / num:
            return i
    return num - 1


def walked(x, start, length, slopes):
    """The continuous function: walk up from `start`, where it is `start`."""
    value, width = start, length / len(slopes)
    for i, slope in enumerate(slopes):
        end = start + (i + 1) * width
        if x <= end or i == len(slopes) - 1:
            return value + slope * (x - (end - width))
        value += slope * width
    raise AssertionError


def slow(loss, cosines, target):
    """-log tau(p) and its gradient [classes] for one sample, in 60 digits, from the equations."""
    with mpmath.workdps(60):
        c = [mpmath.mpf(x) for x in cosines]
        i = interval_of(c[target], -1, 1, len(loss.t_slopes))
        if loss.t_intercepts:
            t = loss.t_slopes[i] * c[target] + loss.t_intercepts[i]
        else:
            t = walked(c[target], mpmath.mpf(-1), mpmath.mpf(2), loss.t_slopes)
        weights = [mpmath.exp(loss.scale * (t if j == target else x)) for j, x in enumerate(c)]
        p = [w / sum(weights) for w in weights]
        k = interval_of(p[target], 0, 1, len(loss.tau_slopes))
        if loss.tau_intercepts:
            tau = loss.tau_slopes[k] * p[target] + loss.tau_intercepts[k]
        else:
            tau = walked(p[target], mpmath.mpf(0), mpmath.mpf(1), loss.tau_slopes)
        by_p = -loss.tau_slopes[k] / tau
        rest = sum(x for j, x in enumerate(p) if j != target)  # 1 - p
        gradient = [by_p * loss.scale * -p[target] * p[j] for j in range(len(c))]
        gradient[target] = by_p * loss.scale * p[target] * rest * loss.t_slopes[i]
        return float(-mpmath.log(tau)), [float(x) for x in gradient]


def check(loss, cosines, target, rtol):
    values = loss.per_sample(cosines, target)
    [gradient] = torch.autograd.grad(values.sum(), cosines)
    expected = [slow(loss, row, y) for row, y in zip(cosines.tolist(), target.tolist(), strict=True)]
    np.testing.assert_allclose(values.detach(), [x[0] for x in expected], rtol=rtol, atol=rtol)
    np.testing.assert_allclose(gradient, [x[1] for x in expected], rtol=rtol, atol=1e-37)


@pytest.mark.parametrize("loss", [CONTINUOUS, FREE], ids=["continuous", "free"])
@pytest.mark.parametrize("spread", [0.15, 1.0])
def test_value_and_gradient_are_those_of_the_equations(loss, spread):
    cosines, target = made(spread=spread)
    check(loss, cosines, target, 1e-9)


@pytest.mark.parametrize("scale", [64.0, 128.0])
def test_float32_is_stable_at_large_scales(scale):
    """p underflows (odds of -2 s) and 1 - p, too; value and gradient are right all the same."""
    loss = AMLFS(scale=scale, t_slopes=(1.1, 0.9), tau_slopes=(1.2, 0.8, 1.1))
    own = torch.linspace(-0.61, 0.6, 25)  # none at the end of an interval, to which side of it rounding decides
    cosines = torch.stack([own, -own, torch.full_like(own, -0.5)], 1).requires_grad_()
    check(loss, cosines, torch.zeros(25, dtype=torch.int64), 2e-4)


@pytest.mark.parametrize("num", [1, 2, 7])
def test_the_identity_is_cross_entropy(num):
    cosines, target = made()
    ones, zeros = (1.0,) * num, (0.0,) * num
    for free in ({}, {"t_intercepts": zeros, "tau_intercepts": zeros}):
        loss = AMLFS(scale=16.0, t_slopes=ones, tau_slopes=ones, **free)
        expected = torch.nn.functional.cross_entropy(16.0 * cosines, target, reduction="none")
        torch.testing.assert_close(loss.per_sample(cosines, target), expected)


def test_a_shift_of_t_is_cosface():
    cosines, target = made()
    loss = AMLFS(scale=16.0, t_slopes=(1.0, 1.0), tau_slopes=(1.0,), t_intercepts=(-0.3, -0.3))
    torch.testing.assert_close(loss(cosines, target), modulated_cross_entropy(cosines, target, [16 * 0.3], scale=16.0))


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (0, 1)])
def test_continuous_functions_have_no_jump(start, length):
    slopes = np.array([0.5, 1.5, -0.8, 1.3, 0.2])
    intercepts = continuous_intercepts(slopes, start=start, length=length)
    assert slopes[0] * start + intercepts[0] == pytest.approx(start)
    for i in range(1, 5):
        end = start + length * i / 5
        assert slopes[i - 1] * end + intercepts[i - 1] == pytest.approx(slopes[i] * end + intercepts[i])


def test_intervals_are_closed_above_and_the_gradient_is_the_interval_s():
    loss = AMLFS(scale=1.0, t_slopes=(2.0, 3.0, 5.0, 7.0), tau_slopes=(1.0,))
    cosine = torch.tensor([-1.01, -1.0, -0.5, -0.49, 0.0, 0.01, 0.5, 0.51, 1.0, 1.01], requires_grad=True)
    [slope] = torch.autograd.grad(loss.t(cosine).sum(), cosine)
    assert slope.tolist() == [2, 2, 2, 3, 3, 5, 5, 7, 7, 7]


def test_the_start_is_the_identity():
    for config in (SpaceConfig(name="am_lfs"), SpaceConfig(name="am_lfs", intercepts="free", num_intervals=3)):
        space = get_space(config)
        assert np.array_equal(space.warmup_action(), space.initial_policy().mean)
        loss = space.decode(space.warmup_action())
        cosines, target = made()
        expected = modulated_cross_entropy(cosines, target, [0.0], scale=32.0)
        torch.testing.assert_close(loss(cosines, target), expected)


def test_actions_are_slopes_then_intercepts():
    free = get_space(SpaceConfig(name="am_lfs", num_intervals=2, intercepts="free", scale=20.0))
    expected = AMLFS(scale=20.0, t_slopes=(1, 2), tau_slopes=(3, 4), t_intercepts=(5, 6), tau_intercepts=(7, 8))
    assert free.decode(range(1, 9)) == expected
    assert expected.parameters() == dict(zip(free.parameter_names, range(1, 9), strict=True))
    continuous = get_space(SpaceConfig(name="am_lfs", num_intervals=2, scale=20.0))
    assert continuous.decode(range(1, 5)) == AMLFS(scale=20.0, t_slopes=(1, 2), tau_slopes=(3, 4))
    assert continuous.parameter_names == ("t_slope_0", "t_slope_1", "tau_slope_0", "tau_slope_1")


def test_the_mean_stays_where_draws_are_usable():
    policy = get_space(SpaceConfig(name="am_lfs", num_intervals=2, intercepts="free", std=0.3)).initial_policy()
    assert policy.low.tolist() == [0.3, 0.3, 0.3, 0.3, -math.inf, -math.inf, 0, -0.5]
    assert set(policy.high) == {math.inf}


@pytest.mark.parametrize("intercepts", ["continuous", "free"])
@pytest.mark.parametrize("std", [0.2, 0.6])
def test_asking_gives_usable_losses_only(intercepts, std):
    space = get_space(SpaceConfig(name="am_lfs", intercepts=intercepts, num_intervals=2, std=std))
    policy = space.initial_policy()
    asked = ask_usable(policy, 6, seed=0, generation=0, usable=lambda x: not why_unusable(space.decode(x)))
    cosines, target = made(torch.float32, batch=500)
    for action in asked.actions:
        loss = space.decode(action)
        assert min(loss.t_slopes + loss.tau_slopes) >= 0
        assert loss.per_sample(cosines, target).isfinite().all()
    assert (asked.rejected > 0) == (std == 0.6 or intercepts == "free")


def test_a_space_too_wide_is_refused_in_one_line():
    space = get_space(SpaceConfig(name="am_lfs", num_intervals=20, std=5.0))
    with pytest.raises(UserError, match="a policy must give a usable loss .* smaller space std"):
        ask_usable(space.initial_policy(), 1, seed=0, generation=0, usable=lambda x: (x > 0).all())


@pytest.mark.parametrize("loss", [CONTINUOUS, FREE], ids=["continuous", "free"])
def test_round_trip(loss):
    assert loss_from_dict(json.loads(json.dumps(loss.to_dict()))) == loss


@pytest.mark.parametrize(
    "changes",
    [{"t_slopes": ()}, {"t_intercepts": (1.0,)}, {"tau_slopes": (math.nan,)}, {"scale": 0.0}, {"scale": math.inf}],
)
def test_what_is_no_function_is_refused(changes):
    values = {"scale": 1.0, "t_slopes": (1.0, 1.0), "tau_slopes": (1.0,)} | changes
    with pytest.raises(ValueError, match="expected finite slopes, no or as many intercepts, and a scale > 0"):
        AMLFS(**values)
