"""Who is in a set by name: labels are numbers that mean something else in every list, names are the same everywhere.

The name of an identity is what stands before the last `/` of its keys, as in `Abel_Pacheco/Abel_Pacheco_0001.jpg`.
"""

from collections.abc import Iterable
from pathlib import Path

from trainers.data.lists import read_list, read_pairs

NUM_NAMED = 3
"""Identities that a warning names."""


def identity_names(keys: Iterable[str]) -> set[str]:
    """Names of the identities of some keys; keys without a folder name nobody."""
    return {key.rpartition("/")[0] for key in keys} - {""}


def names_of_list(path: str | Path) -> set[str]:
    """Names of the identities of a list of `key label` lines; `UserError` as `read_list`."""
    return identity_names(read_list(path, gaps=True)[0])


def names_of_pairs(path: str | Path) -> set[str]:
    """Names of the identities of a file of `key1 key2 1|0` lines; `UserError` as `read_pairs`."""
    pairs = read_pairs(path, 1)
    return identity_names(pairs.left) | identity_names(pairs.right)


def shared_identities_warning(name_a: str, names_a: set[str], name_b: str, names_b: set[str]) -> str | None:
    """One line that says that two sets have identities in common by name, and which; None where they have none."""
    shared = sorted(names_a & names_b)
    if not shared:
        return None
    named = ", ".join(shared[:NUM_NAMED]) + (", ..." if len(shared) > NUM_NAMED else "")
    count = "1 identity is" if len(shared) == 1 else f"{len(shared):,} identities are"
    return f"warning: {count} both in {name_a} and in {name_b} by name ({named}); scores on them are no test"
