"""Running searches: a list, or one of them live.

Examples:
    python -m lfs.status                       the searches that run: on this machine, or in the cluster of $RAY_ADDRESS
    python -m lfs.status NAME                  attach to one; Ctrl-C leaves it running
    python -m lfs.status --address HOST:6379   the searches of a cluster
"""

import argparse
import contextlib
import secrets
import sys
import time
from collections.abc import Sequence
from typing import Any

from lfs.board import filled_in
from lfs.columns import Column, Columns
from lfs.commands import OK, run_command
from lfs.options import Parser
from lfs.progress import duration_text
from lfs.service import ANSWER_S, add_places, addresses, controller_of, searches
from lfs.terminal import SafeConsole
from lfs.view import View, reward_text
from search_space.errors import UserError

POLL_S = 1.0


def parser() -> Parser:
    """The command's flags."""
    made = Parser(
        prog="python -m lfs.status", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "search", nargs="?", default="", metavar="NAME", help="a search, or its run directory; none: list"
    )
    add_places(made)
    return made


def status_of(controller: Any, follower: str = "", since: int = 0) -> dict[str, Any] | None:
    """A controller's status, its summaries after the first so many; None: it does not answer, it may be about to be
    restarted."""
    import ray

    try:
        status: dict[str, Any] = ray.get(controller.status.remote(follower, since), timeout=ANSWER_S)
    except ray.exceptions.ActorDiedError:
        raise UserError("the search has ended") from None
    except ray.exceptions.RayError:
        return None
    return status


def listing(address: str, storage: str) -> list[tuple[str, dict[str, Any] | None]]:
    """Name and status of every running search that can be found."""
    found: dict[str, tuple[str, dict[str, Any] | None]] = {}
    for place, asked in addresses(address, storage).items():
        try:
            with searches(place) as running:
                for name, controller in running.items():
                    with contextlib.suppress(UserError):  # it ended a moment ago
                        status = status_of(controller)
                        found[status["run"] if status else name] = name, status  # a cluster may have two addresses
        except UserError:
            if asked:
                raise
    return list(found.values())


def table(found: Sequence[tuple[str, dict[str, Any] | None]]) -> Columns:
    """Running searches for a reader."""
    rows = [_row(name, status) for name, status in found]
    ranks = {"search": 0, "state": 0, "generation": 0, "trainers": 2, "best reward": 3, "left": 1, "run": 4}
    return Columns(
        columns=[
            Column(title=title, cells=[row[number] for row in rows], rank=rank, folds=title == "run")
            for number, (title, rank) in enumerate(ranks.items())
        ]
    )


def _row(name: str, status: dict[str, Any] | None) -> tuple[str, ...]:
    if status is None:
        return (name, "does not answer", "-", "-", "-", "-", "-")
    number = f"{min(status['generation'] + 1, status['generations'])}/{status['generations']}"
    trainers = f"{status['trainers']} of {status['wanted']}"
    left, best = duration_text(status["eta_s"]), reward_text(status["best"])
    return name, status["state"], number, trainers, best, left, status["run"]


def follow(controller: Any, view: View) -> dict[str, Any]:
    """Show a search until it ends; its last status."""
    me = secrets.token_hex(4)
    status = status_of(controller, me)
    if status is None:
        raise UserError("the search's controller does not answer; try again")
    view.start(status, attached=True)
    try:
        while not status["finished"]:
            time.sleep(POLL_S)
            if (news := status_of(controller, me, len(status["summaries"]))) is not None:
                status = filled_in(news, status)
            view.update(status)
    finally:
        view.stop()
    return status


def main(argv: Sequence[str]) -> int:
    """Run the command; see the module."""
    options = parser().parse_args(argv)
    console = SafeConsole(width=None if sys.stdout.isatty() else 200)
    if not options.search:
        found = listing(options.address, options.storage)
        console.print(table(found) if found else "no search is running")
        return OK
    view = View()
    try:
        with controller_of(options.search, options.address, options.storage) as controller:
            status = follow(controller, view)
    except KeyboardInterrupt:
        view.say(f"\n{options.search} goes on without this view")
        return OK
    if status["error"]:
        raise UserError(f"{status['error']}; continue with python -m lfs.search {status['resume']}")
    view.finish(status["run"], status)
    return OK


if __name__ == "__main__":
    sys.exit(run_command(main))
