"""`import`: a face set in one of the usual forms to an LMDB with its list; `overlap`: who is in two sets."""

import argparse
import json
from pathlib import Path
from typing import Any

from lfs.commands import OK
from lfs.options import number_from
from lfs.outputs import require_apart
from lfs.overlap import people_of
from lfs.progress import WorkProgress
from lfs.terminal import SafeConsole
from search_space.errors import UserError
from trainers.data.importers.convert import Conversion
from trainers.data.importers.engine import DOUBTFUL_NAME, SKIPPED_NAME, ImportReport, import_faces
from trainers.data.importers.folder import FolderSource
from trainers.data.importers.identity_file import read_identities
from trainers.data.importers.lmdb_list import LIST_NAME, LMDB_NAME, LmdbListSource
from trainers.data.importers.plan import Choice
from trainers.data.importers.recordio import RecordSource
from trainers.data.importers.source import Source
from trainers.data.picture_file import JPEG, PNG
from trainers.whole_file import write_lines

KINDS = ("folder", "recordio", "lmdb", "parquet", "webdataset")
MAX_WORKERS = 1024
SHOWN = 20
"""Names that are printed of a long list of them."""

IMPORT = """Import a face set into the folder TARGET: faces.lmdb, labels.txt (`key label` lines, labels from 0),
identities.txt (`label identity` lines) and import.json (what came of it).

Labels number the identities that are kept, in the order of their numbers where all of them are whole numbers, else of
the bytes of their names. A key is IDENTITY/NAME; white space and control characters in it become `_`, and two names
that would become one are refused. Pictures that are JPEGs of the right size already are copied unchanged; all others
are decoded, turned upright as their EXIF tag says, stretched to a square and encoded; grey stays grey.

An import that was stopped, by a full disk or by Ctrl-C, goes on where it was when the same command is run again."""

EXAMPLES = """Examples:
    python -m lfs.data import CASIA-WebFace casia                     a folder per identity
    python -m lfs.data import faces_emore ms1m                        train.rec, train.idx and property in one folder
    python -m lfs.data import old.lmdb --list old.txt new --size 112
    python -m lfs.data import shards/*.parquet new --image-column image --label-column identity
    python -m lfs.data import shards/*.tar new --identities keep.txt --skip-bad"""


def add_parser(actions: Any) -> None:
    """The actions `import` and `overlap`."""
    raw = argparse.RawDescriptionHelpFormatter
    made = actions.add_parser(
        "import", help="make an LMDB and a list of a face set", formatter_class=raw, description=IMPORT, epilog=EXAMPLES
    )
    made.add_argument("source", nargs="+", metavar="SOURCE", help="folder, .rec file, LMDB, or Parquet or tar files")
    made.add_argument("target", metavar="TARGET", help="folder to make")
    made.add_argument("--from", dest="kind", choices=KINDS, help="what the source is [what it looks like]")
    made.add_argument("--list", metavar="FILE", help="`key label` lines of an LMDB")
    made.add_argument("--image-column", metavar="NAME", help="column of pictures in Parquet; extension in WebDataset")
    made.add_argument(
        "--label-column", metavar="NAME", help="column of labels in Parquet; extension, or name in json, in WebDataset"
    )
    made.add_argument("--identities", metavar="FILE", help="keep only these, one per line")
    made.add_argument("--exclude-identities", metavar="FILE", help="leave these out, one per line")
    made.add_argument("--size", type=int, default=112, metavar="PIXELS", help="width and height of pictures [112]")
    made.add_argument("--quality", type=int, default=95, metavar="1-100", help="of JPEGs that are encoded [95]")
    made.add_argument("--png", action="store_true", help="encode as PNG, where pictures are encoded")
    made.add_argument("--skip-bad", action="store_true", help="leave out pictures that do not decode, and list them")
    made.add_argument("--workers", type=number_from(1, MAX_WORKERS), metavar="N", help="processes [one per core]")
    made.add_argument("--json", action="store_true", help="print what came of it as JSON")
    made.set_defaults(run=run_import)
    made = actions.add_parser(
        "overlap", help="identities that two sets share, by name", formatter_class=raw,
        description="Identities by name in both of two sets: imported ones, lists, names, or folders of folders.",
        epilog="Example:\n    python -m lfs.data overlap casia lfw/identities.txt --out shared.txt",
    )  # fmt: skip
    made.add_argument("left", metavar="A")
    made.add_argument("right", metavar="B")
    made.add_argument(
        "--out", metavar="FILE", help="write the shared identities, one per line, as --exclude-identities reads"
    )
    made.add_argument("--json", action="store_true", help="print all of it as JSON")
    made.set_defaults(run=run_overlap)


def run_import(options: argparse.Namespace) -> int:
    """See `IMPORT`."""
    source = source_of(options)
    conversion = Conversion(size=options.size, quality=options.quality, encoding=PNG if options.png else JPEG)
    choice = Choice(
        only=read_identities(options.identities) if options.identities else None,
        but=read_identities(options.exclude_identities) if options.exclude_identities else (),
    )
    if choice.only is not None and not choice.only:
        raise UserError(f"{options.identities}: expected the identities to keep, one per line, got an empty file")
    try:
        with WorkProgress() as progress:
            report = import_faces(
                source, options.target, conversion, choice,
                workers=options.workers, skip_bad=options.skip_bad, progress=progress.update,
            )  # fmt: skip
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; the same command goes on from there") from None
    say(report, options)
    return OK


def source_of(options: argparse.Namespace) -> Source:
    """The source that the options name."""
    paths = [Path(path) for path in options.source]
    kind = options.kind or guessed(paths, options.list)
    if kind in ("folder", "recordio", "lmdb") and len(paths) > 1:
        raise UserError(f"expected one SOURCE for a {kind}, got {len(paths)}: {', '.join(map(str, paths))}")
    if options.list and kind != "lmdb":
        raise UserError(f"--list goes with an LMDB, got {paths[0]}, which is taken for {kind}; say --from lmdb")
    if kind == "folder":
        return FolderSource(paths[0])
    if kind == "recordio":
        return RecordSource(paths[0])
    if kind == "lmdb":
        return LmdbListSource(paths[0], options.list)
    files = [file for path in paths for file in inside(path, "*.parquet" if kind == "parquet" else "*.tar")]
    if kind == "parquet":
        from trainers.data.importers.tables import TableSource

        return TableSource(files, options.image_column, options.label_column)
    from trainers.data.importers.webdataset import WebDatasetSource

    return WebDatasetSource(files, options.image_column, options.label_column)


def guessed(paths: list[Path], list_path: str | None) -> str:
    """What kind of source some paths look like."""
    path = paths[0]
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if list_path or (path / "data.mdb").exists() or path.suffix in (".lmdb", ".mdb") or (path / LIST_NAME).exists():
        return "lmdb"
    for kind, extension in (("recordio", ".rec"), ("parquet", ".parquet"), ("webdataset", ".tar")):
        if path.suffix == extension or (path.is_dir() and any(path.glob(f"*{extension}"))):
            return kind
    if path.is_dir():
        return "folder"
    raise UserError(
        f"{path}: expected a folder, .rec, .lmdb, .parquet or .tar, got another file; say what it is by --from"
    )


def inside(path: Path, pattern: str) -> list[Path]:
    """A file, or the files of a folder, by name."""
    if not path.is_dir():
        return [path]
    found = sorted(path.glob(pattern))
    if not found:
        raise UserError(f"{path}: expected {pattern} in this folder, got none")
    return found


def say(report: ImportReport, options: argparse.Namespace) -> None:
    """Print what came of an import."""
    if options.json:
        print(json.dumps({**vars(report), "target": options.target}, indent=1))
        return
    console = SafeConsole(soft_wrap=True)
    target = Path(options.target)
    if report.was_there:
        console.print(f"{target} was there already, made by the same import:")
    console.print(
        f"{report.num_pictures:,} pictures of {report.num_identities:,} identities, {report.num_bytes:,} bytes"
    )
    encoded = report.num_pictures - report.num_copied
    console.print(f"{report.num_copied:,} copied unchanged, {encoded:,} decoded and encoded")
    if report.num_resumed:
        console.print(f"{report.num_resumed:,} were there from an earlier try")
    for count, what in (
        (report.num_stretched, "were not square and have been stretched"),
        (report.num_skipped, f"were bad and are left out: {target / SKIPPED_NAME}"),
        (report.num_doubtful, f"are damaged as their decoder says, and kept: {target / DOUBTFUL_NAME}"),
        *((count, f"left aside: {kind}") for kind, count in report.ignored.items()),
    ):
        if count:
            console.print(f"{count:,} {what}")
    if report.unknown:
        console.print(
            f"{len(report.unknown):,} identities that were named are not in the source: {some(report.unknown)}"
        )
    for note in report.notes:
        console.print(f"note: {note}")
    console.print()
    console.print(f"train with   --data.train {target / LMDB_NAME} --data.train-list {target / LIST_NAME}")


def run_overlap(options: argparse.Namespace) -> int:
    """Print the identities that two sets share."""
    require_apart([options.out], [options.left, options.right])
    left, right = people_of(options.left), people_of(options.right)
    shared = sorted(left & right)
    if options.out:
        write_lines(options.out, shared)
    if options.json:
        print(json.dumps({"left": len(left), "right": len(right), "shared": shared}, indent=1))
        return OK
    console = SafeConsole(soft_wrap=True)
    console.print(f"{options.left}: {len(left):,} identities")
    console.print(f"{options.right}: {len(right):,} identities")
    console.print(f"{len(shared):,} in both" + (f": {some(shared)}" if shared else ""))
    return OK


def some(names: "list[str] | tuple[str, ...]") -> str:
    """The first few of a long list."""
    return ", ".join(names[:SHOWN]) + (" ..." if len(names) > SHOWN else "")
