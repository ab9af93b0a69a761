"""Act on a running search. What is done is recorded in its run.

Examples:
    python -m lfs.control pause NAME                    trainers end after their candidates; their resources are free
    python -m lfs.control resume NAME
    python -m lfs.control stop NAME                     after this generation; --now: at once
    python -m lfs.control extend NAME --generations 20  so many generations in all
"""

import argparse
import getpass
import os
import platform
import sys
from collections.abc import Sequence

from lfs.commands import OK, run_command
from lfs.options import Parser
from lfs.service import ANSWER_S, add_places, controller_of
from lfs.terminal import printable
from search_space.errors import UserError


def parser() -> Parser:
    """The command's flags."""
    made = Parser(
        prog="python -m lfs.control", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("action", choices=("pause", "resume", "stop", "extend"), help="what to do")
    made.add_argument("search", metavar="NAME", help="a running search, or its run directory; see lfs.status")
    made.add_argument("--generations", type=int, default=0, metavar="N", help="with extend: generations in all")
    made.add_argument("--now", action="store_true", help="with stop: do not wait for the end of the generation")
    add_places(made)
    return made


def user() -> str:
    """Who does it; a number where the system has no name for it, as in many containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def main(argv: Sequence[str]) -> int:
    """Run the command; see the module."""
    options = parser().parse_args(argv)
    if (options.action == "extend") != bool(options.generations):
        raise UserError("--generations N goes with extend, and extend needs it")
    if options.now and options.action != "stop":
        raise UserError("--now goes with stop")
    action = "stop-now" if options.now else options.action
    with controller_of(options.search, options.address, options.storage) as controller:
        import ray

        by = f"{user()}@{platform.node()}"
        try:
            said = ray.get(controller.act.remote(action, by, options.generations), timeout=6 * ANSWER_S)
        except ray.exceptions.RayTaskError as error:
            raise UserError(f"{options.search}: {error.cause}") from None
        except ray.exceptions.RayError as error:
            raise UserError(f"{options.search} does not answer: {str(error).strip().splitlines()[0]}") from None
    print(printable(f"{options.search}: {said}"))
    return OK


if __name__ == "__main__":
    sys.exit(run_command(main))
