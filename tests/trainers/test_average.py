"""The mean of weights over the last steps: against adding them up, and through a trainer."""

from pathlib import Path

import numpy as np
import torch

from tests.trainers.small_trainer import candidate, make_trainer, same_bits
from trainers.average import RunningMean


def test_the_mean_of_the_steps_that_count() -> None:
    generator = torch.Generator().manual_seed(0)
    history = [torch.randn(3, 4, generator=generator, dtype=torch.float64) for _ in range(7)]
    live = {"w": torch.zeros(3, 4, dtype=torch.float64)}
    mean = RunningMean(live, first_step=3)
    for step, value in enumerate(history, start=1):
        live["w"].copy_(value)
        mean.add(step)
    expected = torch.stack(history[3:]).mean(0)
    torch.testing.assert_close(mean.means["w"], expected)
    torch.testing.assert_close(live["w"], history[-1])
    mean.take_over()
    torch.testing.assert_close(live["w"], expected)


def test_nothing_is_done_without_slots() -> None:
    mean = RunningMean({}, first_step=0)
    mean.add(1)
    mean.take_over()
    assert mean.means == {}


def test_averaging_changes_what_is_validated_and_not_how_it_trains(faces: Path) -> None:
    plain, averaging = make_trainer(faces), make_trainer(faces, average=0.5)
    first, averaged = plain.run(candidate()), averaging.run(candidate())
    names = [name for name in averaged.weights if not name.startswith("average.")]
    assert same_bits({name: averaged.weights[name] for name in names}, first.weights)
    assert averaged.reward != first.reward
    assert averaging.test(averaged.weights) == plain.test(averaged.weights) != plain.test(first.weights)
    second, after = (t.run(candidate(generation=1), first.weights) for t in (plain, averaging))
    assert same_bits({name: after.weights[name] for name in names}, second.weights)


def test_the_mean_is_of_the_last_steps_of_the_generation(faces: Path) -> None:
    """A share so small that one step is left is no average at all."""
    one = make_trainer(faces, average=1e-6).run(candidate())
    assert one.reward == make_trainer(faces).run(candidate()).reward
    for name, array in one.weights.items():
        if name.startswith("average."):
            np.testing.assert_array_equal(array, one.weights[name.removeprefix("average.")], err_msg=name)
