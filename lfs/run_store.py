"""The run directory, on any file system that pyarrow knows. A generation exists once its COMMIT does.

    RUN/config.yaml                     resolved configuration, versions
    RUN/generations/000007/             state.json  candidates.parquet  winner.safetensors  COMMIT (written last)
    RUN/result.json                     test scores of the final model
    RUN/events/000001.json              starts, pauses, resumes, stops, extensions: when, by whom
    RUN/running.json                    while a driver works on it: where
    RUN/tune/                           Tune's own experiment

COMMIT names the size and SHA-256 of the other three. Whatever lacks it was cut off half way and is written again.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet
import yaml
from tenacity import (
    RetryError,
    Retrying,
    before_sleep_log,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential,
)

from lfs.config import SearchConfig
from lfs.locations import first_line, open_root, under
from lfs.messages import GenerationRecord, SearchState
from lfs.options import checked
from lfs.stored import generation_of, result_of, state_and_summary
from lfs.untrusted import MAX_TABLE_BYTES, read_table, read_yaml
from search_space.errors import UserError, shown
from trainers.candidate import Weights
from trainers.checkpoint import MAX_CHECKPOINT_BYTES, from_bytes, sync_path, to_bytes
from trainers.untrusted import parse_json, read_file

FORMAT = 2
EVENTS = "events"
"""Folder of what was done to a search."""
T = TypeVar("T")
logger = logging.getLogger(__name__)
HOPELESS = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENOENT}


class StorageError(OSError):
    """Storage refuses, after several tries or for good. The message names the run."""


class _HopelessError(Exception):
    """Writing will not succeed however often it is tried."""


class RunStore:
    """Reads and writes one run directory.

    Args:
        uri: the run directory.
        filesystem: for tests that need one that fails; default: from `uri`.
    """

    def __init__(self, uri: str, filesystem: pyarrow.fs.FileSystem | None = None, attempts: int = 5) -> None:
        self.fs, self.path = open_root(uri)
        self.uri = uri if "://" in uri else self.path
        self.fs = filesystem or self.fs
        self.attempts = attempts

    @property
    def name(self) -> str:
        """Name of the run: its folder's."""
        return self.path.rstrip("/").rsplit("/", 1)[-1]

    @property
    def shown(self) -> str:
        """The run as a command takes it: relative to the current folder if it lies in it."""
        here = f"{Path.cwd()}/"
        return self.path.removeprefix(here) if "://" not in self.uri else self.uri

    # ---- reading

    def exists(self, *parts: str) -> bool:
        """Whether a file or folder is there."""
        return bool(self.fs.get_file_info("/".join((self.path, *parts))).type != pyarrow.fs.FileType.NotFound)

    def read(self, *parts: str) -> bytes:
        """A file's bytes; `OSError` if it is none, or larger than a file of its kind can be."""
        if isinstance(self.fs, pyarrow.fs.LocalFileSystem):
            big = parts[-1].endswith(".safetensors")
            return read_file("/".join((self.path, *parts)), MAX_CHECKPOINT_BYTES if big else MAX_TABLE_BYTES)
        with self.fs.open_input_stream("/".join((self.path, *parts))) as stream:
            return bytes(stream.read())

    def read_json(self, *parts: str) -> dict[str, Any]:
        """A file that holds one JSON object.

        Raises:
            UserError: it cannot be read, is cut off or holds something else.
        """
        path = under(self.uri, *parts)
        try:
            values = parse_json(self.read(*parts))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: damaged: expected a JSON object: {first_line(error)}") from None
        if not isinstance(values, dict):
            raise UserError(f"{path}: damaged: expected a JSON object, got {type(values).__name__}")
        return values

    def load_config(self) -> SearchConfig:
        """The run's resolved configuration."""
        if not self.exists("config.yaml"):
            raise UserError(f"{self.uri} is no run: it has no config.yaml; `python -m lfs.results` lists runs")
        try:
            values, _ = read_yaml(self.read("config.yaml"))
            found, config = values["format"], values["config"]
        except (yaml.YAMLError, KeyError, TypeError, OSError, ValueError) as error:
            raise UserError(f"{self.uri}/config.yaml: not a run's configuration: {first_line(error)}") from None
        if found != FORMAT:
            raise UserError(
                f"{self.uri}/config.yaml: run format {shown(found)}; this version reads format {FORMAT}: "
                "browse it with the version that wrote it, or start anew"
            )
        return checked(SearchConfig, config, f"{self.uri}/config.yaml")

    def committed(self) -> list[int]:
        """Numbers of the committed generations, rising."""
        found: list[int] = []
        selector = pyarrow.fs.FileSelector(f"{self.path}/generations", allow_not_found=True)
        for info in self.fs.get_file_info(selector):
            number = generation_of(info.base_name) if info.type == pyarrow.fs.FileType.Directory else None
            if number is not None and self.exists("generations", info.base_name, "COMMIT"):
                found.append(number)
        return sorted(found)

    def load_state(self, generation: int) -> tuple[SearchState, dict[str, Any]]:
        """State after a committed generation, and its summary."""
        data = self._verified(generation, "state.json")
        return state_and_summary(data, generation, f"{self._folder(generation)}/state.json")

    def load_weights(self, generation: int) -> Weights:
        """The winner's weights of a committed generation."""
        weights, _ = from_bytes(
            self._verified(generation, "winner.safetensors"), source=f"{self._folder(generation)}/winner.safetensors"
        )
        return weights

    def load_candidates(self, generation: int) -> pd.DataFrame:
        """The candidates of a committed generation, one row each."""
        data = self._verified(generation, "candidates.parquet")
        try:
            frame: pd.DataFrame = read_table(data).to_pandas(ignore_metadata=True)
        except ValueError as error:
            raise UserError(f"{self._folder(generation)}/candidates.parquet: damaged: {first_line(error)}") from None
        return frame

    def summaries(self) -> list[dict[str, Any]]:
        """Every committed generation in one line each."""
        return [self.load_state(generation)[1] for generation in self.committed()]

    def load_last(self) -> tuple[SearchState, Weights] | None:
        """State and weights after the last committed generation; None before the first."""
        done = self.committed()
        if not done:
            return None
        return self.load_state(done[-1])[0], self.load_weights(done[-1])

    def load_result(self) -> dict[str, Any] | None:
        """Test scores of the final model, if the search came to its end."""
        if not self.exists("result.json"):
            return None
        result = result_of(self.read_json("result.json"), f"{self.uri}/result.json")
        done = self.committed()
        return result if done and result["generation"] == done[-1] else None  # else the search was extended

    def _folder(self, generation: int) -> str:
        return f"{self.path}/generations/{generation:06d}"

    def _verified(self, generation: int, name: str) -> bytes:
        folder = f"{generation:06d}"
        path = f"{self._folder(generation)}/{name}"
        try:
            data, expected = (
                self.read("generations", folder, name),
                parse_json(self.read("generations", folder, "COMMIT"))[name],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: a file of a committed generation cannot be read: {first_line(error)}") from None
        if expected != _fingerprint(data):
            raise UserError(
                f"{path}: damaged: size or SHA-256 differ from those in COMMIT; delete {folder}/COMMIT to redo it"
            )
        return data

    def events(self) -> list[dict[str, Any]]:
        """What was done to the search, in order: starts, pauses, resumes, stops, extensions."""
        selector = pyarrow.fs.FileSelector(f"{self.path}/{EVENTS}", allow_not_found=True)
        names = sorted(info.base_name for info in self.fs.get_file_info(selector) if info.base_name.endswith(".json"))
        return [self.read_json(EVENTS, name) for name in names]

    def next_session(self) -> str:
        """Folder of Tune's next experiment: one for each time that work was started here."""
        return next(name for name in map(session_name, count(1)) if not self.exists(name))

    # ---- writing

    def require_absent(self) -> None:
        """Refuse a run directory that is there already."""
        if self.exists("config.yaml"):
            raise UserError(
                f"run {self.uri} exists already; continue it with --resume {self.uri}, or choose another --name"
            )
        selector = pyarrow.fs.FileSelector(self.path, allow_not_found=True)
        there = self.fs.get_file_info(self.path).type == pyarrow.fs.FileType.Directory
        # A write that was cut off leaves its file under another name.
        if there and any(not info.base_name.endswith(".tmp") for info in self.fs.get_file_info(selector)):
            raise UserError(f"{self.uri} is there already and is no run; choose another --name or --storage")

    def create(self, config: SearchConfig) -> None:
        """Make the run directory with its configuration; refuses one that is there, or that cannot be written."""
        self.require_absent()
        versions = {name: version(name) for name in ("lfs", "torch", "ray", "numpy")} | {
            "python": platform.python_version()
        }
        text = yaml.safe_dump(
            {"format": FORMAT, "versions": versions, "config": plain(asdict(config))}, sort_keys=False
        )
        try:
            self._write(f"{self.path}/config.yaml", text.encode())
        except (OSError, _HopelessError) as error:
            with contextlib.suppress(OSError):
                self.fs.delete_dir(self.path)  # it was not there, or empty
            raise UserError(
                f"storage {self.uri}: cannot be written: {first_line(error)}; choose another --storage"
            ) from None

    def discard(self) -> None:
        """Remove a run that never got to its first generation: its search could not start."""
        if not self.committed() and not self.exists("tune"):
            self.fs.delete_dir(self.path)

    def write_config(self, config: SearchConfig) -> None:
        """Replace the configuration (a resume that extends the search)."""
        values = yaml.safe_load(self.read("config.yaml"))
        values["config"] = plain(asdict(config))
        self.write(yaml.safe_dump(values, sort_keys=False).encode(), "config.yaml")

    def commit(self, record: GenerationRecord, weights: Weights) -> None:
        """Write one closed generation; COMMIT goes last, so a crash at any point leaves the previous one the last.

        Raises:
            StorageError: storage still refuses after `attempts` tries.
        """
        files = {
            "state.json": json.dumps({"state": record.state.to_dict(), "summary": record.summary}, indent=1).encode(),
            "candidates.parquet": _parquet(record.rows),
            "winner.safetensors": to_bytes(weights, {"generation": record.generation, "candidate": record.winner}),
        }
        prints = {name: _fingerprint(data) for name, data in files.items()}
        folder = self._folder(record.generation)

        def write() -> None:
            for name, data in files.items():
                self._write(f"{folder}/{name}", data)
            self._write(f"{folder}/COMMIT", json.dumps(prints, indent=1).encode())

        self.retrying(write)

    def write(self, data: bytes, *parts: str) -> None:
        """One file of the run directory, whole or not at all.

        Raises:
            StorageError: storage still refuses after `attempts` tries.
        """
        self.retrying(lambda: self._write("/".join((self.path, *parts)), data))

    def record_event(self, action: str, **facts: Any) -> None:
        """Write down that something was done to the search.

        Raises:
            StorageError: storage still refuses after `attempts` tries.
        """
        number = next(n for n in count(len(self.events()) + 1) if not self.exists(EVENTS, f"{n:06d}.json"))
        time = datetime.now().astimezone().isoformat(timespec="seconds")
        self.write(
            json.dumps({"action": action, "time": time, **facts}, indent=1).encode(), EVENTS, f"{number:06d}.json"
        )

    def write_result(self, result: dict[str, Any]) -> None:
        """Write the final model's test scores."""
        self.write(json.dumps(result, indent=1).encode(), "result.json")

    def retrying(self, action: Callable[[], T]) -> T:
        """The result of reading or writing, tried again while storage refuses.

        Raises:
            StorageError: it still refuses after `attempts` tries, or says that it always will.
        """
        retrying = Retrying(
            stop=stop_after_attempt(self.attempts),
            wait=wait_exponential(multiplier=0.2, max=5),
            retry=retry_if_exception_type(OSError),
            before_sleep=before_sleep_log(logger, logging.WARNING),
        )
        try:
            return retrying(action)
        except RetryError as error:
            cause = error.last_attempt.exception()
            raise StorageError(f"{self.uri}: {first_line(cause or error)}") from cause
        except _HopelessError as error:
            raise StorageError(f"{self.uri}: {error}") from None

    def _write(self, path: str, data: bytes) -> None:
        """One file, whole or not at all: renamed into place (and synced) where the file system can."""
        try:
            self.fs.create_dir(path.rsplit("/", 1)[0], recursive=True)
            local = isinstance(self.fs, pyarrow.fs.LocalFileSystem)
            target = f"{path}.tmp" if local else path
            with self.fs.open_output_stream(target) as stream:
                stream.write(data)
            if local:
                sync_path(target)
                os.replace(target, path)
                sync_path(path.rsplit("/", 1)[0])
        except OSError as error:
            if error.errno in HOPELESS or "Read-only file system" in str(error) or "Not a directory" in str(error):
                raise _HopelessError(first_line(error)) from error
            raise


def session_name(number: int) -> str:
    """Folder of one of Tune's experiments, counted from 1."""
    return "tune" if number == 1 else f"tune-{number}"


def plain(value: Any) -> Any:
    """Tuples as lists, for YAML."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _fingerprint(data: bytes) -> dict[str, Any]:
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    columns = dict.fromkeys(name for row in rows for name in row)  # a diverged candidate has fewer
    table = pa.table({name: [row.get(name) for row in rows] for name in columns})
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink)
    return bytes(sink.getvalue())


def find_runs(root: str) -> Iterator[RunStore]:
    """Every run directly under a storage root, newest first.

    Raises:
        UserError: there is no such folder.
    """
    filesystem, path = open_root(root)
    if filesystem.get_file_info(path).type != pyarrow.fs.FileType.Directory:
        raise UserError(f"storage {root!r}: no such folder; searches put it there, or name another with --storage")
    folders = [
        i for i in filesystem.get_file_info(pyarrow.fs.FileSelector(path)) if i.type == pyarrow.fs.FileType.Directory
    ]
    stores = [(info.mtime or datetime.min, RunStore(under(root, info.base_name))) for info in folders]
    for _, store in sorted(stores, key=lambda pair: pair[0], reverse=True):
        if store.exists("config.yaml"):
            yield store
