"""The state machine without Ray: whoever works in whatever order, and dies, the same search comes out."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from lfs.generation import MAX_FAILURES, MAX_LOSSES, Search
from lfs.messages import GenerationRecord, Report, SearchState
from search_space.config import LossConfig, PolicyConfig, SpaceConfig
from search_space.errors import UserError
from search_space.usable import why_unusable
from tests.lfs.fakes import OPTIMUM, config, drive, made_report


def facts(records: list[GenerationRecord]) -> list[object]:
    """What must not depend on the trainers: rewards, actions, winners, states; not who trained what."""
    keep = [[{k: v for k, v in row.items() if k != "trainer"} for row in r.rows] for r in records]
    return [keep, [r.winner for r in records], [json.dumps(r.state.to_dict()) for r in records]]


@pytest.mark.parametrize("trainers", [2, 3, 8])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_search_on_any_number_of_dying_trainers(trainers: int, seed: int) -> None:
    alone = drive(Search(config()))
    many = drive(Search(config()), trainers, seed, death_rate=0.1)
    assert facts(alone) == facts(many)


def test_a_search_goes_on_from_any_state_as_if_uninterrupted() -> None:
    whole = drive(Search(config()))
    for stop in range(1, 5):
        first = Search(config())
        before = drive(first, until=lambda s, stop=stop: s.state.generation == stop)
        state = SearchState.from_dict(json.loads(json.dumps(before[-1].state.to_dict())))
        after = drive(Search(config(), state, base=first.base))
        assert facts(before + after) == facts(whole)


def test_the_mean_moves_to_the_optimum_of_the_reward() -> None:
    search = Search(config(generations=80, population_size=8))
    drive(search)
    assert abs(search.state.policy.mean[0] - OPTIMUM) < 0.05 < abs(0.2 - OPTIMUM)


def test_random_mode_samples_and_inherits_but_never_learns() -> None:
    search = Search(config(mode="random"))
    records = drive(search)
    start = Search(config()).state.policy
    assert search.state.policy == start
    assert len({tuple(row["action"]) for r in records[1:] for row in r.rows}) == 4 * 4
    assert search.base == (4, records[-1].winner)
    assert not any(r.summary["moved"] for r in records)


def test_warmup_trains_one_candidate_with_the_space_s_fixed_loss() -> None:
    records = drive(Search(config(warmup_generations=2, space=SpaceConfig(name="paper_global"))))
    assert [len(r.rows) for r in records] == [1, 1, 4, 4, 4]
    assert records[0].rows[0]["action"] == [-1.0]
    # a = -exp(s/3), s = 32: margin log(1 + exp(32/3)) / 32
    assert records[0].rows[0]["margins"][0] == pytest.approx(math.log1p(math.exp(32 / 3)) / 32)
    assert records[1].state.policy == Search(config(space=SpaceConfig(name="paper_global"))).state.policy


def test_a_lease_asked_for_twice_is_the_same_lease() -> None:
    search = Search(config(warmup_generations=0))
    assert search.lease("a") == search.lease("a")
    assert search.lease("b").index == 1


def test_a_dead_trainer_s_candidate_is_handed_out_first_again() -> None:
    search = Search(config(warmup_generations=0))
    search.lease("a"), search.lease("b")
    search.release("a")
    assert search.lease("c").index == 0


def test_reports_count_once_and_late_or_early_ones_are_dropped() -> None:
    search = Search(config())
    lease = search.lease("a")
    report = made_report(search.space, lease, "a")
    assert not search.report(replace(report, generation=1), "early")
    assert search.report(report, "weights")
    assert not search.report(report, "again")
    assert search.best_weights == "weights"
    search.advance(search.close(), "weights")
    assert not search.report(report, "late")
    assert search.reports == {}


def test_a_report_without_a_lease_counts_since_any_trainer_brings_the_same_bits() -> None:
    search = Search(config(warmup_generations=0))
    lease = search.lease("a")
    search.release("a")
    assert search.report(made_report(search.space, lease, "a"), "weights")
    assert search.lease("b").index == 1


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_equal_rewards_go_to_the_lower_index_whoever_came_first(order: tuple[int, int]) -> None:
    search = Search(config(warmup_generations=0, population_size=2))
    leases = [search.lease("a"), search.lease("b")]
    for i in order:
        search.report(replace(made_report(search.space, leases[i], "ab"[i]), reward=0.5), i)
    assert search.best_weights == 0
    assert search.close().winner == 0


def test_tied_rewards_leave_the_policy_bit_for_bit() -> None:
    search = Search(config(warmup_generations=0))
    for trainer in "abcd":
        search.report(replace(made_report(search.space, search.lease(trainer), trainer), reward=0.7), trainer)
    record = search.close()
    assert record.state.policy == search.state.policy
    assert not record.summary["moved"]
    assert record.summary["tied"]


def test_a_diverged_candidate_loses_and_the_search_goes_on() -> None:
    search = Search(config(warmup_generations=0))
    for trainer in "abcd":
        lease = search.lease(trainer)
        search.report(made_report(search.space, lease, trainer, diverged=lease.index == 0), trainer)
    record = search.close()
    rows = record.rows
    assert record.winner != 0
    assert rows[0]["diverged"]
    assert rows[0]["reward"] is None
    assert rows[0]["reason"] == "made"
    assert rows[0]["advantage"] == min(r["advantage"] for r in rows) < 0
    assert record.summary["diverged"] == 1
    assert record.summary["why_diverged"] == "candidate 0: made"
    assert not record.summary["tied"]


def test_a_wholly_diverged_generation_stops_with_a_way_out() -> None:
    search = Search(config())
    search.report(made_report(search.space, search.lease("a"), "a", diverged=True), None)
    with pytest.raises(UserError, match=r"all 1 candidates of generation 1 diverged \(made\); lower --trainer.lr"):
        search.close()


def test_a_lost_winner_is_trained_again_and_nothing_else_changes() -> None:
    plain, lossy = Search(config(warmup_generations=0)), Search(config(warmup_generations=0))
    for search in (plain, lossy):
        for trainer in "abcd":
            search.report(made_report(search.space, search.lease(trainer), trainer), trainer)
    expected = plain.close()
    lossy.lose_best_weights()
    assert not lossy.ready_to_close
    lease = lossy.lease("e")
    assert lease.index == expected.winner
    lossy.report(made_report(lossy.space, lease, "e"), "again")
    assert lossy.best_weights == "again"
    assert facts([lossy.close()]) == facts([expected])


def test_the_noise_floor_in_units_of_the_paired_difference() -> None:
    def mean_after(floor: float, unit: str) -> float:
        policy = PolicyConfig(lr=0.02, noise_floor=floor, noise_floor_unit=unit)
        search = Search(config(warmup_generations=0, policy=policy))
        for trainer in "abcd":
            search.report(made_report(search.space, search.lease(trainer), trainer), trainer)
        record = search.close()
        paired = max(row["paired_se"] for row in record.rows)
        rewards = [row["reward"] for row in record.rows]
        assert 0 < paired < max(rewards) - min(rewards)
        return float(record.state.policy.mean[0])

    still = Search(config()).state.policy.mean[0]
    assert mean_after(1e9, "paired_se") == still == mean_after(1.0, "reward")
    assert mean_after(1.0, "paired_se") != still != mean_after(0.0, "reward")


def test_bad_input_in_a_trainer_stops_at_once_and_other_errors_after_a_few_tries() -> None:
    search = Search(config())
    search.lease("a")
    search.failed("a", 0, 0, "line 3 of list.txt: ...", fatal=True)
    assert search.over
    assert search.error.startswith("line 3")
    assert search.lease("a").kind == "stop"

    search = Search(config())
    for attempt in range(MAX_FAILURES):
        assert not search.error, attempt
        assert search.lease("a").index == 0
        search.failed("a", 0, 0, "RuntimeError: out of luck", fatal=False)
    assert search.error == "RuntimeError: out of luck"


def test_a_candidate_that_kills_its_trainers_stops_the_search() -> None:
    search = Search(config())
    for _ in range(MAX_LOSSES):
        search.lease("a")
        search.release("a")
    assert "candidate 0 of generation 1 lost its trainer" in search.error


def test_a_winner_that_is_lost_over_and_over_stops_the_search() -> None:
    search = Search(config())
    for _ in range(MAX_LOSSES):
        assert not search.error
        search.report(made_report(search.space, search.lease("a"), "a"), "weights")
        search.lose_best_weights()
    assert "the winner of generation 1 lost its trainer" in search.error


def test_a_test_that_kills_its_trainers_stops_the_search() -> None:
    search = Search(config(generations=1))
    search.report(made_report(search.space, search.lease("a"), "a"), "weights")
    search.advance(search.close(), "weights")
    for _ in range(MAX_LOSSES):
        assert search.lease("a").kind == "test"
        search.release("a")
    assert "the final test lost its trainer" in search.error


def test_the_final_model_is_tested_by_one_trainer_and_handed_on_if_that_dies() -> None:
    search = Search(config(generations=1))
    search.report(made_report(search.space, search.lease("a"), "a"), "weights")
    search.advance(search.close(), "weights")
    assert search.lease("a").kind == "test"
    assert search.lease("a").base == "weights"
    assert search.lease("b").kind == "wait"
    search.release("a")
    assert search.lease("b").kind == "test"
    search.tested({"accuracy": 0.9})
    assert search.lease("a").kind == "stop"


def test_a_stop_takes_effect_after_the_running_generation_without_a_test() -> None:
    search = Search(config())
    search.stop_requested = True
    lease = search.lease("a")
    assert lease.kind == "train"
    search.report(made_report(search.space, lease, "a"), "weights")
    assert search.ready_to_close
    search.advance(search.close(), "weights")
    assert search.lease("a").kind == "stop"
    assert search.over
    assert search.state.generation == 1


def test_record_rows_hold_what_results_show() -> None:
    [first, second, *_] = drive(Search(config()))
    assert first.summary["warmup"]
    assert not second.summary["warmup"]
    rewards = [row["reward"] for row in second.rows]
    assert second.rows[second.winner]["reward"] == max(rewards)
    assert second.summary["mean_reward"] == pytest.approx(np.mean(rewards))
    assert second.summary["winner_margins"] == second.rows[second.winner]["margins"]
    assert second.rows[0]["a"][0] == pytest.approx(1 - math.exp(32 * second.rows[0]["margins"][0]))
    assert second.state.num_images == 50


def test_draws_that_are_no_usable_loss_are_drawn_again_and_counted() -> None:
    search = Search(config(space=SpaceConfig(name="am_lfs", intercepts="free"), warmup_generations=0))
    assert all(not why_unusable(search.loss_of(i)) for i in range(len(search.actions)))
    [record] = drive_losses(search, generations=1)
    assert record.summary["rejected"] > 0
    assert record.summary["winner_loss"]["loss"] == "am_lfs"
    assert set(record.summary["winner_parameters"]) == set(record.summary["parameter_names"])


def test_the_next_generation_can_be_prepared_beside_the_running_one() -> None:
    beside, after = (Search(config(warmup_generations=0)) for _ in range(2))
    for search in (beside, after):
        for trainer in "abcd":
            search.report(made_report(search.space, search.lease(trainer), trainer), trainer)
    record = beside.close()
    before = beside.actions.copy()
    prepared = beside.prepare(record.state)
    assert np.array_equal(beside.actions, before)
    assert beside.lease("e").kind == "wait"
    beside.advance(record, "base", prepared)
    after.advance(after.close(), "base")
    assert [beside.lease(t) for t in "abcd"] == [after.lease(t) for t in "abcd"]


def test_a_stop_while_the_next_generation_is_prepared_takes_effect_before_it() -> None:
    search = Search(config(warmup_generations=0, population_size=1))
    search.report(made_report(search.space, search.lease("a"), "a"), "a")
    record = search.close()
    prepared = replace(search.prepare(record.state), error="no usable draws")
    search.stop_requested = True
    search.advance(record, "base", prepared)
    assert search.lease("a").kind == "stop"
    assert not search.error


def test_a_space_without_usable_losses_stops_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lfs.generation.why_unusable", lambda loss: "never")
    search = Search(config(warmup_generations=0))
    assert search.over
    assert "std" in search.error
    assert search.lease("t").kind == "stop"


def test_one_loss_trains_one_candidate_and_learns_nothing() -> None:
    search = Search(config(mode="fixed", loss=LossConfig(name="arc", margin=0.25)))
    records = drive_losses(search, generations=2)
    assert [len(record.rows) for record in records] == [1, 1]
    assert records[1].summary["winner_loss"] == {"loss": "arc", "scale": 32.0, "margin": 0.25}
    assert records[1].summary["policy_mean"] == []
    assert not records[0].summary["warmup"]


def drive_losses(search: Search, generations: int) -> list[GenerationRecord]:
    """Close generations with rewards that say nothing."""
    records = []
    for _ in range(generations):
        while not search.ready_to_close:
            lease = search.lease("t")
            report = Report(
                generation=lease.generation, index=lease.index, reward=0.1 * lease.index, reward_se=0.01,
                replicates=np.zeros(3), diverged=False, reason="", metrics={}, num_images=1,
                train_s=1.0, validate_s=1.0, trainer="t",
            )  # fmt: skip
            search.report(report, lease.index)
        records.append(search.close())
        search.advance(records[-1], None)
    return records


def test_scores_of_a_model_that_is_no_longer_the_last_do_not_count() -> None:
    search = Search(config(generations=1))
    drive(search, until=lambda s: s.trained)
    assert search.lease("a").kind == "test"
    search.extend(2)
    search.tested({"accuracy": 0.1})
    drive(search, until=lambda s: s.trained)
    assert search.lease("a").kind == "test"
    search.tested({"accuracy": 0.2})
    assert (search.over, search.test_metrics) == (True, {"accuracy": 0.2})


def test_an_extended_search_is_the_longer_one_from_the_start() -> None:
    whole = drive(Search(config(generations=4)))
    search = Search(config(generations=2))
    before = drive(search, until=lambda s: s.trained)
    search.extend(4)
    assert facts(before + drive(search)) == facts(whole)


def test_the_best_weights_are_held_anew_only_while_they_are_the_best() -> None:
    search = Search(config(warmup_generations=0))
    leases = [search.lease(name) for name in ("a", "b", "c", "d")]
    reports = sorted((made_report(search.space, lease) for lease in leases), key=lambda r: r.reward)
    search.report(reports[0], "worse")
    search.report(reports[1], "better")
    search.keep_best("worse", "kept")
    assert search.best_weights == "better"
    search.keep_best("better", "kept")
    assert search.best_weights == "kept"


def test_a_candidate_in_two_hands_is_not_handed_out_again_for_the_one_that_lets_go() -> None:
    search = Search(config(warmup_generations=0, population_size=2))
    lease = search.lease("a")
    search.release("a")  # out of reach, but not dead
    assert search.lease("b").index == lease.index
    assert search.report(made_report(search.space, lease, "a"), "weights")
    search.release("b")
    assert search.lease("c").index != lease.index
    assert search.lease("d").kind == "wait"


def test_a_lost_winner_that_comes_back_worse_is_the_winner_no_longer() -> None:
    search = Search(config(warmup_generations=0, population_size=2))
    reports = [made_report(search.space, search.lease(name), name) for name in ("a", "b")]
    worse, better = sorted(reports, key=lambda r: r.reward)
    search.report(worse, "worse")
    search.report(better, "better")
    search.lose_best_weights()
    again = search.lease("c")
    assert again.index == better.index
    search.report(replace(better, reward=worse.reward - 1, trainer="c"), "worst")  # as on a device without fixed bits
    assert search.best_weights is None  # the other's are to be fetched, are found lost, and it is trained again
    search.lose_best_weights()
    assert search.lease("d").index == worse.index
