"""Evaluate trained models on verification sets; write their embeddings; export them.

Examples:
    python -m lfs.evaluate runs/NAME --protocols lfw --data.root /path/to/faces
    python -m lfs.evaluate runs/A runs/B@3 --protocols lfw,agedb_30,cfp_fp --json results.json --roc figures
    python -m lfs.evaluate runs/NAME --set mine=faces.lmdb,pairs.txt
    python -m lfs.evaluate --embeddings lfw.npy --protocols lfw
    python -m lfs.evaluate embed runs/NAME --lmdb faces.lmdb --list faces.txt --out faces.npy
    python -m lfs.evaluate export runs/NAME --onnx model.onnx

Without an action, models are scored: `python -m lfs.evaluate score --help` has the flags. A model is a run (RUN, or
RUN@G after its generation G), a comparison of lfs.compare, or a folder that `export --to` wrote.
"""

import argparse
import sys
from collections.abc import Sequence

from lfs import evaluate_embed, evaluate_export, evaluate_score
from lfs.actions import ActionParser
from lfs.commands import run_command

ACTIONS = (evaluate_score, evaluate_embed, evaluate_export)


def parser() -> ActionParser:
    """The command's actions and flags; a path that is called like an action is written `./embed`."""
    made = ActionParser(
        prog="python -m lfs.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s MODEL... --protocols NAMES [--FLAG VALUE ...] | embed ... | export ...", default="score",
    )  # fmt: skip
    for action in ACTIONS:
        action.add_parser(made.actions)
    return made


def main(argv: Sequence[str]) -> int:
    """Run the command; see the module."""
    options = parser().parse_args(argv)
    code: int = options.run(options)
    return code


if __name__ == "__main__":
    sys.exit(run_command(main))
