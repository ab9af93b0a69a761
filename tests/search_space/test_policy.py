"""The policy: exact state, draws that depend on nothing but their key, and that it learns."""

import copy
import json
import math
from dataclasses import fields, replace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from search_space.advantage import advantages
from search_space.config import ADVANTAGE_KINDS, NOISE_FLOOR_UNITS, PolicyConfig, SpaceConfig
from search_space.errors import UserError
from search_space.policy import PolicyState, ask, ask_usable, log_prob, score, tell
from search_space.spaces import get_space
from search_space.usable import why_unusable

SPACES = ("global", "local", "paper_global", "paper_local")
POLICY = PolicyState.start([0.2, -0.1, 0.4], [0.1, 0.2, 0.3])


def one_step(state=POLICY, config=None, rewards=(1.0, 3.0, 2.0, 5.0), generation=0):
    config = config or PolicyConfig()
    actions = ask(state, len(rewards), seed=0, generation=generation)
    return tell(state, actions, advantages(rewards, kind=config.advantage), config)


def test_ask_does_not_depend_on_how_many_are_asked():
    many = ask(POLICY, 9, seed=5, generation=3)
    assert many.shape == (9, 3)
    assert many.dtype == np.float64
    for n in (0, 1, 4, 9):
        assert np.array_equal(ask(POLICY, n, seed=5, generation=3), many[:n])


def test_ask_leaves_the_global_generator_alone_and_repeats():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    first = ask(POLICY, 4, seed=5, generation=3)
    ask(POLICY, 2, seed=6, generation=0)
    assert np.array_equal(ask(POLICY, 4, seed=5, generation=3), first)
    assert np.array_equal(np.random.get_state()[1], before)


def test_ask_differs_by_seed_generation_and_candidate():
    draws = [ask(POLICY, 3, seed=s, generation=g) for s in (0, 1) for g in (0, 1)]
    assert len(set(np.ravel(draws).tolist())) == 4 * 3 * 3


def test_ask_samples_the_gaussian():
    actions = np.concatenate([ask(POLICY, 40, seed=1, generation=g) for g in range(50)])
    np.testing.assert_allclose(actions.mean(0), POLICY.mean, atol=0.03)
    np.testing.assert_allclose(actions.std(0), POLICY.std, rtol=0.06)


def test_ask_is_pinned():
    """Draws must not change between versions: a run is resumed bit for bit."""
    assert ask(POLICY, 1, seed=0, generation=0).tolist() == PINNED


def positive(action):
    """Usable where the first number is above the mean: half of all draws."""
    return action[0] > POLICY.mean[0]


def test_unusable_draws_are_replaced_and_counted():
    first = ask(POLICY, 40, seed=5, generation=3)
    asked = ask_usable(POLICY, 40, seed=5, generation=3, usable=positive)
    assert all(map(positive, asked.actions))
    usable = np.array([positive(x) for x in first])
    assert 5 < usable.sum() < 35
    assert np.array_equal(asked.actions[usable], first[usable])
    assert len(np.unique(asked.actions)) == 40 * 3
    assert np.array_equal(ask(POLICY, 40, seed=5, generation=3, usable=positive), asked.actions)
    assert asked.rejected >= 40 - usable.sum()
    calls = []
    ask_usable(POLICY, 40, seed=5, generation=3, usable=lambda x: calls.append(x) or positive(x))
    assert asked.rejected == len(calls) - 40
    assert ask_usable(POLICY, 40, seed=5, generation=3).rejected == 0


def test_a_replaced_candidate_does_not_depend_on_the_others():
    many = ask(POLICY, 20, seed=1, generation=2, usable=positive)
    for n in (1, 5):
        assert np.array_equal(ask(POLICY, n, seed=1, generation=2, usable=positive), many[:n])
    asked = ask_usable(POLICY, 20, seed=1, generation=2, usable=lambda x: x[0] != many[3, 0] and positive(x))
    assert np.array_equal(np.delete(asked.actions, 3, 0), np.delete(many, 3, 0))
    assert not np.array_equal(asked.actions[3], many[3])


def test_replaced_draws_are_pinned():
    [second] = ask(POLICY, 1, seed=0, generation=0, usable=lambda x: x.tolist() != PINNED[0])
    assert second.tolist() == PINNED_SECOND


def test_replaced_draws_are_those_of_the_truncated_gaussian():
    runs = [(seed, generation) for seed in range(6) for generation in range(50)]
    actions = np.concatenate([ask(POLICY, 20, seed=s, generation=g, usable=positive) for s, g in runs])
    half = math.sqrt(2 / math.pi)  # mean of |z|
    np.testing.assert_allclose(actions.mean(0) - POLICY.mean, [half * 0.1, 0, 0], atol=0.01)
    np.testing.assert_allclose(actions.std(0), POLICY.std * [math.sqrt(1 - half**2), 1, 1], rtol=0.05)


def test_a_policy_without_usable_losses_is_one_clear_line():
    answers = iter([True, True])
    with pytest.raises(
        UserError, match="within 1000 draws, got none for candidate 2 of generation 8: .*smaller space std"
    ):
        ask(POLICY, 3, seed=0, generation=7, usable=lambda action: next(answers, False))


def truncated(mean, x):
    """Density at x of N(mean, 0.5) given x > 0, written out."""
    normal = np.exp(-np.square(x - mean) / 0.5) / (0.5 * math.sqrt(2 * math.pi))
    return normal * (x > 0) / (0.5 * (1 + math.erf(mean / 0.5 / math.sqrt(2))))


def test_the_truncation_drops_out_of_the_policy_gradient():
    """Expected gradient of two candidates, by sums over a grid, beside the slope of the expected reward.

    Of advantages that are centred on the mean of B, the expectation is (B - 1) / B of the slope.
    """
    state = PolicyState.start([0.2], [0.5])
    x = (np.arange(1200) + 0.5) / 400  # usable: x > 0
    reward = np.sin(2 * x) + x
    density = truncated(0.2, x) / 400
    slopes = [np.sum(reward * truncated(0.2 + h, x)) / 400 for h in (-1e-4, 1e-4)]
    slope = (slopes[1] - slopes[0]) / 2e-4
    gradient = score(state, x[:, None])[:, 0]
    first, second = np.meshgrid(np.arange(1200), np.arange(1200))
    advantage = (reward[first] - reward[second]) / 2  # of the first; minus that for the second
    expected = density[first] * density[second] * advantage * (gradient[first] - gradient[second]) / 2
    assert expected.sum() == pytest.approx(slope / 2, rel=1e-3)
    naive = np.sum(density * reward * gradient)  # raw rewards: the truncation would matter
    assert abs(naive - slope) > 0.3


def test_log_prob_and_score_are_those_of_the_normal_distribution():
    actions = ask(POLICY, 5, seed=2, generation=0)
    mean = torch.tensor(POLICY.mean, requires_grad=True)
    expected = torch.distributions.Normal(mean, torch.tensor(POLICY.std)).log_prob(torch.tensor(actions)).sum(1)
    np.testing.assert_allclose(log_prob(POLICY, actions), expected.detach().numpy(), rtol=1e-12)
    for i in range(5):
        [gradient] = torch.autograd.grad(expected[i], mean, retain_graph=True)
        np.testing.assert_allclose(score(POLICY, actions)[i], gradient.numpy(), rtol=1e-12)


def test_tell_is_adam_on_the_policy_gradient():
    """Five generations beside torch's Adam on -(1/B) sum A_i log_prob(x_i)."""
    config = PolicyConfig(lr=0.03, betas=(0.6, 0.95), eps=1e-3)
    state, mean = POLICY, torch.tensor(POLICY.mean, requires_grad=True)
    adam = torch.optim.Adam([mean], lr=0.03, betas=(0.6, 0.95), eps=1e-3)
    for generation in range(5):
        actions = ask(state, 4, seed=0, generation=generation)
        weights = advantages(np.sin(actions).sum(1), kind="range")
        adam.zero_grad()
        normal = torch.distributions.Normal(mean, torch.tensor(POLICY.std))
        (-(torch.tensor(weights) * normal.log_prob(torch.tensor(actions)).sum(1)).mean()).backward()
        adam.step()
        state = tell(state, actions, weights, config)
        np.testing.assert_allclose(state.mean, mean.detach().numpy(), rtol=1e-9)
    assert state.step == 5


def test_tell_goes_up():
    actions = POLICY.mean + np.array([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0]])
    moved = tell(POLICY, actions, np.array([1.0, -1.0]), PolicyConfig())
    assert np.sign(moved.mean - POLICY.mean).tolist() == [1, -1, 0]


@pytest.mark.parametrize("kind", ADVANTAGE_KINDS)
@pytest.mark.parametrize("value", [0.1, 0.7, 1 / 3, 1e-300, 0.0, 12345.678])
@pytest.mark.parametrize("num_candidates", [1, 3, 7])
def test_ties_move_nothing_at_all(kind, value, num_candidates):
    warm = one_step(one_step())
    assert warm.adam_m.any()
    actions = ask(warm, num_candidates, seed=0, generation=9)
    after = tell(warm, actions, advantages([value] * num_candidates, kind=kind), PolicyConfig(advantage=kind))
    for name in ("mean", "std", "adam_m", "adam_v"):
        assert getattr(after, name).tobytes() == getattr(warm, name).tobytes()
    assert after.step == warm.step == 2


def test_the_mean_stays_in_its_bounds_and_comes_back():
    state = PolicyState.start([0.1], [0.1], low=0.0, high=0.5)
    down = np.array([[-1.0], [1.0]])
    for _ in range(30):
        state = tell(state, down, np.array([1.0, -1.0]), PolicyConfig())
    assert state.mean.tolist() == [0.0]
    for _ in range(60):
        state = tell(state, down, np.array([-1.0, 1.0]), PolicyConfig())
    assert state.mean.tolist() == [0.5]


NUMBER = st.floats(-1e3, 1e3)


@given(
    mean=st.lists(NUMBER, min_size=1, max_size=4),
    std=st.floats(1e-6, 1e3),
    rewards=st.lists(NUMBER, min_size=2, max_size=6),
)
@settings(max_examples=50, deadline=None)
def test_round_trip_is_exact(mean, std, rewards):
    state = one_step(PolicyState.start(mean, std, low=min(mean) - 0.01), rewards=rewards)
    text = json.dumps(state.to_dict(), allow_nan=False)
    back = PolicyState.from_dict(json.loads(text))
    assert back == state == copy.deepcopy(state)
    assert json.dumps(back.to_dict()) == text
    assert back.high.tolist() == [np.inf] * len(mean)
    assert np.array_equal(ask(back, 2, seed=0, generation=1), ask(state, 2, seed=0, generation=1))


def test_states_are_frozen_and_comparable():
    with pytest.raises(ValueError, match="read-only"):
        POLICY.mean[0] = 1.0
    mine = np.array([0.5])
    state = PolicyState.start(mine, 1.0)
    mine[0] = 9.0
    assert state.mean.tolist() == [0.5]
    assert one_step() == one_step()
    assert one_step() != POLICY


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": [math.nan] * 3}, "policy mean must be numbers"),
        ({"mean": [math.inf] * 3}, r"policy mean must be finite and in \[low, high\]"),
        ({"low": [0.3] * 3}, r"policy mean must be finite and in \[low, high\]"),
        ({"std": [0.0, 1.0, 1.0]}, "policy std must be > 0"),
        ({"std": [1.0]}, "policy std must be numbers, as many as the mean has"),
        ({"adam_v": [-1.0] * 3}, "policy moments"),
        ({"step": -1}, "policy moments"),
    ],
)
def test_broken_states_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(POLICY, **changes)


@pytest.mark.parametrize(
    ("weights", "num_actions"), [([1.0, math.nan], 2), ([1.0, -1.0], 3), ([], 0), ([math.inf, 0.0], 2)]
)
def test_tell_refuses(weights, num_actions):
    with pytest.raises(ValueError, match="expected finite advantages"):
        tell(POLICY, np.zeros((num_actions, 3)), np.array(weights), PolicyConfig())


def test_every_field_of_the_configuration_takes_effect():
    """`noise_floor` and its unit are read by whoever calls `advantages`; here they are only checked."""
    changes = {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1.0, "advantage": "rank"}
    assert {f.name for f in fields(PolicyConfig)} == {*changes, "noise_floor", "noise_floor_unit"}
    rewards = (1.0, 3.0, 2.0, 9.0)
    seen = [one_step(one_step(rewards=rewards), generation=1).to_dict()]
    for name, value in changes.items():
        config = PolicyConfig(**{name: value})
        seen.append(one_step(one_step(config=config, rewards=rewards), config, generation=1).to_dict())
    assert len({json.dumps(x) for x in seen}) == len(seen)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": 0.0}, "policy lr must be > 0"),
        ({"lr": math.inf}, "policy lr must be > 0 and finite"),
        ({"betas": (0.5,)}, "policy betas must be two numbers"),
        ({"betas": (0.5, 1.0)}, "policy betas must be two numbers"),
        ({"eps": 0.0}, "policy eps must be > 0"),
        ({"advantage": "ranks"}, f"policy advantage must be one of .*{ADVANTAGE_KINDS[0]}"),
        ({"noise_floor": -0.1}, "policy noise_floor must be >= 0"),
        ({"noise_floor": math.nan}, "policy noise_floor must be >= 0"),
        ({"noise_floor_unit": "se"}, f"policy noise_floor_unit must be one of .*{NOISE_FLOOR_UNITS[1]}"),
    ],
)
def test_bad_configuration_is_one_clear_line(values, message):
    with pytest.raises(UserError, match=message):
        PolicyConfig(**values)


def published_tell(state, actions, weights, config):
    """The published code: the mean goes through a ReLU, whose gradient is 0 at 0, where the mean starts."""
    return replace(tell(state, actions, weights, config), mean=np.where(state.mean > 0, state.mean, 0.0))


def check_converges(name, seed, update=tell, kind="range"):
    """From mean 0, 300 generations of 8 on a made reward; the mean, averaged over the last 100, is at the optimum."""
    config = PolicyConfig(advantage=kind)
    margin_space = not name.startswith("paper")
    space = get_space(SpaceConfig(name=name, mean0=0.0, m_max=1.0 if margin_space else None))
    optimum = np.linspace(0.4, 0.65, space.dim)
    fold = space.shifts if margin_space else np.abs  # |x| in the paper's spaces, whose margin goes as log |x|
    unit = space.scale if margin_space else 1.0
    state, means = space.initial_policy(), []
    for generation in range(300):
        actions = ask(state, 8, seed=seed, generation=generation)
        rewards = -np.square(fold(actions) / unit - optimum).sum(axis=1)
        state = update(state, actions, advantages(rewards, kind=kind), config)
        means.append(np.abs(state.mean))
    np.testing.assert_allclose(np.mean(means[200:], axis=0), optimum, atol=0.1)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("seed", range(4))
def test_the_mean_converges_to_the_optimum(name, seed):
    check_converges(name, seed)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("kind", ["standardize", "rank"])
def test_the_mean_converges_with_other_advantages(name, kind):
    check_converges(name, seed=11, kind=kind)


@pytest.mark.parametrize("name", SPACES)
def test_the_published_zero_gradient_does_not_converge(name):
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_converges(name, seed=0, update=published_tell)


CENTRES = {"am_lfs": np.linspace(0.7, 1.4, 6), "unified": np.array([0.3, 0.05, 0.25, -0.15, 0.3])}


@pytest.mark.parametrize("name", CENTRES)
@pytest.mark.parametrize("seed", range(2))
def test_the_mean_converges_in_spaces_that_reject(name, seed):
    """As `check_converges`, on the decoded parameters, with candidates that must be usable."""
    space = get_space(SpaceConfig(name=name, num_intervals=3 if name == "am_lfs" else None))
    state, means = space.initial_policy(), []
    assert np.abs(state.mean - CENTRES[name]).max() > 0.15
    optimum = np.array(list(space.decode(CENTRES[name]).parameters().values()))

    def usable(action):
        return not why_unusable(space.decode(action))

    for generation in range(150):
        actions = ask(state, 8, seed=seed, generation=generation, usable=usable)
        parameters = np.array([list(space.decode(x).parameters().values()) for x in actions])
        rewards = -np.square(parameters - optimum).sum(axis=1)
        state = tell(state, actions, advantages(rewards, kind="range"), PolicyConfig())
        means.append(state.mean)
    np.testing.assert_allclose(np.mean(means[75:], axis=0), CENTRES[name], atol=0.1)


PINNED = [[0.20258009955421552, -0.2202947563243824, 0.6236458710356626]]
PINNED_SECOND = [0.22019180562048296, -0.07308491425629955, 0.2661611416165178]
