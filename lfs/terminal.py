"""What is shown comes from files and other machines: nothing in it may steer the terminal, or hide what it says."""

from collections.abc import Iterable
from typing import Any

import pandas as pd
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet takes a text that begins with one of these for a formula."""


def printable(text: str, keep: str = "") -> str:
    """`text` with every character spelled out that has no shape of its own: escapes, controls, marks that turn the
    direction of writing, lone surrogates. Those of `keep` stay.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


class SafeConsole(Console):
    """A console that prints no control character but its own; square brackets are no markup."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**({"highlight": False, "markup": False, "emoji": False} | settings))

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What is printed, piece by piece; rich's own control codes are pieces of their own."""
        for piece in super().render(renderable, options):
            yield piece if piece.control else Segment(printable(piece.text, keep="\n"), piece.style)


def spreadsheet_safe(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a ' before every text that a spreadsheet would take for a formula."""

    def cell(value: Any) -> Any:
        return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value

    made = table.map(cell)
    made.columns = pd.Index([cell(name) for name in table.columns])
    return made
