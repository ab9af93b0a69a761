"""What every command shares: one line and an exit code for whatever the user got wrong."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import gettempdir

from search_space.errors import UserError

OK, FAILED, USAGE = 0, 1, 2


def run_command(main: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Run a command's `main`; exits 0 ok, 1 failed, 2 usage, and shows no traceback.

    A `UserError` is printed as its one line. Any other exception is a defect: its traceback goes to a file that the
    one line names.
    """
    name = f"lfs.{Path(sys.argv[0]).stem}"
    try:
        return main(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted", file=sys.stderr)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"{name}: {(str(error) or type(error).__name__).splitlines()[0]}", file=sys.stderr)
    except Exception as error:
        log = Path(gettempdir()) / f"lfs-{os.getpid()}.log"
        log.write_text(traceback.format_exc())
        print(
            f"{name}: defect: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''} (see {log})",
            file=sys.stderr,
        )
    return FAILED
