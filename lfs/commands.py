"""What every command shares: one line and an exit code for whatever the user got wrong."""

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile

from lfs.terminal import printable
from search_space.errors import UserError, first_line

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes; the last is that of what Ctrl-C, SIGTERM or the end of its terminal has stopped, 128 + SIGINT."""
MAX_LINE = 4000


def run_command(main: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Run a command's `main`; exits 0 ok, 1 failed, 2 usage, 130 interrupted, and shows no traceback.

    A `UserError` or a `KeyboardInterrupt` is printed as its one line. Any other exception is a defect: its traceback
    goes to a file that the one line names.
    """
    name = f"lfs.{Path(sys.argv[0]).stem}"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that a terminal cannot show ends nothing
    try:
        return main(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        complain(name, str(error))
    except KeyboardInterrupt as error:
        with contextlib.suppress(OSError):  # its terminal may be gone
            print(f"\n{name}: {printable(str(error)) or 'interrupted'}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        complain(name, first_line(error))
    except Exception as error:
        with NamedTemporaryFile("w", prefix="lfs-", suffix=".log", errors="replace", delete=False) as log:
            log.write(traceback.format_exc())
        complain(name, f"defect: {type(error).__name__}: {first_line(error)} (see {log.name})")
    return FAILED


def complain(command: str, message: str) -> None:
    """Print what went wrong as one line of a length that can be read."""
    line = message if len(message) <= MAX_LINE else f"{message[:MAX_LINE]} ... ({len(message):,} characters)"
    print(printable(f"{command}: {line}"), file=sys.stderr)
