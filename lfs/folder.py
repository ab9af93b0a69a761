"""A folder on any storage, whose files are there whole or not at all, and whose storage may fail, refuse or hang."""

import contextlib
import errno
import logging
import secrets
import shlex
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tenacity import RetryCallState, RetryError, Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from lfs.files import Entry, Files, Part, open_files
from lfs.locations import under
from lfs.patience import LIMIT_S, Patience, UnansweredError
from lfs.untrusted import MAX_TABLE_BYTES
from search_space.errors import UserError, first_line
from trainers.checkpoint import MAX_CHECKPOINT_BYTES
from trainers.untrusted import parse_json

T = TypeVar("T")
logger = logging.getLogger(__name__)
HOPELESS = {
    errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENOENT, errno.ELOOP, errno.EISDIR, errno.EINVAL,
    errno.ENXIO, errno.EFBIG, errno.ENAMETOOLONG,
}  # fmt: skip
"""Trying again does not help: what is there is no file, or not ours."""
HOPELESS_WORDS = ("Read-only file system", "Not a directory")
"""pyarrow's errors do not always have a number."""
TEMPORARY = ".tmp"
MAX_FILE_BYTES = MAX_TABLE_BYTES
"""Of any file but weights; tables are the largest."""


class StorageError(OSError):
    """Storage refuses, after several tries or for good. The message names the run."""


class Folder:
    """Reads and writes one folder. Whatever storage refuses is tried again here, and nowhere above.

    Args:
        uri: a local path, or a URI.
        files: operations to use in place of those that `uri` stands for.
        attempts: how often to try what storage refuses.
        limit_s: time without a sign of life after which storage is given up.
        sleep: waits between attempts.
    """

    def __init__(
        self,
        uri: str,
        files: Files | None = None,
        *,
        attempts: int = 5,
        limit_s: float = LIMIT_S,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        opened, self.path = open_files(uri)
        self.files = Patience(files or opened, limit_s)
        self.uri = uri if "://" in uri else self.path
        self.attempts, self.sleep = attempts, sleep

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.rstrip("/").rsplit("/", 1)[-1]

    @property
    def shown(self) -> str:
        """The folder as a shell takes it: relative to the current one if it lies in it."""
        here = f"{Path.cwd()}/"
        return shlex.quote(self.path.removeprefix(here) if "://" not in self.uri else self.uri)

    def at(self, *parts: str) -> str:
        """Path of what is in the folder."""
        return "/".join((self.path, *parts))

    # ---- reading

    def exists(self, *parts: str) -> bool:
        """Whether a file or folder is there.

        Raises:
            StorageError: storage still refuses after `attempts` tries, or does not answer.
        """
        path = self.at(*parts)
        return self.retrying(lambda: self.files.info(path)) is not None

    def listed(self, *parts: str, deep: bool = False) -> list[Entry]:
        """What is in a folder (`deep`: and in its folders); nothing if there is no such folder.

        Raises:
            StorageError: storage still refuses after `attempts` tries, or does not answer.
        """
        path = self.at(*parts)
        return self.retrying(lambda: self.files.list(path, deep=deep))

    def read(self, *parts: str) -> bytes:
        """A file's bytes.

        Raises:
            StorageError: it is none, or larger than a file of its kind can be; or storage still refuses after
                `attempts` tries, or does not answer.
        """
        path = self.at(*parts)
        most = MAX_CHECKPOINT_BYTES if path.endswith(".safetensors") else MAX_FILE_BYTES
        return self.retrying(lambda: self.files.read(path, most))

    def read_json(self, *parts: str) -> dict[str, Any]:
        """A file that holds one JSON object.

        Raises:
            UserError: it cannot be read, is cut off or holds something else.
        """
        path = under(self.uri, *parts)
        try:
            values = parse_json(self.read(*parts))
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {reason(error)}") from None
        except ValueError as error:
            raise UserError(f"{path}: damaged: expected a JSON object: {first_line(error)}") from None
        if not isinstance(values, dict):
            raise UserError(f"{path}: damaged: expected a JSON object, got {type(values).__name__}")
        return values

    def size(self) -> int:
        """Bytes of all files in the folder and in its folders."""
        return self.retrying(lambda: self.files.size(self.path))

    # ---- writing

    def write(self, data: bytes, *parts: str) -> None:
        """One file, whole or not at all.

        Raises:
            StorageError: storage still refuses after `attempts` tries, or does not answer.
        """
        path = self.at(*parts)
        self.retrying(lambda: self.files.together(lambda: self._put({path: [data]}), f"writing {path}"))

    def delete(self, *parts: str) -> None:
        """Remove a file; it may be gone already.

        Raises:
            StorageError: storage still refuses after `attempts` tries, or does not answer.
        """
        path = self.at(*parts)

        def delete() -> None:
            if self.files.info(path):
                self.files.delete_file(path)

        self.retrying(lambda: self.files.together(delete, f"deleting {path}"))

    def remove_drafts(self, *parts: str) -> None:
        """Remove what processes that were killed while they wrote have left in a folder of it."""
        path = self.at(*parts)
        tidy = partial(self.files.together, lambda: self._tidy(path, self.files.list(path)), f"tidying up {path}")
        self.retrying(tidy)

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        self.files.delete_folder(self.path)

    def retrying(self, action: Callable[[], T]) -> T:
        """The result of reading or writing, tried again while storage refuses.

        Raises:
            StorageError: it still refuses after `attempts` tries, says that it always will, or does not answer.
        """
        retrying = Retrying(
            stop=stop_after_attempt(self.attempts),
            wait=wait_exponential(multiplier=0.2, max=5),
            retry=retry_if_exception(_may_pass),
            before_sleep=self._log,
            sleep=self.sleep,
        )
        try:
            return retrying(action)
        except RetryError as error:
            cause = error.last_attempt.exception()
            raise StorageError(f"{self.uri}: {first_line(cause or error)}") from cause
        except StorageError:
            raise
        except OSError as error:
            raise StorageError(f"{self.uri}: {first_line(error)}") from error

    def _log(self, state: RetryCallState) -> None:
        error = state.outcome and state.outcome.exception()
        logger.warning("%s: %s; trying again", self.uri, first_line(error or StorageError()))

    def _tidy(self, path: str, there: Iterable[Entry]) -> None:
        for entry in there:
            if entry.name.endswith(TEMPORARY):
                with contextlib.suppress(FileNotFoundError):  # it is in place by now
                    self.files.delete_file(f"{path}/{entry.name}")

    def _put(self, contents: dict[str, list[Part]], beside: tuple[Callable[[], None], ...] = ()) -> None:
        """Files of one folder, each whole or not at all: renamed into place (and synced) where a file could be half."""
        folder = next(iter(contents)).rpartition("/")[0]
        self._make_folder(folder)
        if self.files.whole:
            return self.files.create_all(contents, beside)
        # Under names of their own: a write that was given up as hung may go on one day, beside another one.
        drafts = {path: f"{path}.{secrets.token_hex(4)}{TEMPORARY}" for path in contents}
        try:
            self.files.create_all({drafts[path]: parts for path, parts in contents.items()}, beside)
            for path, draft in drafts.items():
                self.files.rename(draft, path)
        except OSError as error:
            for draft in () if isinstance(error, UnansweredError) else drafts.values():
                with contextlib.suppress(OSError):  # it was not made, or is in place
                    self.files.delete_file(draft)
            raise
        self.files.sync_folder(folder)
        return None

    def _make_folder(self, path: str) -> None:
        """A folder, with those that it is in."""
        if not path or self.files.info(path):
            return
        parent = path.rpartition("/")[0]
        self._make_folder(parent)
        self.files.make_folder(path)
        self.files.sync_folder(parent or "/")


def reason(error: OSError) -> str:
    """What storage said in the end, for a message that names the place itself."""
    return first_line(error.__cause__ or error)


def _may_pass(error: BaseException) -> bool:
    """Whether trying again may help."""
    if not isinstance(error, OSError) or isinstance(error, StorageError | UnansweredError | FileNotFoundError):
        return False
    return error.errno not in HOPELESS and not any(words in str(error) for words in HOPELESS_WORDS)
