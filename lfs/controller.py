"""The controller: one named, restartable Ray actor that owns the state of a search.

    trainers  --lease, report, failed, progress-->  Controller --commit--> run directory (one generation behind at most)
    driver    --status, stop-------------------->     |  `Search` (lfs/generation.py) decides, this shell moves bytes
    object store <--winner's weights, put under the controller's own name

State in this process is a copy of what the run directory and the trainers can give back: a restart runs the
constructor, which reloads the last committed generation; trainers' calls are retried by Ray and are idempotent.
"""

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError

from lfs import look
from lfs.attendance import Attendance
from lfs.board import Board, continued
from lfs.config import SearchConfig
from lfs.demand import ACTIONS, Demand, standing
from lfs.messages import GenerationRecord, Lease, Report
from lfs.plugins import packages, resume_flags
from lfs.run_store import RunStore
from lfs.shares import Claim
from lfs.stragglers import Stragglers
from search_space.errors import UserError

POLL_S = 10.0
"""A trainer without work is answered `wait` after this long, and asks again."""
PROGRESS_PER_S = 100.0
"""Messages of progress that all trainers together may send: the more they are, the rarer each does."""
FETCH_S = 600.0
"""A winner's weights that take longer than this to fetch count as lost."""
OVERTIME_S = 1.0
"""Between two looks for candidates that take too long."""
FOLLOWS_S = 5.0
"""Whoever asked for the status so long ago is no longer there."""
NEVER = 2**31 - 1
logger = logging.getLogger(__name__)


class Controller:
    """See the module. Methods are Ray actor calls, all of them safe to repeat.

    Args:
        run_uri: the run directory, which holds the configuration and all committed state.
    """

    def __init__(self, run_uri: str) -> None:
        self.store = RunStore(run_uri)
        config = self.store.load_config()
        search, base, summaries = continued(self.store, config)
        search.base = None if base is None else ray.put(base)
        self.search, self.board = search, Board(search, summaries)
        self._changed = asyncio.Event()
        self._closing: asyncio.Task[None] | None = None
        self._commit: asyncio.Task[None] | None = None
        self.attendance = Attendance(self._left)
        self.stragglers = Stragglers(config.straggler_factor)
        self._overtime: asyncio.Task[None] | None = None
        self._followers: dict[str, float] = {}
        self._held: Any = None
        self._winner_lost = asyncio.Event()
        self._came = False
        self.demand = Demand(search, self.attendance)
        for action in standing(self.store, search.state.generation):
            self.demand.obey(action)
        self._versions = look.versions(packages(config))
        leave_garbage()

    # ---- trainers

    async def get_config(self) -> SearchConfig:
        """The search's configuration, for a trainer that starts."""
        self._came = True
        return self.search.config

    async def get_versions(self) -> dict[str, str]:
        """What a trainer must have installed."""
        return self._versions

    async def lease(self, trainer: str, incarnation: str, actor: Any, node: str = "") -> Lease:
        """Work for a trainer; a base handle comes wrapped in a list so that Ray passes it on unfetched.

        A trainer without work is told to leave if there is one too many, or if its node is to go.
        """
        self.attendance.join(trainer, incarnation, actor, node)
        until = time.monotonic() + POLL_S
        while self.attendance.has(trainer, incarnation):  # else it died waiting: no work for the dead
            if self.demand.is_to_leave(trainer):
                if await self._secured(trainer):
                    continue
                self.attendance.dismiss(trainer)
                self._notify()
                return Lease(kind="leave")
            lease = self._handed_out(trainer)
            left = until - time.monotonic()
            if lease.kind == "stop":
                await self._finish_commit()  # trainers that stop end the driver, and with it this process
            if lease.kind != "wait" or left <= 0:
                return replace(lease, progress_s=max(lease.progress_s, len(self.attendance) / PROGRESS_PER_S))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)
        return Lease(kind="wait")

    async def report(self, report: Report, weights: list[Any]) -> None:
        """A candidate's outcome; `weights` holds a reference to its weights, or nothing if it diverged."""
        self.attendance.works()
        if self.search.report(report, weights[0] if weights else None):
            self.board.took(report)
        self.board.progress.pop(report.trainer, None)
        self._close_if_ready()

    async def failed(self, trainer: str, generation: int, index: int, message: str, fatal: bool) -> None:
        """A candidate could not be trained; `fatal` where trying again cannot help (bad input)."""
        self.stragglers.forget(trainer)
        self.search.failed(trainer, generation, index, message, fatal=fatal)
        self._notify()

    async def broken(self, trainer: str, message: str, fatal: bool) -> bool:
        """A trainer could not even start. Returns whether it is to give up rather than to try again: it dies then."""
        if self.search.over:
            return True
        gives_up = self.attendance.cannot_start(trainer, message, fatal=fatal)
        self._fail_without_trainers(gives_up, message)
        return gives_up

    async def died(self, trainer: str, message: str) -> None:
        """Tune starts a trainer again, whose process died."""
        if not self.search.over:
            self._fail_without_trainers(self.attendance.died(trainer, message), message)

    async def progress(
        self, trainer: str, generation: int, index: int, done: int, total: int, images_per_s: float
    ) -> bool:
        """How far a trainer is with its candidate; whether that is still of use to anybody."""
        if self.search.running.get(trainer) == index:
            self.board.progress[trainer] = {"done": done, "total": total, "images_per_s": images_per_s}
        return self.search.wants(generation, index)

    async def tested(self, metrics: dict[str, float]) -> None:
        """The final model's test scores."""
        await self._finish_commit()
        result = {
            "generation": self.search.state.generation - 1,
            "test": metrics,
            "num_images": self.search.state.num_images,
        }
        try:
            await asyncio.to_thread(self.store.write_result, result)
        except OSError as error:
            self.search.fail(f"storage failed: {error}")
        self.search.tested(metrics)
        self._notify()

    # ---- driver, and whoever else watches over the search

    async def where(self) -> str:
        """The run directory."""
        return self.store.uri

    async def claim(self) -> Claim | None:
        """What this search could use of the cluster; None: its driver has not said yet."""
        return self.demand.claim

    async def allow(self, num_trainers: int, claim: Claim) -> None:
        """How many trainers this search may have, and what it asked that for."""
        if self.demand.allow(num_trainers, claim):
            self._notify()

    async def drain(self, nodes: Collection[str]) -> None:
        """Nodes that are announced to go, all of them: others get the candidates of their trainers now.

        Who is faster counts; the outcome is the same.
        """
        new = self.demand.drain(nodes)
        going = self.attendance.on(new)
        for trainer in going:
            self.stragglers.forget(trainer)
            if self.search.hand_back(trainer):
                logger.warning("%s is on a node that is to go; its candidate goes back to the queue", trainer)
        if new:
            self._notify()
        for trainer in going:
            await self._secured(trainer)

    async def stop(self) -> None:
        """Stop cleanly after the running generation."""
        self.demand.obey("stop")
        self._notify()

    async def act(self, action: str, by: str, generations: int = 0) -> str:
        """Do one of `ACTIONS` for a user; it is recorded in the run before it is done.

        Returns:
            What it means, for the user.
        Raises:
            UserError: not now, or not at all.
        """
        if self.search.over:
            raise UserError(f"{self.store.name} is ending; nothing can be changed any more")
        facts: dict[str, Any] = {"by": by, "generation": self.search.state.generation + 1}
        if action == "extend":
            await asyncio.to_thread(self.store.write_config, self.search.extended(generations))
            facts["generations"] = generations
        await asyncio.to_thread(lambda: self.store.record_event(action, **facts))
        if action == "extend":
            await self._finish_close()  # it opens what is next by the old number
            self.search.extend(generations)
        self.demand.obey(action)
        self._notify()
        return ACTIONS[action]

    async def status(self, follower: str = "", since: int = 0) -> dict[str, Any]:
        """Everything a view shows.

        Args:
            follower: who asks, if it is not the driver: the driver does not leave before followers have seen the end.
            since: summaries that whoever asks has already.
        """
        if follower:
            self._followers[follower] = time.monotonic()
        committed = self._commit is None or self._commit.done()
        settled = committed and not self._is_closing
        recent = [at for at in self._followers.values() if time.monotonic() - at < FOLLOWS_S]
        own = {
            "state": self.demand.state, "wanted": self.demand.to_start, "notes": self.attendance.notes,
            "run": self.store.uri, "resume": resume_flags(self.store.uri), "followed": bool(recent), "came": self._came,
        }  # fmt: skip
        return self.board.status(trainers=len(self.attendance), settled=settled, since=since) | own

    # ---- inside

    def _handed_out(self, trainer: str) -> Lease:
        """Work for a trainer, whose time is taken."""
        lease = self.search.lease(trainer)
        self.board.times.leased(trainer, lease)
        if lease.kind == "train" and self.stragglers.factor:
            self.stragglers.leased(trainer, lease.generation, lease.index)
            self._overtime = self._overtime or asyncio.create_task(self._drop_stragglers())
        return lease

    async def _drop_stragglers(self) -> None:
        """Look now and then whether the generation is to go on without some of its candidates."""
        while not self.search.over:
            await asyncio.sleep(OVERTIME_S)
            for index, reason in self.stragglers.overdue(self.search).items():
                if self.search.drop(index, reason):
                    logger.warning("candidate %d of generation %d %s", index, self.search.state.generation + 1, reason)
            self._close_if_ready()

    async def _secured(self, trainer: str) -> bool:
        """Before a trainer goes: hold the best weights so far under this process, if they are its own.

        Returns:
            Whether that took time, in which much may have changed.
        """
        if self._is_closing:
            await self._finish_close()
            return True
        best = self.search.best_weights
        if not self._holds_best(trainer):
            return False
        with contextlib.suppress(RayError, TimeoutError):
            weights = await asyncio.wait_for(_fetch(best), FETCH_S)
            self._held = await asyncio.to_thread(ray.put, weights)
            self.search.keep_best(best, self._held)
            return True
        return False

    def _notify(self) -> None:
        """Wake every trainer that waits for work."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _left(self, trainer: str) -> None:
        """Whatever a trainer had to do, or alone has, is to be done by others.

        Ray would tell of weights that are lost only once it counts their node as dead, which takes it long.
        """
        self.board.progress.pop(trainer, None)
        self.board.times.left(trainer)
        self.stragglers.forget(trainer)
        self.search.release(trainer)
        if self._holds_best(trainer):
            logger.warning("the best weights so far are lost with %s; they are trained again", trainer)
            if self._is_closing:
                self._winner_lost.set()
            else:
                self.search.lose_best_weights()
        self._notify()

    def _holds_best(self, trainer: str) -> bool:
        """Whether the best weights so far are a trainer's own, and nobody else's."""
        best = self.search.best_weights
        return self.search.best_trainer == trainer and best is not None and best is not self._held

    def _fail_without_trainers(self, gives_up: bool, message: str) -> None:
        """With others at work it is a trainer's node that is at fault, and the search goes on without it."""
        if gives_up and not len(self.attendance):
            self.search.fail(message)
            self._notify()

    def _close_if_ready(self) -> None:
        if self.search.ready_to_close and not self._is_closing and not self.search.error:
            self._winner_lost.clear()
            self._closing = asyncio.create_task(self._close())

    async def _close(self) -> None:
        """Fetch the winner, step the policy, open the next generation; its record is committed behind it."""
        try:
            # In threads, since the search stands still meanwhile: every outcome is in, the queue is empty.
            record = await asyncio.to_thread(self.search.close)
            weights = await self._winner()
            base = await asyncio.to_thread(ray.put, weights)
            prepared = await asyncio.to_thread(self.search.prepare, record.state)
            await self._finish_commit()
            if self.search.error:  # that commit failed: nothing may be committed over the gap
                return
        except (RayError, TimeoutError) as error:
            logger.warning("the winner's weights are lost (%s); it is trained again", type(error).__name__)
            self.search.lose_best_weights()
        except UserError as error:
            self.search.fail(str(error))
        except Exception as error:
            logger.exception("closing generation %d", self.search.state.generation)
            self.search.fail(f"closing a generation failed: {type(error).__name__}: {error}")
        else:
            self.board.closed(record)
            self.search.advance(record, base, prepared)
            self.attendance.try_again()
            self._commit = asyncio.create_task(self._commit_behind(record, weights))
        gc.collect()  # while nobody trains
        self._notify()

    async def _winner(self) -> Any:
        """The winner's weights.

        Raises:
            RayError: they are lost, which is known as soon as the trainer that has them is gone.
            TimeoutError: they do not come.
        """
        fetch = asyncio.ensure_future(_fetch(self.search.best_weights))
        lost = asyncio.ensure_future(self._winner_lost.wait())
        try:
            done, _ = await asyncio.wait({fetch, lost}, timeout=FETCH_S, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                raise TimeoutError
            return await _fetch(None) if fetch not in done else fetch.result()
        finally:
            fetch.cancel()
            lost.cancel()

    @property
    def _is_closing(self) -> bool:
        return self._closing is not None and not self._closing.done()

    async def _finish_close(self) -> None:
        while self._closing is not None and not self._closing.done():  # one may follow another
            await asyncio.wait([self._closing])

    async def _finish_commit(self) -> None:
        if self._commit is not None:
            await self._commit

    async def _commit_behind(self, record: GenerationRecord, weights: Any) -> None:
        try:
            await asyncio.to_thread(self.store.commit, record, weights)
            await asyncio.to_thread(self.store.prune, record.generation, self.search.config.keep_generations)
        except Exception as error:
            logger.exception("committing generation %d", record.generation)
            self.search.fail(f"storage failed, the last committed generation is intact: {error}")
            self._notify()


def leave_garbage() -> None:
    """Collect long-lived objects only when told to: with 1,000 trainers each time stops all calls for 0.1 to 0.7 s."""
    gc.collect()
    gc.freeze()  # what is imported, for good
    gc.set_threshold(*gc.get_threshold()[:2], NEVER)


async def _fetch(reference: Any) -> Any:
    """The object behind a reference; lost at once if there is none."""
    if reference is None:
        raise ray.exceptions.ObjectLostError("", None, "")
    return await reference
