"""Models through protocols: pictures embedded, or embeddings read, and what comes of them."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from operator import eq
from typing import Any

import numpy as np

from lfs.embed_workers import Workers
from lfs.embedding_file import EmbeddingFile
from lfs.embedding_room import FileRows, Room, room
from lfs.model_file import ModelFile
from lfs.view import View
from search_space.errors import UserError
from trainers.data.lists import Keys
from trainers.data.lmdb_source import LmdbSource
from trainers.embedder import BackboneModel, EmbedOptions, Shard
from trainers.gallery_protocols import GalleryProtocol
from trainers.protocol import Embedded, EvaluationProtocol, PictureSet, ProtocolResult

ROWS = 1024
"""Pictures of a set that are embedded in one piece."""


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """What one model came to."""

    label: str
    source: str
    facts: dict[str, Any]
    """Network, digest and origin of the model."""

    results: dict[str, ProtocolResult]
    """By the name of the protocol."""

    skipped: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """(key, reason) of the pictures of each set that do not decode."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is evaluated, and how.

    Args:
        embeddings: files to use in place of embedding, by the name of the set; "" is for every set that has none.
    """

    protocols: Sequence[EvaluationProtocol]
    embeddings: Mapping[str, EmbeddingFile]
    options: EmbedOptions
    workers: Workers
    view: View

    @property
    def label(self) -> str:
        """What embeddings without a model are called."""
        return next(iter(self.embeddings.values())).path.stem

    def check(self) -> None:
        """Refuse files that cannot be used, before anything is embedded.

        Raises:
            UserError: what is wrong with them.
        """
        names = {picture_set.name for protocol in self.protocols for picture_set in protocol.needs()}
        if unknown := sorted(set(self.embeddings) - names - {""}):
            raise UserError(f"--embeddings: no set {unknown[0]!r} is evaluated; there are {', '.join(sorted(names))}")
        for protocol in self.protocols:
            for picture_set in protocol.needs():
                if self._file(picture_set) is None:
                    where = partial(protocol.where, picture_set.name)
                    LmdbSource(picture_set.lmdb).refuse_missing(picture_set.keys, where)
            for note in protocol.notes():
                self.view.warn(note)

    def of_model(self, found: ModelFile) -> ModelResult:
        """A model through all protocols.

        Raises:
            UserError: a picture that cannot be used, a model that has diverged, embeddings of another model.
        """
        model = found.load()
        for file in self.embeddings.values():
            refuse_other_model(file, found, model, self.options.flip)
        facts = {"sha256": model.digest, **asdict(found.network), "origin": found.origin}
        return self._through(found.label, found.source, facts, model)

    def of_embeddings(self) -> ModelResult:
        """Embeddings alone through all protocols.

        Raises:
            UserError: a set that has none, embeddings of several lengths or models.
        """
        files = list(self.embeddings.values())
        for protocol in self.protocols:
            for picture_set in protocol.needs():
                if self._file(picture_set) is None:
                    law = f"set {picture_set.name} has no embeddings, and there is no model to make them"
                    raise UserError(f"{law}: name a model, or --embeddings {picture_set.name}=FILE")
        for name, what in (("dim", "length"), ("sha256", "model"), ("flip", "kind, with flip averaging or without")):
            known = {file.path: {"dim": file.dim, **file.made_by}.get(name) for file in files}
            if len({str(value) for value in known.values() if value is not None}) > 1:
                said = ", ".join(f"{path} {name}={str(value)[:12]}" for path, value in known.items())
                raise UserError(f"--embeddings must all be of one {what}, got {said}")
        facts = {"embedding_dim": files[0].dim, "made_by": files[0].made_by}
        return self._through(self.label, str(files[0].path), facts, None)

    def _through(self, label: str, source: str, facts: dict[str, Any], model: BackboneModel | None) -> ModelResult:
        made = ModelResult(label=label, source=source, facts=facts, results={})
        for protocol in self.protocols:
            with contextlib.ExitStack() as stack:
                embedded = {one.name: stack.enter_context(self._embedded(made, model, one)) for one in protocol.needs()}
                unit = "distractors" if isinstance(protocol, GalleryProtocol) else "pairs"
                scoring = stack.enter_context(self.view.progress(f"scoring {protocol.name}", unit))
                made.results[protocol.name] = protocol.evaluate(embedded, scoring)
        return made

    def _file(self, picture_set: PictureSet) -> EmbeddingFile | None:
        return self.embeddings.get(picture_set.name) or self.embeddings.get("")

    @contextlib.contextmanager
    def _embedded(self, made: ModelResult, model: BackboneModel | None, one: PictureSet) -> Iterator[Embedded]:
        file = self._file(one)
        if file is not None and has_in_order(file, one):
            yield FileRows(file)
            return
        assert file or model
        dim = file.dim if file else model.network.embedding_dim if model else 0
        with room(len(one.keys), dim) as place:
            if file:
                self._copy(place, made, file, one)
            elif model:
                self._fill(place, made, model, one)
            yield place

    def _copy(self, place: Room, made: ModelResult, file: EmbeddingFile, one: PictureSet) -> None:
        """Embeddings of a file by key. Those that it lacks are skipped if what does not decode is."""
        seen = file.spread(one.keys, place.put)
        if not self.options.skip_bad or not seen.any():
            file.refuse_missing(one.keys, seen)
        missing = np.flatnonzero(~seen)
        place.skip(missing)
        if len(missing):
            absent = set(missing.tolist())
            reason = f"{file.path}: no embedding"
            made.skipped[one.name] = [(key, reason) for row, key in enumerate(one.keys) if row in absent]
            self.view.warn(f"{len(missing):,} pictures of {one.name} have no embedding in {file.path} and are skipped")

    def _fill(self, place: Room, made: ModelResult, model: BackboneModel, one: PictureSet) -> None:
        """Embed a set, and say what is skipped."""
        keys = one.keys if isinstance(one.keys, Keys) else Keys.of(one.keys)
        lmdb = str(one.lmdb.resolve())

        def shard(number: int) -> Shard:
            rows = np.arange(number * ROWS, min(number * ROWS + ROWS, len(keys)))
            return Shard(number=number, lmdb=lmdb, keys=tuple(keys.take(rows)))

        bad: list[tuple[int, str]] = []
        done = 0
        try:
            with self.view.progress(f"{made.label} on {one.name}") as progress:
                progress(0, len(keys))
                for result in self.workers.embed(model, range(-(-len(keys) // ROWS)), shard, self.options):
                    first = result.number * ROWS
                    place.put(np.arange(first, first + len(result.embeddings)), result.embeddings)
                    bad += [(first + row, reason) for row, reason in result.bad]
                    done += len(result.embeddings)
                    progress(done, len(keys))
        except UserError as error:
            if not done:
                raise
            hint = f"{done:,} pictures were embedded in vain: `lfs.evaluate embed --protocols {one.name}` goes on later"
            raise UserError(f"{error}; {hint}") from None
        if bad:
            bad.sort()
            place.skip(np.array([row for row, _ in bad]))
            made.skipped[one.name] = [(keys[row], reason) for row, reason in bad]
            few = "; ".join(reason for _, reason in bad[:3]) + ("; ..." if len(bad) > 3 else "")
            self.view.warn(f"{len(bad):,} pictures of {one.name} do not decode and are skipped: {few}")


def has_in_order(file: EmbeddingFile, one: PictureSet) -> bool:
    """Whether the keys of a file are those of a set, in the same order, so that it can be read as it is."""
    return len(file) == len(one.keys) and all(map(eq, file.names(), one.keys))


def refuse_other_model(file: EmbeddingFile, found: ModelFile, model: BackboneModel, flip: bool) -> None:
    """Raise `UserError` for embeddings that are not the model's, as far as can be told."""
    if file.dim != found.network.embedding_dim:
        law = f"{file.path}: embeddings must have the {found.network.embedding_dim} numbers of {found.source}"
        raise UserError(f"{law}, got {file.dim}: they are of another model")
    made_by = file.made_by
    if made_by.get("sha256", model.digest) != model.digest:
        raise UserError(f"{file.path}: embeddings are of another model ({made_by.get('source')}) than {found.source}")
    if made_by.get("flip", flip) != flip:
        was, now = ("with", "without") if made_by["flip"] else ("without", "with")
        raise UserError(
            f"{file.path}: embeddings were made {was} flip averaging, and {now} it is asked for (--no-flip)"
        )
