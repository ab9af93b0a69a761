"""How a run stands, from its files alone: no cluster is asked, no weights are read, and what is damaged hides nothing
else."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lfs.config import SearchConfig
from lfs.generations import CANDIDATES, WINNER, Progress
from lfs.presence import is_held
from lfs.run_store import CONFIG, RunStore
from search_space.errors import UserError

RUNNING, PAUSED, STOPPED, FINISHED = "running", "paused", "stopped", "finished"


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """A run at one moment; it may go on meanwhile."""

    store: RunStore
    config: SearchConfig
    contents: dict[int, set[str]]
    """Names of the files of each committed generation, rising."""

    summaries: list[dict[str, Any]]
    """Of the committed generations whose state can be read."""

    num_images: int
    """Training pictures seen by all candidates so far."""

    result: dict[str, Any] | None
    """Test scores of the final model, if the run came to its end."""

    events: list[dict[str, Any]]
    """What was done to it, as far as that can be read."""

    first_event: dict[str, Any] | None
    """None: there is none, or it cannot be read."""

    state: str
    """`running`, `paused`, `stopped` (it can be resumed) or `finished`."""

    faults: tuple[str, ...]
    """What cannot be read, a line each."""

    @property
    def best(self) -> dict[str, Any] | None:
        """Summary of the generation with the best reward, the first of equal ones."""
        return max(self.summaries, key=lambda summary: summary["best_reward"], default=None)

    @property
    def started(self) -> datetime | None:
        """When its first driver began, or its configuration was written; None: not known."""
        if self.first_event and (began := event_time(self.first_event)):
            return began
        with suppress(OSError, OverflowError, ValueError):
            found = self.store.files.info(self.store.at(CONFIG))
            return datetime.fromtimestamp(found.changed).astimezone() if found and found.changed else None
        return None

    @property
    def age_s(self) -> float | None:
        """Seconds since it was started."""
        return None if self.started is None else max(0.0, time.time() - self.started.timestamp())

    @property
    def notes(self) -> list[str]:
        """What a reader of a list of runs should know besides."""
        return [*self.faults, *_missing_tables(self.contents), *_missing_weights(self.contents)]


def event_time(event: Mapping[str, Any]) -> datetime | None:
    """When something was done to a run, by the clock of whoever wrote it, in whole seconds; None: it does not say."""
    with suppress(ValueError, TypeError, KeyError, OverflowError):
        return datetime.fromisoformat(event["time"]).astimezone()
    return None


def read_run(store: RunStore, progress: Progress | None = None) -> RunFacts:
    """A run as it stands now.

    Args:
        progress: called with (generations read, generations in all) now and then.
    Raises:
        UserError: this is no run, or one whose configuration cannot be read; all else that is damaged is in `faults`.
    """
    config, faults = store.load_config(), list[str]()
    contents = store.contents()
    found, result = store.load_summaries(contents, progress), None
    faults += [str(summary) for summary in found if isinstance(summary, UserError)]
    try:
        result = store.load_result(max(contents, default=-1))
    except UserError as error:
        faults.append(str(error))
    said = store.load_events()
    faults += [str(event) for event in said if isinstance(event, UserError)]
    events = [event for event in said if not isinstance(event, UserError)]
    return RunFacts(
        store=store, config=config, contents=contents,
        summaries=[summary for summary in found if not isinstance(summary, UserError)],
        num_images=_num_images(store, contents), result=result, events=events,
        first_event=events[0] if events and events[0] is said[0] else None, faults=tuple(faults),
        state=state_of(store, config, max(contents, default=-1) + 1, result, events),
    )  # fmt: skip


def _num_images(store: RunStore, contents: Mapping[int, set[str]]) -> int:
    """As the last generation has it whose state can be read."""
    for generation in reversed(list(contents)):
        with suppress(UserError):
            return store.load_state(generation)[0].num_images
    return 0


def state_of(
    store: RunStore,
    config: SearchConfig,
    done: int,
    result: Mapping[str, Any] | None,
    events: Sequence[Mapping[str, Any]],
) -> str:
    """How far a run is: `FINISHED`, `STOPPED`, `PAUSED` or `RUNNING`.

    Args:
        done: committed generations.
        result: test scores of the final model, if there are any.
    """
    test = config.data.test
    if done >= config.generations and (result or not (test.pairs or test.labels)):
        return FINISHED
    if not is_held(store):
        return STOPPED
    said = [event.get("action") for event in events if event.get("action") in ("start", "pause", "resume")]
    return PAUSED if said[-1:] == ["pause"] else RUNNING


def _missing_tables(contents: Mapping[int, set[str]]) -> list[str]:
    return [f"{CANDIDATES} of {_counted(missing)} is gone" for missing in [_without(contents, CANDIDATES)] if missing]


def _missing_weights(contents: Mapping[int, set[str]]) -> list[str]:
    missing = _without(contents, WINNER)
    if not missing:
        return []
    return ["no weights left" if len(missing) == len(contents) else f"no weights of {_counted(missing)}"]


def _without(contents: Mapping[int, set[str]], name: str) -> list[int]:
    return [generation for generation, files in contents.items() if name not in files]


def _counted(generations: Sequence[int]) -> str:
    """Generations for a reader, who counts from 1."""
    if len(generations) == 1:
        return f"generation {generations[0] + 1}"
    return f"{len(generations)} generations ({generations[0] + 1}..{generations[-1] + 1})"
