"""What a driver keeps away from the terminal: Ctrl-C's traceback, and the messages of Ray and Tune."""

import contextlib
import logging
import logging.handlers
import signal
import threading
import warnings
from collections.abc import Iterator

from lfs.run_store import RunStore


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


LOG_BYTES = 8 * 2**20
"""Of driver.log; the one before it is kept beside it, as driver.log.1."""


class LogFile(logging.handlers.RotatingFileHandler):
    """A log that is bounded, and that is given up, not complained about, when its disk is full."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Say nothing on the terminal: what matters there is said by the search."""


@contextlib.contextmanager
def quiet_logs(store: RunStore) -> Iterator[None]:
    """Ray's and Tune's messages go to driver.log in the run directory (local runs), never to the terminal."""
    handler: logging.Handler = logging.NullHandler()
    if "://" not in store.uri:
        handler = LogFile(f"{store.path}/driver.log", maxBytes=LOG_BYTES, backupCount=1, delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train", "ray.air", "lfs", "py.warnings")]
    before = [(log, log.handlers[:], log.propagate) for log in loggers]
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
        with contextlib.suppress(OSError):
            handler.close()
