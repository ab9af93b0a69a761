"""Search for a loss function.

Examples:
    python -m lfs.search --num-workers 8
    python -m lfs.search --config real_faces --data.root /path/to/faces --num-workers 2
    python -m lfs.search --resume runs/builtin-20260101-120000
    python -m lfs.search --config real_faces --data.root /path/to/faces --detach
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lfs.commands import FAILED, INTERRUPTED, OK, complain, run_command
from lfs.config import SearchConfig
from lfs.detach import detached
from lfs.locations import under
from lfs.options import Parser, add_flags, flag
from lfs.plugins import add_allow_flag, built
from lfs.resume import resumed
from lfs.run_store import RunStore
from lfs.view import View, default_name
from search_space.errors import UserError


def parser() -> Parser:
    """The command's flags: a recipe, a run to resume, and one flag per setting."""
    made = Parser(
        prog="python -m lfs.search",
        usage="%(prog)s [--config RECIPE] [--resume RUN] [--SETTING VALUE ...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--config", metavar="RECIPE", default="", help="YAML file, or a name in configs/ [builtin]")
    goes_on = "run directory to continue after its last committed generation; with --config, that must be its recipe"
    made.add_argument("--resume", metavar="RUN", default="", help=goes_on)
    goes_on = "go on without this terminal once the search runs; python -m lfs.status NAME attaches to it"
    made.add_argument("--detach", action="store_true", help=goes_on)
    add_allow_flag(made)
    add_flags(made, SearchConfig, but=("loss", "schedule"))
    return made


def main(argv: Sequence[str]) -> int:
    """Run the command; see the module."""
    flags = vars(parser().parse_args(argv))
    recipe, resume, detach = flags.pop("config"), flags.pop("resume"), flags.pop("detach")
    view = View()
    if resume:
        store, changes = resumed(resume, flags, recipe)
    else:
        config = built(SearchConfig, recipe or "builtin", flags)
        config = replace(config, name=config.name or default_name(Path(recipe or "builtin").stem))

        store = RunStore(under(config.storage, config.name))
    if detach:
        which = ({"resume": resume} if resume else {"name": config.name}) | ({"config": recipe} if recipe else {})
        return detached(store, [part for name, text in (flags | which).items() for part in (flag(name), text)], view)

    from lfs.driver import new_run, old_run, run_search

    if resume:
        config = old_run(store, changes, view)
    else:
        store, config = new_run(config, view)
    try:
        outcome = run_search(store, config, view)
    except UserError:
        if not resume:
            store.discard()
        raise
    except KeyboardInterrupt:
        stopped = f"stopped at once; continue with python -m lfs.search --resume {store.shown}"
        raise KeyboardInterrupt(stopped) from None
    if outcome.error:
        complain("lfs.search", f"{outcome.error}; continue with --resume {outcome.run}")
        return FAILED
    view.finish(outcome.run, outcome.status)
    if outcome.status["generation"] < outcome.status["generations"]:
        view.command("stopped", f"continue with python -m lfs.search --resume {outcome.run}")
        return INTERRUPTED if outcome.interrupted else OK
    return OK


if __name__ == "__main__":
    sys.exit(run_command(main))
