"""A search among others: paused, resumed, stopped, extended, given a smaller or larger share of the cluster."""

import asyncio

import pytest

from lfs import controller as module
from lfs.controller import POLL_S, Controller
from lfs.run_store import RunStore
from lfs.shares import Claim
from search_space.errors import UserError
from tests.lfs.bare_controller import Actor, closed, run, settle
from tests.lfs.fakes import config, made_report
from trainers.config import DataConfig, PairsConfig


@pytest.fixture
def store(bare_store: RunStore) -> RunStore:
    return bare_store


async def paused_with(store: RunStore) -> Controller:
    """A search of three trainers, two of which wait, paused."""
    made = Controller(store.uri)
    await made.lease("a", "1", Actor())
    waiting = [asyncio.create_task(made.lease(name, "1", Actor())) for name in ("b", "c")]
    await settle()
    assert not any(task.done() for task in waiting)
    assert "end as they finish" in await made.act("pause", "me@here")
    assert [(await task).kind for task in waiting] == ["leave", "leave"]
    return made


def test_a_pause_lets_the_idle_go_at_once_and_the_busy_after_their_candidate(store: RunStore) -> None:
    async def story() -> None:
        made = await paused_with(store)
        status = await made.status()
        assert (status["state"], status["trainers"], status["wanted"]) == ("pausing", 1, 0)
        lease = await made.lease("a", "1", Actor())  # its answer was lost: it gets what it holds
        assert lease.kind == "train"
        await made.report(made_report(made.search.space, lease, "a"), [{}])
        await closed(made, 1)
        assert (await made.lease("a", "1", Actor())).kind == "leave"
        status = await made.status()
        assert (status["state"], status["trainers"], status["generation"]) == ("paused", 0, 1)
        assert (await made.claim()) is None
        await made.act("resume", "me@here")
        assert (await made.status())["wanted"] == 3
        assert (await made.lease("a", "2", Actor())).kind == "train"
        assert [e["action"] for e in store.events()] == ["pause", "resume"]
        assert store.events()[0]["by"] == "me@here"

    run(story())


def test_a_pause_outlives_the_controller_but_not_the_driver(store: RunStore) -> None:
    async def story() -> None:
        await paused_with(store)
        assert (await Controller(store.uri).status())["wanted"] == 0
        store.record_event("start")
        assert (await Controller(store.uri).status())["wanted"] == 3

    run(story())


def test_a_stop_outlives_the_controller_until_it_is_taken_back(store: RunStore) -> None:
    async def story() -> None:
        made = Controller(store.uri)
        await made.act("stop", "me@here")
        again = Controller(store.uri)
        assert (await again.status())["state"] in ("stopping", "waiting for room")
        assert again.search.stop_requested
        await again.act("resume", "me@here")
        assert not Controller(store.uri).search.stop_requested
        await again.act("stop", "me@here")
        await again.act("extend", "me@here", 9)
        assert not Controller(store.uri).search.stop_requested
        await again.act("stop", "me@here")
        lease = await again.lease("a", "1", Actor())
        await again.report(made_report(again.search.space, lease, "a"), [{}])
        await closed(again, 1)
        await again._finish_commit()
        assert again.search.over
        assert Controller(store.uri).search.over  # not after one more
        store.record_event("start")
        assert not Controller(store.uri).search.over

    run(story())


def test_a_stop_at_once_and_a_stop_of_a_paused_search_outlive_the_controller(store: RunStore) -> None:
    async def story() -> None:
        made = Controller(store.uri)
        await made.act("stop-now", "me@here")
        assert Controller(store.uri).search.over
        store.record_event("start")
        made = await paused_with(store)
        store.record_event("stop", generation=1)  # the controller died before it could do it
        assert Controller(store.uri).search.over

    run(story())


def test_a_smaller_share_lets_trainers_go_and_a_larger_one_asks_for_more(store: RunStore) -> None:
    async def story() -> None:
        made = Controller(store.uri)
        mine = Claim(name="controller/run", priority=2, needs={"CPU": 1.0}, most=3)
        await made.allow(1, mine)
        assert await made.claim() == mine
        lease = await made.lease("a", "1", Actor())
        assert lease.kind == "train"
        assert (await made.lease("b", "1", Actor())).kind == "leave"
        assert (await made.status())["trainers"] == 1
        await made.allow(0, mine)
        await made.report(made_report(made.search.space, lease, "a"), [{}])
        await closed(made, 1)
        assert (await made.lease("a", "1", Actor())).kind == "leave"
        assert (await made.status())["state"] == "waiting for room"
        await made.allow(99, mine)
        assert (await made.status())["wanted"] == 3

    run(story())


def test_a_smaller_share_is_told_at_once_to_one_that_waits_for_work(store: RunStore) -> None:
    async def story() -> None:
        made = Controller(store.uri)
        await made.lease("a", "1", Actor())
        waiting = asyncio.create_task(made.lease("b", "1", Actor()))
        await settle()
        await made.allow(1, Claim(name="controller/run", priority=0, needs={"CPU": 1.0}, most=3))
        assert (await asyncio.wait_for(waiting, POLL_S / 4)).kind == "leave"

    run(story())


def test_a_stop_at_once_ends_a_search_that_waits_and_one_that_trains(store: RunStore) -> None:
    async def story() -> None:
        made = Controller(store.uri)
        await made.lease("a", "1", Actor())
        waiting = asyncio.create_task(made.lease("b", "1", Actor()))
        await settle()
        await made.act("stop-now", "me@here")
        assert (await waiting).kind == "stop"
        status = await made.status()
        assert (status["finished"], status["error"], status["state"]) == (True, "", "ended")
        with pytest.raises(UserError, match="run is ending; nothing can be changed"):
            await made.act("pause", "me@here")

    run(story())


def test_a_stop_of_a_paused_search_does_not_wait_for_a_generation_that_nobody_trains(store: RunStore) -> None:
    async def story() -> None:
        made = await paused_with(store)
        await made.act("stop", "me@here")
        assert (await made.status())["finished"]

    run(story())


def test_an_extension_is_in_the_run_and_in_force(store: RunStore) -> None:
    async def story() -> None:
        tested = DataConfig(test=PairsConfig(lmdb=("t",), pairs=("t.txt",)))
        store.write_config(config(warmup_generations=5, population_size=3, num_workers=3, data=tested))
        made = Controller(store.uri)
        with pytest.raises(UserError, match="generations must be more than the 0 that are closed, got 0"):
            await made.act("extend", "me@here")
        await made.act("extend", "me@here", 1)
        lease = await made.lease("a", "1", Actor())
        await made.report(made_report(made.search.space, lease, "a"), [{}])
        await closed(made, 1)
        test = await made.lease("a", "1", Actor())
        assert test.kind == "test"
        await made.act("extend", "me@here", 4)
        await made.tested({"accuracy": 0.5})  # of a model that is no longer the last
        assert not (await made.status())["finished"]
        assert (await made.lease("a", "1", Actor())).generation == 1
        assert store.load_config().generations == 4
        assert [e["generations"] for e in store.events()] == [1, 4]

    run(story())


def test_an_extension_that_cannot_be_recorded_is_not_in_force(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("disk full")

    async def story() -> None:
        before = store.load_config().generations
        made = Controller(store.uri)
        for recorder in ("record_event", "write_config"):
            monkeypatch.setattr(RunStore, recorder, refuse)
            with pytest.raises(OSError, match="disk full"):
                await made.act("extend", "me@here", before + 1)
            assert made.search.config.generations == before

    run(story())


def test_a_stop_at_once_ends_the_final_test_too(store: RunStore) -> None:
    async def story() -> None:
        tested = DataConfig(test=PairsConfig(lmdb=("t",), pairs=("t.txt",)))
        store.write_config(config(generations=1, num_workers=3, data=tested))
        made = Controller(store.uri)
        lease = await made.lease("a", "1", Actor())
        await made.report(made_report(made.search.space, lease, "a"), [{}])
        await closed(made, 1)
        await made.act("pause", "me@here")
        assert not (await made.status())["finished"]
        await made.act("stop", "me@here")
        await made._finish_commit()
        assert (await made.status())["finished"]

    run(story())


def test_an_extension_and_a_resume_take_a_stop_back(store: RunStore) -> None:
    async def story() -> None:
        made = Controller(store.uri)
        for action, generations in (("extend", 9), ("resume", 0)):
            await made.act("stop", "me@here")
            assert (await made.status())["state"] == "stopping"
            await made.act(action, "me@here", generations)
            assert (await made.status())["state"] != "stopping"

    run(story())


def test_the_best_weights_so_far_outlive_the_trainer_that_leaves(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        monkeypatch.setattr(module.ray, "put", lambda weights: ("held", weights))
        store.write_config(config(warmup_generations=0, population_size=3, num_workers=3))
        made = Controller(store.uri)
        leases = {name: await made.lease(name, "1", Actor()) for name in ("a", "b")}
        for name, lease in leases.items():
            await made.report(made_report(made.search.space, lease, name), [f"weights of {name}"])
        best = made.search.best_trainer
        await made.act("pause", "me@here")
        for name in leases:
            assert (await made.lease(name, "1", Actor())).kind == "leave"
        assert made.search.best_weights == ("held", f"weights of {best}")

    run(story())
