"""Runs one action of `lfs.data` in this process."""

from collections.abc import Sequence
from types import ModuleType

from lfs.options import Parser


def run_action(module: ModuleType, argv: Sequence[object]) -> int:
    """The exit code of an action of a module with `add_parser`."""
    parser = Parser(prog="python -m lfs.data")
    module.add_parser(parser.add_subparsers(dest="action", required=True))
    options = parser.parse_args([str(part) for part in argv])
    return int(options.run(options))
