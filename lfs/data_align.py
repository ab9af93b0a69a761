"""`align`: faces of a folder or an LMDB turned, scaled and shifted onto the usual 112 x 112 template."""

import argparse
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from lfs.commands import OK
from lfs.face_detectors import CHOICES, Detector, Dlib, YuNet
from lfs.options import number_from
from lfs.outputs import require_apart
from lfs.progress import WorkProgress
from lfs.terminal import printable
from search_space.errors import UserError
from trainers.data.align import Floats, align_face, read_landmarks
from trainers.data.datum import decode_datum, encode_datum
from trainers.data.decoder_noise import DecoderNoise
from trainers.data.importers.folder import EXTENSIONS
from trainers.data.importers.lmdb_list import files_of
from trainers.data.importers.pool import in_order, num_cores
from trainers.data.importers.source import MAX_PICTURE_BYTES
from trainers.data.lists import Keys, read_list
from trainers.data.lmdb_source import LmdbSource, work_folder, write_lmdb
from trainers.data.picture_file import decode_file, decode_stored
from trainers.data.picture_header import MAX_PHOTO_PIXELS
from trainers.untrusted import read_file
from trainers.whole_file import sync_path, write_lines

HELP = "turn, scale and shift faces onto the usual 112x112 template, by five landmarks"
EXAMPLE = """\
SOURCE is a folder with pictures at any depth, and OUT a folder with the same names, for `import`; or SOURCE is an LMDB,
or the folder of an imported set, and OUT an LMDB with the same keys. Landmarks (eyes, nose, corners of the mouth; of
two the one on the left of an upright picture first) come from a file of `key x1 y1 ... x5 y5` lines, such as CelebA's,
where a key is a path inside the folder; or from a YuNet model that you have; or else from dlib and its 68-point model
(pip install 'lfs[align]'; the model's terms exclude commercial use). Pictures without a face are counted, left out, and
listed with the reason. Labels stay; `import` counts them anew where all pictures of one are gone.

Example:
    python -m lfs.data align photos faces --face largest
    python -m lfs.data align raw.lmdb faces.lmdb --landmarks points.txt --list raw.txt --out-list faces.txt
"""
TASK = 16
"""Pictures that a process is given at a time."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a process needs to know."""

    source: str
    is_lmdb: bool
    size: int
    quality: int
    face: str
    detector: str = ""
    """A YuNet model; empty: dlib's, unless there are landmarks."""


class Aligned(NamedTuple):
    """What became of one picture."""

    key: str
    data: bytes
    """A JPEG; empty if there is none."""

    label: int
    fault: str
    bad: bool
    """It did not decode; else no face was found."""

    complaint: str = ""
    """Of the decoder, about a picture that it did decode."""


def add_parser(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the action to those of the command."""
    form = argparse.RawDescriptionHelpFormatter
    parser = actions.add_parser("align", help=HELP, description=EXAMPLE, formatter_class=form)
    parser.add_argument("source", metavar="SOURCE", help="folder of JPEG and PNG files, LMDB, or imported set")
    parser.add_argument("out", metavar="OUT", help="folder or LMDB to make")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--landmarks", metavar="FILE", help="`key` and ten numbers a line")
    where.add_argument("--detector", metavar="ONNX", default="", help="YuNet model, run by OpenCV")
    parser.add_argument(
        "--face", choices=sorted(CHOICES), default="centre",
        help="which of several faces: nearest to the centre of the picture, or largest [centre]",
    )  # fmt: skip
    parser.add_argument("--list", metavar="LIST", help="`key label` lines of an LMDB")
    parser.add_argument("--out-list", metavar="LIST", help="its lines whose pictures were aligned, to write")
    parser.add_argument("--missing", metavar="FILE", help="where pictures without a face are listed [OUT.missing.txt]")
    parser.add_argument("--skip-bad", action="store_true", help="list pictures that do not decode too, and go on")
    parser.add_argument("--size", type=number_from(16), default=112, help="side of the aligned pictures [112]")
    parser.add_argument("--quality", type=number_from(1, 100), default=95, help="JPEG quality, 1 to 100 [95]")
    parser.add_argument(
        "--workers", type=number_from(1), default=num_cores(), help="processes [one per core]"
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Align every picture; what is made appears when all of it is there."""
    source, listed = files_of(options.source, options.list)
    plan = Plan(
        source=str(source), is_lmdb=_is_lmdb(source), size=options.size, quality=options.quality,
        face=options.face, detector=options.detector,
    )  # fmt: skip
    missing = options.missing or f"{options.out.rstrip('/')}.missing.txt"
    _check(options, plan, listed, missing)
    lines = read_list(listed, gaps=True) if options.out_list and listed else None
    points = read_landmarks(options.landmarks) if options.landmarks else None
    keys = list(LmdbSource(plan.source).keys()) if plan.is_lmdb else _pictures_in(plan.source)
    if not keys:
        raise UserError(f"{options.source}: expected pictures, got none")
    if points is None:
        _detector(plan)  # what cannot be used is refused before processes are started
    faults: list[Aligned] = []
    doubtful: list[Aligned] = []
    write = _write_lmdb if plan.is_lmdb else _write_folder
    with WorkProgress() as progress:
        results = progress.along("aligning", _aligned(plan, keys, points, options.workers), len(keys))
        write(options.out, _found(results, options, faults, doubtful))
    write_lines(missing, (printable(f"{item.key}: {item.fault}") for item in faults))
    bad = sum(item.bad for item in faults)
    print(printable(
        f"{options.out}: {len(keys) - len(faults):,} of {len(keys):,} pictures aligned; {len(faults) - bad:,} without "
        f"a face and {bad:,} that do not decode, listed in {missing}"
    ))  # fmt: skip
    if doubtful:
        first = f"{doubtful[0].key}: {doubtful[0].complaint}"
        print(printable(f"doubtful: {len(doubtful):,} pictures; the first, {first}"))
    if lines:
        _write_list(options, *lines)
    return OK


def _check(options: argparse.Namespace, plan: Plan, listed: Path | None, missing: str) -> None:
    """Refuse what cannot be done before anything is read."""
    if (options.list and not options.out_list) or (options.out_list and not (listed and plan.is_lmdb)):
        raise UserError("--list and --out-list come together, and with LMDBs")
    if not plan.is_lmdb and Path(options.out).exists():
        raise UserError(f"{options.out}: expected a folder to make, got one that is there; choose another name")
    sources = [options.source, plan.source, listed, options.landmarks, options.detector]
    require_apart([options.out, missing, options.out_list], sources)


def _is_lmdb(source: Path) -> bool:
    if not source.exists():
        raise UserError(f"{source}: expected a folder of pictures or an LMDB, got nothing of that name")
    return source.is_file() or (source / "data.mdb").exists()


def _pictures_in(folder: str) -> list[str]:
    """Paths of the pictures inside a folder, in the order of their bytes; no two differ only in their suffix.

    As in an import, hidden names are left out, and links to folders are followed at the first level only.
    """
    found: list[str] = []
    for root, folders, names in os.walk(folder, onerror=_refuse_folder, followlinks=True):
        inner = Path(os.path.relpath(root, folder))
        folders[:] = (
            name
            for name in folders
            if not name.startswith(".") and (root == folder or not os.path.islink(os.path.join(root, name)))
        )
        pictures = (name for name in names if Path(name).suffix.lower() in EXTENSIONS and not name.startswith("."))
        found += [(inner / name).as_posix() for name in pictures]
    found.sort(key=os.fsencode)
    for key in found:
        try:
            key.encode()
        except UnicodeEncodeError:
            raise UserError(f"{folder}: expected file names of UTF-8 text, got {key!r}") from None
    stems: dict[Path, str] = {}
    for key in found:
        if (first := stems.setdefault(Path(key).with_suffix(""), key)) != key:
            raise UserError(f"{folder}: both {first} and {key} would become one aligned picture; rename one of them")
    return found


def _refuse_folder(error: OSError) -> None:
    raise UserError(f"{error.filename}: expected a folder of pictures, got: {error.strerror}")


def _detector(plan: Plan) -> Detector:
    return YuNet(plan.detector) if plan.detector else Dlib()


class _Worker:
    """Reads, aligns and encodes pictures in one process."""

    def __init__(self, plan: Plan, detects: bool) -> None:
        self.plan = plan
        self.lmdb = LmdbSource(plan.source) if plan.is_lmdb else None
        self.detector = _detector(plan) if detects else None

    def align(self, task: list[tuple[str, Floats | None]]) -> list[Aligned]:
        """Pictures by key, with their landmarks where those are given."""
        with DecoderNoise() as noise:
            return [self._align(key, points)._replace(complaint=noise.complaint()) for key, points in task]

    def _align(self, key: str, points: Floats | None) -> Aligned:
        label, bad = 0, True
        try:
            if self.lmdb:
                datum = decode_datum(self.lmdb.get(key))
                label, picture = datum.label, decode_stored(datum)
            else:
                picture = decode_file(
                    read_file(Path(self.plan.source, key), MAX_PICTURE_BYTES), max_pixels=MAX_PHOTO_PIXELS
                )
            bad = False
            if self.detector:
                face = CHOICES[self.plan.face](self.detector.faces(picture), picture)
                points = face.points if face else None
            if points is None:
                raise UserError("no face found" if self.detector else "no landmarks given")
            made = align_face(picture, points, self.plan.size)
            _, encoded = cv2.imencode(".jpg", made, [cv2.IMWRITE_JPEG_QUALITY, self.plan.quality])
        except (UserError, OSError) as error:
            return Aligned(key, b"", label, str(error), bad)
        return Aligned(key, encoded.tobytes(), label, "", False)


@cache
def _worker(plan: Plan, detects: bool) -> _Worker:
    """That of this process: detectors take long to load."""
    return _Worker(plan, detects)


def _work(plan: Plan, detects: bool, task: list[tuple[str, Floats | None]]) -> list[Aligned]:
    return _worker(plan, detects).align(task)


def _aligned(plan: Plan, keys: list[str], points: Mapping[str, Floats] | None, workers: int) -> Iterator[Aligned]:
    """What became of each picture, in order, whatever the number of processes."""
    named = ((key, points.get(key) if points else None) for key in keys)
    tasks = ((plan, points is None, task) for task in iter(lambda: list(islice(named, TASK)), []))
    yield from chain.from_iterable(in_order(_work, tasks, min(workers, -(-len(keys) // TASK))))


def _found(
    results: Iterable[Aligned], options: argparse.Namespace, faults: list[Aligned], doubtful: list[Aligned]
) -> Iterator[Aligned]:
    """The pictures that were aligned; the others go to `faults`, and those that may be damaged to `doubtful` too.

    Raises:
        UserError: one does not decode, without --skip-bad; or there was no face in any.
    """
    count = 0
    for item in results:
        if item.bad and not options.skip_bad:
            raise UserError(f"{options.source}: {item.key}: {item.fault}; --skip-bad lists it and goes on")
        if item.fault:
            faults.append(item)
            continue
        count += 1
        if item.complaint:
            doubtful.append(item._replace(data=b""))
        yield item
    if not count:
        raise UserError(f"{options.source}: no face in any of {len(faults):,} pictures; the first: {faults[0].fault}")


def _write_lmdb(out: str, items: Iterable[Aligned]) -> None:
    write_lmdb(out, ((item.key, encode_datum(item.data, item.label)) for item in items))


def _write_folder(out: str, items: Iterable[Aligned]) -> None:
    path = Path(out)
    try:
        with work_folder(path) as work:
            for item in items:
                file = (work / "made" / item.key).with_suffix(".jpg")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(item.data)
            os.sync()
            (work / "made").rename(path)
            sync_path(path.parent)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); check space and permissions") from error


def _write_list(options: argparse.Namespace, keys: Keys, labels: npt.NDArray[np.int64]) -> None:
    """The lines of a list whose pictures were aligned."""
    made = LmdbSource(options.out)
    kept = [row for row, key in enumerate(keys) if key in made]
    if not kept:
        raise UserError(f"{options.out_list}: no picture of the list was aligned")
    write_lines(options.out_list, (f"{keys[row]} {labels[row]}" for row in kept))
    lost = len(np.unique(labels)) - len(np.unique(labels[kept]))
    print(printable(
        f"{options.out_list}: {len(kept):,} lines; {len(keys) - len(kept):,} without an aligned picture are left out, "
        f"and {lost:,} labels with them" + "; `import` with this list counts the others anew" * bool(lost)
    ))  # fmt: skip
