"""Nodes that are announced to go: their trainers' candidates go to others at once, and whoever is done first counts."""

import asyncio
from typing import Any

import pytest

from lfs import controller as module
from lfs import watch as watch_module
from lfs.controller import Controller
from lfs.run_store import RunStore
from lfs.view import View
from lfs.watch import Watch
from tests.lfs.bare_controller import Actor, closed, run, settle
from tests.lfs.fakes import config, made_report


@pytest.fixture
def store(bare_store: RunStore) -> RunStore:
    bare_store.write_config(config(warmup_generations=0, population_size=3, num_workers=4))
    return bare_store


def test_its_candidate_is_handed_out_again_and_the_faster_one_counts(store: RunStore) -> None:
    async def story() -> None:
        made = Controller(store.uri)
        staying = {0: await made.lease("b", "1", Actor(), "south")}
        going = await made.lease("a", "1", Actor(), "north")
        staying[2] = await made.lease("c", "1", Actor(), "south")
        await made.report(made_report(made.search.space, staying[2], "c"), [{}])
        waiting = asyncio.create_task(made.lease("c", "1", Actor(), "south"))
        await settle()
        await made.drain(["north"])
        assert await waiting == going
        assert await made.progress("a", 0, going.index, 1, 2, 3.0)  # it may still be first
        await made.report(made_report(made.search.space, going, "a"), [{}])
        assert not await made.progress("c", 0, going.index, 1, 2, 3.0)
        assert not made.search.holds("c")  # it gives up, and is handed other work
        assert (await made.lease("a", "1", Actor(), "north")).kind == "leave"
        assert not made.search._open.deaths  # nobody died of it
        await made.report(made_report(made.search.space, staying[0], "b"), [{}])
        await closed(made, 1)

    run(story())


def test_who_gave_a_candidate_up_is_handed_another_one(store: RunStore) -> None:
    async def story() -> None:
        made = Controller(store.uri)
        going = await made.lease("a", "1", Actor(), "north")
        await made.drain(["north"])
        assert await made.lease("b", "1", Actor(), "south") == going
        await made.report(made_report(made.search.space, going, "a"), [{}])
        assert not await made.progress("b", 0, going.index, 1, 2, 3.0)
        for index in (1, 2):  # alone from now on
            lease = await made.lease("b", "1", Actor(), "south")
            assert lease.index == index
            await made.report(made_report(made.search.space, lease, "b"), [{}])
        await closed(made, 1)

    run(story())


def test_all_their_candidates_are_handed_out_before_any_weights_are_fetched(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        made = Controller(store.uri)
        first = await made.lease("a", "1", Actor(), "north")
        await made.report(made_report(made.search.space, first, "a"), [asyncio.Future()])  # weights that do not come
        second, third = [await made.lease(name, "1", Actor(), "north") for name in "ab"]
        waiting = asyncio.create_task(made.lease("c", "1", Actor(), "south"))
        await settle()
        fetching = asyncio.create_task(made.drain(["north"]))
        assert await waiting == second
        assert made.search._open.queue == [third.index]
        assert not fetching.done()
        fetching.cancel()

    monkeypatch.setattr(module, "POLL_S", 100.0)
    run(story())


def test_who_waits_on_it_leaves_at_once_and_is_welcome_elsewhere(store: RunStore) -> None:
    async def story() -> None:
        made = Controller(store.uri)
        for name in "abb":
            lease = await made.lease(name, "1", Actor(), "south")
            if lease.index == 1:
                await made.report(made_report(made.search.space, lease, name), [{}])
        waiting = asyncio.create_task(made.lease("c", "1", Actor(), "north"))
        await settle()
        await made.drain(["north"])
        assert (await waiting).kind == "leave"
        again = asyncio.create_task(made.lease("c", "2", Actor(), "south"))
        await settle()
        assert not again.done()
        again.cancel()
        await made.drain([])  # it was called off
        back = asyncio.create_task(made.lease("c", "3", Actor(), "north"))
        await settle()
        assert not back.done()
        back.cancel()

    run(story())


def test_the_best_weights_leave_the_node_while_its_trainer_is_at_work(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        monkeypatch.setattr(module.ray, "put", lambda weights: ("held", weights))
        made = Controller(store.uri)
        lease = await made.lease("a", "1", Actor(), "north")
        await made.report(made_report(made.search.space, lease, "a"), ["weights"])
        second = await made.lease("a", "1", Actor(), "north")
        assert second.kind == "train"
        await made.drain(["north"])
        assert made.search.best_weights == ("held", "weights")
        assert (await made.lease("b", "1", Actor(), "south")).index == second.index

    run(story())


def test_the_final_test_is_handed_on_as_well(store: RunStore) -> None:
    store.write_config(config(warmup_generations=0, generations=1, population_size=1, num_workers=2))

    async def story() -> None:
        made = Controller(store.uri)
        made.search.test_metrics = None
        lease = await made.lease("a", "1", Actor(), "north")
        await made.report(made_report(made.search.space, lease, "a"), [{}])
        await closed(made, 1)
        assert (await made.lease("a", "1", Actor(), "north")).kind == "test"
        await made.drain(["north"])
        assert (await made.lease("b", "1", Actor(), "south")).kind == "test"

    run(story())


def test_the_driver_tells_of_them_at_every_look_and_once_that_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[list[str]] = []

    class Told:
        class drain:  # noqa: N801
            remote = staticmethod(told.append)

    looks: list[Any] = [set(), {"b", "a"}, {"b", "a"}, ConnectionError("no answer"), set(), set()]

    def draining_nodes() -> set[str]:
        look: Any = looks.pop(0)
        if isinstance(look, Exception):
            raise look
        return set(look)

    monkeypatch.setattr(watch_module, "draining_nodes", draining_nodes)
    watch = Watch("x", Told, View(), {}, share=lambda: None, timeout_s=100, leave=print)
    while looks:
        watch._see_to_cluster()
    assert told == [["a", "b"], ["a", "b"], []]
