"""The controller's shell around the state machine, on a bare event loop: who waits, who dies, who gets the work."""

import asyncio
import gc
import threading
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ObjectLostError

from lfs import controller as module
from lfs.attendance import MAX_BROKEN
from lfs.controller import PROGRESS_PER_S, Controller, leave_garbage
from lfs.messages import SearchState
from lfs.open_generation import OpenGeneration
from lfs.run_store import RunStore
from search_space import plugins
from tests.lfs.bare_controller import Actor, closed, run, settle
from tests.lfs.fakes import config, made_report


@pytest.fixture
def store(bare_store: RunStore) -> RunStore:
    return bare_store


def test_work_goes_to_the_living_not_to_one_that_died_while_it_waited(store: RunStore) -> None:
    async def story() -> None:
        made = Controller(store.uri)
        first, dead, living = Actor(), Actor(), Actor()
        assert (await made.lease("a", "1", first)).kind == "train"
        waiting = asyncio.create_task(made.lease("b", "1", dead))
        await settle()
        dead.die()
        await settle()
        first.die()
        await settle()
        assert (await waiting).kind == "wait"
        assert (await made.lease("c", "1", living)).kind == "train"

    run(story())


def test_a_waiting_trainer_gets_a_dead_one_s_candidate_at_once(store: RunStore) -> None:
    async def story() -> None:
        made = Controller(store.uri)
        first = Actor()
        lease = await made.lease("a", "1", first)
        waiting = asyncio.create_task(made.lease("b", "1", Actor()))
        await settle()
        first.die()
        assert await waiting == lease
        assert (await made.status())["trainers"] == 1

    run(story())


def test_many_trainers_send_progress_less_often(store: RunStore) -> None:
    async def story() -> None:
        store.write_config(config(warmup_generations=5, population_size=1000, num_workers=1000))
        made = Controller(store.uri)
        assert (await made.lease("a", "1", Actor())).progress_s == 2
        waiting = [asyncio.create_task(made.lease(f"t{i}", "1", Actor())) for i in range(999)]
        await settle()
        assert (await made.lease("a", "2", Actor())).progress_s == 1000 / PROGRESS_PER_S == 10
        for task in waiting:
            task.cancel()

    run(story())


def test_a_new_process_under_an_old_name_gives_the_old_lease_back(store: RunStore) -> None:
    async def story() -> None:
        made = Controller(store.uri)
        await made.lease("a", "1", Actor())
        again = await made.lease("a", "2", Actor())
        assert (again.kind, again.index) == ("train", 0)
        assert (await made.status())["trainers"] == 1

    run(story())


def test_a_closed_generation_is_committed_behind_the_next_and_reloaded_by_a_fresh_controller(store: RunStore) -> None:
    async def story() -> None:
        made = Controller(store.uri)
        actor = Actor()
        for generation in range(2):
            lease = await made.lease("a", "1", actor)
            assert lease.generation == generation
            await made.report(made_report(made.search.space, lease, "a"), [{}])
        lease = await made.lease("a", "1", actor)
        assert lease.generation == 2
        await made._finish_commit()
        fresh = Controller(store.uri)
        assert fresh.search.state == made.search.state
        assert [s["generation"] for s in (await fresh.status())["summaries"]] == [0, 1]
        assert (await fresh.lease("a", "1", actor)).action == lease.action

    run(story())


def test_while_a_generation_closes_others_are_answered_and_nobody_gets_work(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        made = Controller(store.uri)
        lease = await made.lease("a", "1", Actor())
        prepare, opened = made.search.prepare, threading.Event()

        def slow(state: SearchState) -> OpenGeneration:
            assert opened.wait(10)
            return prepare(state)

        monkeypatch.setattr(made.search, "prepare", slow)
        report = made_report(made.search.space, lease, "a")
        await made.report(report, [{}])
        waiting = asyncio.create_task(made.lease("a", "1", Actor()))
        await made.report(report, ["a late one"])
        await asyncio.sleep(0.05)  # as long as it likes: nothing may come
        assert not waiting.done()
        status = await made.status()
        assert (status["generation"], status["candidates"][0]["state"]) == (0, "done")
        opened.set()
        assert (await waiting).generation == 1

    run(story())


def test_whoever_watches_is_told_how_to_go_on_with_its_plugins(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "_allowed", {"mine", "ours.rewards"})

    async def story() -> None:
        assert (await Controller(store.uri).status())[
            "resume"
        ] == f"--resume {store.uri} --allow-plugins mine,ours.rewards"

    run(story())


def test_the_best_weights_so_far_are_trained_again_as_soon_as_their_trainer_is_dead(store: RunStore) -> None:
    store.write_config(config(warmup_generations=0, population_size=2, num_workers=3))

    async def story() -> None:
        made = Controller(store.uri)
        dies, lives = Actor(), Actor()
        lease = await made.lease("a", "1", dies)
        other = await made.lease("b", "1", lives)
        await made.report(made_report(made.search.space, lease, "a"), [{"only": "here"}])
        waiting = asyncio.create_task(made.lease("c", "1", Actor()))
        dies.die()
        assert await waiting == lease
        await made.report(made_report(made.search.space, lease, "c"), [{"and": "there"}])
        lives.die()  # it has nothing
        await settle()
        assert made.search.best_weights == {"and": "there"}
        assert (await made.lease("d", "1", Actor())).index == other.index

    run(story())


def test_a_winner_whose_trainer_dies_while_it_is_fetched_is_trained_again_at_once(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, weights = asyncio.Event(), {"of": np.zeros(1)}

    async def fetch(reference: Any) -> Any:
        if reference is None:
            raise ObjectLostError("", None, "")
        started.set()
        return await asyncio.Event().wait() if reference == "gone" else weights

    monkeypatch.setattr(module, "_fetch", fetch)

    async def story() -> None:
        made = Controller(store.uri)
        dies = Actor()
        lease = await made.lease("a", "1", dies)
        await made.report(made_report(made.search.space, lease, "a"), ["gone"])
        await started.wait()
        dies.die()
        again = await made.lease("b", "1", Actor())
        assert again == lease
        await made.report(made_report(made.search.space, lease, "b"), ["here"])
        await closed(made, 1)
        await made._finish_commit()
        assert store.committed() == [0]

    run(story())


def test_storage_that_fails_stops_the_search_and_commits_nothing_over_the_gap(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        made = Controller(store.uri)
        real = made.store.commit

        def commit(record: Any, weights: Any) -> None:
            if record.generation == 1:
                raise OSError("No space left on device")
            real(record, weights)

        monkeypatch.setattr(made.store, "commit", commit)
        actor = Actor()
        while (lease := await made.lease("a", "1", actor)).kind == "train":
            await made.report(made_report(made.search.space, lease, "a"), [{}])
        assert lease.kind == "stop"
        while not (status := await made.status())["finished"]:
            await asyncio.sleep(0.01)  # its last writes run in a thread
        assert "No space left on device" in status["error"]
        assert store.committed() == [0]

    run(story())


def test_trainers_that_cannot_start_stop_the_search_after_a_few(store: RunStore) -> None:
    async def story() -> None:
        made = Controller(store.uri)
        over = [await made.broken("a", "ImportError: no torch", False) for _ in range(MAX_BROKEN)]
        assert over == [False] * (MAX_BROKEN - 1) + [True]
        assert (await made.status())["error"] == "ImportError: no torch"

    run(story())


def test_one_node_that_lacks_the_data_does_not_stop_a_search_that_others_work_on(store: RunStore) -> None:
    async def story() -> None:
        made = Controller(store.uri)
        await made.lease("a", "1", Actor())
        assert await made.broken("b", "no such LMDB", True)
        assert (await made.status())["error"] == ""

    run(story())


def test_deaths_before_the_first_candidate_are_counted_and_told_and_later_ones_are_not(store: RunStore) -> None:
    async def story() -> None:
        made = Controller(store.uri)
        for incarnation in range(2 * MAX_BROKEN):
            await made.lease("a", str(incarnation), Actor())
            await made.died("a", "killed")
        assert (await made.status())["notes"] == []
        for _ in range(MAX_BROKEN):
            await made.died("b", "ModuleNotFoundError: No module named 'lfs'")
        status = await made.status()
        assert status["notes"] == ["trainer b cannot take part: ModuleNotFoundError: No module named 'lfs'"[8:]]
        assert (status["error"], status["wanted"]) == ("", 2)  # a still works; nobody is sent in b's place
        await made.lease("b", "1", Actor())
        assert (await made.status())["wanted"] == 3

    run(story())


def test_a_trainer_that_says_why_it_cannot_start_and_then_dies_is_counted_once(store: RunStore) -> None:
    async def story() -> None:
        made = Controller(store.uri)
        for _ in range(MAX_BROKEN - 1):
            assert not await made.broken("a", "OSError: a hiccup", False)
            await made.died("a", "OSError: a hiccup")
        assert (await made.status())["error"] == ""
        assert await made.broken("a", "OSError: a hiccup", False)
        assert (await made.status())["error"] == "OSError: a hiccup"

    run(story())


def test_only_the_death_of_one_that_came_is_not_counted(store: RunStore) -> None:
    async def story() -> None:
        made = Controller(store.uri)
        await made.lease("a", "1", Actor())
        waiting = asyncio.create_task(made.lease("b", "1", Actor()))
        await settle()
        await made.died("b", "killed at work")
        for _ in range(MAX_BROKEN - 1):
            await made.died("b", "no torch")
        assert (await made.status())["notes"] == []
        await made.died("b", "no torch")
        assert (await made.status())["notes"] == ["b cannot take part: no torch"]
        waiting.cancel()

    run(story())


def test_a_report_shows_that_it_is_not_the_search_that_keeps_others_from_starting(store: RunStore) -> None:
    async def story() -> None:
        made = Controller(store.uri)
        lease = await made.lease("a", "1", Actor())
        for _ in range(MAX_BROKEN - 1):
            assert not await made.broken("b", "OSError: a hiccup", False)
        await made.report(made_report(made.search.space, lease, "a"), [{}])
        for _ in range(MAX_BROKEN - 1):
            assert not await made.broken("b", "OSError: a hiccup", False)

    run(story())


def test_deaths_of_all_before_the_first_candidate_end_the_search(store: RunStore) -> None:
    async def story() -> None:
        made = Controller(store.uri)
        for _ in range(MAX_BROKEN):
            await made.died("a", "ModuleNotFoundError: No module named 'lfs'")
        assert (await made.status())["error"] == "ModuleNotFoundError: No module named 'lfs'"

    run(story())


def test_long_lived_objects_are_collected_when_a_generation_closes_and_never_else(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "leave_garbage", leave_garbage)

    async def story() -> None:
        made = Controller(store.uri)
        full = []
        gc.callbacks.append(lambda phase, info: full.append(info) if info["generation"] == 2 and phase == "stop" else 0)
        try:
            lease = await made.lease("a", "1", Actor())
            keep = [[i] for i in range(300_000)]  # many times what would start a collection of the oldest
            assert not full
            await made.report(made_report(made.search.space, lease, "a"), [{}])
            assert (await made.lease("a", "1", Actor())).generation == 1
            assert len(full) == 1
            del keep
        finally:
            gc.callbacks.pop()

    before = gc.get_threshold()
    try:
        run(story())
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


def test_a_trainer_that_gave_up_may_try_again_in_the_next_generation(store: RunStore) -> None:
    async def story() -> None:
        made = Controller(store.uri)
        lease = await made.lease("a", "1", Actor())
        for _ in range(2):
            assert await made.broken("b", "no such LMDB", True)
        assert (await made.status())["wanted"] == 2
        await made.report(made_report(made.search.space, lease, "a"), [{}])
        await closed(made, 1)
        assert (await made.status())["wanted"] == 3
        assert await made.broken("b", "no such LMDB", True)
        assert (await made.status())["notes"] == ["b cannot take part: no such LMDB"]

    run(story())
