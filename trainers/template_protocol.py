"""IJB-B and IJB-C (1:1) as an evaluation protocol: from their files to `trainers.identification`."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from search_space.errors import UserError
from trainers.data.lists import line_of_row
from trainers.data.template_lists import TemplateList, TemplatePairs, read_template_pairs, read_templates
from trainers.gallery_protocols import far_measures
from trainers.identification import IJB_FARS, make_templates, verify_templates
from trainers.protocol import Embedded, PictureSet, Progress, ProtocolResult, held

HEADLINE = 1e-4


class TemplateProtocol:
    """TAR at FARs over listed pairs of templates. The embeddings of all pictures are held.

    Args:
        templates: `key template medium` per line.
        pairs: `template1 template2 1|0` per line.
        unit_pictures: see `normalise` of `make_templates`.
        fars: rates that TAR is wanted at; one that stands for less than one impostor pair cannot be told.
    """

    has_curve = True

    def __init__(
        self, name: str, lmdb: Path, templates: Path, pairs: Path, *, unit_pictures: bool = True,
        fars: tuple[float, ...] = IJB_FARS,
    ) -> None:  # fmt: skip
        self.name, self.lmdb, self.templates, self.pairs = name, lmdb, templates, pairs
        self.unit_pictures, self.fars = unit_pictures, fars

    @cached_property
    def _files(self) -> tuple[TemplateList, TemplatePairs]:
        listed, pairs = read_templates(self.templates), read_template_pairs(self.pairs)
        known = np.unique(listed.templates)
        known_pairs = _among(pairs.left, known) & _among(pairs.right, known)
        if not known_pairs.all():
            row = int(known_pairs.argmin())
            [absent, *_] = np.setdiff1d([pairs.left[row], pairs.right[row]], known)
            raise UserError(
                f"line {line_of_row(self.pairs, row)} of {self.pairs}: template {absent} has no picture in "
                f"{self.templates}; check that both belong together"
            )
        return listed, pairs

    def needs(self) -> tuple[PictureSet, ...]:
        """The pictures of all templates.

        Raises:
            UserError: a file cannot be used, or both do not belong together.
        """
        return (PictureSet(name=self.name, lmdb=self.lmdb, keys=self._files[0].keys, tested=False),)

    def notes(self) -> tuple[str, ...]:
        """Lines that are there twice."""
        listed = self._files[0]
        if len(listed.rows) == len(listed.keys):
            return ()
        lines = np.unique(np.stack((listed.rows, listed.templates, listed.media)), axis=1)
        repeated = len(listed.rows) - lines.shape[1]
        note = f"{repeated:,} lines of {self.templates} repeat others: a picture counts once for each of its lines"
        return (note,) if repeated else ()

    def where(self, name: str, row: int) -> str:
        """The first line with a picture."""
        line = line_of_row(self.templates, int((self._files[0].rows == row).argmax()))
        return f"line {line} of {self.templates}"

    def evaluate(self, embeddings: Mapping[str, Embedded], progress: Progress | None = None) -> ProtocolResult:
        """Pictures that are skipped are left out of their templates, and pairs of templates without any; both counted.

        Raises:
            UserError: nothing is left of one kind of pair.
        """
        (listed, pairs), embedded = self._files, embeddings[self.name]
        usable = embedded.usable
        if not usable.any():
            raise UserError(f"{self.name}: expected pictures, got none that decodes")
        lines = np.flatnonzero(usable[listed.rows])
        vectors, rows = held(embedded), listed.rows[lines]
        if len(rows) != len(vectors) or (rows != np.arange(len(vectors))).any():
            vectors = vectors[rows]
        owners, media = listed.templates[lines], listed.media[lines]
        templates = make_templates(vectors, owners, media, normalise=self.unit_pictures)
        left, right, same = pairs.left, pairs.right, pairs.same
        if not usable.all():
            kept = _among(left, templates.ids) & _among(right, templates.ids)
            left, right, same = left[kept], right[kept], same[kept]
        try:
            report = verify_templates(templates, left, right, same, fars=self.fars, progress=progress)
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from None
        counts = {
            "pictures": len(usable),
            "templates": report.num_templates,
            "pairs": len(same),
            "genuine": report.num_genuine,
            "skipped_pictures": int((~usable).sum()),
            "skipped_pairs": len(pairs.same) - len(same),
        }
        measures = [
            measure
            for point in report.verification
            for measure in far_measures("tar", point, headline=point.far == HEADLINE, threshold=False)
        ]
        return ProtocolResult(measures=tuple(measures), counts=counts, curve=report.curve)


def _among(ids: npt.NDArray[np.int32], known: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """[n] which ids are among the known, which rise."""
    places = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    return np.asarray(known[places] == ids, np.bool_)
