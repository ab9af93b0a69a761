"""`inspect`: what is in a set, in figures and on a contact sheet; `verify`: every record read and decoded."""

import argparse
import json
import time
from typing import Any

from rich.table import Table

from lfs.commands import FAILED, OK
from lfs.data_import import MAX_WORKERS
from lfs.options import number_from
from lfs.outputs import require_apart
from lfs.progress import WorkProgress
from lfs.terminal import SafeConsole
from search_space.errors import UserError
from trainers.data.contact_sheet import contact_sheet
from trainers.data.examine import SetFacts, examine_set
from trainers.data.importers.lmdb_list import files_of
from trainers.data.picture_file import PNG, encode_file
from trainers.whole_file import write_bytes

BAR_WIDTH, NUMBERS_WIDTH = 40, 26
MAX_SHAPES = 12

INSPECT = """Counts, sizes of the pictures, a histogram of pictures per identity and damaged entries of a set; with
--sheet also a PNG with some of its pictures, a row per identity. Every record is read and decoded."""

VERIFY = """Read and decode every record of a set and list those that are no picture, that do not decode, or of which
the decoder says that they are damaged; and keys of the list that are not there. Exits 1 if a record is bad or
missing."""


def add_parser(actions: Any) -> None:
    """The actions `inspect` and `verify`."""
    raw = argparse.RawDescriptionHelpFormatter
    made = actions.add_parser(
        "inspect", help="what is in a set", description=INSPECT, formatter_class=raw,
        epilog="Example:\n    python -m lfs.data inspect faces.lmdb --list labels.txt --sheet sheet.png",
    )  # fmt: skip
    _add_common(made)
    made.add_argument("--sheet", metavar="FILE", help="write a contact sheet as PNG")
    made.add_argument("--rows", type=int, default=8, help="identities on the sheet [8]")
    made.add_argument("--columns", type=int, default=8, help="pictures of each [8]")
    made.add_argument("--seed", type=int, default=0, help="which of them [0]")
    made.set_defaults(run=run_inspect)
    made = actions.add_parser(
        "verify", help="read and decode every record", description=VERIFY, formatter_class=raw,
        epilog="Example:\n    python -m lfs.data verify faces",
    )  # fmt: skip
    _add_common(made)
    made.set_defaults(run=run_verify)


def _add_common(made: argparse.ArgumentParser) -> None:
    made.add_argument("set", metavar="SET", help="folder of an imported set, or an LMDB")
    made.add_argument("--list", metavar="FILE", help="`key label` lines of an LMDB")
    made.add_argument("--workers", type=number_from(1, MAX_WORKERS), metavar="N", help="processes [one per core]")
    made.add_argument("--json", action="store_true", help="print all of it as JSON")


def run_inspect(options: argparse.Namespace) -> int:
    """See `INSPECT`."""
    lmdb, list_path = files_of(options.set, options.list)
    if options.seed < 0:
        raise UserError(f"--seed must be at least 0, got {options.seed}")
    if options.sheet:
        require_apart([options.sheet], [options.set, lmdb, list_path])
        layout = {"rows": options.rows, "columns": options.columns, "seed": options.seed}
        write_bytes(options.sheet, encode_file(contact_sheet(lmdb, list_path, **layout), PNG))
    facts, _ = examined(options)
    if options.json:
        print(json.dumps(facts.to_dict(), indent=1))
        return OK
    console = SafeConsole(soft_wrap=True)
    sizes = facts.sizes
    console.print(f"{facts.num_records:,} records, {sizes.sum():,} bytes ({sizes.min():,} to {sizes.max():,} each)")
    for shape, count in list(facts.shapes.items())[:MAX_SHAPES]:
        console.print(f"{count:>12,}  {shape.width} x {shape.height} {shape.kind}{', grey' * shape.grey}")
    if len(facts.shapes) > MAX_SHAPES:
        console.print(f"{'':14}and {len(facts.shapes) - MAX_SHAPES:,} other sizes and kinds")
    if facts.num_listed is not None:
        say_list(console, facts)
    say_bad(console, facts, limit=MAX_SHAPES)
    if options.sheet:
        console.print(f"contact sheet  {options.sheet}")
    return OK


def say_list(console: SafeConsole, facts: SetFacts) -> None:
    """What the list says, and how it fits."""
    counts = facts.per_identity
    console.print()
    console.print(
        f"{facts.num_listed:,} pictures of {len(counts):,} identities, {counts.min():,} to {counts.max():,} of each, "
        f"{counts.mean():.1f} on average"
    )
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("pictures", "identities", ""):
        table.add_column(title, justify="left" if not title else "right", no_wrap=True)
    bars = facts.histogram()
    longest = max(count for *_, count in bars)
    room = max(1, min(BAR_WIDTH, console.width - NUMBERS_WIDTH))
    for low, high, count in bars:
        span = f"{low}" if low == high else f"{low} to {high}" if high else f"{low} or more"
        table.add_row(span, f"{count:,}", "█" * round(room * count / longest) or ("▏" if count else ""))
    console.print(table)
    for number, what in (
        (facts.num_unlisted, "records are not in the list"),
        (facts.num_repeated, "lines of the list repeat a key"),
        (facts.num_gaps, "labels below the highest have no picture"),
    ):
        if number:
            console.print(f"{number:,} {what}")


def say_bad(console: SafeConsole, facts: SetFacts, limit: int | None = None) -> None:
    """What is wrong with which record, or with how many."""
    for found, what in (
        (facts.bad, "bad"),
        (facts.doubtful, "doubtful"),
        ([f"key {key!r}" for key in facts.missing], "missing"),
    ):
        for line in found[:limit]:
            console.print(f"{what}: {line}")
        if limit is not None and len(found) > limit:
            console.print(f"{what}: {len(found) - limit:,} more; python -m lfs.data verify lists all")


def run_verify(options: argparse.Namespace) -> int:
    """See `VERIFY`."""
    facts, seconds = examined(options)
    status = FAILED if facts.bad or facts.missing else OK
    if options.json:
        print(json.dumps(facts.to_dict(), indent=1))
        return status
    console = SafeConsole(soft_wrap=True)
    say_bad(console, facts)
    total = int(facts.sizes.sum())
    console.print(
        f"{facts.num_records:,} records, {len(facts.bad):,} bad, {len(facts.doubtful):,} doubtful"
        + (f", {len(facts.missing):,} of the list missing" if facts.num_listed is not None else "")
        + f"; {facts.num_records / seconds:,.0f} records/s, {total / seconds / 1e6:,.1f} MB/s"
    )
    return status


def examined(options: argparse.Namespace) -> tuple[SetFacts, float]:
    """What is in the set, and how many seconds it took to see."""
    began = time.monotonic()
    with WorkProgress("records") as progress:
        facts = examine_set(
            *files_of(options.set, options.list), workers=options.workers,
            progress=lambda *at: progress.update("reading", *at),
        )  # fmt: skip
    return facts, max(time.monotonic() - began, 1e-9)
