"""Face sets: bring them into the form that is trained on, and look at what is in them.

Examples:
    python -m lfs.data import faces_emore faces                       insightface's train.rec, train.idx, property
    python -m lfs.data import CASIA-WebFace casia --identities CASIA-WebFace-R.txt
    python -m lfs.data inspect casia --sheet sheet.png
    python -m lfs.data verify casia
    python -m lfs.data overlap casia/identities.txt lfw/identities.txt
    python -m lfs.data pairs lfw/labels.txt pairs.txt
    python -m lfs.data bin agedb_30.bin --lmdb agedb_30.lmdb --pairs agedb_30.txt
"""

import argparse
import sys
from collections.abc import Sequence

from lfs import data_align, data_bin, data_import, data_inspect, data_pairs
from lfs.commands import run_command
from lfs.options import Parser

ACTIONS = (data_import, data_align, data_inspect, data_pairs, data_bin)
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
