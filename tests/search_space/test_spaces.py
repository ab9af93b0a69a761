"""What actions mean, in every space."""

import json
import math
from dataclasses import fields, replace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch.nn import functional

from search_space import spaces
from search_space.config import PARTS, SpaceConfig
from search_space.errors import UserError
from search_space.loss import loss_from_dict
from search_space.policy import PolicyState
from search_space.spaces import LossParameters, MarginSpace, get_space, register

MARGIN_SPACES = ("global", "local")
PAPER_SPACES = ("paper_global", "paper_local")
SPACES = MARGIN_SPACES + PAPER_SPACES
ALL = {name: SpaceConfig(name=name) for name in (*SPACES, "am_lfs", "unified")}
ALL |= {
    "am_lfs free": SpaceConfig(name="am_lfs", intercepts="free", num_intervals=3),
    "unified all": SpaceConfig(name="unified", search=PARTS),
}


@pytest.mark.parametrize(("name", "dim"), [("global", 1), ("local", 10), ("paper_global", 1), ("paper_local", 10)])
def test_dim_is_that_of_policy_actions_and_loss(name, dim):
    space = get_space(SpaceConfig(name=name))
    assert (space.name, space.dim) == (name, dim)
    assert space.initial_policy().mean.shape == space.warmup_action().shape == (dim,)
    assert len(space.decode(space.warmup_action()).shift) == dim


@pytest.mark.parametrize(
    ("action", "margin"), [(-0.3, 0.0), (0.0, 0.0), (0.2, 0.2), (0.5, 0.5), (0.7, 0.5), (1e300, 0.5)]
)
def test_margin_spaces_clamp_the_action(action, margin):
    loss = get_space(SpaceConfig(name="global")).decode([action])
    assert loss.margins == pytest.approx((margin,))
    assert loss.a == pytest.approx((1 - math.exp(32 * margin),))


@pytest.mark.parametrize(("name", "divisor"), [("paper_global", 3), ("paper_local", 2)])
@pytest.mark.parametrize("scale", [32.0, 64.0])
def test_paper_spaces_are_the_published_formula(name, divisor, scale):
    space = get_space(SpaceConfig(name=name, scale=scale))
    x = np.linspace(-0.7, 0.7, space.dim) if space.dim > 1 else np.array([-0.7])
    a = -np.abs(x) * np.exp(scale / divisor)
    loss = space.decode(x)
    assert loss.a == pytest.approx(a.tolist(), rel=1e-12)
    assert loss.margins == pytest.approx((np.log1p(-a) / scale).tolist(), rel=1e-12)
    assert space.decode(-x) == loss
    warm = space.decode(space.warmup_action())
    assert warm.a == pytest.approx([-math.exp(scale / divisor)] * space.dim)
    assert warm.margins == pytest.approx([1 / divisor] * space.dim, abs=1e-5)


def test_paper_spaces_have_plain_softmax_at_0():
    assert get_space(SpaceConfig(name="paper_global")).decode([0.0]).shift == (0.0,)


@pytest.mark.parametrize("name", SPACES)
def test_published_start(name):
    policy = get_space(SpaceConfig(name=name)).initial_policy()
    mean, std = (0.25, 0.12) if name in MARGIN_SPACES else (0.0, 0.2)
    assert set(policy.mean) == {mean}
    assert set(policy.std) == {std}


@pytest.mark.parametrize("name", SPACES)
def test_the_mean_is_bounded_where_the_decoder_clamps(name):
    policy = get_space(SpaceConfig(name=name)).initial_policy()
    low, high = (0.0, 0.5) if name in MARGIN_SPACES else (-math.inf, math.inf)
    assert set(policy.low) == {low}
    assert set(policy.high) == {high}


def test_a_registered_space_is_found_by_its_name(monkeypatch):
    monkeypatch.setitem(spaces._SPACES, "mine", None)  # taken out again behind the test
    del spaces._SPACES["mine"]
    register("mine")(lambda config: MarginSpace(config, 3))
    assert get_space(SpaceConfig(name="mine")).dim == 3


CHANGES = {
    "global": {"scale": 30.0, "mean0": 0.1, "std": 0.3, "m_max": 0.3, "warmup_action": 0.15},
    "local": {"num_bins": 4},
    "paper_local": {"num_bins": 4, "mean0": 0.1, "std": 0.3, "warmup_action": 0.15},
    "am_lfs": {"scale": 30.0, "std": 0.3, "num_intervals": 4, "intercepts": "free"},
    "unified": {
        "scale": 30.0,
        "std": 0.3,
        "search": ("outer", "scale"),
        "adaptive": False,
        "m_arc": 0.2,
        "m_cos": 0.2,
        "t_hard": 0.2,
        "t_easy": 0.2,
        "curriculum": 1.0,
        "gamma": 1.0,
    },
}


def test_every_field_takes_effect():
    assert {f.name for f in fields(SpaceConfig)} == {"name", "parameters"}.union(*CHANGES.values())
    seen = []
    for name, changes in CHANGES.items():
        base = SpaceConfig(name=name)
        seen += [_observed(base), *(_observed(replace(base, **{key: value})) for key, value in changes.items())]
    assert len({json.dumps(x) for x in seen}) == len(seen)


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_applies_or_is_refused(name):
    values = {key: value for changes in CHANGES.values() for key, value in changes.items()}
    taken = {"scale", "std", *CHANGES[name], *({"mean0", "m_max", "warmup_action"} if name == "local" else ())}
    for key in values.keys() - taken:
        with pytest.raises(UserError, match=f"space {key} does not apply to {name}, got .*: leave it out"):
            get_space(SpaceConfig(name=name, **{key: values[key]}))


@pytest.mark.parametrize("config", ALL.values(), ids=ALL)
def test_every_space_decodes_to_what_it_says(config):
    space = get_space(config)
    policy = space.initial_policy()
    for action in (space.warmup_action(), policy.mean, policy.mean + 0.1, policy.mean - 5.0):
        loss = space.decode(action)
        assert tuple(loss.parameters()) == space.parameter_names
        assert loss_from_dict(json.loads(json.dumps(loss.to_dict()))) == loss


@pytest.mark.parametrize("config", ALL.values(), ids=ALL)
def test_parameter_statistics_are_those_of_samples(config):
    space = get_space(config)
    policy = space.initial_policy()
    draws = np.random.default_rng(0).normal(policy.mean, policy.std, (4000, space.dim))
    parameters = np.array([list(space.decode(x).parameters().values()) for x in draws])
    mean, std = space.parameter_statistics(policy)
    assert mean.shape == std.shape == (len(space.parameter_names),)
    np.testing.assert_allclose(mean, parameters.mean(0), atol=0.015, rtol=0.01)
    np.testing.assert_allclose(std, parameters.std(0), atol=0.015, rtol=0.03)


@pytest.mark.parametrize(
    ("name", "names"), [("global", ("margin",)), ("local", tuple(f"margin_{j}" for j in range(10)))]
)
def test_margins_are_named_by_their_bin(name, names):
    assert get_space(SpaceConfig(name=name)).parameter_names == names


def _observed(config):
    space = get_space(config)
    losses = [space.decode(space.warmup_action()), space.decode(np.full(space.dim, 0.4))]
    return [space.initial_policy().to_dict(), *(x.to_dict() for x in losses)]


@pytest.mark.parametrize("name", MARGIN_SPACES)
def test_warmup_margin_defaults_to_mean0(name):
    space = get_space(SpaceConfig(name=name, mean0=0.1))
    assert space.decode(space.warmup_action()).margins == pytest.approx((0.1,) * space.dim)


@pytest.mark.parametrize("name", SPACES)
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_every_action_is_a_usable_loss(name, data):
    space = get_space(SpaceConfig(name=name, scale=data.draw(st.floats(1, 350)), num_bins=None))
    number = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e6, max_value=1e6)
    action = data.draw(st.lists(number, min_size=space.dim, max_size=space.dim))
    loss = space.decode(action)
    assert all(m >= 0 and math.isfinite(m) for m in loss.margins)
    assert all(a <= 0 and math.isfinite(a) for a in loss.a)
    assert LossParameters.from_dict(json.loads(json.dumps(loss.to_dict()))) == loss


def test_a_loss_is_callable():
    loss = LossParameters(scale=32.0, shift=(32 * 0.2,))
    generator = torch.Generator().manual_seed(0)
    cosines = torch.rand(6, 9, generator=generator) * 2 - 1
    target = torch.arange(6)
    expected = functional.cross_entropy(32 * (cosines - 0.2 * functional.one_hot(target, 9)), target)
    torch.testing.assert_close(loss(cosines, target), expected)


@pytest.mark.parametrize("name", SPACES)
def test_margin_statistics_are_those_of_samples(name):
    space = get_space(SpaceConfig(name=name))
    policy = PolicyState.start(np.linspace(0.1, 0.4, space.dim), 0.1)
    draws = np.random.default_rng(0).normal(policy.mean, policy.std, (4000, space.dim))
    margins = np.array([space.decode(x).margins for x in draws])
    mean, std = space.margin_statistics(policy)
    np.testing.assert_allclose(mean, margins.mean(0), atol=0.006)
    np.testing.assert_allclose(std, margins.std(0), atol=0.006)


@pytest.mark.parametrize("action", [[0.1, 0.2], [float("nan")], 0.1])
def test_decode_refuses_what_is_no_action(action):
    with pytest.raises(ValueError, match="an action of global is 1 finite numbers"):
        get_space(SpaceConfig(name="global")).decode(action)


@pytest.mark.parametrize(
    "values", [{"scale": 0.0, "shift": (1.0,)}, {"scale": 1.0, "shift": ()}, {"scale": 1.0, "shift": (-1e-9,)}]
)
def test_loss_parameters_refuse(values):
    with pytest.raises(ValueError, match="scale must be > 0 and every shift >= 0"):
        LossParameters(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"name": "papr_local"},
            "one of global, local, paper_global, paper_local, am_lfs, unified, .*did you mean paper_local",
        ),
        ({"scale": 0.0}, r"space scale must be in \(0, 350\], got 0.0"),
        ({"scale": math.nan}, "space scale"),
        ({"num_bins": 0}, "space num_bins must be in 1..1000, got 0"),
        ({"mean0": math.inf}, "space mean0 must be finite"),
        ({"mean0": 0.6}, r"space mean0 of global must be a margin in \[0, m_max=0.5\], got 0.6"),
        ({"std": 0.0}, "space std must be > 0"),
        ({"std": math.nan}, "space std must be > 0"),
        ({"m_max": 2.5}, "space m_max must be in"),
        ({"warmup_action": math.nan}, "space warmup_action must be finite"),
        ({"warmup_action": -0.1}, "space warmup_action of global must be a margin"),
        ({"num_bins": 10}, "space num_bins does not apply to global"),
        ({"name": "paper_global", "num_bins": 10}, "space num_bins does not apply to paper_global"),
        ({"name": "paper_local", "m_max": 0.5}, "space m_max does not apply to paper_local"),
        ({"name": "am_lfs", "num_intervals": 0}, r"space num_intervals must be in 1\.\.100, got 0"),
        ({"name": "am_lfs", "intercepts": "fixed"}, "space intercepts must be one of .*'continuous', 'free'"),
        ({"name": "unified", "search": ("margin",)}, "space search must be one or more of .*'target'.*, each once"),
        ({"name": "unified", "search": ("scale", "scale")}, "space search must be one or more of"),
        ({"name": "unified", "search": ()}, "space search must be one or more of"),
        ({"name": "unified", "gamma": -1.0}, r"space gamma must be in \[0, 3\], got -1.0"),
        ({"name": "unified", "m_arc": math.nan}, r"space m_arc must be in \[0, 0.6\]"),
    ],
)
def test_bad_configuration_is_one_clear_line(values, message):
    with pytest.raises(UserError, match=message) as caught:
        get_space(SpaceConfig(**values))
    assert "\n" not in str(caught.value)
