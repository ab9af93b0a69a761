"""Candidates that take too long: which they are, and what a generation is without them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lfs import controller as module
from lfs.controller import Controller
from lfs.generation import Search
from lfs.messages import Lease
from lfs.run_store import RunStore
from lfs.stragglers import Stragglers
from search_space.advantage import advantages
from search_space.config import PolicyConfig
from search_space.errors import UserError
from search_space.policy import tell
from tests.lfs.bare_controller import Actor, closed, run, settle
from tests.lfs.fakes import config, made_report


def leased(stragglers: Stragglers, search: Search, trainers: str) -> dict[str, Lease]:
    """A candidate for each trainer, all of them from now on."""
    leases = {trainer: search.lease(trainer) for trainer in trainers}
    for trainer, lease in leases.items():
        stragglers.leased(trainer, lease.generation, lease.index)
    return leases


def report(search: Search, lease: Lease, trainer: str, took_s: float, **changes: Any) -> None:
    made = made_report(search.space, lease, trainer, **changes)
    search.report(replace(made, train_s=took_s - 1, validate_s=1.0), (lease.generation, lease.index))


def test_overdue_is_what_takes_so_many_times_the_median_of_the_generation() -> None:
    now = [100.0]
    search = Search(config(warmup_generations=0, population_size=5))
    stragglers = Stragglers(3.0, lambda: now[0])
    leases = leased(stragglers, search, "abcde")
    report(search, leases["a"], "a", 10)
    report(search, leases["b"], "b", 30)
    now[0] = 1e6
    assert stragglers.overdue(search) == {}  # two of five: the median is not known
    report(search, leases["c"], "c", 20)
    now[0] = 100 + 3 * 30
    assert stragglers.overdue(search) == {}
    now[0] += 0.1
    assert set(stragglers.overdue(search)) == {3, 4}
    assert stragglers.overdue(search)[3] == "took more than 3 times the median of 30 s"
    assert Stragglers(0.0, lambda: now[0]).overdue(search) == {}


def test_a_dead_trainer_s_candidate_counts_from_its_next_lease() -> None:
    now = [0.0]
    search = Search(config(warmup_generations=0, population_size=3))
    stragglers = Stragglers(2.0, lambda: now[0])
    leases = leased(stragglers, search, "abc")
    report(search, leases["a"], "a", 10)
    report(search, leases["b"], "b", 10)
    now[0] = 19
    search.release("c")
    stragglers.forget("c")
    leased(stragglers, search, "c")  # a new process under the old name
    now[0] = 21
    assert stragglers.overdue(search) == {}
    stragglers.leased("c", 0, 2)  # it asks again: the same candidate
    now[0] = 40
    assert set(stragglers.overdue(search)) == {2}


def test_diverged_candidates_do_not_make_the_median_short() -> None:
    now = [0.0]
    search = Search(config(warmup_generations=0, population_size=4))
    stragglers = Stragglers(2.0, lambda: now[0])
    leases = leased(stragglers, search, "abcd")
    report(search, leases["a"], "a", 1.5, diverged=True)
    report(search, leases["b"], "b", 10)
    now[0] = 23
    assert stragglers.overdue(search) == {}  # one of three
    report(search, leases["c"], "c", 12)
    assert stragglers.overdue(search) == {}  # the median of 10, 12 and what is to come is 12
    now[0] = 24.1
    assert stragglers.overdue(search) == {3: "took more than 2 times the median of 12 s"}


def test_of_an_even_number_half_is_enough() -> None:
    now = [0.0]
    search = Search(config(warmup_generations=0, population_size=4))
    stragglers = Stragglers(2.0, lambda: now[0])
    leases = leased(stragglers, search, "abcd")
    report(search, leases["a"], "a", 10)
    now[0] = 24.1
    assert stragglers.overdue(search) == {}
    report(search, leases["b"], "b", 12)
    assert set(stragglers.overdue(search)) == {2, 3}


def test_where_all_diverged_nobody_is_late() -> None:
    search = Search(config(warmup_generations=0, population_size=2))
    stragglers = Stragglers(2.0)
    leases = leased(stragglers, search, "ab")
    for trainer in "ab":
        report(search, leases[trainer], trainer, 1.5, diverged=True)
    assert stragglers.overdue(search) == {}


def test_the_gradient_is_that_of_the_candidates_that_count() -> None:
    search = Search(config(warmup_generations=0, population_size=4))
    leases = {t: search.lease(t) for t in "abcd"}
    assert not search.drop(1, "slow")  # nobody is in: there would be no winner
    for trainer in "acd":
        report(search, leases[trainer], trainer, 10)
    before, rewards = search.state.policy, [search.reports[i].reward for i in (0, 2, 3)]
    assert search.drop(1, "slow")
    assert not search.drop(1, "slow")
    assert search.ready_to_close
    assert search.lease("b").kind == "wait"  # it does not get it again
    report(search, leases["b"], "b", 99)  # late
    record = search.close()

    settings = search.config.policy
    gains = advantages(rewards, kind=settings.advantage)
    assert record.state.policy == tell(before, search.actions[[0, 2, 3]], gains, settings)
    row = record.rows[1]
    assert (row["dropped"], row["reason"], row["reward"], row["advantage"], row["winner"]) == (
        True, "slow", None, 0.0, False,
    )  # fmt: skip
    assert [r["candidate"] for r in record.rows] == [0, 1, 2, 3]
    assert [r["advantage"] for r in record.rows if not r["dropped"]] == list(gains)
    assert (record.summary["dropped"], record.summary["diverged"], record.summary["candidates"]) == (1, 0, 4)
    assert record.summary["mean_reward"] == pytest.approx(np.mean(rewards))
    assert record.state.num_images == 30


def test_the_noise_floor_is_that_of_the_candidates_that_count() -> None:
    policy = PolicyConfig(lr=0.02, noise_floor=1.0, noise_floor_unit="paired_se")
    search = Search(config(warmup_generations=0, population_size=4, policy=policy))
    leases = {t: search.lease(t) for t in "abcd"}
    for trainer in "bcd":
        report(search, leases[trainer], trainer, 10)
    search.drop(0, "slow")
    rows = search.close().rows[1:]
    worst = min(rows, key=lambda row: row["reward"])
    gains = advantages([row["reward"] for row in rows], kind=policy.advantage, noise_floor=worst["paired_se"])
    assert [row["advantage"] for row in rows] == list(gains)
    assert gains.any()


def test_a_dropped_candidate_of_a_dead_trainer_is_not_trained_again() -> None:
    search = Search(config(warmup_generations=0, population_size=3))
    leases = {t: search.lease(t) for t in "abc"}
    for trainer in "ab":
        report(search, leases[trainer], trainer, 10)
    search.drop(2, "slow")
    search.release("c")
    search.failed("c", 0, 2, "late", fatal=False)
    assert search.lease("d").kind == "wait"
    assert search.ready_to_close


def test_the_controller_closes_a_generation_without_a_straggler_who_is_told(
    bare_store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OVERTIME_S", 0.001)
    bare_store.write_config(
        config(warmup_generations=0, population_size=3, num_workers=3, generations=2, straggler_factor=2.0)
    )

    async def story() -> None:
        made = Controller(bare_store.uri)
        now = [0.0]
        made.stragglers = Stragglers(2.0, lambda: now[0])
        leases = {name: await made.lease(name, "1", Actor()) for name in "abc"}
        for name in "ab":
            await made.report(made_report(made.search.space, leases[name], name), [{}])
        await settle()
        assert made.search.state.generation == 0
        assert await made.progress("c", 0, 2, 5, 10, 1.0)
        now[0] = 3.1  # both took 1.5 s
        await closed(made, 1)
        assert not await made.progress("c", 0, 2, 6, 10, 1.0)
        assert (await made.lease("c", "1", Actor())).generation == 1
        await made._finish_commit()
        assert list(bare_store.load_candidates(0)["dropped"]) == [False, False, True]

    run(story())


def test_a_factor_that_would_drop_the_median_itself_is_refused() -> None:
    for factor in (1.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(UserError, match="straggler_factor must be 0 or more than 1"):
            config(straggler_factor=factor)
