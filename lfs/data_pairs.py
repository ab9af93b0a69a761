"""`pairs` and `lfw`: verification pairs of a labelled set, and those that LFW is published with."""

import argparse

from lfs.commands import OK
from lfs.options import number_from
from lfs.outputs import require_apart
from lfs.overlap import overlap_line, people_of
from lfs.terminal import printable
from search_space.errors import UserError
from trainers.data.importers.lmdb_list import files_of
from trainers.data.lfw_pairs import DEFAULT_KEY, key_pattern, pair_lines, read_official_pairs
from trainers.data.lists import read_list, refuse_repeated
from trainers.data.lmdb_source import LmdbSource
from trainers.data.make_pairs import MadePairs, make_pairs
from trainers.whole_file import write_lines

PAIRS_HELP = "draw balanced verification pairs from a labelled set"
PAIRS_EXAMPLE = """\
Folds share no person; each holds as many genuine as impostor pairs, genuine ones first, as LFW's do. The same list and
seed give the same file on every machine. Genuine pairs are spread over people: everyone gives one before anyone gives
a second.

Example:
    python -m lfs.data pairs test_labels.txt test_pairs.txt --pairs-per-fold 300 --apart-from train_labels.txt
"""
LFW_HELP = "turn LFW's own pairs.txt into a pairs file"
LFW_EXAMPLE = """\
Reads the file of view 2 (first line `10 300`) and those of view 1 (first line one number; one fold).

Example:
    python -m lfs.data lfw pairs.txt lfw_pairs.txt --lmdb lfw.lmdb
"""


def add_parser(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add both actions to those of the command."""
    form = argparse.RawDescriptionHelpFormatter
    pairs = actions.add_parser("pairs", help=PAIRS_HELP, description=PAIRS_EXAMPLE, formatter_class=form)
    pairs.add_argument("list", metavar="LIST", help="`key label` lines of the set, or the folder of an imported one")
    pairs.add_argument("out", metavar="PAIRS", help="file to write, `key1 key2 1|0` lines")
    pairs.add_argument("--folds", type=number_from(1), default=10, help="number of folds [10]")
    pairs.add_argument(
        "--pairs-per-fold", type=number_from(1), default=300, metavar="N",
        help="genuine pairs in each fold, and as many impostor pairs [300]",
    )  # fmt: skip
    pairs.add_argument("--seed", type=number_from(0), default=0, help="whole number that the draw depends on [0]")
    pairs.add_argument(
        "--apart-from", action="append", default=[], metavar="OTHER",
        help="warn of people who are in this set too, by name, as `overlap` reads it; may be given several times",
    )  # fmt: skip
    pairs.set_defaults(run=run_pairs)
    lfw = actions.add_parser("lfw", help=LFW_HELP, description=LFW_EXAMPLE, formatter_class=form)
    lfw.add_argument("official", metavar="OFFICIAL", help="the published file")
    lfw.add_argument("out", metavar="PAIRS", help="file to write, `key1 key2 1|0` lines")
    lfw.add_argument("--key", default=DEFAULT_KEY, help=f"key of a picture [{DEFAULT_KEY}]")
    lfw.add_argument("--lmdb", help="check that this LMDB has every picture")
    lfw.set_defaults(run=run_lfw)


def run_pairs(options: argparse.Namespace) -> int:
    """Draw the pairs, write them, and say what they are."""
    path = files_of(options.list)[1] or options.list
    require_apart([options.out], [options.list, path, *options.apart_from])
    keys, labels = read_list(path, gaps=True)
    refuse_repeated(path, keys)
    people = people_of(path) if options.apart_from else set()
    others = {other: people_of(other) for other in options.apart_from}
    try:
        made = make_pairs(labels, options.folds, options.pairs_per_fold, options.seed)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    lefts, rights = keys.take(made.left), keys.take(made.right)
    numbers = zip(lefts, rights, made.same.tolist(), strict=True)
    write_lines(options.out, (f"{left} {right} {int(same)}" for left, right, same in numbers))
    print(printable(_summary(options.out, made)))
    for other, found in others.items():
        if line := overlap_line(options.list, people, other, found):
            print(printable(f"warning: {line}"))
    return OK


def run_lfw(options: argparse.Namespace) -> int:
    """Convert the file, after a look at the pictures where they are given."""
    require_apart([options.out], [options.official, options.lmdb])
    official, key_of = read_official_pairs(options.official), key_pattern(options.key)
    if options.lmdb:
        source, missing, first = LmdbSource(options.lmdb), set[str](), ""
        for pair in official.pairs:
            for key in (key_of(*pair.left), key_of(*pair.right)):
                if key not in missing and key not in source:
                    first = first or f"line {pair.line} of {options.official}: {options.lmdb} has no key {key!r}"
                    missing.add(key)
        if missing:
            raise UserError(f"{first}; {len(missing):,} keys are missing in all; see --key")
    write_lines(options.out, pair_lines(official, key_of))
    folds = "1 fold" if official.num_folds == 1 else f"{official.num_folds} folds"
    each = f"{official.per_fold:,} genuine and {official.per_fold:,} impostor"
    print(printable(f"{options.out}: {len(official.pairs):,} pairs, {folds} of {each}"))
    return OK


def _summary(out: str, made: MadePairs) -> str:
    folds = len(made.num_identities)
    per_fold = len(made.same) // (2 * folds)
    return (
        f"{out}: {len(made.same):,} pairs, {folds} fold{'s' * (folds != 1)} of {per_fold:,} genuine and {per_fold:,} "
        f"impostor; {_span(made.num_identities.tolist())} identities in a fold, "
        f"{_span(made.num_genuine_identities.tolist())} of them in genuine pairs"
    )


def _span(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
