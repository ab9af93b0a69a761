"""Operations that may never return (a server of an NFS mount that is gone): after a while without progress they are
given up. The thread that is stuck in one is left alone, and does not keep the process from ending."""

import errno
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from lfs.files import CHUNK_BYTES, Entry, Files, Part

LIMIT_S = 300.0
"""Longer than any storage takes that is only slow: the limit is on the time without a sign of life."""
STUCK_LIMIT_S = 10.0
"""Limit while another operation is stuck already: a search that ends must not wait for every step of its end."""
T = TypeVar("T")


class UnansweredError(OSError):
    """An operation made no progress for so long that it was given up. Trying again would take as long again."""


def aside(action: Callable[[], None]) -> None:
    """Run something in a thread that the end of the process does not wait for."""
    threading.Thread(target=action, name="storage", daemon=True).start()


class Pending(Generic[T]):
    """An operation that has begun, in a thread of its own.

    Args:
        what: its name, for the error.
    """

    def __init__(self, action: Callable[[], T], what: str) -> None:
        self.what, self.over, self.given_up = what, threading.Event(), False
        self.part_of: Pending[Any] | None = _current()
        self.heard = time.monotonic()
        self._action = action
        self._result: list[T] = []
        self._error: BaseException | None = None
        aside(self._run)

    def _run(self) -> None:
        before, _here.pending = _current(), self
        try:
            self._result.append(self._action())
        except BaseException as error:
            self._error = error
        finally:
            _here.pending = before
            self.over.set()

    def result(self) -> T:
        """What came of it, once it is over."""
        self.over.wait()
        if self._error is not None:
            raise self._error
        return self._result[0]


_here = threading.local()


def _current() -> Pending[Any] | None:
    """The operation that this thread is part of."""
    found: Pending[Any] | None = getattr(_here, "pending", None)
    return found


def alive(what: str = "") -> None:
    """Give a sign of life of the operation that this thread is part of.

    Args:
        what: is done next.
    Raises:
        UnansweredError: it was given up long ago, and is not to do anything more.
    """
    pending = _current()
    while pending is not None:
        if pending.given_up:
            raise UnansweredError(f"{what or pending.what}: given up")
        pending.heard, pending.what = time.monotonic(), what or pending.what
        pending = pending.part_of


class Patience:
    """Files whose operations end. Those of one `together` share a thread; the limit is on each of them all the same.

    Args:
        limit_s: time without a sign of life after which an operation is given up.
    """

    def __init__(self, files: Files, limit_s: float = LIMIT_S) -> None:
        self.files, self.limit_s, self.whole = files, limit_s, files.whole
        self._stuck: list[Pending[Any]] = []
        self.seen: Callable[[int], object] = lambda num_bytes: None
        """Called with the length of each part of a file that has come."""

    def together(self, action: Callable[[], T], what: str) -> T:
        """The result of an action.

        Raises:
            UnansweredError: an operation in it has made no progress for `limit_s`.
        """
        alive(what)
        if _current() is not None:
            return action()
        pending = Pending(action, what)
        while not pending.over.wait(max(0.0, pending.heard + (limit := self.limit) - time.monotonic())):
            if time.monotonic() - pending.heard >= limit:
                pending.given_up = True
                self._stuck.append(pending)
                raise UnansweredError(f"{pending.what} does not answer since {limit:g} s")
        return pending.result()

    @property
    def limit(self) -> float:
        """Seconds to wait now."""
        self._stuck = [pending for pending in self._stuck if not pending.over.is_set()]
        return min(self.limit_s, STUCK_LIMIT_S) if self._stuck else self.limit_s

    def read(self, path: str, most: int) -> bytes:
        """A file's bytes; `OSError` if there are more than `most`."""

        def read() -> bytes:
            parts, size = [], 0
            for part in _told(self.files.read(path)):
                parts.append(part)
                size += len(part)
                self.seen(len(part))
                if size > most:
                    raise OSError(errno.EFBIG, f"more than {most:,} bytes", path)
            return b"".join(parts)

        return self.together(read, f"reading {path}")

    def create_all(self, contents: Mapping[str, Sequence[Part]], beside: Sequence[Callable[[], None]] = ()) -> None:
        """Several files at once.

        Args:
            contents: by path.
            beside: work on the same bytes to do meanwhile.
        Raises:
            OSError: the first of those that failed, once none is written any more.
        """

        def create(path: str, parts: Sequence[Part]) -> None:
            alive(f"writing {path}")
            self.files.create(path, _told(_cut(parts)))

        def all_of_them() -> None:
            begun = [Pending(partial(create, *content), f"writing {content[0]}") for content in contents.items()]
            begun += [Pending(work, "hashing") for work in beside]
            errors: list[OSError] = []
            for pending in begun:
                try:
                    pending.result()
                except OSError as error:
                    errors.append(error)
            if errors:
                raise errors[0]

        self.together(all_of_them, "writing")

    def rename(self, old: str, new: str) -> None:
        """Another name for a file."""
        self.together(lambda: self.files.rename(old, new), f"renaming {old}")

    def sync_folder(self, path: str) -> None:
        """Wait until the names in a folder are safe."""
        self.together(lambda: self.files.sync_folder(path), f"syncing {path}")

    def make_folder(self, path: str) -> None:
        """A folder in one that is there."""
        self.together(lambda: self.files.make_folder(path), f"making {path}")

    def info(self, path: str) -> Entry | None:
        """What is there; None: nothing."""
        return self.together(lambda: self.files.info(path), f"looking for {path}")

    def list(self, path: str, *, deep: bool = False) -> list[Entry]:
        """What is in a folder."""
        return self.together(lambda: self.files.list(path, deep=deep), f"listing {path}")

    def size(self, path: str) -> int:
        """Bytes of all files below a folder."""
        return self.together(lambda: self.files.size(path), f"measuring {path}")

    def delete_file(self, path: str) -> None:
        """Remove a file."""
        self.together(lambda: self.files.delete_file(path), f"deleting {path}")

    def delete_folder(self, path: str) -> None:
        """Remove a folder and all that is in it."""
        self.together(lambda: self.files.delete_folder(path), f"deleting {path}")


def _cut(parts: Iterable[Part]) -> Iterator[Part]:
    """The same bytes in parts of at most `CHUNK_BYTES`."""
    for part in parts:
        whole = memoryview(part)
        yield from (whole[at : at + CHUNK_BYTES] for at in range(0, len(whole), CHUNK_BYTES))


def _told(parts: Iterable[T]) -> Iterator[T]:
    """The same parts, each of which is a sign of life."""
    for part in parts:
        alive()
        yield part
