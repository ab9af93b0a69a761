"""The committed generations of a run directory. A generation exists once its COMMIT does.

    RUN/generations/000007/   state.json  candidates.parquet  winner.safetensors  COMMIT (written last)

COMMIT names the size and SHA-256 of the others. Whatever lacks it was cut off half way and is written again. The
weights of old generations may be deleted; what they came to stays. Some have files for many beside their own: see
lfs/blocks.py.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from lfs.files import Entry, Part
from lfs.folder import Folder, StorageError, logger, reason
from lfs.locations import under
from lfs.messages import GenerationRecord, SearchState
from lfs.stored import generation_of, state_and_summary
from lfs.untrusted import read_table
from search_space.errors import UserError, first_line
from trainers.candidate import Weights
from trainers.checkpoint import from_bytes, to_parts
from trainers.untrusted import parse_json

GENERATIONS = "generations"
COMMIT, STATE, CANDIDATES, WINNER = "COMMIT", "state.json", "candidates.parquet", "winner.safetensors"
READERS = 16
"""Generations that are read at once: an object store takes its time for each."""
BATCH = 8
"""Generations that a thread reads one after the other: to start one takes as long as to read a small file."""
LOOK_S = 0.2
"""Whoever waits for many generations is told so often how many are read."""
FROM_A_COPY = "put it back from a copy"
T = TypeVar("T")
Progress = Callable[[int, int], object]


class Generations(Folder):
    """Reads and writes the generations of one run directory; see the module."""

    _with_weights: set[int] | None = None
    """Generations whose weights have not been deleted, as far as this process knows; None: not looked yet."""

    # ---- reading

    def committed(self) -> list[int]:
        """Numbers of the committed generations, rising."""
        return sorted(_numbers(self._listed(), COMMIT))

    def contents(self) -> dict[int, set[str]]:
        """Names of the files of each committed generation, in order, from one look at all of them."""
        found: dict[int, set[str]] = {}
        for entry in self._listed():
            folder, _, name = entry.name.partition("/")
            if name and not entry.is_folder and (number := generation_of(folder)) is not None:
                found.setdefault(number, set()).add(name)
        return {number: found[number] for number in sorted(found) if COMMIT in found[number]}

    def load_state(self, generation: int) -> tuple[SearchState, dict[str, Any]]:
        """State after a committed generation, and its summary."""
        return state_and_summary(self.verified(generation, STATE), generation, self._place(generation, STATE))

    def load_weights(self, generation: int) -> Weights:
        """The winner's weights of a committed generation.

        Raises:
            UserError: they have been deleted, or are damaged.
        """
        if not self.exists(GENERATIONS, folder_of(generation), WINNER):
            raise UserError(self._no_weights(generation))
        place = self._place(generation, WINNER)
        weights, _ = from_bytes(self.verified(generation, WINNER), source=place)
        return weights

    def load_candidates(self, generation: int) -> pd.DataFrame:
        """The candidates of a committed generation, one row each."""
        frame: pd.DataFrame = self.load_table(generation).to_pandas(ignore_metadata=True)
        return frame

    def load_table(self, generation: int, name: str = CANDIDATES) -> pa.Table:
        """The same as they are stored, or another table of a generation."""
        data = self.verified(generation, name)
        try:
            return read_table(data)
        except ValueError as error:
            raise UserError(f"{self._place(generation, name)}: damaged: {first_line(error)}") from None

    def summaries(self, progress: Progress | None = None) -> list[dict[str, Any]]:
        """Every committed generation in one line each.

        Args:
            progress: called with (generations read, generations in all) now and then.
        """
        found = self.each(self.committed(), self.load_state, progress)
        for value in found:
            if isinstance(value, UserError):
                raise value
        return [value[1] for value in found if not isinstance(value, UserError)]

    def each(
        self, generations: Sequence[int], load: Callable[[int], T], progress: Progress | None = None
    ) -> list[T | UserError]:
        """What `load` says of each of many generations, several at a time, or the error with which it refuses one."""

        done: list[int] = []

        def tried(generation: int) -> T | UserError:
            try:
                return load(generation)
            except UserError as error:
                return error
            finally:
                done.append(generation)

        def all_of(part: Sequence[int]) -> list[T | UserError]:
            return self.files.together(lambda: [tried(generation) for generation in part], "reading generations")

        parts, found = [generations[i : i + BATCH] for i in range(0, len(generations), BATCH)], list[T | UserError]()
        with ThreadPoolExecutor(READERS) as pool:
            for reading in [pool.submit(all_of, part) for part in parts]:
                while progress and not wait([reading], LOOK_S).done:
                    progress(len(done), len(generations))
                found += reading.result()
        if progress:
            progress(len(found), len(generations))
        return found

    def load_last(self, progress: Progress | None = None) -> tuple[SearchState, Weights] | None:
        """State and weights after the last committed generation; None before the first.

        Args:
            progress: called with (bytes of the weights read, bytes in all).
        """
        done = self.committed()
        if not done:
            return None
        state, _ = self.load_state(done[-1])
        if progress is None:
            return state, self.load_weights(done[-1])
        expected, read = self._expected(done[-1], WINNER), 0
        total = size if isinstance(expected, dict) and isinstance(size := expected.get("size"), int) else 0

        def seen(num_bytes: int) -> None:
            nonlocal read
            read += num_bytes
            progress(min(read, total), total)  # COMMIT comes too

        before, self.files.seen = self.files.seen, seen
        try:
            return state, self.load_weights(done[-1])
        finally:
            self.files.seen = before

    def _place(self, generation: int, name: str) -> str:
        return under(self.uri, GENERATIONS, folder_of(generation), name)

    def _listed(self) -> list[Entry]:
        """Everything in the folders of all generations, in one request."""
        return self.listed(GENERATIONS, deep=True)

    def verified(self, generation: int, name: str) -> bytes:
        """The bytes of a file of a committed generation that is what COMMIT says.

        Raises:
            UserError: it is not, or cannot be read.
        """
        expected = self._expected(generation, name)
        data = self._read_of(generation, name)
        if expected != _fingerprint([data]):
            law = f"{self._place(generation, name)}: damaged: size or SHA-256 differ from those in COMMIT"
            raise UserError(f"{law}; {self._way_out(generation)}")
        return data

    def _expected(self, generation: int, name: str) -> Any:
        """Size and SHA-256 of a file, as COMMIT has them."""
        data = self._read_of(generation, COMMIT)
        try:
            return parse_json(data)[name]
        except (ValueError, LookupError, TypeError) as error:
            law = f"{self._place(generation, COMMIT)}: damaged: expected size and SHA-256 of {name}"
            raise UserError(f"{law}: {first_line(error)}; {self._way_out(generation)}") from None

    def _read_of(self, generation: int, name: str) -> bytes:
        """The bytes of a file of a committed generation."""
        try:
            return self.read(GENERATIONS, folder_of(generation), name)
        except OSError as error:
            law = f"{self._place(generation, name)}: a file of a committed generation cannot be read: {reason(error)}"
            # Only what is gone is known to be lost: a file that storage refuses today may be good.
            gone = isinstance(error.__cause__, FileNotFoundError)
            raise UserError(f"{law}; {self._way_out(generation)}" if gone else law) from None

    def _way_out(self, generation: int) -> str:
        """What to do about a damaged generation."""
        if self.exists(GENERATIONS, folder_of(generation + 1), COMMIT):  # all may be damaged: no list for each
            return FROM_A_COPY
        listed = self._listed()
        done = _numbers(listed, COMMIT)
        before = {number for number in done if number < generation}
        if generation != max(done, default=-1):
            return FROM_A_COPY
        if before and max(before) not in _numbers(listed, WINNER):
            return f"{FROM_A_COPY}: the weights of the generation before were deleted (--keep-generations)"
        goes_on = f"goes on from generation {max(before) + 1}" if before else "begins with the first generation"
        return f"{FROM_A_COPY}, or remove {self._place(generation, COMMIT)}: then --resume {goes_on}"

    def _no_weights(self, generation: int) -> str:
        """Why there are no weights of a committed generation."""
        listed = self._listed()
        have = sorted(_numbers(listed, WINNER) & _numbers(listed, COMMIT))
        kept = f"{have[0] + 1}..{have[-1] + 1}" if have else "none"
        law = f"{self.uri}: the weights of generation {generation + 1} were deleted (--keep-generations) or lost"
        return f"{law}; generations that have theirs: {kept}"

    # ---- writing

    def commit(self, record: GenerationRecord, weights: Weights) -> None:
        """Write one closed generation; COMMIT goes last, so a crash at any point leaves the previous one the last.

        Raises:
            StorageError: storage still refuses after `attempts` tries or does not answer, or the generation is there
                already and is another one.
        """
        commit = partial(self._commit, record.generation, self.files_of(record, weights))
        self.retrying(lambda: self.files.together(commit, f"committing {folder_of(record.generation)}"))
        if self._with_weights is not None:
            self._with_weights.add(record.generation)

    def files_of(self, record: GenerationRecord, weights: Weights) -> dict[str, list[Part]]:
        """What a generation's folder will hold beside COMMIT, by name."""
        state = {"state": record.state.to_dict(), "summary": record.summary}
        return {
            STATE: [json.dumps(state, indent=1).encode()],
            CANDIDATES: [as_parquet(as_table(record.rows))],
            WINNER: list(to_parts(weights, {"generation": record.generation, "candidate": record.winner})),
        }

    def _commit(self, generation: int, contents: Mapping[str, list[Part]]) -> None:
        folder = self.at(GENERATIONS, folder_of(generation))
        there = self.files.list(folder)
        if COMMIT in [entry.name for entry in there]:
            self._refuse_another(generation, contents)
            return self.files.sync_folder(folder)
        self._tidy(folder, there)
        prints: dict[str, Any] = dict.fromkeys(contents)

        def hash_all() -> None:
            prints.update({name: _fingerprint(parts) for name, parts in contents.items()})

        self._put({f"{folder}/{name}": parts for name, parts in contents.items()}, (hash_all,))
        self._put({f"{folder}/{COMMIT}": [json.dumps(prints, indent=1).encode()]})
        return None

    def _refuse_another(self, generation: int, contents: Mapping[str, Sequence[Part]]) -> None:
        """Raise `StorageError` unless a commit that is there is this one, written by a try whose answer was lost."""
        try:
            there = parse_json(self.read(GENERATIONS, folder_of(generation), COMMIT))
        except ValueError:
            there = None
        if there != {name: _fingerprint(parts) for name, parts in contents.items()}:
            law = f"{self._place(generation, COMMIT)} is there already and of another content"
            raise StorageError(f"{law}: another driver works on this run; end one of the two")

    def prune(self, generation: int, keep: int | None) -> None:
        """Delete the weights of all but the last `keep` generations. What cannot be deleted is tried again next time.

        Args:
            generation: the last one, which is committed.
            keep: at least 1; None: all of them.
        """
        if keep is None:
            return
        try:
            if self._with_weights is None:
                self._with_weights = _numbers(self._listed(), WINNER)
            for old in sorted(number for number in self._with_weights if number <= generation - keep):
                self.delete(GENERATIONS, folder_of(old), WINNER)
                self._with_weights.discard(old)
        except OSError as error:
            logger.warning("old weights cannot be deleted now: %s", first_line(error))


def folder_of(generation: int) -> str:
    """Name of a generation's folder."""
    return f"{generation:06d}"


def _numbers(listed: Sequence[Entry], name: str) -> set[int]:
    """The generations that have a file of this name."""
    parts = [entry.name.split("/") for entry in listed if not entry.is_folder]
    numbers = [generation_of(part[0]) for part in parts if len(part) == 2 and part[1] == name]
    return {number for number in numbers if number is not None}


def _fingerprint(parts: Sequence[Part]) -> dict[str, Any]:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return {"size": sum(len(part) for part in parts), "sha256": digest.hexdigest()}


def as_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as columns."""
    columns = dict.fromkeys(name for row in rows for name in row)  # a diverged candidate has fewer
    return pa.table({name: [row.get(name) for row in rows] for name in columns})


def as_parquet(table: pa.Table) -> bytes:
    """A table as a file."""
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink)
    return bytes(sink.getvalue())
