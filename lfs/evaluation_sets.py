"""Evaluation sets by name: what their files are, from a recipe or from the command line."""

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from lfs.options import checked, line_of, read_recipe, refuse_unknown
from search_space.errors import UserError, require, shown
from trainers.gallery_protocols import GalleryFiles, MegafaceProtocol, TrillionPairsProtocol
from trainers.lfw_protocol import LfwProtocol
from trainers.protocol import EvaluationProtocol
from trainers.template_protocol import TemplateProtocol

PUBLIC = "sets/public"
ROOT_VARIABLE = "LFS_DATA_ROOT"


@dataclass(frozen=True, kw_only=True)
class SetFiles:
    """One set of a recipe: what its protocol needs, and nothing else."""

    lmdb: str
    """LMDB with the pictures; for `megaface` and `trillion_pairs`, those of the probes."""

    title: str = ""
    """Name in the table; empty: that of the set."""

    protocol: str = "lfw"
    """What is done with it."""

    pairs: str = ""
    """Text file: `key1 key2 1|0` per line for `lfw`, `template1 template2 1|0` for `ijbc`."""

    labels: str = ""
    """List file, `key label` per line, that says who is who; empty: the folders of the keys do."""

    folds: int | None = None
    """Equal folds that the pairs file is cut into; none: 10."""

    templates: str = ""
    """Text file, `key template medium` per line."""

    probes: str = ""
    """List file of those who are looked for, `key label` per line."""

    distractors: str = ""
    """Text file of those whom they are looked for among, `key` or `key label` per line; the first N are taken first."""

    distractors_lmdb: str = ""
    """LMDB with the distractors; empty: they are with the probes."""

    probe_noise: str = ""
    """Probes to leave out, one key per line."""

    distractor_noise: str = ""
    """Distractors to leave out, one key per line."""

    counts: tuple[int, ...] = ()
    """Numbers of distractors; none: 10, 100, ... up to 10^6, and all if they are fewer."""

    unit_pictures: bool = True
    """Pictures of a template count the same; False: each has the weight that the length of its embedding gives it."""

    def __post_init__(self) -> None:
        require(self.protocol in PROTOCOLS, f"protocol must be one of {', '.join(PROTOCOLS)}", self.protocol)
        known = PROTOCOLS[self.protocol]
        for name in ("lmdb", *known.needs):
            require(bool(getattr(self, name)), f"{name} must name a file: protocol {self.protocol} needs it", "nothing")
        for item in fields(self):
            foreign = item.name not in ("lmdb", "title", "protocol", *known.needs, *known.takes)
            value = getattr(self, item.name)
            if foreign and value != item.default:
                takes = ", ".join((*known.needs, *known.takes))
                raise UserError(f"{item.name} must be left out: protocol {self.protocol} takes lmdb, {takes}")
        require(self.folds is None or self.folds >= 2, "folds must be at least 2", self.folds)
        require(all(count >= 1 for count in self.counts), "counts must be at least 1", self.counts)


FILES = (
    "lmdb", "pairs", "labels", "templates", "probes", "distractors", "distractors_lmdb", "probe_noise",
    "distractor_noise",
)  # fmt: skip
"""Fields that are paths."""


@dataclass(frozen=True, kw_only=True)
class NamedSet:
    """A set whose files are absolute."""

    name: str
    title: str
    files: SetFiles

    def protocol(self) -> EvaluationProtocol:
        """What evaluates it.

        Raises:
            UserError: one of its lists is not there. Whether its LMDB is wanted is not known here.
        """
        for item in FILES:
            path = getattr(self.files, item)
            if path and not item.endswith("lmdb") and not os.path.exists(path):
                raise UserError(
                    f"{path}: expected a readable text file of set {self.name}, got none; paths of sets start at "
                    f"--data.root (or ${ROOT_VARIABLE}), and `Faces in, numbers out` of the README imports public ones"
                )
        return PROTOCOLS[self.files.protocol].make(self)

    @property
    def who(self) -> str:
        """A list that says who is who; empty: there is none."""
        return self.files.labels or self.files.probes


def _lfw(named: NamedSet) -> EvaluationProtocol:
    files = named.files
    return LfwProtocol(named.name, Path(files.lmdb), Path(files.pairs), num_folds=files.folds or 10)


def _ijbc(named: NamedSet) -> EvaluationProtocol:
    files = named.files
    return TemplateProtocol(
        named.name, Path(files.lmdb), Path(files.templates), Path(files.pairs), unit_pictures=files.unit_pictures
    )


def _megaface(named: NamedSet) -> EvaluationProtocol:
    return MegafaceProtocol(named.name, _gallery(named.files), counts=named.files.counts)


def _trillion_pairs(named: NamedSet) -> EvaluationProtocol:
    return TrillionPairsProtocol(named.name, _gallery(named.files))


def _gallery(files: SetFiles) -> GalleryFiles:
    return GalleryFiles(
        lmdb=Path(files.lmdb),
        probes=Path(files.probes),
        distractors=Path(files.distractors),
        distractors_lmdb=Path(files.distractors_lmdb or files.lmdb),
        probe_noise=Path(files.probe_noise) if files.probe_noise else None,
        distractor_noise=Path(files.distractor_noise) if files.distractor_noise else None,
    )


@dataclass(frozen=True, kw_only=True)
class Known:
    """A protocol, and the fields of a set that it has a use for beside `lmdb`."""

    make: Callable[[NamedSet], EvaluationProtocol]
    needs: tuple[str, ...]
    takes: tuple[str, ...]


GALLERY = ("distractors_lmdb", "probe_noise", "distractor_noise")
PROTOCOLS = {
    "lfw": Known(make=_lfw, needs=("pairs",), takes=("labels", "folds")),
    "megaface": Known(make=_megaface, needs=("probes", "distractors"), takes=(*GALLERY, "counts")),
    "trillion_pairs": Known(make=_trillion_pairs, needs=("probes", "distractors"), takes=GALLERY),
    "ijbc": Known(make=_ijbc, needs=("templates", "pairs"), takes=("unit_pictures",)),
}
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
    paths: dict[str, Any] = {item: place(getattr(files, item)) for item in FILES if getattr(files, item)}
    absolute = replace(files, **paths)
    return NamedSet(name=name, title=files.title or name, files=absolute)
