"""`bin`: insightface's evaluation files as an LMDB of Datums and a pairs file."""

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from lfs.commands import OK
from lfs.options import number_from
from lfs.outputs import require_apart
from lfs.progress import WorkProgress
from lfs.terminal import printable
from search_space.errors import UserError
from trainers.data.eval_bin import EvalBin, read_eval_bin, stored
from trainers.data.lmdb_source import write_lmdb
from trainers.whole_file import write_lines

HELP = "turn an insightface .bin file into an LMDB and a pairs file"
EXAMPLE = """\
Nothing that the file holds is executed: a reader of its own takes lists, bytes, bools, ints and numpy arrays of them,
and refuses everything else by name. Pictures of the right size keep their bytes; pictures that come in several pairs
are stored once. Pairs stay in the order of the file, which is that of its folds.

Example:
    python -m lfs.data bin lfw.bin --lmdb lfw.lmdb --pairs lfw_pairs.txt
"""
NUM_FOLDS = 10


def add_parser(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the action to those of the command."""
    form = argparse.RawDescriptionHelpFormatter
    parser = actions.add_parser("bin", help=HELP, description=EXAMPLE, formatter_class=form)
    parser.add_argument("bin", metavar="BIN", help="file to read")
    parser.add_argument("--lmdb", required=True, metavar="OUT", help="LMDB to write")
    parser.add_argument("--pairs", required=True, metavar="OUT", help="pairs file to write, `key1 key2 1|0` lines")
    parser.add_argument("--size", type=number_from(1), default=112, help="side of the stored pictures [112]")
    parser.add_argument(
        "--skip-bad", action="store_true",
        help="leave out pairs with a picture that does not decode, and list those pictures in PAIRS.bad.txt",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Convert the file; the pairs file appears when the LMDB is complete."""
    listed = Path(f"{options.pairs}.bad.txt")
    require_apart([options.lmdb, options.pairs, listed], [options.bin])
    held = read_eval_bin(options.bin)
    faults: dict[int, str] = {}
    doubts: dict[int, str] = {}

    def bad(number: int, fault: str) -> None:
        if not options.skip_bad:
            way_out = "--skip-bad leaves it and its pairs out"
            raise UserError(f"{options.bin}: picture {held.first[number]}: {fault}; {way_out}")
        faults[number] = fault

    def kept() -> list[int]:
        return [row for row in range(len(held.same)) if not {held.left[row], held.right[row]} & faults.keys()]

    def pictures() -> Iterator[tuple[str, bytes]]:
        yield from stored(held, options.size, bad, doubts.__setitem__)
        if not kept():  # while what was there before is not yet replaced
            raise UserError(f"{options.bin}: expected pictures that decode, got no pair with two of them")

    with WorkProgress() as progress:
        write_lmdb(options.lmdb, progress.along("converting", pictures(), len(held.pictures)))
    rows = kept()
    write_lines(options.pairs, _lines(held, rows))
    listed.unlink(missing_ok=True)  # that of an earlier run
    if faults:
        write_lines(listed, (f"{held.first[number]} {fault}" for number, fault in faults.items()))
        left_out = len(held.same) - len(rows)
        print(printable(f"{listed}: {len(faults):,} pictures do not decode; {left_out:,} pairs are left out"))
    same = [held.same[row] for row in rows]
    print(printable(
        f"{options.pairs}: {len(same):,} pairs, {sum(same):,} of them genuine; "
        f"{options.lmdb}: {len(held.pictures) - len(faults):,} distinct pictures"
    ))  # fmt: skip
    for number, complaint in islice(doubts.items(), 1):
        print(printable(f"doubtful: {len(doubts):,} pictures; the first, {held.first[number]}: {complaint}"))
    if not _has_folds(same):
        print(printable(
            f"warning: {options.pairs} has no {NUM_FOLDS} equal folds with both kinds of pairs in each; "
            "accuracy over folds needs another number of folds, or another order"
        ))  # fmt: skip
    return OK


def _lines(held: EvalBin, rows: list[int]) -> Iterator[str]:
    keys = held.keys
    for row in rows:
        yield f"{keys[held.left[row]]} {keys[held.right[row]]} {int(held.same[row])}"


def _has_folds(same: list[bool]) -> bool:
    size, rest = divmod(len(same), NUM_FOLDS)
    folds = [same[start : start + size] for start in range(0, size * NUM_FOLDS, size)] if size and not rest else []
    return bool(folds) and all(any(fold) and not all(fold) for fold in folds)
