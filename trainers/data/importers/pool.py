"""Work shared out over processes that are started afresh, with results in the order of the tasks."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from search_space.errors import UserError
from trainers.data.lmdb_source import keep_open

T = TypeVar("T")


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(work: Callable[..., T], tasks: Iterable[tuple[Any, ...]], workers: int) -> Iterator[T]:
    """`work(*task)` for every task, results in the order of the tasks; the first that raises ends it, and
    so does whoever stops asking for them: nothing that has begun is waited for.

    Args:
        workers: processes; 1: in this one. Tasks are taken a few ahead of those that are done, so results are few, too.
    Raises:
        UserError: a process was killed.
        Exception: what `work` raises, for the first task for which it does.
    """
    if workers == 1:
        yield from (work(*task) for task in tasks)
        return
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()  # workers end when our end is closed, by us or by our own end
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(theirs,))
    waiting: deque[Future[T]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(work, *task))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
        pool.shutdown()
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, for want of memory perhaps; run the same command again, with fewer --workers"
        ) from None
    finally:
        ours.close()
        pool.shutdown(cancel_futures=True)
        theirs.close()


def _begin(parent: Connection) -> None:
    """In a new worker: Ctrl-C is for the parent, without which nothing is left to do; tasks read the same LMDBs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_open()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Connection) -> None:
    parent.poll(None)
    os._exit(1)
