"""A stream behind a thread: who prints never waits for a terminal that is stopped, or a pipe that nobody reads.

print --write--> text that waits --> thread --> terminal or pipe
      never waits    bounded
"""

import threading
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
        self._writing = ""
        self._left_out = 0
        self._waits = True
        self._error: OSError | ValueError | None = None
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def pending(self) -> int:
        """Characters that are not written yet."""
        with self._change:
            return len(self._writing) + sum(map(len, self._waiting))

    def flow(self) -> None:
        """From now on nobody waits."""
        self._waits = False

    def settle(self, limit_s: float) -> bool:
        """From now on everybody waits, for what is still to be written too; wait now, no longer than `limit_s`.

        Returns:
            Whether all is written.
        """
        self._waits = True
        return self._written(limit_s)

    def write(self, text: str) -> int:
        """Take a piece of text.

        Raises:
            OSError, ValueError: the stream does not take it, or has not taken one before.
        """
        with self._change:
            self._raise()
            if self._waits and self._is_idle():
                return self._stream.write(text)
            if not self._waits and self.pending + len(text) > MAX_CHARACTERS:
                self._left_out += 1
                return len(text)
            self._waiting.append(text)
            self._begin()
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

    def _is_idle(self) -> bool:
        return not (self._writing or self._waiting)

    def _written(self, limit_s: float | None = None) -> bool:
        """Wait until nothing waits."""
        with self._change:
            if not self._is_idle():
                self._begin()
            return self._change.wait_for(self._is_idle, limit_s)

    def _begin(self) -> None:
        """Have a thread that writes. A Ctrl-C may have come before the last one was started."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._work, name="output", daemon=True)
            self._thread.start()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        """Write as long as there is something."""
        while text := self._next():
            try:
                self._stream.write(text)
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._error = error

    def _next(self) -> str:
        """All that waits, once what was written is; empty: nothing, and the thread is to end."""
        with self._change:
            if self._error is not None:  # nobody reads any more
                self._waiting, self._left_out = [], 0
            if not self._waiting and self._left_out:
                self._waiting = [f"({self._left_out:,} messages were left out while nobody read them)\n"]
                self._left_out = 0
            self._writing, self._waiting = "".join(self._waiting), []
            if not self._writing:
                self._thread = None
                self._change.notify_all()
            return self._writing
