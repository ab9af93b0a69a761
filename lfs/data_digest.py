"""What a run's data is, in a few bytes a file: cheap for millions of pictures, enough to notice that it is another."""

import hashlib
from collections.abc import Iterator

from lfs.run_store import RunStore
from search_space.errors import UserError
from trainers.config import DataConfig
from trainers.data.lmdb_source import LmdbSource
from trainers.untrusted import open_file


def data_digest(data: DataConfig) -> dict[str, str]:
    """Digest of each file by the setting that names it: SHA-256 of texts, extent of LMDBs.

    Raises:
        UserError: a file cannot be read.
    """
    return {setting: _extent(path) if is_lmdb else _sha256(path) for setting, path, is_lmdb in _files(data)}


def refuse_other_data(store: RunStore, data: DataConfig) -> None:
    """Raise `UserError` unless the data is what a run was started with, wherever it lies now.

    Runs of versions that did not record it are not checked.
    """
    before = store.load_digest()
    if before is None:
        return
    paths = {setting: path for setting, path, _ in _files(data)}
    now = data_digest(data)
    for setting in now | before:
        was, found = before.get(setting, "nothing"), now.get(setting, "nothing")
        if was != found:
            law = f"the data is not what {store.uri} was started with: {paths.get(setting, setting)} differs"
            raise UserError(f"{law} ({setting} was {was}, is {found}); put it back, or start a new run")


def _files(data: DataConfig) -> Iterator[tuple[str, str, bool]]:
    """(setting, path, whether it is an LMDB) of every file, in order."""
    named = [("data.train", data.train, True), ("data.train_list", data.train_list, False)]
    for name, sets in (("data.reward", data.reward), ("data.test", data.test)):
        named += [(f"{name}.lmdb", sets.lmdb, True), (f"{name}.pairs", sets.pairs, False)]
        named += [(f"{name}.labels", sets.labels, False)]
    for name, paths, is_lmdb in named:
        yield from ((f"{name}[{number}]", path, is_lmdb) for number, path in enumerate(paths))


def _extent(path: str) -> str:
    entries, pages = LmdbSource(path).extent()
    return f"{entries} entries on {pages} pages"


def _sha256(path: str) -> str:
    try:
        with open_file(path) as file:
            return f"sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
