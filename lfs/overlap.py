"""People who are on both sides of an evaluation: trained on and tested on, or looked for and distractors."""

import contextlib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from search_space.errors import UserError
from trainers.data.importers.identity_file import FILE_NAME, MAX_BYTES, identity_of_key, read_identities
from trainers.data.importers.source import clean_identity
from trainers.data.lists import read_keys, read_list
from trainers.gallery_protocols import GalleryProtocol
from trainers.untrusted import open_file, read_file

MAX_LINE_BYTES = 10_000
"""Of the first line, by which a file is told to be a list."""


def identities_of_keys(keys: Iterable[str]) -> set[str]:
    """People by the folders of the keys, `IDENTITY/NAME`; keys without a folder name nobody."""
    return {identity for identity in map(identity_of_key, keys) if identity}


def people_of(place: str | Path) -> set[str]:
    """People of an imported set, of a folder with a folder per identity, of a list, or of a file of identities.

    Raises:
        UserError: it cannot be read, or names nobody: that no one is shared could not be told from it.
    """
    path = Path(place)
    if path.is_dir():
        found = set(read_identities(path / FILE_NAME)) if (path / FILE_NAME).exists() else _folders(path)
    else:
        found = identities(path) if _is_list(path) else set(read_identities(path))
    if not found:
        law = f"expected a folder or file that names people, as {FILE_NAME} or keys of the form IDENTITY/NAME do"
        raise UserError(f"{path}: {law}, got none")
    return found


def _folders(path: Path) -> set[str]:
    try:
        return {clean_identity(each.name) for each in path.iterdir() if each.is_dir() and not each.name.startswith(".")}
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _is_list(path: Path) -> bool:
    """Whether it has keys, not identities: a `/`, or a label behind; `0 NAME` is how a file of identities begins."""
    try:
        with open_file(path) as file:
            first, *rest = file.read(MAX_LINE_BYTES).decode(errors="replace").lstrip("\ufeff").split("\n")[0].split()
    except (OSError, ValueError):
        return False
    return "/" in first or (first != "0" and len(rest) == 1 and rest[0].isdigit())


def identities(path: Path, keys: Collection[str] | None = None) -> set[str]:
    """People of a list: those of the identities.txt beside it, else by the folders of its keys.

    Args:
        path: of the list, `key label` per line.
        keys: pictures that count; None: all.
    Raises:
        UserError: a file cannot be read.
    """
    beside = path.with_name(FILE_NAME)
    if not beside.is_file():
        return identities_of_keys(keys if keys is not None else read_keys(path))
    used = {str(label) for label in labels_of(path, keys)}
    try:
        lines = read_file(beside, MAX_BYTES).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{beside}: cannot be read as text: {error}") from None
    pairs = (line.split(maxsplit=1) for line in lines)  # labels may have gaps, where a list has a part of a set
    return {pair[1].strip() for pair in pairs if len(pair) == 2 and pair[0] in used}


def labels_of(path: Path, keys: Collection[str] | None = None) -> set[int]:
    """Labels of a list; see `identities`."""
    listed, labels = read_list(path, gaps=True)
    wanted = set(keys) if keys is not None else None
    return {label for key, label in zip(listed, labels.tolist(), strict=True) if wanted is None or key in wanted}


def overlap_line(name: str, tested: set[str], train_list: str, trained: set[str]) -> str | None:
    """One line if people of a set were trained on; None: nobody, as far as their names tell."""
    shared = tested & trained
    if not shared:
        return None
    few = ", ".join(sorted(shared)[:3]) + (", ..." if len(shared) > 3 else "")
    return (
        f"{len(shared):,} of {len(tested):,} people of {name} are in {train_list} too ({few}): its scores are of "
        "people that were trained on; leave them out with --exclude-identities when the training set is imported"
    )


def both_sides_line(protocol: GalleryProtocol) -> str | None:
    """One line if somebody is looked for among pictures of his own, as far as names tell; or labels, in one LMDB."""
    files, (probes, others) = protocol.files, protocol.clean_keys()
    shared: set[Any] = set()
    with contextlib.suppress(UserError):  # distractors need no labels, by which whom they show could be told
        shared |= identities(files.probes, probes) & identities(files.distractors, others)
        if not shared and files.lmdb == files.distractors_lmdb:
            shared |= labels_of(files.probes, probes) & labels_of(files.distractors, others)
    if not shared:
        return None
    few = ", ".join(sorted(map(str, shared))[:3]) + (", ..." if len(shared) > 3 else "")
    return (
        f"{len(shared):,} people of {protocol.name} are among its distractors too ({few}): to find them there counts "
        "as an error; name their pictures in distractor_noise"
    )
