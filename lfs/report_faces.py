"""What the final model makes of its test pictures, where they are still there: ROC and the hardest pairs."""

import base64
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt
import torch

from lfs.data_digest import refuse_other_data
from lfs.report_run import Run
from search_space.errors import UserError
from trainers.config import PairsConfig
from trainers.data.verification_set import VerificationSet
from trainers.embedder import Embedder
from trainers.numerics import numerics
from trainers.validation import EmbeddingsNotFiniteError, Validation
from trainers.verification import cosine_scores
from trainers.verification.roc_curve import RocCurve, roc_curve

NUM_HARDEST = 8
"""Pairs of each kind and set that are shown."""
MAX_SETS = 4
MAX_SIDE = 112
"""Of a picture in the report, pixels."""
QUALITY = 85
MAX_PAIRS = 10**7
"""Of all pairs of labelled pictures, for a ROC."""

Progress = Callable[[int, int], None]
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class HardPair:
    """A pair that the model gets wrong, or nearly."""

    place: str
    """Its set."""

    same: bool
    cosine: float
    keys: tuple[str, str]
    pictures: tuple[str, str]
    """As `data:` URIs."""


@dataclass(frozen=True, kw_only=True)
class Faces:
    """What the test pictures came to."""

    curves: dict[str, RocCurve]
    hardest: tuple[HardPair, ...]


def look_at_faces(run: Run, progress: Progress) -> Faces:
    """Put the test pictures through the final model.

    The files must be those that the run was started with, by their digests: paths in a run from elsewhere lead to
    nobody's own files.

    Args:
        progress: told of pictures that are done, of all.
    Raises:
        UserError: why that cannot be done: no final model, its weights or the pictures are gone, or are others.
    """
    from lfs.model_file import model_of_run  # with comparisons and their statistics, which take seconds to import

    config = run.config
    if run.result is None:
        raise UserError("the test pictures are for the final model alone, which is not there yet")
    if not config.data.test.lmdb:
        raise UserError("the run has no test sets")
    if run.store.load_digest() is None:
        raise UserError("the run does not record what its test sets were, so they cannot be looked at again")
    data = replace(config.data, train=(), train_list=(), reward=PairsConfig())
    refuse_other_data(run.store, data, within="data.test")
    model = model_of_run(run.store, run.result["generation"] + 1).load()
    sets = Validation("test", data, config.reward)
    embedder = Embedder(model, flip=config.reward.flip_average)
    done, total = 0, sum(len(one.keys) for one in sets.sets)

    def forward(images: torch.Tensor) -> torch.Tensor:
        nonlocal done
        made = torch.from_numpy(embedder(images))
        done += len(images)
        progress(done, total)
        return made

    with numerics(config.trainer):
        try:
            embedded = sets.embed(forward, sets.test_metrics)
        except EmbeddingsNotFiniteError:
            raise UserError("the final model gives embeddings that are not finite") from None
    curves: dict[str, RocCurve] = {}
    hardest: list[HardPair] = []
    for one, vectors in zip(sets.sets[:MAX_SETS], embedded, strict=False):
        for kind, left, right, same in _pairs_of(one):
            cosines = cosine_scores(np.nan_to_num(vectors), left, right)
            curves[f"{one.name}, {kind}"] = roc_curve(cosines, same)
            if len(hardest) < 2 * NUM_HARDEST * MAX_SETS and not any(pair.place == one.name for pair in hardest):
                hardest += _hardest(one, left, right, same, cosines)
    return Faces(curves=curves, hardest=tuple(hardest))


def _pairs_of(one: VerificationSet) -> list[tuple[str, Integers, Integers, npt.NDArray[np.bool_]]]:
    """(kind, left, right, same) of the pairs of a set; all pairs only where there are not too many."""
    found = [("listed pairs", one.listed.left, one.listed.right, one.listed.same)] if one.listed else []
    if one.labelled and len(one.labelled) * (len(one.labelled) - 1) // 2 <= MAX_PAIRS:
        left, right = np.triu_indices(len(one.labelled), 1)
        labels, rows = one.labelled.labels, one.labelled.rows
        found.append(("all pairs", rows[left], rows[right], labels[left] == labels[right]))
    return found


def _hardest(
    one: VerificationSet,
    left: Integers,
    right: Integers,
    same: npt.NDArray[np.bool_],
    cosines: Floats,
) -> list[HardPair]:
    """Genuine pairs that are least alike, and impostor pairs that are most alike."""
    order = np.argsort(cosines, kind="stable")
    chosen = [*order[same[order]][:NUM_HARDEST], *order[~same[order]][::-1][:NUM_HARDEST]]
    return [
        HardPair(
            place=one.name, same=bool(same[i]), cosine=float(cosines[i]),
            keys=(one.keys[left[i]], one.keys[right[i]]),
            pictures=(_picture(one, int(left[i])), _picture(one, int(right[i]))),
        )
        for i in chosen
    ]  # fmt: skip


def _picture(one: VerificationSet, row: int) -> str:
    [picture] = one.pictures.read(np.array([row]))
    if len(picture) > MAX_SIDE:
        picture = cv2.resize(picture, (MAX_SIDE, MAX_SIDE), interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"
