"""Who worked when, on one clock, is in the record, and is no result."""

import asyncio
from pathlib import Path
from typing import Any

from lfs.board import Board
from lfs.controller import Controller
from lfs.generation import Search
from lfs.run_store import RunStore
from lfs.timesheet import Timesheet
from tests.lfs.bare_controller import Actor, closed, run, settle
from tests.lfs.fakes import config, made_report


def test_each_candidate_has_its_lease_and_its_report() -> None:
    search, now = Search(config(warmup_generations=0, population_size=3)), [100.0]
    board = Board(search, [])
    board.times = Timesheet(lambda: now[0])

    def lease(trainer: str) -> Any:
        made = search.lease(trainer)
        board.times.leased(trainer, made)
        now[0] += 1
        return made

    def report(trainer: str, made: Any) -> None:
        now[0] += 10
        made = made_report(search.space, made, trainer)
        if search.report(made, "weights"):
            board.took(made)

    first, second = lease("a"), lease("b")  # at 100 and 101
    assert lease("a") == first  # asked again: still since 100
    board.times.left("b")  # at 103
    search.release("b")
    report("a", first)  # at 113
    again = lease("a")  # at 113
    assert again.index == second.index
    report("a", again)  # at 124
    report("c", lease("c"))  # from 124 to 135
    record = search.close()
    board.closed(record)
    times = [(row["leased_at"], row["reported_at"]) for row in record.rows]
    assert times == [(100, 113), (113, 124), (124, 135)]
    lost = {"trainer": "b", "candidate": second.index, "died": True, "leased_at": 101, "lost_at": 103}
    assert record.summary["lost"] == [lost]


def test_a_candidate_that_failed_ends_with_the_next_lease_of_its_trainer() -> None:
    now = [100.0]
    times, search = Timesheet(lambda: now[0]), Search(config(warmup_generations=0, population_size=2))
    failed = search.lease("a")
    times.leased("a", failed)
    now[0] = 105
    search.release("a")  # it failed, and somebody else is to try
    search.lease("b")
    other = search.lease("a")
    assert other.index != failed.index
    times.leased("a", other)
    assert times._lost == [{"trainer": "a", "candidate": failed.index, "died": False, "leased_at": 100, "lost_at": 105}]
    now[0] = 110
    times.leased("a", other)
    assert len(times._lost) == 1


def test_work_that_is_no_longer_wanted_is_lost_without_a_death(tmp_path: Path) -> None:
    search, now = Search(config(warmup_generations=0, population_size=2)), [0.0]
    board = Board(search, [])
    board.times = Timesheet(lambda: now[0])
    for trainer in "ab":
        board.times.leased(trainer, search.lease(trainer))
    done = made_report(search.space, search.lease("a"), "a")
    search.report(done, "weights")
    board.took(done)
    search.drop(1, "took too long")
    now[0] = 9.0
    record = search.close()
    board.closed(record)
    assert [row["leased_at"] for row in record.rows] == [0, None]
    assert [(lost["candidate"], lost["died"], lost["lost_at"]) for lost in record.summary["lost"]] == [(1, False, 9.0)]
    store = RunStore(str(tmp_path / "run"))
    store.create(search.config)
    store.commit(record, {})
    assert store.summaries()[0]["lost"] == record.summary["lost"]
    assert store.load_candidates(0)["reported_at"].isna().tolist() == [False, True]


def test_the_controller_records_the_dead(bare_store: RunStore) -> None:
    async def story() -> None:
        made, dead = Controller(bare_store.uri), Actor()
        lease = await made.lease("a", "1", dead)
        dead.die()
        await settle()
        assert await made.lease("b", "1", Actor()) == lease
        await made.report(made_report(made.search.space, lease, "b"), [{}])
        await closed(made, 1)
        while not bare_store.committed():
            await asyncio.sleep(0.01)

    run(story())
    [row] = bare_store.load_candidates(0).to_dict("records")
    assert 0 < row["leased_at"] <= row["reported_at"]
    [lost] = bare_store.summaries()[0]["lost"]
    assert (lost["trainer"], lost["candidate"], lost["died"]) == ("a", 0, True)
