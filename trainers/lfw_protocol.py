"""Verification in the form of LFW: listed pairs in ten folds, each judged at the threshold of the others.

Source: Huang et al. 2007, Labeled Faces in the Wild, view 2; CALFW, CPLFW, SLLFW, AgeDB-30, CFP and RFW have its form.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from search_space.errors import UserError
from trainers.config import PairsConfig
from trainers.data.verification_set import ListedPairs, VerificationSet
from trainers.metrics import Metric
from trainers.protocol import Embedded, Measure, PictureSet, Progress, ProtocolResult, held
from trainers.verification import cosine_scores, fold_thresholds, verification_report
from trainers.verification.roc_curve import roc_curve

FARS = (1e-1, 1e-2, 1e-3, 1e-4)
NUM_BOOTSTRAP = 200


class LfwProtocol:
    """Accuracy over folds, thresholds, TAR at FARs, AUC of one set of pairs.

    Args:
        pairs: `key1 key2 1|0` per line, equal folds in file order.
        fars: rates that TAR is wanted at; one that stands for less than one impostor pair cannot be told.
    """

    has_curve = True

    def __init__(
        self, name: str, lmdb: Path, pairs: Path, *, num_folds: int = 10, fars: tuple[float, ...] = FARS,
        num_bootstrap: int = NUM_BOOTSTRAP,
    ) -> None:  # fmt: skip
        self.name, self.lmdb, self.pairs, self.num_folds = name, lmdb, pairs, num_folds
        self.fars, self.num_bootstrap = fars, num_bootstrap

    @cached_property
    def _set(self) -> VerificationSet:
        config = PairsConfig(lmdb=(str(self.lmdb),), pairs=(str(self.pairs),), num_folds=self.num_folds)
        return VerificationSet(config, 0, "", 112)

    @property
    def listed(self) -> ListedPairs:
        """The pairs.

        Raises:
            UserError: the pairs file cannot be used.
        """
        assert self._set.listed
        return self._set.listed

    def needs(self) -> tuple[PictureSet, ...]:
        """The distinct pictures of the pairs, in the order of their first appearance.

        Raises:
            UserError: the pairs file cannot be used.
        """
        return (PictureSet(name=self.name, lmdb=self.lmdb, keys=self._set.keys),)

    def notes(self) -> tuple[str, ...]:
        """None."""
        return ()

    def where(self, name: str, row: int) -> str:
        """The first line of the pairs file with the picture of a row."""
        line = int(self.listed.lines[((self.listed.left == row) | (self.listed.right == row)).argmax()])
        return f"line {line} of {self.pairs}"

    def evaluate(self, embeddings: Mapping[str, Embedded], progress: Progress | None = None) -> ProtocolResult:
        """Pairs with a picture that was skipped (a row of NaN) are left out, and counted.

        Raises:
            UserError: nothing is left of a fold, or of one kind of pair in it.
        """
        listed, usable, vectors = self.listed, embeddings[self.name].usable, held(embeddings[self.name])
        kept = usable[listed.left] & usable[listed.right]
        same, fold = listed.same[kept], listed.fold[kept]
        self._refuse_empty_folds(same, fold)
        scores = cosine_scores(np.where(usable[:, None], vectors, 0), listed.left[kept], listed.right[kept])
        counts = {"pictures": len(vectors), "pairs": len(same), "genuine": int(same.sum())}
        counts |= {"skipped_pictures": int((~usable).sum()), "skipped_pairs": int((~kept).sum())}
        return ProtocolResult(measures=self._measures(scores, same, fold), counts=counts, curve=roc_curve(scores, same))

    def _measures(
        self, scores: npt.NDArray[np.float64], same: npt.NDArray[np.bool_], fold: npt.NDArray[np.int64]
    ) -> tuple[Measure, ...]:
        tars = {str(Metric(kind="tar", far=far)): far for far in self.fars}
        num_impostor = int((~same).sum())
        told = [name for name, far in tars.items() if far * num_impostor >= 1 - 1e-9]  # 1e-3 of 1000 pairs is one
        found = verification_report(scores, same, fold, ["accuracy", *told, "auc"], self.num_bootstrap)

        def measure(name: str, *, headline: bool = False) -> Measure:
            error = found.get(f"{name}_se")
            return Measure(name=name, value=found.get(name), standard_error=error, headline=headline)

        thresholds = fold_thresholds(scores, same, fold)
        return (
            measure("accuracy", headline=True),
            Measure(name="threshold", value=float(thresholds.mean())),
            *map(measure, tars),
            measure("auc"),
        )

    def _refuse_empty_folds(self, same: npt.NDArray[np.bool_], fold: npt.NDArray[np.int64]) -> None:
        for number in range(self.num_folds):
            if len(set(same[fold == number].tolist())) < 2:
                raise UserError(
                    f"{self.pairs}: expected both kinds of pairs in each of {self.num_folds} folds, got one kind alone "
                    f"or none in fold {number} after pictures that do not decode were skipped"
                )
