"""Verification of templates, sets of pictures of one person each, in the form of IJB-B and IJB-C (1:1)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from search_space.errors import UserError
from trainers.identification.protocol import Progress
from trainers.identification.thresholds import FarPoint, check_fars, verification_point
from trainers.identification.units import (
    Bools,
    Floats,
    Ints,
    Scores,
    Singles,
    check_shape,
    pair_scores,
    unit_embeddings,
)
from trainers.verification.all_pairs import STEPS_PER_UNIT
from trainers.verification.roc_curve import RocCurve, roc_curve_of_steps

IJB_FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)

ROWS = 2**14
"""Pictures that are averaged at a time (and no fewer than those of one template)."""

PAIRS = 2**16
"""Pairs between two calls of `progress`."""


@dataclass(frozen=True, kw_only=True)
class Templates:
    ids: npt.NDArray[Any]
    """[t] rising."""

    units: Singles
    """[t, d] unit embeddings of the templates."""

    def rows(self, ids: npt.ArrayLike) -> Ints:
        """[n] rows of templates by their ids; raises `UserError` at the first that there is none of."""
        wanted = np.asarray(ids)
        rows = np.minimum(np.searchsorted(self.ids, wanted), len(self.ids) - 1)
        found = self.ids[rows] == wanted
        if not found.all():
            place = int(np.argmin(found))
            raise UserError(f"pair {place}: expected a template that has pictures, got {wanted[place]}")
        return np.asarray(rows, np.int64)


@dataclass(frozen=True, kw_only=True)
class TemplateReport:
    num_templates: int
    num_genuine: int
    """Pairs of templates of one person."""

    num_impostor: int
    verification: tuple[FarPoint, ...]
    """Rate: share of genuine pairs that is accepted."""

    curve: RocCurve = field(repr=False)
    """Of all pairs, exact: its corners."""


def make_templates(
    embeddings: npt.NDArray[Any], templates: npt.ArrayLike, media: npt.ArrayLike, *, normalise: bool = True
) -> Templates:
    """One unit embedding for each template: the mean over its media of the mean over the pictures of a medium.

    So a video counts as much as a still, however many frames of it there are. Media are numbered within a template: the
    same number in two templates is two media here, which gives the same.

    Args:
        embeddings: [n, d] of pictures, in memory or mapped.
        templates: [n] id of the template of each picture.
        media: [n] id of the medium of each picture.
        normalise: bring the embeddings of pictures to unit length first, so that each counts the same. False leaves a
            picture the weight that its length gives it, which insightface's script does by default; besides, that
            multiplies by the score of the face detector, which nothing here knows. So numbers of the three differ.
    Raises:
        UserError: arrays that do not fit, or an embedding that is not finite (its row is named).
    Source: Maze et al. 2018 (IJB-C) for templates and media; that media come first is what published evaluations do.
    """
    pictures, owners, sources = np.asanyarray(embeddings), np.asarray(templates), np.asarray(media)
    check_shape(pictures, "embeddings")
    if not len(pictures) or owners.shape != (len(pictures),) or sources.shape != owners.shape:
        raise UserError(
            f"templates and media must be [{len(pictures)}], one for each of one or more embeddings, got "
            f"{list(owners.shape)} and {list(sources.shape)}"
        )
    ids, number = np.unique(owners, return_inverse=True)
    number, medium = number.reshape(-1), np.unique(sources, return_inverse=True)[1].reshape(-1)
    order = np.lexsort((medium, number))
    means = np.empty((len(ids), pictures.shape[1]))
    for first, last, rows in _whole_templates(order, number):
        part = _read(pictures, rows, normalise)
        new_template = np.diff(number[rows], prepend=-1) != 0
        new_medium = new_template | (np.diff(medium[rows], prepend=-1) != 0)
        by_medium = _means(part, np.flatnonzero(new_medium))
        means[first:last] = _means(by_medium, np.flatnonzero(new_template[new_medium]))
    return Templates(ids=ids, units=unit_embeddings(means, "templates"))


def verify_templates(
    templates: Templates,
    left: npt.ArrayLike,
    right: npt.ArrayLike,
    same: npt.ArrayLike,
    *,
    fars: Sequence[float] = IJB_FARS,
    progress: Progress | None = None,
) -> TemplateReport:
    """The IJB-C form (1:1): share of genuine pairs of templates that is accepted at false-accept rates, exact.

    Args:
        left, right: [num_pairs] ids of templates.
        same: [num_pairs] bool, or 0 and 1: whether both are of one person.
        fars: false-accept rates; thresholds by the law of `identify`. Where published code takes the point of a curve
            that is nearest to a rate, this takes the last that does not exceed it.
        progress: is called with pairs done, and in all.
    Raises:
        UserError: arrays that do not fit, a template without pictures, no genuine or no impostor pair, a FAR outside
            [0, 1).
    Source: Maze et al. 2018.
    """
    rates, truth = check_fars(fars), np.asarray(same)
    if truth.ndim != 1 or not (truth.dtype == np.bool_ or np.isin(truth, (0, 1)).all()):
        raise UserError(f"same must be [num_pairs] of 0 and 1, got {list(truth.shape)} {truth.dtype}")
    genuine: Bools = truth.astype(np.bool_)
    scores = _scores(templates, left, right, len(truth), progress)
    num_genuine = int(np.count_nonzero(genuine))
    num_impostor = len(genuine) - num_genuine
    if not num_genuine or not num_impostor:
        raise UserError(
            f"genuine and impostor pairs are needed, got {num_genuine} genuine of {len(genuine)} pairs of templates"
        )
    accepted, rejected = scores[genuine], scores[~genuine]
    return TemplateReport(
        num_templates=len(templates.ids),
        num_genuine=num_genuine,
        num_impostor=num_impostor,
        verification=tuple(verification_point(far, num_impostor, rejected, accepted) for far in rates),
        curve=roc_curve_of_steps(accepted, rejected, STEPS_PER_UNIT).corners(),
    )


def _scores(
    templates: Templates, left: npt.ArrayLike, right: npt.ArrayLike, num: int, progress: Progress | None
) -> Scores:
    rows, columns = (np.asarray(side) for side in (left, right))
    if rows.shape != (num,) or columns.shape != (num,):
        raise UserError(f"left and right must be [{num}], got {list(rows.shape)} and {list(columns.shape)}")
    rows, columns = templates.rows(rows), templates.rows(columns)
    scores = np.empty(num, np.int32)
    for start in range(0, num, PAIRS):
        part = slice(start, start + PAIRS)
        scores[part] = pair_scores(templates.units, templates.units, rows[part], columns[part])
        if progress:
            progress(min(start + PAIRS, num), num)
    return scores


def _whole_templates(order: Ints, number: Ints) -> Iterator[tuple[int, int, Ints]]:
    """First template, the one after the last, and the pictures of some templates, in order."""
    starts = np.append(np.flatnonzero(np.diff(number[order], prepend=-1)), len(order))
    first = 0
    while first < len(starts) - 1:
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + ROWS, "right")) - 1)
        yield first, last, order[starts[first] : starts[last]]
        first = last


def _read(pictures: npt.NDArray[Any], rows: Ints, normalise: bool) -> Floats:
    """[rows, d] embeddings of pictures."""
    units = unit_embeddings(pictures[rows], "embeddings", rows)  # which names what is not finite
    return (units if normalise else pictures[rows]).astype(np.float64)


def _means(values: Floats, starts: Ints) -> Floats:
    """[len(starts), d] means of the rows from each start to the next."""
    counts = np.diff(starts, append=len(values))
    return np.asarray(np.add.reduceat(values, starts, axis=0) / counts[:, None], np.float64)
