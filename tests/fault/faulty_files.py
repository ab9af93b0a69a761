"""Files whose every primitive step is numbered, and of which one step fails in a given way."""

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from lfs.files import Entry, Files, Part

DRAFT = re.compile(r"\.[0-9a-f]{8}\.tmp")
READS = ("read", "info", "list", "size")
ALWAYS = 10**9


class Crash(BaseException):
    """The process is gone: nothing of the project catches this."""


@dataclass
class Fault:
    """What happens at one step.

    Args:
        at: label of the step, and how many of that label come before it.
        error: None: the process crashes.
        times: so many steps fail, this one and others; then all is well again.
        partial: half of the bytes are written before.
    """

    at: tuple[str, int]
    error: Callable[[], OSError] | None = None
    times: int = ALWAYS
    partial: bool = False


class FaultyFiles:
    """`Files` around others.

    A step is one operation; writing a file is one for its beginning, one for each part and one for its end, where it is
    synced. Steps are counted by label, since files are written at the same time. After the fault, every step that
    changes something fails too, and every read of the same, until so many have failed.
    """

    def __init__(self, files: Files, fault: Fault | None = None) -> None:
        self.files, self.fault, self.whole = files, fault, files.whole
        self.steps: list[tuple[str, int]] = []
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._left = fault.times if fault else 0
        self.broken = False

    def _step(self, kind: str, path: str) -> bool:
        """One step: raises, or says whether to raise after half of the bytes."""
        label = f"{kind} {DRAFT.sub('.tmp', path)}"
        with self._lock:
            here = (label, self._counts[label])
            self._counts[label] += 1
            self.steps.append(here)
            if self.fault is None:
                return False
            self.broken = self.broken or here == self.fault.at
            if not self.broken:
                return False
            if self.fault.error is None:
                raise Crash
            if self._left <= 0 or (kind in READS and label != self.fault.at[0]):
                return False
            self._left -= 1
            if self.fault.partial and kind == "write":
                return True
            raise self.fault.error()

    def _parts(self, path: str, parts: Iterable[Part]) -> Iterator[Part]:
        for part in parts:
            if self._step("write", path):
                yield part[: len(part) // 2]
                assert self.fault
                assert self.fault.error
                raise self.fault.error()
            yield part
        self._step("sync", path)

    def read(self, path: str) -> Iterator[bytes]:
        self._step("read", path)
        return self.files.read(path)

    def create(self, path: str, parts: Iterable[Part]) -> None:
        self._step("create", path)
        self.files.create(path, self._parts(path, parts))

    def rename(self, old: str, new: str) -> None:
        self._step("rename", old)
        self.files.rename(old, new)

    def sync_folder(self, path: str) -> None:
        self._step("sync", path)
        self.files.sync_folder(path)

    def make_folder(self, path: str) -> None:
        self._step("make", path)
        self.files.make_folder(path)

    def info(self, path: str) -> Entry | None:
        self._step("info", path)
        return self.files.info(path)

    def list(self, path: str, *, deep: bool = False) -> list[Entry]:
        self._step("list", path)
        return self.files.list(path, deep=deep)

    def size(self, path: str) -> int:
        self._step("size", path)
        return self.files.size(path)

    def delete_file(self, path: str) -> None:
        self._step("delete", path)
        self.files.delete_file(path)

    def delete_folder(self, path: str) -> None:
        self._step("delete", path)
        self.files.delete_folder(path)
