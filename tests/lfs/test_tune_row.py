"""One row for each candidate, with the same columns whatever came of it, and what it says."""

import math
from dataclasses import replace
from typing import Any

import pytest
from ray.tune.trainable.metadata import _TrainingRunMetadata

from lfs.config import SearchConfig
from lfs.generation import Search
from lfs.messages import Lease
from lfs.tune_row import OWN, Rows, place
from search_space.config import SpaceConfig
from tests.lfs.fakes import config, drive, made_report

METRICS = ("train_loss", "auc", "auc_se")


def rows_of(search: Search, trainer: str = "trainer-003") -> Rows:
    return Rows(search.config, trainer, METRICS)


def every_row(rows: Rows, search: Search, lease: Lease) -> dict[str, dict[str, Any]]:
    """What a trainer may say of a lease, by what came of it."""
    good = replace(made_report(search.space, lease), metrics=dict.fromkeys(METRICS, 0.5))
    return {
        "trained": rows.with_outcome(lease, good, 2.0),
        "diverged": rows.with_outcome(lease, made_report(search.space, lease, diverged=True), 2.0),
        "failed": rows.without_outcome(lease, "OSError: no space"),
        "none": rows.empty(),
    }


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value encountered")
@pytest.mark.parametrize("space", ["global", "local", "unified", "am_lfs", "paper_local"])
def test_all_rows_have_the_same_columns_in_the_same_order(space: str) -> None:
    search = Search(config(warmup_generations=1, space=SpaceConfig(name=space)))
    rows = rows_of(search)
    found = every_row(rows, search, search.lease("t")).values()
    assert {tuple(row) for row in found} == {rows.columns}
    policy = [f"policy_{what}/{name}" for name in search.space.parameter_names for what in ("mean", "std")]
    assert list(rows.columns) == [*OWN, *search.space.parameter_names, *policy, *METRICS]


def test_losses_of_a_schedule_share_the_columns_of_all() -> None:
    schedule = ({"loss": "am", "margin": 0.2}, {"loss": "mv_arc", "margin": 0.3})
    search = Search(config(mode="fixed", schedule=schedule))
    rows = Rows(search.config, "trainer-000", METRICS)
    made = rows.without_outcome(search.lease("t"), "")
    assert tuple(made) == rows.columns
    assert (made["margin"], made["t"]) == (0.2, None)
    assert not any(name.startswith("policy_") for name in rows.columns)


def test_what_a_row_says() -> None:
    search = Search(config(warmup_generations=0))
    drive(search, until=lambda s: s.state.generation == 2)
    lease = search.lease("t")
    found = every_row(rows_of(search), search, lease)
    trained, diverged, failed = found["trained"], found["diverged"], found["failed"]
    assert lease.loss is not None
    assert (trained["generation"], trained["candidate"], trained["trainer"]) == (2, 0, "trainer-003")
    assert trained["margin"] == trained["margin_mean"] == pytest.approx(lease.loss.margins[0])
    assert (trained["images_per_s"], trained["overhead_s"]) == (10.0, pytest.approx(0.5))
    assert (trained["diverged"], trained["reason"], trained["auc"]) == (False, "", 0.5)
    assert trained["reward"] == made_report(search.space, lease).reward
    assert (diverged["diverged"], diverged["reason"], diverged["reward"], diverged["auc"]) == (True, "made", None, None)
    assert (failed["diverged"], failed["reason"], failed["reward"]) == (False, "OSError: no space", None)
    assert all(row["margin"] == trained["margin"] for row in (diverged, failed))


def test_the_policy_is_that_which_the_candidate_was_drawn_from() -> None:
    search = Search(config(warmup_generations=0))
    drive(search, until=lambda s: s.state.generation == 3)
    mean, std = search.space.parameter_statistics(search.state.policy)
    row = rows_of(search).without_outcome(search.lease("t"), "")
    assert (row["policy_mean/margin"], row["policy_std/margin"]) == (mean[0], std[0])
    assert row["policy_mean/margin"] != Search(config()).policy_of(Search(config()).state.policy)["policy_mean"][0]


@pytest.mark.parametrize(
    "given",
    [
        config(), config(warmup_generations=3), config(warmup_generations=0), config(mode="random"),
        config(mode="fixed", schedule=({"loss": "am", "margin": 0.2},)),
    ],
)  # fmt: skip
def test_the_place_counts_candidates_in_the_order_of_a_single_trainer(given: SearchConfig) -> None:
    search = Search(given)
    places = []
    while (lease := search.lease("t")).kind == "train":
        places.append(place(given, lease.generation, lease.index))
        report = replace(made_report(Search(config()).space, replace(lease, action=(0.2,))))
        search.report(report, "weights")
        if search.ready_to_close:
            search.advance(search.close(), "weights")
    assert places == list(range(1, len(places) + 1))
    assert len(places) >= given.generations


def test_a_candidate_that_diverged_does_not_hide_the_best_from_tune() -> None:
    search = Search(config(warmup_generations=0))
    rows, lease, known = rows_of(search), search.lease("t"), _TrainingRunMetadata()
    good = made_report(search.space, lease)
    for report in (good, made_report(search.space, lease, diverged=True), replace(good, reward=good.reward - 0.1)):
        reward = rows.with_outcome(lease, report, 2.0)["reward"]
        if isinstance(reward, float):  # as Tune looks at results
            known.update_metric("reward", reward)
    assert known.metric_analysis["reward"]["max"] == good.reward
    assert not any(isinstance(v, float) and math.isnan(v) for v in every_row(rows, search, lease)["diverged"].values())
