"""What a view is told of a running generation."""

from typing import Any

from lfs.board import Board, filled_in
from lfs.generation import Search
from tests.lfs.fakes import config, made_report


def slow_candidate(board: Board, index: int) -> dict[str, Any]:
    """One candidate at a time, looked up from scratch."""
    search = board.search
    [report] = [r for i, r in search.reports.items() if i == index] or [None]
    [runner] = [t for t, i in search.running.items() if i == index] or [None]
    progress = board.progress.get(runner or "", {"done": 0, "total": 0})
    outcome = report and ("diverged" if report.diverged else "done")
    loss = search.space.decode(search.actions[index])
    return {
        "index": index, "state": outcome or (runner and "running") or "queued",
        "margins": list(loss.margins), "parameters": loss.parameters(),
        "trainer": report.trainer if report else runner,
        "reward": report and report.reward, "reward_se": report and report.reward_se,
        "done": progress["done"], "total": progress["total"],
    }  # fmt: skip


def test_every_candidate_is_shown_as_it_is_in_each_generation() -> None:
    search = Search(config(warmup_generations=0, population_size=6))
    board = Board(search, [])
    for generation in range(2):
        leases = [search.lease(t) for t in "abc"]
        search.report(made_report(search.space, leases[0], "a"), "weights")
        search.report(made_report(search.space, leases[1], "b", diverged=True), None)
        board.progress["c"] = {"done": 3, "total": 7, "images_per_s": 1.0}
        status = board.status(trainers=3, settled=True)
        assert [c["state"] for c in status["candidates"]] == ["done", "diverged", "running", *["queued"] * 3]
        slow = [slow_candidate(board, i) for i in range(6)]
        assert [c | {"reward": str(c["reward"])} for c in status["candidates"]] == [
            c | {"reward": str(c["reward"])}
            for c in slow  # the diverged one has NaN
        ]
        assert status["generation"] == generation
        while (lease := search.lease("c")).kind == "train":
            search.report(made_report(search.space, lease, "c"), "weights")
        search.advance(search.close(), "base")


def test_a_view_that_asks_for_what_is_new_has_all_generations_once() -> None:
    search = Search(config(warmup_generations=0, population_size=1, generations=5))
    board = Board(search, [])
    seen = board.status(trainers=1, settled=True)
    for closed in (2, 0, 1):  # between two looks
        for _ in range(closed):
            search.report(made_report(search.space, search.lease("a"), "a"), "weights")
            record = search.close()
            board.closed(record)
            search.advance(record, "base")
        news = board.status(trainers=1, settled=True, since=len(seen["summaries"]))
        assert len(news["summaries"]) == closed
        seen = filled_in(news, seen)
        assert seen == board.status(trainers=1, settled=True)
    assert [summary["generation"] for summary in seen["summaries"]] == [0, 1, 2]
