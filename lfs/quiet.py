"""What a driver keeps away from the terminal: Ctrl-C's traceback, and the messages of Ray and Tune."""

import contextlib
import logging
import logging.handlers
import os
import queue
import signal
import sys
import threading
import warnings
from collections.abc import Iterator

from lfs.commands import FAILED
from lfs.run_store import RunStore
from lfs.terminal import printable


@contextlib.contextmanager
def interrupts(stop_asked: threading.Event) -> Iterator[None]:
    """Ctrl-C once: stop after this generation. Twice, or SIGTERM: stop now; what is committed stays."""

    def on_signal(number: int, frame: object) -> None:
        stop_asked.set()  # others look at it: a signal handler must neither call Ray nor print
        signal.signal(signal.SIGINT, signal.default_int_handler)

    handlers = {signal.SIGINT: on_signal, signal.SIGTERM: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


LAST_LOGS_S = 5.0
LOG_BYTES = 8 * 2**20
"""Of driver.log; the one before it is kept beside it, as driver.log.1."""


QUIET = (
    "ray", "ray.tune", "ray.train", "ray.air", "lfs", "py.warnings",
    "mlflow", "alembic", "sqlalchemy", "urllib3", "wandb",
)  # fmt: skip
"""Whose messages are for the log."""


class LogFile(logging.handlers.RotatingFileHandler):
    """A log that is bounded, and that is given up, not complained about, when its disk is full."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Say nothing on the terminal: what matters there is said by the search."""


def leave(line: str) -> None:
    """End this process with a last line, whatever its other threads are stuck in."""
    print(printable(line), file=sys.stderr, flush=True)
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
    before = [(log, log.handlers[:], log.propagate) for log in loggers]
    with written_aside(file) as handler:
        for log in loggers:
            log.handlers, log.propagate = [handler], False
        logging.captureWarnings(True)
        try:
            with warnings.catch_warnings():
                yield
        finally:
            logging.captureWarnings(False)
            for log, handlers, propagate in before:
                log.handlers, log.propagate = handlers, propagate
