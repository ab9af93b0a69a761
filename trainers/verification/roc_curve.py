"""The whole receiver operating characteristic, exact: every step that the scores can make."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainers.verification.pairs import Floats, Ints, SortedPairs

Steps = npt.NDArray[np.int32]


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
    values, starts = np.unique(pairs.scores, return_index=True)
    genuine = np.add.reduceat(pairs.same.astype(np.int64), starts)
    return _curve(values, genuine, np.diff(starts, append=len(pairs.scores)) - genuine)


def roc_curve_of_steps(genuine: Steps, impostor: Steps, steps_per_unit: int) -> RocCurve:
    """`roc_curve` of scores that are whole numbers of steps: they are counted, not sorted, so millions take little.

    Args:
        genuine, impostor: [pairs] scores, one or more of each kind.
        steps_per_unit: steps from 0 to the threshold 1.
    """
    low = min(int(side.min()) for side in (genuine, impostor))
    span = max(int(side.max()) for side in (genuine, impostor)) - low + 1
    of_genuine, of_impostor = (np.bincount(side - low, minlength=span) for side in (genuine, impostor))
    there = np.flatnonzero(of_genuine + of_impostor)
    return _curve((there + low) / steps_per_unit, of_genuine[there], of_impostor[there])


def _curve(values: Floats, genuine: Ints, impostor: Ints) -> RocCurve:
    """From the distinct scores, rising, and the numbers of pairs that have them, [n] each."""
    accepted = [np.concatenate(([0], np.cumsum(side[::-1]))) for side in (genuine, impostor)]
    num_genuine, num_impostor = (int(side[-1]) for side in accepted)
    return RocCurve(
        fars=accepted[1] / num_impostor,
        tars=accepted[0] / num_genuine,
        thresholds=np.append(values[::-1], -np.inf),
        num_genuine=num_genuine,
        num_impostor=num_impostor,
    )
