"""Which losses may be trained: all hand-crafted ones and all margins; nothing that breaks a law."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from search_space.am_lfs import AMLFS
from search_space.config import LossConfig, SpaceConfig
from search_space.loss import Loss, LossContext
from search_space.margins import LOSSES, grid_of, make_loss
from search_space.modulation import log_odds
from search_space.spaces import LossParameters, get_space
from search_space.unified import Unified
from search_space.unified_parameters import PARAMETERS
from search_space.usable import fault_on_grid, why_unusable

IDENTITY = (1.0,) * 6


@dataclass(frozen=True, kw_only=True)
class Made(Loss):
    """softplus(-d) after maps of the target and the negatives, times a weight."""

    name: ClassVar[str] = "made"

    target: Callable[[Tensor], Tensor] = lambda c: c
    negative: Callable[[Tensor], Tensor] = lambda c: c
    weight: float = 1.0

    def per_sample(self, cosines: Tensor, target: Tensor, context: LossContext | None = None) -> Tensor:
        with torch.enable_grad():
            column = torch.nn.functional.one_hot(target, cosines.shape[1]).bool()
            logits = self.scale * torch.where(column, self.target(cosines), self.negative(cosines))
        return self.weight * torch.nn.functional.softplus(-log_odds(logits, target, scale=1.0))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [16.0, 64.0])
@pytest.mark.parametrize("num_classes", [3, 100_000])
def test_every_hand_crafted_loss_may_be_trained(name, scale, num_classes):
    for values in grid_of(name):
        loss = make_loss(LossConfig(name=name, **values), scale=scale)
        assert why_unusable(loss, num_classes=num_classes) == ""


@pytest.mark.parametrize("name", ["global", "local", "paper_global", "paper_local", "unified"])
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_every_action_of_a_clamped_space_may_be_trained(name, data):
    space = get_space(SpaceConfig(name=name, scale=data.draw(st.sampled_from([1.0, 32.0, 64.0, 350.0]))))
    loss = space.decode(data.draw(st.lists(st.floats(-3, 3), min_size=space.dim, max_size=space.dim)))
    assert why_unusable(loss) == fault_on_grid(loss) == ""


ENDS = {
    name: st.sampled_from([p.low, 0.99 * p.high, p.high]) | st.floats(p.low, p.high) for name, p in PARAMETERS.items()
}
SCALES = st.sampled_from([1.0, 350.0]) | st.floats(1, 350)


@given(
    values=st.fixed_dictionaries({**ENDS, "scale": SCALES, "adaptive": st.booleans(), "momentum": st.floats(0, 1)}),
    num_classes=st.sampled_from([3, 4, 10_000, 10_000_000]),
)
@settings(max_examples=300, deadline=None)
def test_what_is_proven_of_unified_losses_holds_on_the_grid(values, num_classes):
    loss = Unified(**values)
    if loss.proven_usable:
        assert fault_on_grid(loss, num_classes=num_classes) == ""


@given(
    shift=st.lists(st.sampled_from([0.0, 1e6]) | st.floats(0, 1e6), min_size=1, max_size=12),
    scale=SCALES,
    num_classes=st.sampled_from([3, 4, 10_000, 10_000_000]),
)
@settings(max_examples=200, deadline=None)
def test_what_is_proven_of_margins_holds_on_the_grid(shift, scale, num_classes):
    loss = LossParameters(shift=tuple(shift), scale=scale)
    assert loss.proven_usable
    assert fault_on_grid(loss, num_classes=num_classes) == ""


def test_what_is_not_proven_is_looked_at():
    assert not Unified(curriculum=1.0).proven_usable
    faint = LossParameters(shift=(0.0,), scale=1e-7)
    assert not faint.proven_usable
    assert why_unusable(faint) == "loss does not depend on the target cosine"


def test_the_check_takes_one_thread_and_gives_the_others_back():
    seen, before = [], torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert why_unusable(Made(target=lambda c: seen.append(torch.get_num_threads()) or c)) == ""
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (Made(), ""),
        (Made(target=lambda c: -c), "loss rises with the target cosine at target cosine -0.96, hardest negative 0.05"),
        (Made(target=lambda c: c - 2 * (c - 0.3).clamp_min(0)), "loss rises with the target cosine at target cosine 0"),
        (Made(target=lambda c: c.abs()), "loss rises with the target cosine at target cosine -0.96"),
        (Made(negative=lambda c: -c), "loss falls as the cosine of a negative rises at"),
        (Made(target=lambda c: 0 * c), "loss does not depend on the target cosine"),
        (Made(weight=0.0), "loss does not depend on the target cosine"),
        (Made(weight=-1.0), "loss rises with the target cosine"),
        (Made(target=lambda c: (c + 0.9).log()), "loss or gradient is not finite at target cosine -0.96, hardest"),
        (Made(target=lambda c: (c - 0.96).abs().sqrt() * -1), "loss or gradient is not finite at target cosine 0.96"),
        (Made(target=lambda c: torch.where(c > 0.2, c - 0.5, c)), ""),  # a jump in value, up: allowed
    ],
)
def test_the_laws(loss, message):
    why = why_unusable(loss)
    assert why.startswith(message)
    assert bool(why) == bool(message)
    assert "\n" not in why


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, ""),
        ({"t_slopes": (0.5, 2.0, 0.0, 1.0, 1.0, 1.0)}, ""),
        ({"t_slopes": (1.0, 1.0, 1.0, 1.0, 1.0, -0.1)}, "t falls in interval 5 (slope -0.10)"),
        ({"tau_slopes": (1.0, 1.0, -0.1, 1.0, 1.0, 1.0)}, "tau falls in interval 2 (slope -0.10)"),
        ({"t_slopes": (0.0,) * 6}, "loss does not depend"),
        ({"tau_slopes": (0.0, 1.0, 1.0, 1.0, 1.0, 1.0)}, "loss or gradient is not finite"),
        ({"tau_intercepts": (-0.01, 0, 0, 0, 0, 0)}, "loss or gradient is not finite"),
        ({"tau_intercepts": (0.1, 0, -0.1, 0.3, 0, 0), "t_intercepts": (0.5, 0, 0, -0.5, 0, 0)}, ""),
        ({"tau_intercepts": (0, 0, 0, 0, 0, -0.9)}, "loss or gradient is not finite"),
    ],
)
@pytest.mark.parametrize("scale", [32.0, 64.0])
def test_am_lfs(changes, message, scale):
    loss = AMLFS(**{"scale": scale, "t_slopes": IDENTITY, "tau_slopes": IDENTITY, **changes})
    why = why_unusable(loss)
    assert why.startswith(message)
    assert bool(why) == bool(message)


@pytest.mark.parametrize("function", ["t_slopes", "tau_slopes"])
@pytest.mark.parametrize("interval", range(0, 100, 3))
def test_no_narrow_interval_is_overlooked(function, interval):
    slopes = [1.0] * 100
    slopes[interval] = -0.5
    loss = AMLFS(**{"scale": 64.0, "t_slopes": IDENTITY, "tau_slopes": IDENTITY, function: tuple(slopes)})
    assert why_unusable(loss) != ""


def test_only_the_gradient_counts_not_the_value():
    local = get_space(SpaceConfig(name="local")).decode([0.0, 0.5] * 5)
    cosines = torch.linspace(-0.9, 0.9, 400, dtype=torch.float64)[:, None].expand(-1, 2) * torch.tensor([1.0, 0.0])
    values = local.per_sample(cosines, torch.zeros(400, dtype=torch.int64))
    assert values.diff().max() > 5  # jumps up between bins of p
    assert why_unusable(local) == ""


def test_the_check_repeats_and_leaves_gradients_off():
    loss = Unified(**{name: p.start for name, p in PARAMETERS.items()})
    bad = AMLFS(scale=32.0, t_slopes=(-1.0,), tau_slopes=(1.0,))
    with torch.no_grad():
        assert why_unusable(loss) == why_unusable(loss) == ""
        assert why_unusable(bad) == why_unusable(bad) != ""
        assert not torch.is_grad_enabled()


def test_the_background_needs_classes():
    with pytest.raises(ValueError, match="expected num_classes >= 3, got 2"):
        why_unusable(Unified(), num_classes=2)
