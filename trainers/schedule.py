"""Which steps make up a generation, and the learning rate at each step; pure functions."""

import math

from trainers.config import TrainerConfig


def generation_steps(config: TrainerConfig, steps_per_epoch: int) -> int:
    """Steps of one generation, at least 1; a fraction of an epoch is rounded to the nearest step."""
    unit = steps_per_epoch if config.generation_unit == "epochs" else 1
    return max(1, round(config.generation_length * unit))


def first_step(generation: int, config: TrainerConfig, steps_per_epoch: int) -> int:
    """The step, counted from the start of the search, at which `generation` (counted from 0) begins."""
    return generation * generation_steps(config, steps_per_epoch)


def learning_rate(step: int, config: TrainerConfig, steps_per_epoch: int) -> float:
    """Learning rate of one step.

    Args:
        step: counted from 0 at the start of the search, over all generations.
        steps_per_epoch: whole batches in the training set.
    Returns:
        `lr` times `lr_decay` for each milestone reached, times the warm-up's share: step k of w warm-up steps, counted
        from 1, runs at k / w, so that no step is lost to a rate of zero.
    """
    # A fraction such as 0.7 of 10 steps is 7.000000000000001 in floating point; it means step 7.
    starts = [math.ceil(milestone * steps_per_epoch - 1e-6) for milestone in config.milestones]
    reached = sum(step >= start for start in starts)
    warm_up = min(1.0, (step + 1) / config.lr_warmup_steps) if config.lr_warmup_steps else 1.0
    return config.lr * config.lr_decay**reached * warm_up
