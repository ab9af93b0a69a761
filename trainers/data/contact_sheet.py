"""Some pictures of a set on one sheet, to be looked at: a row per identity, or just pictures where there is no list."""

from pathlib import Path

import cv2
import numpy as np

from search_space.errors import UserError, require
from trainers.data.datum import decode_datum
from trainers.data.decoder_noise import DecoderNoise
from trainers.data.examine import keys_of
from trainers.data.importers.identity_file import identity_of_key
from trainers.data.lists import Keys, read_list
from trainers.data.lmdb_source import LmdbSource
from trainers.data.picture_file import Picture, decode_stored

GAP, CAPTION = 2, 14
"""Pixels between pictures, and above a row for its label."""

PAPER, INK, DAMAGED = 255, 0, (60, 60, 220)
MAX_CELLS = 4096


def contact_sheet(
    lmdb: str | Path, list_path: str | Path | None, *, rows: int = 8, columns: int = 8, side: int = 112, seed: int = 0
) -> Picture:
    """A sheet of `rows` identities, up to `columns` pictures of each; the same ones for the same set and seed.

    Args:
        list_path: None: `rows` x `columns` pictures of whomever.
        side: of a picture on the sheet, in pixels; its proportions are kept.
    Returns:
        [height, width, 3] uint8, BGR. A crossed-out field is a record that does not decode.
    """
    for name, value in (("rows", rows), ("columns", columns), ("side", side)):
        require(1 <= value <= 1024, f"{name} of a contact sheet must be 1 to 1024", value)
    require(rows * columns <= MAX_CELLS, f"a contact sheet must have at most {MAX_CELLS:,} pictures", rows * columns)
    rng = np.random.Generator(np.random.Philox(seed))
    source = LmdbSource(lmdb)
    chosen = (
        _any(keys_of(source), rows, columns, rng) if list_path is None else _by_identity(list_path, rows, columns, rng)
    )
    step_y, step_x = side + CAPTION, side + GAP
    sheet = np.full((len(chosen) * step_y + GAP, columns * step_x + GAP, 3), PAPER, np.uint8)
    for row, (caption, keys) in enumerate(chosen):
        top = row * step_y
        cv2.putText(
            sheet, caption, (GAP, top + CAPTION - 3), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (INK,) * 3, 1, cv2.LINE_AA
        )
        for column, key in enumerate(keys):
            left = GAP + column * step_x
            sheet[top + CAPTION : top + CAPTION + side, left : left + side] = _cell(source, key, side)
    return sheet


def _by_identity(
    list_path: str | Path, rows: int, columns: int, rng: np.random.Generator
) -> list[tuple[str, list[str]]]:
    """(caption, keys) of a row per identity, by label."""
    keys, labels = read_list(list_path, gaps=True)
    present = np.unique(labels)
    chosen = []
    for label in np.sort(rng.permutation(present)[:rows]).tolist():
        own = np.flatnonzero(labels == label)
        some = np.sort(rng.permutation(own)[:columns])
        first = identity_of_key(keys[int(own[0])]) or keys[int(own[0])]
        name = first.encode("ascii", "replace").decode()[:40]
        chosen.append((f"label {label}: {name}, {len(own)} pictures", keys.take(some)))
    return chosen


def _any(keys: Keys, rows: int, columns: int, rng: np.random.Generator) -> list[tuple[str, list[str]]]:
    some = keys.take(np.sort(rng.permutation(len(keys))[: rows * columns]))
    return [("", some[start : start + columns]) for start in range(0, len(some), columns)]


def _cell(source: LmdbSource, key: str, side: int) -> Picture:
    """[side, side, 3] one picture, as large as goes, in the middle."""
    cell = np.full((side, side, 3), 224, np.uint8)
    try:
        with DecoderNoise():
            picture = decode_stored(decode_datum(source.get(key)))
    except UserError:
        for start, end in (((0, 0), (side, side)), ((0, side), (side, 0))):
            cv2.line(cell, start, end, DAMAGED, 2)
        return cell
    scale = side / max(picture.shape[:2])
    height, width = (max(1, round(length * scale)) for length in picture.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    top, left = (side - height) // 2, (side - width) // 2
    cell[top : top + height, left : left + width] = cv2.resize(picture, (width, height), interpolation=method)
    return cell
