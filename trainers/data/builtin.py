"""The built-in faces: drawn people as real files (JPEG in LMDB, list, pairs), made once and kept in the user's cache.

Three sets of people, no person in two of them: training pictures, reward pairs, test pairs. Everything random is keyed
by version, purpose, person and picture, so every picture and pair can be made again bit for bit.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import filelock
import numpy as np
import platformdirs

from search_space.errors import UserError
from trainers.config import DataConfig, PairsConfig
from trainers.data.datum import encode_datum
from trainers.data.face_curves import head_shape
from trainers.data.face_photo import encode_jpeg, photograph
from trainers.data.face_traits import draw_identity, draw_picture
from trainers.data.lmdb_source import write_lmdb

VERSION = 1
"""Part of the cache folder's name and of every seed: raise it whenever a picture or a pair changes."""

CACHE_VARIABLE = "LFS_CACHE_DIR"
INPUT_SIZE = 32
"""Network input in pixels that suits the pictures and a CPU."""

Progress = Callable[[int, int], None]
_PERSON, _PICTURE, _PAIRS = range(3)  # purposes of random numbers
_LABELS = ("reward_labels.txt", "test_labels.txt")
_FILES = ("train.lmdb", "train.txt", "reward.lmdb", "reward_pairs.txt", "test.lmdb", "test_pairs.txt")


@dataclass(frozen=True, kw_only=True)
class FaceSetSpec:
    """How much is drawn."""

    num_train_people: int = 300
    num_train_pictures: int = 20
    """Of each person."""

    num_pair_people: int = 150
    """In the reward set, and as many again in the test set; a multiple of `num_folds`."""

    num_pair_pictures: int = 10
    """Of each person; few, because every distinct picture costs time in each validation."""

    num_folds: int = 10
    num_same: int = 300
    """Genuine pairs of a fold, and as many impostor pairs."""

    side: int = 64
    """Width and height of a picture in pixels."""


@dataclass(frozen=True, kw_only=True)
class BuiltinFaces:
    """Where the files are."""

    folder: Path
    num_folds: int

    def data_config(self, base: DataConfig | None = None) -> DataConfig:
        """A configuration that reads these files; all else (input size, flip ...) as in `base`."""
        base = DataConfig(input_size=INPUT_SIZE) if base is None else base
        return replace(
            base,
            train=(str(self.folder / "train.lmdb"),),
            train_list=(str(self.folder / "train.txt"),),
            reward=self._pairs("reward"),
            test=self._pairs("test"),
        )

    def _pairs(self, name: str) -> PairsConfig:
        lmdb_file, pairs, labels = (str(self.folder / f"{name}{end}") for end in (".lmdb", "_pairs.txt", "_labels.txt"))
        return PairsConfig(lmdb=(lmdb_file,), pairs=(pairs,), labels=(labels,), num_folds=self.num_folds)


def ensure_builtin_faces(
    cache_dir: Path | None = None, *, spec: FaceSetSpec | None = None, progress: Progress | None = None
) -> BuiltinFaces:
    """Make the built-in faces unless they are there already.

    Several processes may ask at once: one draws, the others wait for it. A process that is killed while it draws leaves
    nothing that is taken for a set.

    Args:
        cache_dir: folder to keep them in; None: `$LFS_CACHE_DIR`, else the user's cache folder.
        spec: how much to draw.
        progress: called with (pictures drawn, pictures in all) now and then; not at all if nothing has to be drawn.
    Raises:
        UserError: the cache folder cannot be written.
    """
    spec = FaceSetSpec() if spec is None else spec
    cache = cache_dir or Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("lfs"))
    name = _name(spec)
    faces = BuiltinFaces(folder=cache.absolute() / name, num_folds=spec.num_folds)
    try:
        if not _is_complete(faces.folder):
            faces.folder.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(faces.folder.with_name(f".{name}.lock")):
                if not _is_complete(faces.folder, _FILES):  # else another process made it while this one waited
                    _make_atomically(faces.folder, spec, progress)
                elif not _is_complete(faces.folder):  # made before it had labels
                    _write_labels(faces.folder, spec)
    except (OSError, UserError) as error:  # the latter: the LMDB could not be written
        raise UserError(
            f"the built-in faces need a cache folder that can be written (about 30 MB), got {str(cache)!r}: {error};"
            f" set {CACHE_VARIABLE} to another folder"
        ) from error
    return faces


def builtin_cache(data: DataConfig) -> Path | None:
    """The cache folder of the built-in faces, as `ensure_builtin_faces` takes it, if it is they that `data` names."""
    folder = Path(data.train[0]).parent if data.train else Path()
    return folder.parent if folder.name == _name(FaceSetSpec()) else None


def _name(spec: FaceSetSpec) -> str:
    return f"faces-v{VERSION}-{hashlib.sha256(repr(spec).encode()).hexdigest()[:8]}"


def _is_complete(folder: Path, names: tuple[str, ...] = (*_FILES, *_LABELS)) -> bool:
    return all((folder / name).is_file() for name in names)


def _make_atomically(folder: Path, spec: FaceSetSpec, progress: Progress | None) -> None:
    """Draw into a temporary folder beside `folder` and rename it at the end. The lock is held."""
    prefix = f".{folder.name}.making-"
    for stale in folder.parent.glob(f"{prefix}*"):  # whoever made it is dead, or the lock would not be ours
        shutil.rmtree(stale)
    if folder.exists():  # somebody deleted a part of it
        shutil.rmtree(folder)
    work = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        _make(work, spec, progress)
        work.chmod(0o755)  # mkdtemp gives 0700, but a cache may be shared
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _people(spec: FaceSetSpec) -> tuple[tuple[str, range, int], ...]:
    """Name, people and pictures of each person of each set. Numbered through, which keeps the sets disjoint."""
    train, pair = spec.num_train_people, spec.num_pair_people
    return (
        ("train", range(train), spec.num_train_pictures),
        ("reward", range(train, train + pair), spec.num_pair_pictures),
        ("test", range(train + pair, train + 2 * pair), spec.num_pair_pictures),
    )


def _make(folder: Path, spec: FaceSetSpec, progress: Progress | None) -> None:
    """Write all files."""
    sets = _people(spec)
    total, before = sum(len(people) * pictures for _, people, pictures in sets), 0
    for name, people, pictures in sets:

        def report(done: int, before: int = before) -> None:
            if progress is not None:
                progress(before + done, total)

        write_lmdb(folder / f"{name}.lmdb", _entries(name, people, pictures, spec.side, report))
        before += len(people) * pictures
    (folder / "train.txt").write_text("".join(_label_lines(*sets[0])))
    _write_labels(folder, spec)
    for name, people, _ in sets[1:]:
        (folder / f"{name}_pairs.txt").write_text("".join(_pair_lines(name, people, spec)))


def _write_labels(folder: Path, spec: FaceSetSpec) -> None:
    """The label lists of the reward and the test set, each whole or not at all."""
    for name, people, num_pictures in _people(spec)[1:]:
        part = folder / f".{name}_labels.part"
        part.write_text("".join(_label_lines(name, people, num_pictures)))
        part.rename(folder / f"{name}_labels.txt")


def _label_lines(name: str, people: range, num_pictures: int) -> Iterator[str]:
    """Lines `key label`, labels from 0."""
    for label, person in enumerate(people):
        for picture in range(num_pictures):
            yield f"{_key(name, person, picture)} {label}\n"


def _key(name: str, person: int, picture: int) -> str:
    return f"{name}/{person:04d}/{picture:02d}.jpg"


def _rng(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([VERSION, *key])))


def _entries(
    name: str, people: range, num_pictures: int, side: int, report: Callable[[int], None]
) -> Iterator[tuple[str, bytes]]:
    """Key and Datum of every picture of a set, in the order of the keys."""
    for index, person in enumerate(people):
        for picture, file in enumerate(_draw_person(person, num_pictures, side)):
            yield _key(name, person, picture), encode_datum(file, index)
        report((index + 1) * num_pictures)


def _draw_person(person: int, num_pictures: int, side: int) -> list[bytes]:
    """The JPEG files of one person."""
    identity = draw_identity(_rng(_PERSON, person))
    shape = head_shape(identity)
    files = []
    for number in range(num_pictures):
        rng = _rng(_PICTURE, person, number)
        picture = draw_picture(rng)
        image = photograph(shape, identity, picture, side, rng)
        files.append(encode_jpeg(image, picture.quality))
    return files


def _pair_lines(name: str, people: range, spec: FaceSetSpec) -> Iterator[str]:
    """Lines `key1 key2 1|0`, fold by fold: the genuine pairs first; no person occurs in two folds, no pair twice."""
    fold_people = len(people) // spec.num_folds
    for fold in range(spec.num_folds):
        members = people[fold * fold_people : (fold + 1) * fold_people]
        keys = [(p, _key(name, p, k)) for p in members for k in range(spec.num_pair_pictures)]
        pairs = list(combinations(keys, 2))
        rng = _rng(_PAIRS, people.start, fold)
        for same in (True, False):
            choice = [f"{a} {b} {int(same)}\n" for (p, a), (q, b) in pairs if (p == q) == same]
            yield from (choice[i] for i in np.sort(rng.choice(len(choice), spec.num_same, replace=False)))
