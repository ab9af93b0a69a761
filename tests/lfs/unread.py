"""A pipe that nobody reads until a test says so."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO


class Unread:
    """The pipe: what is written to `stream` waits in it, as far as there is room."""

    def __init__(self) -> None:
        one, other = os.pipe()
        self._reading = os.fdopen(one, "rb")
        self.stream: TextIO = os.fdopen(other, "w", encoding="utf-8")

    def all_of_it(self, write_the_rest: Callable[[], object]) -> str:
        """Begin to read; all that has come once the rest is written."""
        parts: list[bytes] = []
        reader = threading.Thread(target=lambda: parts.append(self._reading.read()), daemon=True)
        reader.start()
        write_the_rest()
        self.stream.close()
        reader.join(60)
        return b"".join(parts).decode()

    def break_it(self) -> None:
        """Nobody will read it."""
        self._reading.close()

    def close(self) -> None:
        """At the end of a test."""
        with suppress(OSError):
            self.stream.close()
        self._reading.close()


@contextmanager
def unread() -> Iterator[Unread]:
    """A new pipe."""
    pipe = Unread()
    try:
        yield pipe
    finally:
        pipe.close()
