"""Templates of pictures and pairs of templates, as IJB-B and IJB-C are published: millions of lines of numbers."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from search_space.errors import UserError
from trainers.data.lists import Integers, Keys, first_repeated
from trainers.data.text_fields import number_blocks, parse_numbers, read_fields, refuse_line

TEMPLATE_LAW = "`lmdb_key template medium` with integers >= 0"
PAIR_LAW = "`template1 template2 1|0`"


@dataclass(frozen=True, eq=False)
class TemplateList:
    """Which pictures make which template. A picture may be in several."""

    keys: Keys
    """[p] distinct pictures, in the order of their first appearance."""

    rows: Integers
    """[n] number of the picture of each line, as `templates` and `media`."""

    templates: Integers
    media: Integers


@dataclass(frozen=True, eq=False)
class TemplatePairs:
    """Pairs of templates in the order of their file."""

    left: npt.NDArray[np.int32]
    """[num_pairs] template, as `right`."""

    right: npt.NDArray[np.int32]
    same: npt.NDArray[np.bool_]
    """[num_pairs] whether both show one person."""


def read_templates(path: str | Path) -> TemplateList:
    """Read `lmdb_key template medium` lines.

    Raises:
        UserError: not three fields, a template or medium that is no integer >= 0, an empty file; with the line.
    """
    fields = read_fields(Path(path), 3, TEMPLATE_LAW)
    keys = Keys(fields.text, fields.starts[:, 0], fields.ends[:, 0])
    templates, media = (parse_numbers(Path(path), fields, column, TEMPLATE_LAW) for column in (1, 2))
    rows = np.arange(len(keys))
    if first_repeated(keys) is not None:
        index: dict[str, int] = {}
        rows = np.fromiter((index.setdefault(key, len(index)) for key in keys), np.int64, len(keys))
        keys = Keys.of(index)
    return TemplateList(keys, rows, templates, media)


def read_template_pairs(path: str | Path) -> TemplatePairs:
    """Read `template1 template2 1|0` lines; the text is not held.

    Raises:
        UserError: not three fields, a template that is no integer >= 0, a third field that is neither 1 nor 0, one kind
            of pair alone, an empty file.
    """
    path = Path(path)
    parts = []
    for fields, numbers in number_blocks(path, 3, PAIR_LAW):
        wrong = (numbers[:, 2] > 1) | (fields.ends[:, 2] - fields.starts[:, 2] != 1)
        if wrong.any():
            refuse_line(path, fields, int(wrong.argmax()), PAIR_LAW)
        parts.append(numbers.astype(np.int32))
    left, right, same = (np.concatenate([part[:, column] for part in parts]) for column in range(3))
    if not same.any() or same.all():
        raise UserError(f"{path}: expected pairs of both kinds, got {int(same.sum()):,} with 1 of {len(same):,}")
    return TemplatePairs(left, right, same.astype(np.bool_))
