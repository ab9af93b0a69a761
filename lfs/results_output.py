"""Tables of results: on a terminal, and as JSON, CSV or Parquet with all their digits."""

import argparse
import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from rich.cells import cell_len
from rich.console import Console

from lfs.columns import Column, Columns
from lfs.outputs import json_value
from lfs.terminal import SafeConsole, printable, spreadsheet_safe
from lfs.view import margins_text, parameters_text
from search_space.errors import UserError, first_line, require
from trainers.untrusted import parse_json
from trainers.whole_file import write_bytes

STDOUT = "-"
MANY_ROWS = 500
WIDTH = 200
"""Characters of a line where there is no terminal."""


def add_output_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that every table of results has."""
    for name in ("JSON", "CSV", "Parquet"):
        note = f"write the table as {name}; - is standard output"
        parser.add_argument(f"--{name.lower()}", metavar="FILE", default="", help=note)


def console() -> Console:
    """Where tables are printed."""
    return SafeConsole(width=None if sys.stdout.isatty() else WIDTH)


def written(table: pd.DataFrame, options: argparse.Namespace) -> bool:
    """Write the table to every file that was asked for, and say so; whether one was.

    Raises:
        UserError: a file cannot be written, or two are to be standard output.
    """
    forms: dict[str, Callable[[pd.DataFrame], bytes]] = {"json": as_json, "csv": as_csv, "parquet": as_parquet}
    files = {name: getattr(options, name) for name in forms if getattr(options, name)}
    at_once = list(files.values()).count(STDOUT)
    require(at_once <= 1, "one of --json, --csv and --parquet can be standard output", f"{at_once} of them")
    for name, file in files.items():
        try:
            data = forms[name](table)
        except (ValueError, TypeError, OverflowError, pa.ArrowException) as error:
            # What is stored may not fit into one table.
            raise UserError(f"{file}: cannot be written: {first_line(error)}") from None
        _put(file, data)
    if files and not at_once:
        print(f"{len(table)} rows in {printable(', '.join(files.values()))}")
    return bool(files)


def say(text: str, options: argparse.Namespace) -> None:
    """Tell a reader something; on the error stream where a table goes to standard output, which is its alone."""
    to_table = STDOUT in (options.json, options.csv, options.parquet)
    print(text, file=sys.stderr if to_table else sys.stdout)


def _put(file: str, data: bytes) -> None:
    if file != STDOUT:
        return write_bytes(Path(file).expanduser(), data)
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    return None


def as_json(table: pd.DataFrame) -> bytes:
    """A list with an object for each row, on a line of its own; what is not there, or no number, is null."""
    names = [str(name) for name in table]
    columns = [map(json_value, table.iloc[:, at].tolist()) for at in range(len(names))]
    rows = [json.dumps(dict(zip(names, row, strict=True)), allow_nan=False) for row in zip(*columns, strict=True)]
    return ("[" + ",".join(f"\n {row}" for row in rows) + "\n]\n" if rows else "[]\n").encode()


def as_csv(table: pd.DataFrame) -> bytes:
    """Nothing in it is a formula, or steers a terminal."""
    text: str = spreadsheet_safe(table).to_csv(index=False, lineterminator="\n")
    return printable(text, keep="\n").encode()


def as_parquet(table: pd.DataFrame) -> bytes:
    """Columns of one type each."""
    sink = io.BytesIO()
    table.to_parquet(sink, index=False)
    return sink.getvalue()


def show(table: pd.DataFrame, to: Console, titles: Mapping[str, str] | None = None, ranks: Sequence[str] = ()) -> None:
    """A table for a person.

    Args:
        titles: columns to show, and what is written above them; None: all.
        ranks: columns that may be left out where the terminal is narrow, the last ones first.
    """
    titles = titles or {name: name.replace("_", " ") for name in map(str, table)}
    names = [name for name in titles if name in table and (name not in RARE or table[name].astype(bool).any())]
    margins = table["margins"].tolist() if "margins" in table else [None] * len(table)
    columns = [
        Column(
            title=titles[name], folds=name in RARE, rank=ranks.index(name) + 1 if name in ranks else 0,
            cells=[_cell(name, *of) for of in zip(table[name].tolist(), margins, strict=True)],
            right=pd.api.types.is_numeric_dtype(table[name]),
        )
        for name in names
    ]  # fmt: skip
    print_table(Columns(columns=columns), to)


def print_table(table: Columns, to: Console) -> None:
    """A table of texts; one of many rows as plain lines: rich lays out a few thousand cells a second."""
    kept = table.fitting(to.width)
    if len(kept[0].cells) <= MANY_ROWS:
        to.print(table)
        return
    padded = []
    for column in kept:
        texts = [column.title, *column.cells]
        lengths = [len(text) if text.isascii() else cell_len(text) for text in texts]
        longest = max(lengths)
        gaps = [" " * (longest - length) for length in lengths]
        padded.append([gap + text if column.right else text + gap for text, gap in zip(texts, gaps, strict=True)])
    to.file.write("".join(printable("  ".join(row).rstrip()) + "\n" for row in zip(*padded, strict=True)))


RARE = ("reason", "note")
"""Columns that are shown where they say anything."""


def _cell(name: str, value: Any, margins: Any) -> str:
    if name == "loss" and str(value).startswith("{"):
        return loss_text(str(value), margins)
    if name == "generation" and isinstance(value, int | float):
        return str(value + 1)
    if isinstance(value, bool | np.bool_):
        return "*" if value else ""
    if isinstance(value, float):
        return "-" if value != value else f"{value:.4f}"
    if isinstance(value, np.ndarray | list):
        return " ".join(f"{item:.4g}" if isinstance(item, float) else str(item) for item in value)
    return "-" if value is None else str(value)


def loss_text(text: str, margins: Any = None) -> str:
    """A stored loss for a reader: its margins, else its numbers by name. It is not made: it may be a plug-in's.

    Args:
        margins: those of the loss, if it has any and they are known.
    """
    if isinstance(margins, np.ndarray) and len(margins) and margins.dtype.kind == "f":
        return margins_text(margins.tolist())
    try:
        fields = parse_json(text).items()
        numbers = {name: value for name, value in fields if isinstance(value, int | float)}
        for name, values in fields:
            several = values if isinstance(values, list) else []
            numbers |= {f"{name}_{i}": value for i, value in enumerate(several) if isinstance(value, int | float)}
        return parameters_text(numbers) or text
    except (ValueError, TypeError, AttributeError, OverflowError):
        return text
