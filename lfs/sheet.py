"""A table of text cells, for a terminal and as Markdown, and the words in it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lfs.scores import Estimate
from lfs.terminal import printable


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column; a header may have several lines."""

    header: str
    cells: tuple[str, ...]
    bold: tuple[bool, ...] = ()
    """Which cells are the best; empty: none."""

    left: bool = False
    """Aligned left instead of right."""

    @property
    def width(self) -> int:
        """Characters of the longest line."""
        return max(cell_len(line) for text in (self.header, *self.cells) for line in text.split("\n"))

    def starred(self) -> "Column":
        """The same with a * at what is bold."""
        stars = ["*" * bold for bold in self.bold] or [""] * len(self.cells)
        return replace(self, cells=tuple(star + cell for star, cell in zip(stars, self.cells, strict=True)))


GAP = 2  # between columns

TITLES = {
    "auc": "AUC", "d_prime": "d'", "tar": "TAR", "id": "Id", "tar_threshold": "threshold",
    "id_threshold": "Id threshold",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table whose columns stand in groups: a metric with what belongs to it is never torn apart."""

    title: str
    caption: str
    keys: tuple[Column, ...]
    """Columns that say what a row is; repeated in each part of a wrapped table."""

    groups: tuple[tuple[Column, ...], ...]

    def as_text(self, console: Console) -> None:
        """Print it; what is wider than the console becomes several tables, one below the other."""
        console.print(Text(self.title, style="bold"))
        console.print(Text(self.caption))
        plain = not console.is_terminal or console.is_dumb_terminal
        for columns in (self.starred() if plain else self).parts(console.width):
            console.print()
            console.print(_rich(columns))

    def starred(self) -> "Sheet":
        """The same with a * at what is bold, for where nothing can be bold."""
        return replace(self, groups=tuple(tuple(column.starred() for column in group) for group in self.groups))

    def parts(self, width: int) -> Iterator[list[Column]]:
        """The columns of each of the tables that fit into `width`, as many groups in each as go."""
        parts: list[list[tuple[Column, ...]]] = [[]]
        for group in self.groups:
            if parts[-1] and self._width([*parts[-1], group]) > width:
                parts.append([])
            parts[-1].append(group)
        if len(parts) > 1 and len(parts[-1]) == 1 < len(parts[-2]):  # none alone, if there is a neighbour to take
            neighbour = parts[-2][-1]
            if self._width([neighbour, *parts[-1]]) <= width:
                parts[-1].insert(0, parts[-2].pop())
        for part in parts:
            yield [*self.keys, *(column for group in part for column in group)]

    def _width(self, groups: Sequence[Sequence[Column]]) -> int:
        columns = [*self.keys, *(column for group in groups for column in group)]
        return sum(column.width + GAP for column in columns) - GAP

    def as_markdown(self) -> str:
        """Title, caption and one table of all columns."""
        columns = [*self.keys, *(column for group in self.groups for column in group)]
        rows = [
            [_escaped(column.header) for column in columns],
            [":---" if column.left else "---:" for column in columns],
            *([_markdown_cell(column, i) for column in columns] for i in range(len(columns[0].cells))),
        ]
        lines = [f"| {' | '.join(row)} |" for row in rows]
        return "\n".join([f"### {self.title}", "", self.caption, "", *lines, ""])


def _rich(columns: Sequence[Column]) -> Table:
    made = Table(box=None, header_style="bold", pad_edge=False, padding=(0, GAP, 0, 0))
    for column in columns:
        made.add_column(
            Text(column.header),
            justify="left" if column.left else "right",
            overflow="fold",
            min_width=min(column.width, 8),
            vertical="bottom",
        )
    for i in range(len(columns[0].cells)):
        made.add_row(*(Text(c.cells[i], style="bold" if c.bold and c.bold[i] else "") for c in columns))
    return made


def _markdown_cell(column: Column, i: int) -> str:
    text = _escaped(column.cells[i])
    return f"**{text}**" if column.bold and column.bold[i] else text


def _escaped(text: str) -> str:
    return printable(text.replace("\n", " ")).replace("|", "\\|")


def metric_title(metric: str) -> str:
    """A metric for the head of a column: its test set and pairs, if named, above it."""
    place, _, name = metric.rpartition("/")
    where = [place] * bool(place) + ["all pairs"] * name.startswith("all:")
    kind, _, far = name.removeprefix("all:").partition("@far=")
    kind, _, gallery = kind.partition("@")
    title = TITLES.get(kind, kind)
    if gallery:
        title = (
            f"rank {kind.removeprefix('rank')} @{_power(gallery) if gallery.strip('0') == '1' else f'{int(gallery):,}'}"
        )
    if far:
        title += f"@FAR={_power(far)}"
    return "\n".join([", ".join(where)] * bool(where) + [title])


def _power(number: str) -> str:
    """`1e-6`, `2.5e-3`."""
    mantissa, exponent = f"{float(number):e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def is_fraction(metric: str) -> bool:
    """Whether a metric lies in [0, 1] and is shown in %."""
    name = metric.rpartition("/")[2].removeprefix("all:")
    return name in ("accuracy", "auc") or name.startswith(("tar@far=", "id@far=", "rank"))


def score_text(found: Estimate, metric: str, num_seeds: int) -> str:
    """Mean ± standard error, with (k/n) where seeds lack."""
    return number_text(found, num_seeds, *((100, 2) if is_fraction(metric) else (1, 3)))


def number_text(found: Estimate, num_seeds: int, unit: float, digits: int) -> str:
    """Mean ± standard error in some unit, with (k/n) where seeds lack; what is the matter if there is no seed."""
    if not found.values:
        return found.lacking
    text = f"{found.mean * unit:.{digits}f}"
    text += f" ± {found.se * unit:.{digits}f}" if found.se == found.se else ""
    n = len(found.values)
    return text if n == num_seeds else f"{text} ({n}/{num_seeds})"


def p_text(p: float) -> str:
    """A p-value in at most five characters."""
    if p != p:
        return ""
    return "<.001" if p < 0.001 else "1" if p >= 0.9995 else f"{p:.3f}".removeprefix("0")


def epochs_text(epochs: float) -> str:
    """A cost."""
    return "-" if epochs != epochs else f"{epochs:.{1 if epochs < 99.95 else 0}f}"


def short_point(point: str) -> str:
    """A grid point without the names of its parameters."""
    return re.sub(r"[^\s,=]+=", "", point)
