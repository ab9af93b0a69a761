"""Many generations in one file: a long run is opened in a few reads, however few candidates a generation has.

    RUN/generations/000063/   block.parquet  the candidates of the generations 0 to 63
                              block.json     their summaries

Every 64th generation has them beside its own files, under its own COMMIT. They repeat what the 64 say: whatever they
lack, or do not say rightly, is read from the generations' own files.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from lfs.files import Part
from lfs.generations import COMMIT, GENERATIONS, Generations, Progress, as_parquet, as_table, folder_of
from lfs.messages import GenerationRecord
from lfs.stored import summary_of
from search_space.errors import UserError, first_line
from trainers.candidate import Weights
from trainers.untrusted import MAX_JSON_BYTES, parse_json

BLOCK = 64
"""Generations of a block. A generation takes about 1 ms to read from files of its own."""
MAX_ROWS = 10_000
"""Candidates of a block: where generations have many, nothing is gained."""
MAX_BYTES = 64 * 2**20
"""Of the candidates of a block in memory: whoever wrote the run before may have meant no good."""
READ_LIMIT_S = 10.0
"""A file of an earlier generation that does not answer for so long is none of the block's."""
CANDIDATES, SUMMARIES = "block.parquet", "block.json"
T = TypeVar("T")


class Blocks(Generations):
    """The generations of one run directory, with blocks of them."""

    # ---- reading

    def load_tables(
        self, contents: Mapping[int, set[str]], progress: Progress | None = None
    ) -> list[pa.Table | UserError]:
        """The candidates of these generations in order, in one or more tables; why, where there are none.

        Args:
            contents: as `contents` gives them, or a part.
            progress: called with (generations read, generations in all) now and then.
        """
        return self._gathered(contents, CANDIDATES, lambda n: [self.block_table(n)], self.load_table, progress)

    def load_summaries(
        self, contents: Mapping[int, set[str]], progress: Progress | None = None
    ) -> list[dict[str, Any] | UserError]:
        """The summaries of these generations in order, and why one cannot be read."""
        return self._gathered(
            contents, SUMMARIES, self.block_summaries, lambda generation: self.load_state(generation)[1], progress
        )

    def _gathered(
        self,
        contents: Mapping[int, set[str]],
        name: str,
        load_block: Callable[[list[int]], list[T]],
        load: Callable[[int], T],
        progress: Progress | None,
    ) -> list[T | UserError]:
        blocks = blocks_of(contents, name)
        positions = list(range(len(blocks)))

        if progress:
            progress(0, len(contents))

        def blocks_read(count: int, _: int) -> None:
            if progress:
                progress(sum(map(len, blocks[:count])), len(contents))

        loaded = self.each(positions, lambda position: load_block(blocks[position]), blocks_read)
        found: dict[int, list[T | UserError]] = {}
        for numbers, values in zip(blocks, loaded, strict=True):
            if not isinstance(values, UserError):
                found |= {number: [] for number in numbers} | {numbers[0]: list(values)}
        rest = [number for number in contents if number not in found]

        def read(count: int, _: int) -> None:
            if progress:
                progress(len(contents) - len(rest) + count, len(contents))

        found |= {number: [value] for number, value in zip(rest, self.each(rest, load, read), strict=True)}
        return [value for number in sorted(found) for value in found[number]]

    def block_table(self, numbers: list[int]) -> pa.Table:
        """The candidates of a block of just these generations.

        Raises:
            UserError: it cannot be read, or is one of others.
        """
        table = self.load_table(numbers[-1], CANDIDATES)
        if table.num_rows > MAX_ROWS:
            raise UserError("too many candidates")
        try:
            found = pc.unique(table["generation"]).to_pylist()
        except (KeyError, pa.ArrowException):
            found = []
        if found != numbers:
            raise UserError("other generations")
        return table

    def block_summaries(self, numbers: list[int]) -> list[dict[str, Any]]:
        """The summaries of a block of just these generations.

        Raises:
            UserError: they cannot be read, or are those of others.
        """
        try:
            values = parse_json(self.verified(numbers[-1], SUMMARIES))
            return [summary_of(value, number) for value, number in zip(values, numbers, strict=True)]
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            raise UserError(first_line(error)) from None

    # ---- writing

    def files_of(self, record: GenerationRecord, weights: Weights) -> dict[str, list[Part]]:
        """See `Generations`; with the block, if one ends here and all of it can be read."""
        return super().files_of(record, weights) | (self._block(record) if ends_block(record.generation) else {})

    def _block(self, record: GenerationRecord) -> dict[str, list[Part]]:
        # What it asks for does not answer? Then nothing that is committed later is to wait the less for it.
        reader = Blocks(self.uri, self.files.files, attempts=1, limit_s=READ_LIMIT_S)
        try:
            before = reader.committed_of(range(record.generation + 1 - BLOCK, record.generation))
            summaries = [summary for _, summary in _all_of(reader.each(before, reader.load_state))]
            text = json.dumps([*summaries, record.summary]).encode()
            tables = reader.small_tables(before, as_table(record.rows))
            block: dict[str, list[Part]] = {SUMMARIES: [text]} if len(text) <= MAX_JSON_BYTES else {}
            if tables:
                block[CANDIDATES] = [as_parquet(pa.concat_tables(tables, promote_options="permissive"))]
        except (UserError, OSError, pa.ArrowException):  # what is damaged is said to whoever reads it
            return {}
        return block

    def committed_of(self, numbers: Sequence[int]) -> list[int]:
        """Those of some generations that are committed."""
        there = _all_of(self.each(numbers, lambda number: self.exists(GENERATIONS, folder_of(number), COMMIT)))
        return [number for number, committed in zip(numbers, there, strict=True) if committed]

    def small_tables(self, numbers: Sequence[int], last: pa.Table) -> list[pa.Table]:
        """The candidates of some generations, one after the other, and a last table; none if they are too many."""
        tables: list[pa.Table] = []
        rows, num_bytes = last.num_rows, last.nbytes
        for number in numbers:
            if rows > MAX_ROWS or num_bytes > MAX_BYTES:
                break
            tables.append(self.load_table(number))
            rows, num_bytes = rows + tables[-1].num_rows, num_bytes + tables[-1].nbytes
        return [*tables, last] if rows <= MAX_ROWS and num_bytes <= MAX_BYTES else []


def blocks_of(contents: Mapping[int, set[str]], *names: str) -> list[list[int]]:
    """Numbers of the generations of each block that has files of these names, rising."""
    ends = [number for number, there in contents.items() if ends_block(number) and there.issuperset(names)]
    return [[number for number in range(end + 1 - BLOCK, end + 1) if number in contents] for end in ends]


def ends_block(generation: int) -> bool:
    """Whether a block ends with this generation."""
    return (generation + 1) % BLOCK == 0


def _all_of(found: Sequence[T | UserError]) -> list[T]:
    good = [value for value in found if not isinstance(value, UserError)]
    for value in found:
        if isinstance(value, UserError):
            raise value
    return good
