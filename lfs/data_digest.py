"""What a run's data is, in a few bytes a file: cheap for millions of pictures, enough to notice that it is another."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from lfs.run_store import RunStore
from search_space.errors import UserError
from trainers.config import DataConfig, PairsConfig
from trainers.data.lists import Keys, read_list, read_pairs
from trainers.data.lmdb_source import LmdbSource
from trainers.untrusted import open_file

MAX_RECORDS = 1000
"""Of an LMDB, to look into."""
BESIDE = ", "
"""Between the extent of an LMDB, which is all that older runs have of it, and the digest of its records."""


def data_digest(data: DataConfig) -> dict[str, str]:
    """Digest of each file by the setting that names it.

    Of texts the SHA-256. Of an LMDB the numbers of its entries and pages, and a SHA-256 over keys and values of at most
    `MAX_RECORDS` that its lists name, evenly spaced, first and last among them. So other people, other keys, pictures
    that were aligned or encoded anew are seen: if a hundredth of the records differ, all but once in 20,000 times. A
    few that differ among millions, of the same size, are not; nor are records that no list names.

    Raises:
        UserError: a file cannot be read, or a key of a list is not in its LMDB.
    """
    return {setting: _sha256(path) if keys is None else lmdb_digest(path, keys) for setting, path, keys in _files(data)}


def refuse_other_data(store: RunStore, data: DataConfig, within: str = "") -> None:
    """Raise `UserError` unless the data is what a run was started with, wherever it lies now.

    Args:
        within: start of the settings that count, such as `data.test`; others are left out of `data`.

    Runs of versions that did not record it are not checked, and of those that recorded no more than the extent of their
    LMDBs, that is.
    """
    before = store.load_digest()
    if before is None:
        return
    paths = {setting: path for setting, path, _ in _files(data)}
    now = data_digest(data)
    for setting in filter(lambda name: name.startswith(within), now | before):
        was, found = before.get(setting, "nothing"), now.get(setting, "nothing")
        if was not in (found, found.partition(BESIDE)[0]):
            law = f"the data is not what {store.uri} was started with: {paths.get(setting, setting)} differs"
            raise UserError(f"{law} ({setting} was {was}, is {found}); put it back, or start a new run")


def _files(data: DataConfig) -> Iterator[tuple[str, str, Iterator[Keys] | None]]:
    """(setting, path, keys of its lists if it is an LMDB) of every file. Texts come first: where a list is another one,
    other records of its LMDB are looked into.
    """
    both = (("data.reward", data.reward), ("data.test", data.test))
    texts = [("data.train_list", data.train_list)]
    for name, sets in both:
        texts += [(f"{name}.pairs", sets.pairs), (f"{name}.labels", sets.labels)]
    for setting, paths in texts:
        yield from ((f"{setting}[{number}]", path, None) for number, path in enumerate(paths))
    for number, path in enumerate(data.train):
        yield f"data.train[{number}]", path, _of_lists(data.train_list[number : number + 1])
    for name, sets in both:
        yield from ((f"{name}.lmdb[{number}]", path, _of_set(sets, number)) for number, path in enumerate(sets.lmdb))


def _of_lists(paths: Sequence[str]) -> Iterator[Keys]:
    yield from (read_list(path, gaps=True)[0] for path in paths)


def _of_set(sets: PairsConfig, number: int) -> Iterator[Keys]:
    """Keys of one set: those of its labels, left and right ones of its pairs."""
    yield from _of_lists(sets.labels[number : number + 1])
    for path in sets.pairs[number : number + 1]:
        pairs = read_pairs(path, sets.num_folds)
        yield from (pairs.left, pairs.right)


def lmdb_digest(path: str | Path, lists: Iterable[Keys]) -> str:
    """Numbers of entries and pages of an LMDB, and a digest of some of the records that its lists name; see
    `data_digest`.
    """
    source, digest = LmdbSource(path), hashlib.sha256()
    entries, pages = source.extent()
    parts = list(lists)
    keys = [key for part in parts for key in _evenly(part, MAX_RECORDS // len(parts))]
    for key, value in zip(keys, source.get_many(keys), strict=True):
        digest.update(f"{key}\0{len(value)}\0".encode() + value)
    return f"{entries} entries on {pages} pages{BESIDE}sha256 of {len(keys)} records {digest.hexdigest()}"


def _evenly(keys: Keys, most: int) -> list[str]:
    """At most so many of the keys, the first and the last among them."""
    count = min(len(keys), most)
    return keys.take(np.arange(count) * (len(keys) - 1) // max(1, count - 1))


def _sha256(path: str) -> str:
    try:
        with open_file(path) as file:
            return f"sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
