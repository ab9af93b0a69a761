"""A stream behind a thread: who prints never waits for a terminal that is stopped, or a pipe that nobody reads.

print --write--> text that waits --> thread --> terminal or pipe
      never waits    bounded
"""

import threading
from typing import IO, Any

MAX_CHARACTERS = 2**20
"""Text that waits; further pieces are left out, and counted."""


class Outflow:
    """A text stream that takes what it is given at once from `flow` to `settle`; else it is like the stream behind it.

    An error of the stream is raised by the next `write`. Everything that is not about writing is asked of the stream.

    Args:
        stream: what is written to.
        says: a line says in its place how many pieces were left out; else `left_out` has to be asked.
    """

    def __init__(self, stream: IO[str], *, says: bool = True) -> None:
        self._stream, self._says = stream, says
        self._waiting: list[str] = []
        self._characters = 0
        """In `_waiting`."""

        self._writing = ""
        self._left_out = 0
        self._waits = True
        self._error: Exception | None = None
        # A signal handler may raise between any two steps of Python, but not inside of an RLock's.
        self._lock = threading.RLock()
        self._change = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def pending(self) -> int:
        """Characters that are not written yet."""
        return len(self._writing) + self._characters

    def left_out(self) -> int:
        """Pieces that were left out since this was asked; 0 as long as there would be no room to say so."""
        with self._lock:
            if self.pending > MAX_CHARACTERS // 2:
                return 0
            count, self._left_out = self._left_out, 0
            return count

    def flow(self) -> None:
        """From now on nobody waits."""
        self._waits = False

    def settle(self, limit_s: float | None) -> bool:
        """From now on everybody waits, for what is still to be written too; wait now, no longer than `limit_s`.

        Returns:
            Whether all is written.
        """
        self._waits = True
        return self._written(limit_s)

    def write(self, text: str) -> int:
        """Take a piece of text.

        Raises:
            Exception: the stream does not take it, or has not taken one before.
        """
        with self._lock:
            self._raise()
            if self._waits and self._is_idle():
                return self._stream.write(text)
            if not self._waits and self.pending + len(text) > MAX_CHARACTERS:
                self._left_out += 1
                return len(text)
            self._add(text)
            self._begin()
        if self._waits:
            self._written(None)
        return len(text)

    def flush(self) -> None:
        """Write what waits, where one waits for it.

        Raises:
            Exception: it is not taken.
        """
        if self._waits and self._written(None):
            self._raise()
            self._stream.flush()

    def _add(self, text: str) -> None:
        if self._left_out and self._says:
            text = f"({self._left_out:,} messages were left out while nobody read them)\n{text}"
            self._left_out = 0
        self._waiting.append(text)
        self._characters += len(text)

    def _is_idle(self) -> bool:
        return not (self._writing or self._waiting)

    def _written(self, limit_s: float | None) -> bool:
        """Wait until nothing waits."""
        with self._lock:
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
            except Exception as error:  # whoever writes next is told
                self._error = error

    def _next(self) -> str:
        """All that waits, once what was written is; empty: nothing, and the thread is to end."""
        with self._lock:
            if self._error is not None:  # nobody reads any more
                self._waiting, self._left_out = [], 0
            elif self._says and self._left_out and not self._waiting:
                self._add("")
            self._writing, self._waiting, self._characters = "".join(self._waiting), [], 0
            if not self._writing:
                self._thread = None
                self._change.notify_all()
            return self._writing
