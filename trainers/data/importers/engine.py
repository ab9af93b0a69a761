"""An import from end to end: shards in parallel, then one LMDB with its list, that appear together or not at all.

Everything is made in `.NAME.import` beside the target NAME: finished shards, by which an import that was stopped goes
on, and at the end the folder that is renamed to NAME. The bytes of LMDB and list follow from source, choice and
settings alone, not from the number of processes nor from stops between.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import filelock
import lmdb
import numpy as np

from search_space.errors import UserError
from trainers.data.datum import encode_datum
from trainers.data.importers.convert import Conversion
from trainers.data.importers.identity_file import FILE_NAME, write_identities
from trainers.data.importers.lmdb_list import LIST_NAME, LMDB_NAME
from trainers.data.importers.packed_lmdb import write_packed
from trainers.data.importers.plan import Choice, Plan, plan_import
from trainers.data.importers.pool import in_order, num_cores
from trainers.data.importers.shard import (
    BadPictureError,
    Shard,
    ShardReader,
    make_shard,
    offsets,
    read_shard,
    shard_path,
)
from trainers.data.importers.source import Integers, Source
from trainers.untrusted import parse_json, read_file
from trainers.whole_file import sync_path

REPORT_NAME, SKIPPED_NAME, DOUBTFUL_NAME = "import.json", "skipped.txt", "doubtful.txt"
BLOCK = 10_000
"""Keys that are texts at a time."""
MAX_REPORT_BYTES = 2**24

Stages = Callable[[str, int, int], None]
"""Called with (what is done now, done, total); a total of 0: not known yet."""


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What came of an import; as JSON in `import.json` beside the LMDB."""

    fingerprint: str
    num_pictures: int
    num_identities: int
    num_copied: int
    """Pictures whose bytes are those of the source; all others were encoded anew."""

    num_stretched: int
    """Pictures that were not square."""

    num_skipped: int
    """Bad pictures, listed in `skipped.txt`."""

    num_bytes: int
    """Of all pictures."""

    unknown: tuple[str, ...] = ()
    """Identities that were to be kept or left out and are not in the source."""

    ignored: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    num_doubtful: int = 0
    """Pictures that are kept though their decoder says that they are damaged, listed in `doubtful.txt`."""

    num_resumed: int = 0
    """Pictures that an earlier try had done."""

    was_there: bool = False
    """The same import had made all of it before."""


def say_nothing(stage: str, done: int, total: int) -> None:
    """Shows no progress."""


def import_faces(
    source: Source,
    target: str | Path,
    conversion: Conversion | None = None,
    choice: Choice | None = None,
    *,
    workers: int | None = None,
    skip_bad: bool = False,
    progress: Stages = say_nothing,
) -> ImportReport:
    """Import a face set into the folder `target`: `faces.lmdb`, `labels.txt`, `identities.txt`, `import.json`.

    Args:
        target: no folder yet, or an empty one, or a link to where it shall be; or what the same import has made before,
            which is then left as it is.
        conversion: what pictures are to be; None: JPEG, 112 x 112.
        choice: identities to keep; None: all.
        workers: processes; None: one per core.
        skip_bad: leave out pictures that do not decode, and list them; else the first ends the import.
    Raises:
        UserError: the source is wrong, a picture is bad, the target is taken or cannot be written. What was done stays
            for the next try, unless the source or the settings have changed by then.
    """
    target, conversion = Path(os.path.realpath(target)), conversion or Conversion()
    _refuse_taken(target)
    plan = plan_import(source.scan(lambda *at: progress("reading the source", *at)), choice or Choice())
    fingerprint = plan.fingerprint(type(source).__name__, conversion)
    job = _Job(source, target, plan, conversion, num_cores() if workers is None else workers, skip_bad, progress)
    try:
        return job.run(fingerprint)
    except (OSError, lmdb.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(
            f"{target}: cannot be written: {reason}; {job.done:,} of {len(plan):,} pictures are done, the same command "
            "goes on from there"
        ) from error


def _work_folder(target: Path) -> Path:
    return target.with_name(f".{target.name}.import")


def _refuse_taken(target: Path) -> None:
    if not target.exists() or (target / REPORT_NAME).is_file():
        return
    if os.path.ismount(target):
        raise UserError(f"{target}: expected a new folder, got a mount point, which cannot be; name a folder in it")
    if not target.is_dir() or any(target.iterdir()):
        what = "one with files" if target.is_dir() else "a file"
        raise UserError(f"{target}: expected a new folder, got {what} in it")


def _earlier(target: Path, fingerprint: str) -> ImportReport | None:
    """The report of the same import that made `target` before; None: none did. `UserError`: another one did."""
    if not (target / REPORT_NAME).exists():
        return None
    try:
        values = parse_json(read_file(target / REPORT_NAME, MAX_REPORT_BYTES))
        listed = {name: tuple(values[name]) for name in ("unknown", "notes")}
        report = ImportReport(**{**values, **listed, "was_there": True})
    except (OSError, ValueError, TypeError, KeyError):
        raise UserError(f"{target / REPORT_NAME}: expected the report of an import; choose another target") from None
    if report.fingerprint != fingerprint:
        raise UserError(f"{target}: expected a new folder, got what another import has made; choose another name")
    return report


class _Job:
    """One try of an import."""

    def __init__(
        self, source: Source, target: Path, plan: Plan, conversion: Conversion, workers: int, skip_bad: bool,
        progress: Stages,
    ) -> None:  # fmt: skip
        self.source, self.target, self.plan, self.conversion = source, target, plan, conversion
        self.workers, self.skip_bad, self.progress = workers, skip_bad, progress
        self.work = _work_folder(target)
        self.shards = self.work / "shards"
        self.done = 0

    def run(self, fingerprint: str) -> ImportReport:
        """Everything behind the catalogue."""
        self.work.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.work / "lock", timeout=0)
        try:
            with lock:
                report = _earlier(self.target, fingerprint) or self._import(fingerprint)
        except filelock.Timeout:
            raise UserError(f"{self.target}: expected one import at a time, got one that still runs") from None
        shutil.rmtree(self.work, ignore_errors=True)
        return report

    def _import(self, fingerprint: str) -> ImportReport:
        self._take_over(fingerprint)
        found = dict(self._finished())
        resumed = self.done
        report = self._assemble(self._make(found), fingerprint, resumed)
        self._publish()
        return report

    def _take_over(self, fingerprint: str) -> None:
        """Keep what an earlier try of the same import has done, and nothing else."""
        mark = self.work / "fingerprint"
        if not mark.exists() or mark.read_text(errors="replace") != fingerprint:
            shutil.rmtree(self.shards, ignore_errors=True)
            mark.write_text(fingerprint)
            sync_path(mark)
        shutil.rmtree(self.work / "result", ignore_errors=True)
        self.shards.mkdir(exist_ok=True)
        for partial in self.shards.glob("*.partial"):
            partial.unlink()

    def _finished(self) -> Iterator[tuple[int, Shard]]:
        starts = self.plan.starts
        for number, expected in enumerate(np.diff(starts).tolist()):
            shard = read_shard(shard_path(self.shards, number))
            if shard is not None:
                if shard.bad and not self.skip_bad:
                    raise UserError(_stop(shard.bad[min(shard.bad)]))
                self.done += expected
                yield number, shard

    def _make(self, found: dict[int, Shard]) -> list[Shard]:
        """The shards that are not there yet; all, in order."""
        numbers = [number for number in range(len(self.plan.starts) - 1) if number not in found]
        tasks = (
            (self.source, self.plan.batch(number), self.conversion, shard_path(self.shards, number), self.skip_bad)
            for number in numbers
        )
        self.progress("importing", self.done, len(self.plan))
        try:
            for number, shard in zip(
                numbers, in_order(make_shard, tasks, min(self.workers, len(numbers) or 1)), strict=True
            ):
                found[number] = shard
                self.done += len(shard.sizes)
                self.progress("importing", self.done, len(self.plan))
        except BadPictureError as error:
            raise UserError(_stop(str(error))) from None
        return [found[number] for number in sorted(found)]

    def _assemble(self, shards: list[Shard], fingerprint: str, resumed: int) -> ImportReport:
        """LMDB, list and the rest, in a folder of their own."""
        plan, result = self.plan, self.work / "result"
        sizes = np.concatenate([shard.sizes for shard in shards])
        kept = np.flatnonzero(sizes >= 0)
        if not len(kept):
            raise UserError(f"{self.target}: expected pictures that decode, got none; the first: {shards[0].bad[0]}")
        present, labels = np.unique(plan.labels[kept], return_inverse=True)  # an identity may have lost all of its own
        result.mkdir()
        self._write_lmdb(result / LMDB_NAME, shards, sizes, kept, labels)
        with open(result / LIST_NAME, "w", encoding="utf-8") as file:
            for part in _blocks(np.argsort(labels, kind="stable")):
                keys = plan.catalogue.keys.take(plan.rows[kept[part]])
                file.writelines(f"{key} {label}\n" for key, label in zip(keys, labels[part].tolist(), strict=True))
        write_identities(result / FILE_NAME, [plan.identities[label] for label in present.tolist()])
        bad = [what for shard in shards for _, what in sorted(shard.bad.items())]
        doubtful = [what for shard in shards for what in shard.doubtful]
        for name, lines in ((SKIPPED_NAME, bad), (DOUBTFUL_NAME, doubtful)):
            if lines:
                (result / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        report = ImportReport(
            fingerprint=fingerprint, num_pictures=len(kept), num_identities=len(present), num_skipped=len(bad),
            num_copied=sum(shard.copied for shard in shards), num_stretched=sum(shard.stretched for shard in shards),
            num_bytes=int(sizes[kept].sum()), unknown=plan.unknown, ignored=plan.catalogue.ignored,
            notes=plan.catalogue.notes, num_doubtful=len(doubtful),
        )  # fmt: skip
        (result / REPORT_NAME).write_text(json.dumps(asdict(report), indent=1) + "\n")
        return ImportReport(**{**vars(report), "num_resumed": resumed})

    def _write_lmdb(self, path: Path, shards: list[Shard], sizes: Integers, kept: Integers, labels: Integers) -> None:
        plan = self.plan
        starts = np.concatenate([np.fromiter(offsets(shard.sizes), np.int64, len(shard.sizes)) for shard in shards])
        shard_of = np.repeat(np.arange(len(shards)), np.diff(plan.starts))
        keys, rows = plan.catalogue.keys, plan.rows[kept]
        with ShardReader(self.shards) as reader:
            items = (
                (key, encode_datum(reader.read(int(shard_of[row]), int(starts[row]), int(sizes[row])), label))
                for part in _blocks(keys.order(rows))
                for key, row, label in zip(
                    keys.take(rows[part]), kept[part].tolist(), labels[part].tolist(), strict=True
                )
            )
            write_packed(path, items, sizes[kept], lambda *at: self.progress("writing the LMDB", *at))

    def _publish(self) -> None:
        result = self.work / "result"
        for file in result.iterdir():
            sync_path(file)
        sync_path(result)
        os.rename(result, self.target)  # of folders only an empty one may be there
        sync_path(self.target.parent)


def _blocks(numbers: Integers) -> Iterator[Integers]:
    return (numbers[start : start + BLOCK] for start in range(0, len(numbers), BLOCK))


def _stop(what: str) -> str:
    return f"{what}; --skip-bad leaves such pictures out and lists them"
