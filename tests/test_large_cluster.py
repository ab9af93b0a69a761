"""The simulation of a large cluster against what follows on paper where one resource alone costs something."""

import math
from dataclasses import fields, replace

import pytest

from benchmarks.large_cluster import UNEQUAL, Cluster, Costs, only, shares, simulate

FREE = Costs(**{field.name: 0 for field in fields(Costs)})
CLUSTER = Cluster(trainers=64, per_host=8, per_trainer=1, length_s=10)


def test_free_resources_and_equal_candidates_keep_every_trainer_busy() -> None:
    for per_trainer in (1, 3):
        outcome = simulate(replace(CLUSTER, per_trainer=per_trainer), FREE)
        assert outcome.generation_s == pytest.approx(10 * per_trainer)
        assert outcome.utilisation == pytest.approx(1)
        assert outcome.report_p99_s == outcome.lease_p99_s == outcome.busy == 0


@pytest.mark.parametrize(
    ("cost", "added_s"),
    [
        ({"lease_s": 0.1}, 64 * 0.1),  # the last trainer gets its candidate after all others
        ({"report_s": 0.1}, 64 * 0.1),  # all come at once
        ({"tune_s": 0.1}, 64 * 0.1),
        ({"broadcast_s": 0.5}, 8 * 0.5),  # one host after the other
        ({"broadcast_s": 0.5, "tree": True}, 4 * 0.5),  # 1, 2, 4, 8 have it, the controller's host among them
        ({"winner_s": 2.0}, 2.0),
        ({"close_s": 0.1, "prepare_s": 0.2}, 64 * 0.3),
        ({"commit_s": 3.0}, 0),  # behind the next generation
        ({"commit_s": 13.0}, 3 * 2 / 3),  # the first of three has none before it
    ],
)
def test_what_one_resource_adds(cost: dict[str, float], added_s: float) -> None:
    outcome = simulate(CLUSTER, replace(FREE, **cost))
    assert outcome.generation_s == pytest.approx(10 + added_s)
    assert outcome.utilisation == pytest.approx(10 / (10 + added_s))


def test_progress_slows_the_controller_up_to_its_limit_and_looks_without_one() -> None:
    progress = replace(FREE, report_s=0.1, progress_per_trainer=0.1, progress_cap=0.5)
    assert simulate(CLUSTER, progress).generation_s == pytest.approx(10 + 2 * 64 * 0.1)
    assert simulate(CLUSTER, replace(FREE, look_per_candidate=1 / 64)).generation_s == math.inf


def test_unequal_training_times_cost_what_the_slowest_takes_longer() -> None:
    outcome, longer = shares(CLUSTER, replace(FREE, spread=0.1))
    assert outcome == simulate(CLUSTER, only(replace(FREE, spread=0.1, tune_s=1), UNEQUAL))
    assert longer[UNEQUAL] == pytest.approx(outcome.generation_s / 10 - 1)
    assert 0.1 < longer[UNEQUAL] < 0.4  # the greatest of 64 is 2.4 deviations above the mean
    assert all(share == 0 for name, share in longer.items() if name != UNEQUAL)
