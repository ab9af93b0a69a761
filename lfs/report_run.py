"""What a report reads of a run: plain, checked values, and a line for each part that is missing or damaged.

Numbers that are not finite count as missing. Whoever can write a run can put anything into it.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml

from lfs.config import MAX_POPULATION, SearchConfig
from lfs.generations import CANDIDATES, READERS, WINNER
from lfs.run_facts import state_of
from lfs.run_store import RunStore
from search_space.errors import UserError, first_line

NUMBERS = (
    "candidate", "reward", "reward_se", "paired_se", "num_images", "train_s", "validate_s", "leased_at", "reported_at",
)  # fmt: skip
FLAGS = ("winner", "diverged", "dropped")
COLUMNS = (*NUMBERS, *FLAGS, "trainer")
MAX_CANDIDATES = 200_000
"""Of all generations together: Parquet lets a few bytes stand for many rows."""
BEYOND = f"candidates beyond the first {MAX_CANDIDATES:,}: a report takes no more; their generations have none"
LARGEST = 1e18
"""No quantity of a run is larger: what claims to be is no number."""
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One committed generation."""

    number: int
    """From 0."""

    summary: dict[str, Any]
    """See `lfs.stored.Summary`."""

    candidates: pd.DataFrame
    """One row each: `NUMBERS` as float64 (NaN: not known), `FLAGS` as bool, `trainer` as text; empty if missing."""

    missing: str = ""
    """Why there are no candidates; empty: there are."""

    @property
    def best(self) -> float:
        """The winner's reward; NaN if it is not finite."""
        return number(self.summary["best_reward"])


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as far as it can be read."""

    store: RunStore = field(repr=False)
    config: SearchConfig
    settings: str
    """The configuration file without the digests of the data, as YAML."""

    versions: dict[str, str]
    generations: tuple[Generation, ...]
    with_weights: frozenset[int]
    """Generations whose winner's weights are kept."""

    result: dict[str, Any] | None
    """Test scores of the final model; None before the end."""

    events: tuple[dict[str, Any], ...]
    state: str
    """See `lfs.run_facts.state_of`."""

    missing: tuple[str, ...]
    """A line for each part that cannot be read."""

    @cached_property
    def candidates(self) -> pd.DataFrame:
        """All candidates, with their `generation`, from 0."""
        frames = [g.candidates.assign(generation=g.number) for g in self.generations if len(g.candidates)]
        return pd.concat(frames, ignore_index=True) if frames else checked_rows(pd.DataFrame()).assign(generation=0)


class RunReader:
    """Reads a run again and again, each committed generation once."""

    def __init__(self, uri: str) -> None:
        self.store = RunStore(uri)
        self._known: dict[int, Generation] = {}

    def read(self) -> Run:
        """The run as it is now.

        Raises:
            UserError: there is no such run, or its configuration cannot be read.
        """
        store, missing = self.store, list[str]()
        config = store.load_config()
        stored = store.stored()
        contents = store.contents()
        self._known = {n: known for n, known in self._known.items() if n in contents}  # one that went is read again
        found = self._all_of(contents)
        missing += [g for g in found if isinstance(g, str)]
        generations = tuple(g for g in found if isinstance(g, Generation))
        missing += dict.fromkeys(g.missing for g in generations if g.missing)
        versions = stored.get("versions")
        result = self._attempt(missing, store.load_result, None)
        said: list[dict[str, Any] | UserError] = self._attempt(missing, store.load_events, [])
        events = tuple(event for event in said if not isinstance(event, UserError))
        missing += [str(event) for event in said if isinstance(event, UserError)]
        return Run(
            store=store, config=config, generations=generations,
            settings=yaml.safe_dump({k: v for k, v in stored.items() if k != "data"}, sort_keys=False),
            versions={str(k): str(v) for k, v in versions.items()} if isinstance(versions, dict) else {},
            with_weights=frozenset(n for n, names in contents.items() if WINNER in names),
            result=result, events=events,
            state=state_of(store, config, max(contents, default=-1) + 1, result, events),
            missing=tuple(missing),
        )  # fmt: skip

    @staticmethod
    def _attempt(missing: list[str], read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except (UserError, OSError) as error:
            missing.append(first_line(error))
            return otherwise

    def _all_of(self, numbers: Iterable[int]) -> list[Generation | str]:
        """These generations in order, several at a time, with the first `MAX_CANDIDATES` candidates: those of a whole
        generation or none.
        """
        found, reading = list[Generation | str](), deque[Future[Generation | str]]()
        count, full = 0, False

        def take() -> None:
            nonlocal count, full
            made = reading.popleft().result()
            if isinstance(made, Generation):
                count += len(made.candidates)
                full = full or count > MAX_CANDIDATES or made.missing == BEYOND
                if full and not made.missing:
                    made = self._kept(replace(made, candidates=checked_rows(pd.DataFrame()), missing=BEYOND))
            found.append(made)

        with ThreadPoolExecutor(READERS) as pool:
            for n in numbers:
                if len(reading) == READERS:  # no further ahead: how many there are is known when they are read
                    take()
                reading.append(pool.submit(self._generation, n, full))
            while reading:
                take()
        return found

    def _generation(self, number: int, full: bool) -> Generation | str:
        """A generation, or why it cannot be read; without candidates if the report is full."""
        if known := self._known.get(number):
            return known
        try:
            _, summary = self.store.load_state(number)
        except (UserError, OSError) as error:
            return first_line(error)
        rows, missing = pd.DataFrame(), BEYOND if full else ""
        try:
            rows = rows if full else self._rows(number)
        except (UserError, OSError) as error:
            missing = first_line(error)
        made = Generation(number=number, summary=summary, candidates=checked_rows(rows), missing=missing)
        return made if missing not in ("", BEYOND) else self._kept(made)

    def _rows(self, number: int) -> pd.DataFrame:
        """The columns of a generation's candidates that a report uses."""
        table = self.store.load_table(number)
        if table.num_rows > MAX_POPULATION:
            law = f"{CANDIDATES}: {table.num_rows:,} candidates; a generation has at most {MAX_POPULATION:,}"
            raise UserError(f"generation {number + 1}: {law}")
        used = [name for name in table.column_names if name in COLUMNS]
        frame: pd.DataFrame = table.select(used).to_pandas(ignore_metadata=True)
        return frame

    def _kept(self, made: Generation) -> Generation:
        self._known[made.number] = made
        return made


def number(value: Any) -> float:
    """A finite number, or NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return math.nan
    try:
        made = float(value)
    except OverflowError:
        return math.nan
    return made if abs(made) <= LARGEST else math.nan


def checked_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns that a report uses, each of its kind whatever is stored: what is not, is missing."""
    columns: dict[str, Any] = {name: _numbers(frame.get(name), len(frame)) for name in NUMBERS}
    for name in FLAGS:
        flags = frame.get(name, [False] * len(frame))
        columns[name] = np.array([isinstance(flag, bool | np.bool_) and bool(flag) for flag in flags], np.bool_)
    columns["trainer"] = [str(value)[:100] for value in frame.get("trainer", [""] * len(frame))]
    return pd.DataFrame(columns)


def _numbers(column: pd.Series | None, count: int) -> npt.NDArray[np.float64]:
    if column is None:
        return np.full(count, np.nan)
    if column.dtype.kind not in "fiu":
        return np.array([number(value) for value in column], np.float64)
    found = column.to_numpy(np.float64)
    return np.where(np.abs(found) <= LARGEST, found, np.nan)
