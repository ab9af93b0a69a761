"""What is shown comes from files and other machines: nothing in it may steer the terminal, or hide what it says."""

import shutil
import sys
from collections.abc import Iterable
from typing import Any

import pandas as pd
from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet takes a text that begins with one of these for a formula."""


def printable(text: str, keep: str = "") -> str:
    """`text` with every character spelled out that has no shape of its own: escapes, controls, marks that turn the
    direction of writing, lone surrogates. Those of `keep` stay.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


GLUE = "\ue000"
"""A space at which no line is broken."""

PLAIN_SIGNS = {"±": "~", "…": ".", "█": "#", "▏": "|", "▎": "|", "━": "-"}
"""Signs of this project's own output, as wide, for a terminal that cannot show them."""


def encodable(text: str, encoding: str) -> str:
    """`text` with every character spelled out that `encoding` does not have; signs of our own become similar ones."""

    def shown(sign: str) -> str:
        try:
            sign.encode(encoding)
        except UnicodeEncodeError:
            return PLAIN_SIGNS.get(sign) or sign.encode("ascii", "backslashreplace").decode()
        return sign

    return text if text.isascii() or encoding == "utf-8" else "".join(map(shown, text))


class SafeConsole(Console):
    """A console that prints no control character but its own; square brackets are no markup.

    What it writes to is a terminal if it says so itself: FORCE_COLOR in an environment does not make a pipe one.
    """

    def __init__(self, **settings: Any) -> None:
        if "file" not in settings and "force_terminal" not in settings:
            stream = sys.stderr if settings.get("stderr") else sys.stdout
            settings["force_terminal"] = bool(stream and stream.isatty())
        super().__init__(**({"highlight": False, "markup": False, "emoji": False} | settings))
        if self.is_dumb_terminal and not settings.get("width"):
            self.size = ConsoleDimensions(*shutil.get_terminal_size((80, 25)))  # rich takes it for 80 columns wide

    def on_broken_pipe(self) -> None:
        """Nobody reads this any more; rich's own would shut standard output, whatever this is."""
        if self.stderr:
            self.quiet = True
            raise SystemExit(1)
        super().on_broken_pipe()

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What is printed, piece by piece; rich's own control codes are pieces of their own."""
        for piece in super().render(renderable, options):
            yield piece if piece.control else Segment(self._shown(piece.text), piece.style)

    def render_str(self, text: str, **settings: Any) -> Text:
        """The text, in which a line never ends before or behind a ±."""
        return super().render_str(text.replace(" ± ", f"{GLUE}±{GLUE}"), **settings)

    def _shown(self, text: str) -> str:
        encoding = getattr(self.file, "encoding", None) or "utf-8"
        return encodable(printable(text.replace(GLUE, " "), keep="\n"), encoding)


def is_live(console: Console) -> bool:
    """Whether lines can be drawn anew here."""
    return console.is_terminal and not console.is_dumb_terminal


def spreadsheet_safe(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a ' before every text that a spreadsheet would take for a formula."""

    def cell(value: Any) -> Any:
        return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value

    made = table.map(cell)
    made.columns = pd.Index([cell(name) for name in table.columns])
    return made
