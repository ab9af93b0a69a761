"""Scores of a comparison and what may be said about them: means over seeds, paired tests, the best of B trainings."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtr

from search_space.errors import UserError

REWARD = "reward"
TEST = "test:"
"""What a frame's columns of test metrics begin with."""

HAND_CRAFTED = {
    "softmax": "Softmax", "norm_softmax": "Norm-Softmax", "a_softmax": "A-Softmax", "v_softmax": "V-Softmax",
    "arc": "Arc-Softmax", "am": "AM-Softmax", "mv_arc": "MV-Arc-Softmax", "mv_am": "MV-AM-Softmax",
    "combined": "Combined-Softmax", "curricular": "CurricularFace", "adaface": "AdaFace", "magface": "MagFace",
    "elastic_arc": "ElasticFace-Arc", "elastic_am": "ElasticFace-Cos", "adacos": "AdaCos", "circle": "Circle loss",
}  # fmt: skip
SEARCHED = {"am_lfs": "AM-LFS", "random": "Random-Softmax", "search": "Search-Softmax"}
_ORDER = [*HAND_CRAFTED, *SEARCHED]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One finished training of one loss, or one finished search; one row of the frame."""

    method: str
    searched: bool
    point: str
    value: float
    seed: int
    replicate: int
    num_images: int
    diverged: bool
    reason: str
    scores: dict[str, float]
    """Reward and test metrics by name."""

    def score(self, name: str) -> float:
        """Reward or test metric of the final model; NaN if it diverged."""
        return math.nan if self.diverged else self.scores[name]


def display_name(method: str) -> str:
    """The name in the table; the key itself for a method that has none."""
    return (HAND_CRAFTED | SEARCHED).get(method, method)


def read_cells(frame: pd.DataFrame, metrics: Sequence[str]) -> list[Cell]:
    """The rows of a comparison's frame in the order of the table, whatever order they came in.

    Methods as in the paper, hand-crafted ones before searches, unknown ones behind the known of their kind; then grid
    points from small to large, seeds, replicates.

    Raises:
        UserError: a metric that was not tested.
        ValueError: a column is not there, or a cell is there twice.
    """
    tested = [str(name).removeprefix(TEST) for name in frame.columns if str(name).startswith(TEST)]
    for metric in metrics:
        if metric not in tested:
            raise UserError(f"a metric of the table must be one of those tested ({', '.join(tested)}), got {metric!r}")
    plain = [field for field in Cell.__dataclass_fields__ if field != "scores"]
    if lacking := {*plain, REWARD} - set(frame.columns):
        raise ValueError(f"the frame of a comparison lacks columns: {', '.join(sorted(lacking))}")
    cells = [
        Cell(
            **{name: row[name] for name in plain},
            scores={REWARD: row[REWARD], **{metric: row[TEST + metric] for metric in metrics}},
        )
        for row in frame.to_dict("records")
    ]
    cells.sort(key=_place)
    for a, b in itertools.pairwise(cells):
        if _place(a) == _place(b):
            raise ValueError(f"cell {a.method} {a.point} seed {a.seed} replicate {a.replicate} is there twice")
    return cells


def _place(cell: Cell) -> tuple[object, ...]:
    value = cell.value if math.isfinite(cell.value) else math.inf
    return *method_place(cell.method, cell.searched), value, cell.point, cell.seed, cell.replicate


def method_place(method: str, searched: bool) -> tuple[bool, int, str]:
    """Sort key of a method in the table; `search:SPACE` is a search even if nothing of it is finished."""
    place = _ORDER.index(method) if method in _ORDER else len(_ORDER)
    return searched or method.partition(":")[0] in SEARCHED, place, method


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One score of one method: by seed, and the mean."""

    values: dict[int, float]
    """Score of each seed that has one: neither missing nor diverged."""

    point: str = ""
    """The grid point, if it is one."""

    lacking: str = "missing"
    """What to say if no seed has a score."""

    @property
    def mean(self) -> float:
        """Mean over seeds; NaN without any."""
        return fmean(self.values.values()) if self.values else math.nan

    @property
    def se(self) -> float:
        """Standard error of the mean; NaN below 2 seeds."""
        n = len(self.values)
        return stdev(self.values.values()) / math.sqrt(n) if n > 1 else math.nan

    def place(self) -> tuple[int, float]:
        """By what the best is found: seeds first, so that what diverged, or is still to come, does not lead."""
        return len(self.values), self.mean if self.values else -math.inf


def first_runs(cells: Iterable[Cell], point: str) -> list[Cell]:
    """The cells of one grid point without the replicates that only the equal-cost column is for."""
    return [cell for cell in cells if cell.point == point and cell.replicate == 0]


def estimate(cells: Sequence[Cell], point: str, name: str) -> Estimate:
    """Reward or test metric of one grid point of a method's cells."""
    mine = first_runs(cells, point)
    values = {cell.seed: cell.score(name) for cell in mine if math.isfinite(cell.score(name))}
    return Estimate(values=values, point=point, lacking="diverged" if any(c.diverged for c in mine) else "missing")


def points_of(cells: Iterable[Cell]) -> list[str]:
    """The grid points of a method's cells, in order."""
    return list(dict.fromkeys(cell.point for cell in cells if cell.replicate == 0))


def best_point(cells: Sequence[Cell], name: str) -> str:
    """The grid point with the best mean, among those with the most seeds; the first of equal ones."""
    return max(points_of(cells), key=lambda point: estimate(cells, point, name).place(), default="")


def paired_difference(a: Estimate, b: Estimate) -> tuple[Estimate, float]:
    """a - b over common seeds, and the two-sided p-value of the paired t-test.

    p is NaN below 2 common seeds. Differences without any spread: 1 if they are 0, else 0, the limits of the test.
    """
    difference = Estimate(values={seed: a.values[seed] - b.values[seed] for seed in a.values if seed in b.values})
    n = len(difference.values)
    if n < 2 or not difference.se:
        return difference, math.nan if n < 2 else float(difference.mean == 0)
    return difference, float(2 * stdtr(n - 1, -abs(difference.mean) / difference.se))


def best_of_weights(rewards: npt.ArrayLike, population: int) -> npt.NDArray[np.float64]:
    """How often each of n trainings has the best reward of B that are drawn from them without replacement; exact.

    The training of rank r (from 0) is the best of C(n - 1 - r, B - 1) of the C(n, B) subsets: those that take the
    others from behind it.

    Args:
        rewards: [n], n >= B; NaN is worst; of equal ones the first is better.
    Returns:
        [n], sum 1.
    """
    known = np.asarray(rewards, np.float64)
    [n] = known.shape
    if not 1 <= population <= n:
        raise ValueError(f"B must be in 1..n = {n}, got {population}")
    order = np.argsort(np.where(np.isnan(known), np.inf, -known), kind="stable")  # best first
    weights = np.zeros(n)
    weights[order] = [math.comb(n - 1 - rank, population - 1) / math.comb(n, population) for rank in range(n)]
    return weights


def equal_cost_estimate(cells: Sequence[Cell], name: str, population: int) -> Estimate:
    """Expected test score of the best-by-reward of B trainings, from a method's grid points and replicates together.

    A search has spent as much on one run: its own score. A seed with fewer than B trainings has none.
    """
    values, lacking = {}, "-"
    for seed in sorted({cell.seed for cell in cells}):
        pool = [cell for cell in cells if cell.seed == seed]
        needed = 1 if pool[0].searched else population
        if len(pool) < needed:
            continue
        weights = best_of_weights([cell.score(REWARD) for cell in pool], needed)
        expected = sum(w * cell.score(name) for w, cell in zip(weights, pool, strict=True) if w)
        if math.isfinite(expected):
            values[seed] = float(expected)
        else:
            lacking = "diverged"
    return Estimate(values=values, lacking=lacking)


def mean_images(cells: Sequence[Cell]) -> float:
    """Training pictures of one cell; of those that came to their end, if any did."""
    counts = [cell.num_images for cell in cells if not cell.diverged] or [cell.num_images for cell in cells]
    return fmean(counts) if counts else math.nan
