"""A pipe that nobody reads until a test says so."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO


@contextmanager
def unread() -> Iterator[tuple[TextIO, Callable[..., str]]]:
    """A stream into a pipe, and a call that begins to read: it returns all that has come when nothing more does for
    two seconds. With `close` nothing is read, and the pipe has no other end any more.
    """
    one, other = os.pipe()
    reading, stream = os.fdopen(one, "rb", buffering=0), os.fdopen(other, "w", encoding="utf-8")
    parts: list[bytes] = []

    def read(came: threading.Event) -> None:
        with suppress(OSError):
            while part := reading.read(2**16):
                parts.append(part)
                came.set()

    def all_of_it(*, close: bool = False) -> str:
        if close:
            reading.close()
            return ""
        came = threading.Event()
        threading.Thread(target=read, args=(came,), daemon=True).start()
        while came.wait(2.0):
            came.clear()
        return b"".join(parts).decode()

    yield stream, all_of_it
    with suppress(OSError):
        stream.close()
    reading.close()
