"""Browse what searches found.

Examples:
    python -m lfs.results                                  all runs in runs/
    python -m lfs.results runs/NAME                        its generations
    python -m lfs.results runs/NAME --candidates           every candidate
    python -m lfs.results runs/NAME --candidates --where 'reward > 0.9 and not diverged' --sort reward:desc
    python -m lfs.results diff runs/A runs/B               settings and outcome side by side
    python -m lfs.results best runs/NAME --export model    its best model, for lfs.evaluate
    python -m lfs.results schedule runs/NAME --out losses.yaml   its winning losses, for lfs.train --loss

Without an action, runs are shown: `python -m lfs.results show --help` has the flags. Every table is also written as
--json, --csv or --parquet FILE. A run may still be running, or lie on s3:// or gs://: no weights are fetched.
"""

import argparse
import sys
from collections.abc import Sequence

from lfs import results_best, results_diff, results_schedule, results_show
from lfs.actions import ActionParser
from lfs.commands import run_command

ACTIONS = (results_show, results_diff, results_best, results_schedule)


def parser() -> ActionParser:
    """The command's actions and flags; a run that is called like an action is written `./diff`."""
    made = ActionParser(
        prog="python -m lfs.results", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [RUN] [--FLAG VALUE ...] | diff ... | best ... | schedule ...", default="show", bare=True,
    )  # fmt: skip
    for action in ACTIONS:
        action.add_parser(made.actions)
    return made


def main(argv: Sequence[str]) -> int:
    """Run the command; see the module."""
    options = parser().parse_args(argv)
    code: int = options.run_action(options)
    return code


if __name__ == "__main__":
    sys.exit(run_command(main))
