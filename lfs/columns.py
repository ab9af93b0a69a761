"""Columns side by side, of which the least important are left out where a terminal is narrow: no number is cut."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

GAP = 2


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table."""

    title: str
    cells: Sequence[str]
    right: bool = False
    """Aligned right."""

    rank: int = 0
    """The highest are left out first; those of rank 0 never."""

    styles: Sequence[str] = field(default=())
    """Of each cell; empty: plain."""

    folds: bool = False
    """A text that may go on in a further line."""

    @property
    def width(self) -> int:
        """Terminal columns that it needs."""
        longest = max(map(cell_len, (self.title, *self.cells)))
        return min(longest, max(cell_len(self.title), 24)) if self.folds else longest


@dataclass(frozen=True, kw_only=True)
class Columns:
    """A table of what fits."""

    columns: Sequence[Column]

    says_less: bool = True
    """Name below it what is left out."""

    def fitting(self, width: int) -> list[Column]:
        """The columns that fit side by side."""
        kept = list(self.columns)
        while _width(kept) > width and any(column.rank for column in kept):
            kept.remove(max(reversed(kept), key=lambda column: column.rank))
        return kept

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        kept = self.fitting(options.max_width)
        yield _table(kept, wrap=_width(kept) > options.max_width)
        without = [column.title for column in self.columns if column not in kept]
        if without and self.says_less:
            yield Text(f"without {', '.join(without)}: the terminal is narrow", style="dim")


def _width(columns: Sequence[Column]) -> int:
    return sum(column.width + GAP for column in columns) - GAP


def _table(columns: Sequence[Column], *, wrap: bool) -> Table:
    made = Table(box=None, header_style="bold", pad_edge=False, padding=(0, GAP, 0, 0))
    for column in columns:
        made.add_column(
            Text(column.title),
            justify="right" if column.right else "left",
            overflow="fold",
            no_wrap=not (wrap or column.folds),
        )
    for row in range(len(columns[0].cells)):
        made.add_row(*(Text(c.cells[row], style=c.styles[row] if c.styles else "") for c in columns))
    return made
