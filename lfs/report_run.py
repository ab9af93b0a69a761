"""What a report reads of a run: plain, checked values, and a line for each part that is missing or damaged.

Numbers that are not finite count as missing. Whoever can write a run can put anything into it.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import yaml

from lfs import blocks
from lfs.config import MAX_POPULATION, SearchConfig
from lfs.generations import CANDIDATES, READERS, WINNER, Progress
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
R = TypeVar("R")


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
        self._full = False
        """Whether no more candidates are taken."""

    def read(self, progress: Progress | None = None) -> Run:
        """The run as it is now.

        Args:
            progress: called with (generations read, generations in all) now and then.
        Raises:
            UserError: there is no such run, or its configuration cannot be read.
        """
        store, missing = self.store, list[str]()
        config = store.load_config()
        stored = store.stored()
        contents = store.contents()
        self._known = {n: known for n, known in self._known.items() if n in contents}  # one that went is read again
        found = self._all_of(contents, progress)
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

    def _all_of(self, contents: Mapping[int, set[str]], progress: Progress | None) -> list[Generation | str]:
        """These generations in order, several at a time, with the first `MAX_CANDIDATES` candidates: those of a whole
        generation or none.
        """
        found, count = list[Generation | str](), 0
        self._full = False
        if progress:
            progress(0, len(contents))
        with ThreadPoolExecutor(READERS) as pool:
            for numbers, span in ahead(pool, self._span, self._spans(contents)):
                for made in span or (one for _, one in ahead(pool, self._generation, numbers)):
                    if isinstance(made, Generation):
                        count += len(made.candidates)
                        self._full = self._full or count > MAX_CANDIDATES or made.missing == BEYOND
                        if self._full and not made.missing:
                            made = replace(made, candidates=checked_rows(pd.DataFrame()), missing=BEYOND)
                        if made.missing in ("", BEYOND):
                            self._known[made.number] = made
                    found.append(made)
                if progress:
                    progress(len(found), len(contents))
        return found

    def _spans(self, contents: Mapping[int, set[str]]) -> list[list[int]]:
        """The numbers in spans: those of a block that is there, if none of them is known, or one alone."""
        found = blocks.blocks_of(contents, blocks.SUMMARIES, blocks.CANDIDATES)
        spans = {block[0]: block for block in found if self._known.keys().isdisjoint(block)}
        inside = {number for block in spans.values() for number in block}
        return [spans.get(number, [number]) for number in contents if number in spans or number not in inside]

    def _span(self, numbers: list[int]) -> list[Generation | str]:
        """The generations of a span; none if it is a block that does not tell."""
        if len(numbers) == 1:
            return [self._generation(numbers[0])]
        if self._full:
            return []
        try:
            summaries, table = self.store.block_summaries(numbers), self.store.block_table(numbers)
        except (UserError, OSError):
            return []
        of = table["generation"].to_numpy()
        rows = checked_rows(used(table))
        return [
            Generation(number=number, summary=summary, candidates=rows[of == number].reset_index(drop=True))
            for number, summary in zip(numbers, summaries, strict=True)
        ]

    def _generation(self, number: int) -> Generation | str:
        """A generation, or why it cannot be read; without candidates if the report is full."""
        full = self._full
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
        return Generation(number=number, summary=summary, candidates=checked_rows(rows), missing=missing)

    def _rows(self, number: int) -> pd.DataFrame:
        """The columns of a generation's candidates that a report uses."""
        table = self.store.load_table(number)
        if table.num_rows > MAX_POPULATION:
            law = f"{CANDIDATES}: {table.num_rows:,} candidates; a generation has at most {MAX_POPULATION:,}"
            raise UserError(f"generation {number + 1}: {law}")
        return used(table)


def ahead(pool: Executor, do: Callable[[T], R], things: Iterable[T]) -> Iterator[tuple[T, R]]:
    """What comes of each of some things, in their order; done `READERS` ahead, no further."""
    doing = deque[tuple[T, Future[R]]]()
    for thing in things:
        if len(doing) == READERS:
            first, done = doing.popleft()
            yield first, done.result()
        doing.append((thing, pool.submit(do, thing)))
    for first, done in doing:
        yield first, done.result()


def used(table: pa.Table) -> pd.DataFrame:
    """The columns of stored candidates that a report uses."""
    frame: pd.DataFrame = table.select([n for n in table.column_names if n in COLUMNS]).to_pandas(ignore_metadata=True)
    return frame


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
