"""A stream behind a thread: who prints never waits for a terminal that is stopped, or a pipe that nobody reads.

print --write--> text that waits --> thread --> terminal or pipe
      never waits    bounded
"""

import threading
import time
from typing import IO, Any

MAX_CHARACTERS = 2**20
"""Text that waits; further pieces are left out, and counted."""


class Outflow:
    """A text stream that takes what it is given at once, until `settle`; from then on it is like the stream behind it.

    An error of the stream is raised by the next call. Everything that is not about writing is asked of the stream.

    Args:
        stream: what is written to.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._waiting: list[str] = []
        self._characters = self._left_out = 0
        self._waits = True
        self._error: OSError | ValueError | None = None
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def pending(self) -> int:
        """Characters that are not written yet."""
        return self._characters

    def flow(self) -> None:
        """From now on nobody waits."""
        self._waits = False

    def settle(self, limit_s: float) -> bool:
        """From now on everybody waits, for what is still to be written too; wait now, no longer than `limit_s`.

        Returns:
            Whether all is written.
        """
        self._waits = True
        return self._written(time.monotonic() + limit_s)

    def write(self, text: str) -> int:
        """Take a piece of text.

        Raises:
            OSError, ValueError: the stream does not take it, or has not taken one before.
        """
        with self._change:
            self._raise()
            if self._waits and not self._characters:
                return self._stream.write(text)
            if not self._waits and self._characters + len(text) > MAX_CHARACTERS:
                self._left_out += 1
                return len(text)
            self._add(text)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="output", daemon=True)
                self._thread.start()
        if self._waits:
            self._written()
        return len(text)

    def flush(self) -> None:
        """Write what waits, where one waits for it.

        Raises:
            OSError, ValueError: it is not taken.
        """
        if self._waits and self._written():
            self._raise()
            self._stream.flush()

    def _add(self, text: str) -> None:
        self._waiting.append(text)
        self._characters += len(text)
        self._change.notify_all()

    def _written(self, until: float | None = None) -> bool:
        """Wait until nothing waits."""
        with self._change:
            rest = None if until is None else max(0.0, until - time.monotonic())
            return self._change.wait_for(lambda: not self._characters, rest)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        """Write as long as there is something."""
        while True:
            with self._change:
                if not self._waiting and self._left_out:
                    self._add(f"({self._left_out:,} messages were left out while nobody read them)\n")
                    self._left_out = 0
                if not self._waiting:
                    self._thread = None
                    return
                text, self._waiting = "".join(self._waiting), []
            try:
                self._stream.write(text)
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._error = error
            with self._change:
                if self._error is not None:  # nobody reads any more
                    text, self._left_out = text + "".join(self._waiting), 0
                    self._waiting = []
                self._characters -= len(text)
                self._change.notify_all()
