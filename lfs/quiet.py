"""What a driver keeps away from the terminal: Ctrl-C's traceback, and the messages of Ray and Tune."""

import contextlib
import logging
import logging.handlers
import os
import queue
import select
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator

from lfs.commands import FAILED, INTERRUPTED
from lfs.outflow import Outflow
from lfs.run_store import RunStore
from lfs.terminal import printable


@contextlib.contextmanager
def interrupts(
    stop_asked: threading.Event,
    told: Callable[[], object] = lambda: None,
    told_now: Callable[[], object] = lambda: None,
) -> Iterator[None]:
    """Ctrl-C once: stop after this generation. Twice, or SIGTERM: stop now, by a `KeyboardInterrupt`; what is committed
    stays. Once more while that takes its time, or the end of the terminal, which takes this machine's Ray with it: the
    process ends at once.

    Args:
        told: called at once, in a thread, when it is to stop after this generation: a signal handler must neither call
            Ray nor print.
        told_now: the same when it is to stop now.
    """
    pressed: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
    stopped: list[int] = []

    def tell() -> None:
        while say := pressed.get():
            say()

    def stop_now(number: int, frame: object) -> None:
        for one in handled:
            signal.signal(one, leave_now)
        stopped.append(number)
        pressed.put(told_now)
        raise KeyboardInterrupt

    def stop_after_this(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, stop_now)
        stop_asked.set()
        pressed.put(told)

    handled = {signal.SIGINT: stop_after_this, signal.SIGTERM: stop_now, signal.SIGHUP: leave_now}
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup
        del handled[signal.SIGHUP]
    teller = threading.Thread(target=tell, name="interrupts", daemon=True)
    teller.start()
    before = {number: signal.signal(number, handler) for number, handler in handled.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            if not stopped:
                signal.signal(number, handler)
        pressed.put(None)
        teller.join(LAST_LOGS_S)


def leave_now(number: int, frame: object) -> None:
    """End this process without a word to anybody; its own Ray ends with it."""
    with contextlib.suppress(OSError, ValueError):
        if select.select([], [2], [], 0)[1]:  # a terminal that is stopped must not hold it
            os.write(2, b"\n")  # the prompt begins a line
    os._exit(INTERRUPTED)


LAST_LOGS_S = 5.0
LOG_BYTES = 8 * 2**20
"""Of driver.log; the one before it is kept beside it, as driver.log.1."""


QUIET = (
    "ray", "ray.tune", "ray.train", "ray.air", "lfs", "py.warnings",
    "mlflow", "alembic", "sqlalchemy", "urllib3", "wandb",
)  # fmt: skip
"""Whose messages are for the log."""
FULL = ("ray", "ray.tune", "ray.train", "ray.air", "lfs")
"""Those of whom all from INFO on are: `ray.init` is told ERROR, which is for the terminal."""


class LogFile(logging.handlers.RotatingFileHandler):
    """A log that is bounded, and that is given up, not complained about, when its disk is full."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Say nothing on the terminal: what matters there is said by the search."""


def leave(line: str) -> None:
    """End this process with a last line, whatever its other threads are stuck in, and its terminal too."""
    out = Outflow(getattr(sys.stderr, "rich_proxied_file", sys.stderr))  # not above what is live, with its thread
    out.flow()
    out.write(printable(line) + "\n")
    out.settle(LAST_LOGS_S)
    os._exit(FAILED)


@contextlib.contextmanager
def written_aside(handler: logging.Handler) -> Iterator[logging.Handler]:
    """A handler that hands on to another one in a thread: who logs never waits for a disk, which may hang."""
    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    listener = logging.handlers.QueueListener(records, handler)
    listener.start()
    try:
        yield logging.handlers.QueueHandler(records)
    finally:
        last = threading.Thread(target=listener.stop, name="last logs", daemon=True)
        last.start()
        last.join(LAST_LOGS_S)
        if not last.is_alive():
            with contextlib.suppress(OSError):
                handler.close()


@contextlib.contextmanager
def quiet_logs(store: RunStore) -> Iterator[None]:
    """Ray's and Tune's messages go to driver.log in the run directory (local runs), never to the terminal."""
    file: logging.Handler = logging.NullHandler()
    if "://" not in store.uri:
        file = LogFile(f"{store.path}/driver.log", maxBytes=LOG_BYTES, backupCount=1, delay=True)
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in QUIET]
    before = [(log, log.handlers[:], log.propagate, log.level) for log in loggers]
    with written_aside(file) as handler:
        for log in loggers:
            log.handlers, log.propagate = [handler], False
            if log.name in FULL:
                log.setLevel(logging.INFO)
        logging.captureWarnings(True)
        try:
            with warnings.catch_warnings():
                yield
        finally:
            logging.captureWarnings(False)
            for log, handlers, propagate, level in before:
                log.handlers, log.propagate = handlers, propagate
                log.setLevel(level)
