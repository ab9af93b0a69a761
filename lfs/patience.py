"""Operations that may never return (a server of an NFS mount that is gone): after a while without progress they are
given up. The thread that is stuck in one is left alone, and does not keep the process from ending."""

import errno
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

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
        action: is given a function to call at every sign of life.
        what: the operation's name, for the error.
    """

    def __init__(self, action: Callable[[Callable[[], None]], T], what: str) -> None:
        self.what = what
        self.over = threading.Event()
        self._action = action
        self._result: list[T] = []
        self._error: BaseException | None = None
        self._heard = time.monotonic()
        aside(self._run)

    def _run(self) -> None:
        try:
            self._result.append(self._action(self._hear))
        except BaseException as error:
            self._error = error
        self.over.set()

    def _hear(self) -> None:
        self._heard = time.monotonic()

    def wait(self, limit_s: Callable[[], float]) -> T:
        """The result, or its exception.

        Raises:
            UnansweredError: nothing was heard of it for `limit_s`.
        """
        while not self.over.wait(max(0.0, self._heard + (limit := limit_s()) - time.monotonic())):
            if time.monotonic() - self._heard >= limit:
                raise UnansweredError(f"{self.what} does not answer since {limit:g} s")
        if self._error is not None:
            raise self._error
        return self._result[0]


class Patience:
    """Files whose operations end.

    Args:
        limit_s: time without a sign of life after which an operation is given up.
    """

    def __init__(self, files: Files, limit_s: float = LIMIT_S) -> None:
        self.files, self.limit_s, self.whole = files, limit_s, files.whole
        self._stuck: list[Pending[object]] = []

    def read(self, path: str, most: int) -> bytes:
        """A file's bytes; `OSError` if there are more than `most`."""

        def action(hear: Callable[[], None]) -> bytes:
            parts: list[bytes] = []
            for part in _heard(self.files.read(path), hear):
                parts.append(part)
                if sum(map(len, parts)) > most:
                    raise OSError(errno.EFBIG, f"more than {most:,} bytes", path)
            return b"".join(parts)

        return self._do(action, f"reading {path}")

    def create_all(self, contents: dict[str, list[Part]], beside: Iterable[Callable[[], None]] = ()) -> None:
        """Several files at once.

        Args:
            contents: by path.
            beside: work on the same bytes to do meanwhile.
        Raises:
            OSError: the first of those that failed, once none is written any more.
        """
        begun: list[Pending[None]] = [
            Pending(lambda hear, path=path, parts=parts: self.files.create(path, _heard(_cut(parts), hear)),  # type: ignore[misc]
                    f"writing {path}")
            for path, parts in contents.items()
        ]  # fmt: skip
        begun += [Pending(lambda _, work=work: work(), "hashing") for work in beside]  # type: ignore[misc]
        errors: list[OSError] = []
        for pending in begun:
            try:
                self._wait(pending)
            except OSError as error:
                errors.append(error)
        if errors:
            raise next((e for e in errors if isinstance(e, UnansweredError)), errors[0])

    def rename(self, old: str, new: str) -> None:
        """Another name for a file."""
        self._do(lambda _: self.files.rename(old, new), f"renaming {old}")

    def sync_folder(self, path: str) -> None:
        """Wait until the names in a folder are safe."""
        self._do(lambda _: self.files.sync_folder(path), f"syncing {path}")

    def make_folder(self, path: str) -> None:
        """A folder in one that is there."""
        self._do(lambda _: self.files.make_folder(path), f"making {path}")

    def info(self, path: str) -> Entry | None:
        """What is there; None: nothing."""
        return self._do(lambda _: self.files.info(path), f"looking for {path}")

    def list(self, path: str, *, deep: bool = False) -> list[Entry]:
        """What is in a folder."""
        return self._do(lambda _: self.files.list(path, deep=deep), f"listing {path}")

    def delete_file(self, path: str) -> None:
        """Remove a file."""
        self._do(lambda _: self.files.delete_file(path), f"deleting {path}")

    def delete_folder(self, path: str) -> None:
        """Remove a folder and all that is in it."""
        self._do(lambda _: self.files.delete_folder(path), f"deleting {path}")

    def _do(self, action: Callable[[Callable[[], None]], T], what: str) -> T:
        return self._wait(Pending(action, what))

    def _wait(self, pending: Pending[T]) -> T:
        try:
            return pending.wait(self._limit)
        except UnansweredError:
            self._stuck.append(pending)  # type: ignore[arg-type]
            raise

    def _limit(self) -> float:
        self._stuck = [pending for pending in self._stuck if not pending.over.is_set()]
        return min(self.limit_s, STUCK_LIMIT_S) if self._stuck else self.limit_s


def _cut(parts: Iterable[Part]) -> Iterator[Part]:
    """The same bytes in parts of at most `CHUNK_BYTES`."""
    for part in parts:
        whole = memoryview(part)
        yield from (whole[at : at + CHUNK_BYTES] for at in range(0, len(whole), CHUNK_BYTES))


def _heard(parts: Iterable[T], hear: Callable[[], None]) -> Iterator[T]:
    for part in parts:
        hear()
        yield part
