"""Face sets: bring them into the form that is trained on, and look at what is in them.

Examples:
    python -m lfs.data import faces_emore faces                       insightface's train.rec, train.idx, property
    python -m lfs.data import CASIA-WebFace casia --identities CASIA-WebFace-R.txt
    python -m lfs.data inspect casia --sheet sheet.png
    python -m lfs.data verify casia
    python -m lfs.data overlap casia/identities.txt lfw/identities.txt
"""

import argparse
import sys
from collections.abc import Sequence

from lfs import data_import, data_inspect
from lfs.commands import run_command
from lfs.options import Parser

ACTIONS = (data_import, data_inspect)
"""Each module adds its actions by `add_parser(actions)`; an action sets `run`, a function of the options."""


def parser() -> Parser:
    """The command's flags."""
    made = Parser(prog="python -m lfs.data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = made.add_subparsers(dest="action", required=True, metavar="ACTION")
    for module in ACTIONS:
        module.add_parser(actions)
    return made


def main(argv: Sequence[str]) -> int:
    """Run the command; see the module."""
    options = parser().parse_args(argv)
    status: int = options.run(options)
    return status


if __name__ == "__main__":
    sys.exit(run_command(main))
