"""The whole receiver operating characteristic, exact: every step that the scores can make."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainers.verification.pairs import Floats, Ints, SortedPairs


@dataclass(frozen=True, eq=False)
class RocCurve:
    """Operating points in falling order of threshold, from one that accepts nothing to one that accepts everything.

    Between two points TAR is that of the one on the left: no threshold gives anything between them.
    """

    fars: Floats
    """[points] share of impostor pairs that is accepted, rising from 0 to 1."""

    tars: Floats
    """[points] share of genuine pairs that is accepted, rising from 0 to 1."""

    thresholds: Floats
    """[points] a pair is accepted if its score is greater; the last one is -inf."""

    num_genuine: int
    num_impostor: int

    def __len__(self) -> int:
        return len(self.fars)

    def corners(self) -> "RocCurve":
        """The points at which the curve turns, and both ends: no point of it is lost, only points inside straight
        runs along one axis.
        """
        up, right = np.diff(self.tars) > 0, np.diff(self.fars) > 0
        turns = (up[1:] != up[:-1]) | (right[1:] != right[:-1]) | (up[1:] & right[1:])
        return self._part(np.concatenate(([True], turns, [True])))

    def thinned(self, lowest_far: float, columns: int = 2000) -> "RocCurve":
        """Few points for a figure with a logarithmic axis of FAR.

        The axis from `lowest_far` to 1 is cut into equal columns, and the first and last point in each of them stay.
        The curve only rises, so nothing moves sideways by more than a column, nor up or down outside one.

        Args:
            lowest_far: in (0, 1); points below it count as one column.
        """
        span = -np.log(lowest_far)
        place = np.log(np.maximum(self.fars, lowest_far) / lowest_far) / span  # [points] in [0, 1]
        column: Ints = np.ceil(place * columns).astype(np.int64)
        changes = np.diff(column) > 0
        return self._part(np.concatenate(([True], changes)) | np.concatenate((changes, [True])))

    def _part(self, kept: npt.NDArray[np.bool_]) -> "RocCurve":
        return RocCurve(
            self.fars[kept], self.tars[kept], self.thresholds[kept], self.num_genuine, self.num_impostor
        )  # fmt: skip


def roc_curve(scores: npt.ArrayLike, same: npt.ArrayLike) -> RocCurve:
    """All operating points of scored pairs: one for every distinct score, and one below the lowest.

    The last point whose FAR is at most f has the threshold and the TAR that `roc_points` gives for f.

    Args:
        scores: [num_pairs] higher is more alike.
        same: [num_pairs] bool, genuine or impostor.
    Raises:
        ValueError: scores that are not finite, no genuine or no impostor pair, arrays that do not fit together.
    """
    pairs = SortedPairs.checked(scores, same)
    values, genuine = pairs.scores[::-1], pairs.same[::-1]  # falling
    last = np.append(np.flatnonzero(np.diff(values) != 0), len(values) - 1)  # of each run of equal scores
    accepted_genuine = np.concatenate(([0], np.cumsum(genuine)[last]))
    accepted = np.concatenate(([0], last + 1))
    num_genuine = int(genuine.sum())
    num_impostor = len(genuine) - num_genuine
    return RocCurve(
        fars=(accepted - accepted_genuine) / num_impostor,
        tars=accepted_genuine / num_genuine,
        thresholds=np.append(values[last], -np.inf),
        num_genuine=num_genuine,
        num_impostor=num_impostor,
    )
