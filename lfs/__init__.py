"""Search for a loss function; each command is a module, `python -m lfs.COMMAND`."""

import sys
from types import TracebackType


def _one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("\nlfs: interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if sys.argv[:1] == ["-m"]:  # a command is about to be imported, which takes seconds: Ctrl-C shows no traceback then
    sys.excepthook = _one_line
