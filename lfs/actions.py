"""A command with several actions, one of which is meant where none is named."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from lfs.options import Parser


class ActionParser(Parser):
    """argparse with sub-parsers; what does not begin with an action's name goes to the action that is the default.

    Args:
        default: name of that action.
        bare: whether it is meant too where there is nothing at all.
    """

    def __init__(self, *args: Any, default: str, bare: bool = False, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.default, self.bare = default, bare
        self.actions: Any = self.add_subparsers(
            dest="action", required=True, metavar="ACTION", title="actions", parser_class=Parser
        )

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse, but with the default action, and what an action does not know is refused by its own parser."""
        words = list(sys.argv[1:] if args is None else args)
        named = words[0] in (*self.actions.choices, "-h", "--help") if words else not self.bare
        if not named:
            words.insert(0, self.default)
        found, extra = super().parse_known_args(words, namespace)
        if extra:
            self.actions.choices[found.action].error(f"unrecognized arguments: {' '.join(extra)}")
        return found, extra
