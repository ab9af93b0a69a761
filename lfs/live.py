"""A few lines at the end of a terminal that are drawn anew in place, below all that is printed meanwhile."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO, cast

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook, RenderResult
from rich.file_proxy import FileProxy
from rich.segment import ControlType, Segment


class LiveArea(RenderHook):
    """Draws its content whenever it changes, or something is printed on its console; nothing is left of it at the end.

    The cursor stands below it and is never hidden: whatever ends the process, the terminal is as it was. Lines that a
    terminal has broken because it became narrower are allowed for.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.content: RenderableType | None = None
        self._drawn: list[int] = []
        """Columns of each line that is on the terminal now."""

        self._lock = threading.RLock()

    def show(self, content: RenderableType | None) -> None:
        """Draw this from now on; None: nothing."""
        with self._lock:
            self.content = content
            self.console.print("", end="")

    def forget(self) -> None:
        """What is on the terminal is not where it was drawn: it stays, and the area is drawn below it."""
        self._drawn = []

    @contextmanager
    def shown(self, *, redirect: bool = True) -> Iterator[None]:
        """The area is there in this block. What is printed on its console appears above.

        Args:
            redirect: so does what others print, plug-ins for instance.
        """
        self.console.push_render_hook(self)
        before = sys.stdout, sys.stderr
        if redirect:
            sys.stdout, sys.stderr = (cast(TextIO, FileProxy(self.console, stream)) for stream in before)
        try:
            with self._continued():
                yield
        finally:
            sys.stdout, sys.stderr = before
            try:
                self.show(None)
            finally:
                self.console.pop_render_hook()

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """What a print on the console becomes: the area goes, what is printed comes, and the area again."""
        return [_Part(self._back), *renderables, _Part(self._content)]

    def _content(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The content, in no more lines than the terminal has."""
        if self.content is None:
            return
        options = options.update(height=None, no_wrap=False, overflow="fold", justify="default")
        lines = console.render_lines(self.content, options, pad=False)[: max(1, options.size.height - 1)]
        self._drawn = [Segment.get_line_length(line) for line in lines]
        for line in lines:
            yield from line
            yield Segment.line()

    def _back(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """To where the area begins, and all erased from there on."""
        rows = sum(max(1, -(-columns // options.size.width)) for columns in self._drawn)
        self._drawn = []
        codes = "\r" + f"\x1b[{rows}A" * bool(rows) + "\x1b[J"
        yield Segment(codes, None, [(ControlType.CARRIAGE_RETURN,)])

    @contextmanager
    def _continued(self) -> Iterator[None]:
        """After Ctrl-Z and `fg` the area is drawn below what the shell has printed."""

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGCONT, lambda *_: self.forget())
        try:
            yield
        finally:
            signal.signal(signal.SIGCONT, before)


class _Part:
    """Something that is rendered when its turn comes."""

    def __init__(self, render: Callable[[Console, ConsoleOptions], RenderResult]) -> None:
        self.render = render

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self.render(console, options)
