"""Evaluation sets by name: what their files are, from a recipe or from the command line."""

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lfs.options import checked, line_of, read_recipe, refuse_unknown
from search_space.errors import UserError, require, shown
from trainers.lfw_protocol import LfwProtocol
from trainers.protocol import EvaluationProtocol

PUBLIC = "sets/public"
ROOT_VARIABLE = "LFS_DATA_ROOT"


@dataclass(frozen=True, kw_only=True)
class SetFiles:
    """One set of a recipe."""

    lmdb: str
    """LMDB with the pictures."""

    pairs: str
    """Text file, `key1 key2 1|0` per line."""

    labels: str = ""
    """List file, `key label` per line, that says who is who; empty: the folders of the keys do."""

    title: str = ""
    """Name in the table; empty: that of the set."""

    folds: int = 10
    """Equal folds that the pairs file is cut into."""

    protocol: str = "lfw"
    """What is done with it."""

    def __post_init__(self) -> None:
        require(bool(self.lmdb) and bool(self.pairs), "lmdb and pairs must name files", (self.lmdb, self.pairs))
        require(self.folds >= 2, "folds must be at least 2", self.folds)
        require(self.protocol in PROTOCOLS, f"protocol must be one of {', '.join(PROTOCOLS)}", self.protocol)


@dataclass(frozen=True, kw_only=True)
class NamedSet:
    """A set whose files are absolute."""

    name: str
    title: str
    files: SetFiles

    def protocol(self) -> EvaluationProtocol:
        """What evaluates it."""
        return PROTOCOLS[self.files.protocol](self)


def _lfw(named: NamedSet) -> EvaluationProtocol:
    files = named.files
    return LfwProtocol(named.name, Path(files.lmdb), Path(files.pairs), num_folds=files.folds)


PROTOCOLS: dict[str, Callable[[NamedSet], EvaluationProtocol]] = {"lfw": _lfw}
"""By the name that a recipe's `protocol` has."""


def data_root(flag: str) -> Path:
    """Folder that the paths of sets start from: the flag, the environment, or the current folder."""
    return Path(flag or os.environ.get(ROOT_VARIABLE, "") or ".").expanduser()


def recipe_sets(recipe: str, root: Path) -> dict[str, NamedSet]:
    """The sets of a recipe, in its order.

    Raises:
        UserError: it is none, with file and line.
    """
    path, values, node = read_recipe(recipe)
    found = {}
    for name, entry in values.items():
        where = f"{path}, line {line_of(node, (str(name),)) or 1}"
        if not isinstance(name, str) or not isinstance(entry, dict):
            raise UserError(f"{where}: expected `NAME: {{lmdb: FILE, pairs: FILE}}`, got {shown({name: entry})}")
        refuse_unknown(SetFiles, entry, where, None)
        found[name] = _named(name, checked(SetFiles, entry, where), root)
    return found


def given_set(text: str, root: Path) -> NamedSet:
    """The set of `NAME=LMDB,PAIRS` or `NAME=LMDB,PAIRS,LABELS`.

    Raises:
        UserError: it has another form.
    """
    name, equals, rest = text.partition("=")
    files = rest.split(",")
    if not name or not equals or not 2 <= len(files) <= 3 or not all(files):
        raise UserError(f"--set must be NAME=LMDB,PAIRS or NAME=LMDB,PAIRS,LABELS, got {text!r}")
    return _named(name, SetFiles(lmdb=files[0], pairs=files[1], labels=files[2] if len(files) > 2 else ""), root)


def chosen_sets(names: Sequence[str], known: Mapping[str, NamedSet], given: Sequence[NamedSet]) -> list[NamedSet]:
    """The sets to evaluate, those of `names` first.

    Args:
        names: of sets in the recipe, or of those given.
        given: sets of the command line; one with the name of a known one is meant instead of it.
    Raises:
        UserError: an unknown name, with the nearest one; two of one name; none at all.
    """
    own = {one.name: one for one in given}
    require(len(own) == len(given), "the names of --set must be distinct", [one.name for one in given])
    every = {**known, **own}
    for name in names:
        if name not in every:
            near = difflib.get_close_matches(name.lower(), every, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(every)}"
            raise UserError(f"--protocols: no set {name!r}; {hint}")
    require(len(set(names)) == len(names), "--protocols must name each set once", list(names))
    chosen = [every[name] for name in names] + [one for one in given if one.name not in names]
    require(bool(chosen), "--protocols or --set must name what to evaluate on", "nothing")
    return chosen


def _named(name: str, files: SetFiles, root: Path) -> NamedSet:
    plain = name.isprintable() and not set("/\\,= ") & set(name) and name not in (".", "..")
    require(plain, "the name of a set must be without spaces, commas, slashes and =", name)
    place: Callable[[str], str] = lambda path: str((root / Path(path).expanduser()).absolute())  # noqa: E731
    labels = place(files.labels) if files.labels else ""
    absolute = SetFiles(
        lmdb=place(files.lmdb), pairs=place(files.pairs), labels=labels, title=files.title, folds=files.folds,
        protocol=files.protocol,
    )  # fmt: skip
    return NamedSet(name=name, title=files.title or name, files=absolute)
