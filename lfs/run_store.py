"""The run directory, on any file system that pyarrow knows.

RUN/config.yaml                     resolved configuration, versions, digest of the data
RUN/generations/                    see lfs/generations.py
RUN/result.json                     test scores of the final model
RUN/events/000001.json              starts, pauses, resumes, stops, extensions: when, by whom
RUN/running.json                    while a driver works on it: where
RUN/tune/                           Tune's own experiment
"""

import contextlib
import json
import os
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from lfs import look
from lfs.blocks import Blocks
from lfs.config import SearchConfig
from lfs.folder import TEMPORARY, Folder, StorageError, reason
from lfs.locations import under
from lfs.options import checked
from lfs.stored import event_of, result_of
from lfs.untrusted import read_yaml
from search_space.errors import UserError, first_line, shown

FORMAT, OLDEST_FORMAT = 2, 2
"""Format that is written, and the oldest one that is read: all from one to the other are."""
CONFIG, RESULT, EVENTS = "config.yaml", "result.json", "events"
EVENT = re.compile(r"[0-9]{6}\.json")


class RunStore(Blocks):
    """Reads and writes one run directory."""

    # ---- reading

    def load_config(self) -> SearchConfig:
        """The run's resolved configuration.

        Raises:
            UserError: this is no run, or one of a format that this version cannot read.
        """
        values = self.stored()
        return checked(SearchConfig, values["config"], under(self.uri, CONFIG))

    def load_versions(self) -> dict[str, str]:
        """Versions that the run was made with, by package."""
        versions = self.stored().get("versions")
        return {str(name): str(value) for name, value in versions.items()} if isinstance(versions, dict) else {}

    def load_digest(self) -> dict[str, str] | None:
        """What the run's data was when it was started, by file; None: not recorded."""
        digest = self.stored().get("data")
        return digest if isinstance(digest, dict) else None

    def stored(self) -> dict[str, Any]:
        """Everything that the configuration file holds: format, versions, configuration, digest of the data.

        Raises:
            UserError: see `load_config`.
        """
        place = under(self.uri, CONFIG)
        if not self.exists(CONFIG):
            raise UserError(f"{self.uri} is no run: it has no {CONFIG}; `python -m lfs.results` lists runs")
        try:
            values, _ = read_yaml(self.read(CONFIG))
            if not isinstance(values, dict):
                raise ValueError("expected `format` and `config`")
            found, _ = values["format"], values["config"]
        except OSError as error:
            raise UserError(f"{place}: cannot be read: {reason(error)}") from None
        except (yaml.YAMLError, LookupError, TypeError, ValueError) as error:
            raise UserError(f"{place}: not a run's configuration: {first_line(error)}") from None
        refuse_format(found, place)
        return dict(values)

    def load_result(self, last: int | None = None) -> dict[str, Any] | None:
        """Test scores of the final model, if the search came to its end.

        Args:
            last: number of the last committed generation; None: it is looked up.
        """
        if not self.exists(RESULT):
            return None
        result = result_of(self.read_json(RESULT), under(self.uri, RESULT))
        last = max(self.committed(), default=-1) if last is None else last
        return result if last >= 0 and result["generation"] == last else None  # else the search was extended

    def events(self) -> list[dict[str, Any]]:
        """What was done to the search, in order: starts, pauses, resumes, stops, extensions.

        Raises:
            UserError: one of them is damaged.
        """
        found = self.load_events()
        for event in found:
            if isinstance(event, UserError):
                raise event
        return [event for event in found if not isinstance(event, UserError)]

    def load_events(self) -> list[dict[str, Any] | UserError]:
        """What was done to the search, in order, and why one of these cannot be read."""
        return [self._event(name) for name in self._event_names()]

    def _event(self, name: str) -> dict[str, Any] | UserError:
        try:
            return event_of(self.read_json(EVENTS, name), under(self.uri, EVENTS, name))
        except UserError as error:
            return error

    def _event_names(self) -> list[str]:
        return sorted(entry.name for entry in self.listed(EVENTS) if EVENT.fullmatch(entry.name))

    def next_session(self) -> str:
        """Folder of Tune's next experiment: one for each time that work was started here."""
        return next(name for name in map(session_name, count(1)) if not self.exists(name))

    def refuse_links(self) -> None:
        """Refuse a run directory from elsewhere that would have others write (Tune, logs, locks) out of it.

        Raises:
            UserError: something in it is a symbolic link that leads out of it.
        """
        for path in Path(self.path).iterdir() if "://" not in self.uri else ():
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(self.path):
                raise UserError(f"{path} is a symbolic link out of its run; remove it, or put a folder in its place")

    # ---- writing

    def require_absent(self) -> None:
        """Refuse a run directory that is there already."""
        if self.exists(CONFIG):
            raise UserError(
                f"run {self.uri} exists already; continue it with --resume {self.uri}, or choose another --name"
            )
        # A write that was cut off leaves its file under another name.
        if any(not entry.name.endswith(TEMPORARY) for entry in self.listed()):
            raise UserError(f"{self.uri} is there already and is no run; choose another --name or --storage")

    def create(self, config: SearchConfig, digest: Mapping[str, str] | None = None) -> None:
        """Make the run directory with its configuration.

        Args:
            digest: of the data, see lfs/data_digest.py.
        Raises:
            UserError: it is there, or cannot be written.
        """
        from lfs.plugins import packages  # torch takes seconds, and whoever reads a run does without

        self.require_absent()
        versions = {name: version(name) for name in ("lfs", "torch", "ray", "numpy")}
        versions |= {"python": platform.python_version()} | look.plugins(packages(config))
        values: dict[str, Any] = {"format": FORMAT, "versions": versions, "config": plain(asdict(config))}
        values |= {"data": dict(digest)} if digest else {}
        try:
            self.write(yaml.safe_dump(values, sort_keys=False).encode(), CONFIG)
        except StorageError as error:
            with contextlib.suppress(OSError):
                self.remove()  # it was not there, or empty
            law = f"storage {self.uri}: cannot be written: {reason(error)}"
            raise UserError(f"{law}; choose another --storage") from None

    def discard(self) -> None:
        """Remove a run that never got to its first generation: its search could not start."""
        if not self.committed() and not self.exists("tune"):
            self.remove()

    def write_config(self, config: SearchConfig) -> None:
        """Replace the configuration (a resume that extends the search).

        Raises:
            UserError: what is there is damaged.
            StorageError: storage still refuses after `attempts` tries.
        """
        values = self.stored() | {"config": plain(asdict(config))}
        self.write(yaml.safe_dump(values, sort_keys=False).encode(), CONFIG)

    def record_event(self, action: str, **facts: Any) -> None:
        """Write down that something was done to the search.

        Raises:
            StorageError: storage still refuses after `attempts` tries.
        """
        last = self._event_names()[-1:]
        number = int(last[0].removesuffix(".json")) + 1 if last else 1
        time = datetime.now().astimezone().isoformat(timespec="seconds")
        self.write(
            json.dumps({"action": action, "time": time, **facts}, indent=1).encode(), EVENTS, f"{number:06d}.json"
        )

    def write_result(self, result: dict[str, Any]) -> None:
        """Write the final model's test scores."""
        self.write(json.dumps(result, indent=1).encode(), RESULT)


def refuse_format(found: object, place: str) -> None:
    """Raise `UserError` for what another version wrote and this one cannot read."""
    if isinstance(found, int) and OLDEST_FORMAT <= found <= FORMAT:
        return
    reads = f"format {FORMAT}" if OLDEST_FORMAT == FORMAT else f"formats {OLDEST_FORMAT} to {FORMAT}"
    newer = "it was written by a newer version, go on with that one"
    other = "browse it with the version that wrote it, or start anew"
    way_out = newer if isinstance(found, int) and found > FORMAT else other
    raise UserError(f"{place}: format {shown(found)}; this version reads {reads}: {way_out}")


def session_name(number: int) -> str:
    """Folder of one of Tune's experiments, counted from 1."""
    return "tune" if number == 1 else f"tune-{number}"


def plain(value: Any) -> Any:
    """Tuples as lists, for YAML."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def find_runs(root: str) -> Iterator[RunStore]:
    """Every run directly under a storage root, newest first; see `run_folders`."""
    return (store for store in run_folders(root) if store.exists(CONFIG))


def run_folders(root: str) -> Iterator[RunStore]:
    """Every folder directly under a storage root, be it a run or not, newest first.

    Raises:
        UserError: there is no such folder.
    """
    place = Folder(root)
    there = place.retrying(lambda: place.files.info(place.path))
    if there is None or not there.is_folder:
        raise UserError(f"storage {root!r}: no such folder; searches put it there, or name another with --storage")
    folders = [entry for entry in place.listed() if entry.is_folder]
    for entry in sorted(folders, key=lambda entry: entry.changed, reverse=True):
        yield RunStore(under(root, entry.name))


def start_of(text: str) -> tuple[RunStore, int | None]:
    """Run and generation (from 1; None: its last) that `RUN` or `RUN@G` names."""
    run, _, number = text.rpartition("@")
    named = run and number.isdigit() and not RunStore(text).exists(CONFIG)
    return (RunStore(run), int(number)) if named else (RunStore(text), None)
