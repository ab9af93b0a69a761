"""Lists of identities: one id per line, as published; or `label identity` per line, as an import writes them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from search_space.errors import UserError
from trainers.data.importers.source import clean_identity
from trainers.untrusted import read_file

MAX_BYTES = 2**30
FILE_NAME = "identities.txt"
"""In the folder of an imported set."""


def read_identities(path: str | Path) -> list[str]:
    """The identities of a file, in its order, each once, as they stand in keys; there may be none.

    Lines are taken for `label identity` if all of them are and the labels are 0, 1, 2 ...; else a line is one identity.

    Raises:
        UserError: it cannot be read as UTF-8 text, or a line is no name.
    """
    lines = _lines(Path(path))
    first = [line.split(maxsplit=1) for _, line in lines]
    if all(len(parts) == 2 and parts[0] == str(number) for number, parts in enumerate(first)):
        lines = [(number, parts[1]) for (number, _), parts in zip(lines, first, strict=True)]
    names: dict[str, None] = {}
    for number, line in lines:
        try:
            names[clean_identity(line)] = None
        except UserError as error:
            raise UserError(f"line {number} of {path}: {error}") from None
    return list(names)


def write_identities(path: Path, identities: Sequence[str]) -> None:
    """`label identity` lines."""
    path.write_text("".join(f"{label} {name}\n" for label, name in enumerate(identities)), encoding="utf-8")


def identity_of_key(key: str) -> str:
    """Who is on a picture by its key, `IDENTITY/NAME`, where the name may have folders of its own; empty: not said."""
    identity, slash, _ = key.partition("/")
    return identity if slash else ""


def in_label_order(identities: Iterable[str]) -> list[str]:
    """By number where all identities are whole numbers, else by the bytes of their names."""
    names = list(identities)
    if all(name.isascii() and name.isdigit() for name in names):
        return sorted(names, key=lambda name: (len(name.lstrip("0")), name.lstrip("0"), name))
    return sorted(names)


def _lines(path: Path) -> list[tuple[int, str]]:
    """(number, line) of the lines that are not blank."""
    try:
        text = read_file(path, MAX_BYTES).removeprefix(b"\xef\xbb\xbf").decode()
    except OSError as error:
        raise UserError(f"{path}: expected a list of identities, got: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected UTF-8 text, got byte 0x{error.object[error.start]:02x}") from None
    return [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
