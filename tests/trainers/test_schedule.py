import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.config import TrainerConfig
from trainers.schedule import first_step, generation_steps, learning_rate


def test_learning_rate_of_the_papers_casia_setting():
    config = TrainerConfig(lr=0.1, milestones=(9, 18, 26))
    steps_per_epoch = 3_000
    rates = [learning_rate(epoch * steps_per_epoch, config, steps_per_epoch) for epoch in range(30)]
    assert rates == pytest.approx([0.1] * 9 + [0.01] * 9 + [0.001] * 8 + [0.0001] * 4)


def test_learning_rate_of_the_papers_ms_celeb_setting_falls_at_the_first_step_of_the_epoch():
    config = TrainerConfig(lr=0.1, milestones=(4, 8, 10))
    for milestone, before, after in [(4, 0.1, 0.01), (8, 0.01, 0.001), (10, 0.001, 0.0001)]:
        assert learning_rate(milestone * 700 - 1, config, 700) == pytest.approx(before)
        assert learning_rate(milestone * 700, config, 700) == pytest.approx(after)


@pytest.mark.parametrize(("milestone", "steps_per_epoch", "first"), [(0.7, 10, 7), (0.5, 5, 3), (1.25, 4, 5)])
def test_milestones_may_be_fractions_of_an_epoch(milestone, steps_per_epoch, first):
    config = TrainerConfig(lr=1.0, milestones=(milestone,), lr_decay=0.5)
    rates = [learning_rate(step, config, steps_per_epoch) for step in range(12)]
    assert rates == [1.0] * first + [0.5] * (12 - first)


def test_warm_up_rises_linearly_and_multiplies_the_milestones():
    config = TrainerConfig(lr=0.8, lr_warmup_steps=4, milestones=(1.0,), lr_decay=0.5)
    rates = [learning_rate(step, config, 2) for step in range(6)]
    assert rates == pytest.approx([0.2, 0.4, 0.3, 0.4, 0.4, 0.4])


@pytest.mark.parametrize(
    ("length", "unit", "expected"),
    [(1.0, "epochs", 7), (4.0, "epochs", 28), (0.5, "epochs", 4), (0.01, "epochs", 1), (300.0, "steps", 300)],
)
def test_generation_steps(length, unit, expected):
    assert generation_steps(TrainerConfig(generation_length=length, generation_unit=unit), 7) == expected


@settings(max_examples=50, deadline=None)
@given(st.floats(0.01, 5), st.integers(1, 500), st.integers(0, 50))
def test_generations_follow_each_other_without_gap_or_overlap(length, steps_per_epoch, generation):
    config = TrainerConfig(generation_length=length)
    steps = generation_steps(config, steps_per_epoch)
    start = first_step(generation, config, steps_per_epoch)
    assert first_step(0, config, steps_per_epoch) == 0
    assert first_step(generation + 1, config, steps_per_epoch) == start + steps
