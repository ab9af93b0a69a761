"""The table of a comparison, as in the paper: methods down, test metrics across, mean ± standard error over seeds.

It asks one question three times, each time with the best in bold and a paired test against the best other row:

* `chosen`: each hand-crafted loss at the grid point with the best mean reward over seeds. Test scores have no say, as
  nobody has them when the choice is made.
* `best`: each hand-crafted loss at the grid point that turned out best in that very test metric. Nobody could have
  chosen so: an advantage over the search, which a search that is worth its cost beats all the same.
* `equal_cost`: the best by reward of B independent trainings of each hand-crafted loss against one search with B
  candidates; the expectation over all choices of B from the trainings that exist.

Layout: Wang et al. 2020, arXiv 2007.06542, its tables of verification results.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pandas as pd
from rich.console import Console
from rich.text import Text

from lfs.scores import (
    REWARD,
    Cell,
    Estimate,
    best_point,
    display_name,
    equal_cost_estimate,
    estimate,
    first_runs,
    mean_images,
    method_place,
    paired_difference,
    points_of,
    read_cells,
)
from lfs.sheet import Column, Sheet, epochs_text, metric_title, number_text, p_text, score_text, short_point


@dataclass(frozen=True, kw_only=True)
class Score:
    """One score of one row, and how it stands against the other rows."""

    estimate: Estimate
    best: bool
    """Best mean of the column, among the rows with the most seeds."""

    p: float
    """Of the paired t-test against `rival`; NaN below 2 common seeds."""

    rival: str
    """Method of the best other row; empty if there is none."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method in one of the three views."""

    method: str
    point: str
    """Grid point, if it is one for all metrics."""

    scores: tuple[Score, ...]
    """One for each metric."""

    epochs: float
    """Training pictures of one training, or of all candidates of one search, in passes over the training set."""

    total_epochs: float
    """The same of everything that the row's scores took: the whole grid, or B trainings."""


@dataclass(frozen=True, kw_only=True)
class View:
    """All methods under one of the three questions."""

    key: str
    title: str
    caption: str
    rows: tuple[Row, ...]

    def has_grid(self) -> bool:
        """Whether any row's scores took more than one training or search."""
        return any(row.total_epochs > row.epochs for row in self.rows)


@dataclass(frozen=True, kw_only=True)
class GridRow:
    """One grid point of one loss, or a method without a grid."""

    method: str
    point: str
    chosen: bool
    """Whether it is the one that the reward chose."""

    reward: Estimate
    scores: tuple[Estimate, ...]
    epochs: float


@dataclass(frozen=True, kw_only=True)
class GridTable:
    """Every grid point of every method."""

    rows: tuple[GridRow, ...]
    metrics: tuple[str, ...]
    num_seeds: int

    def as_text(self, console: Console) -> None:
        """Print it, wrapped into several tables where the console is narrow."""
        self._sheet().as_text(console)

    def as_markdown(self) -> str:
        """One Markdown table."""
        return self._sheet().as_markdown()

    def as_frame(self) -> pd.DataFrame:
        """One row per grid point and score, numbers unrounded."""
        records = [
            {"method": row.method, "point": row.point, "chosen": row.chosen, "metric": name, **_numbers(found)}
            | {"epochs": row.epochs}
            for row in self.rows
            for name, found in zip((REWARD, *self.metrics), (row.reward, *row.scores), strict=True)
        ]
        return pd.DataFrame(records)

    def _sheet(self) -> Sheet:
        keys = (
            _column("method", (display_name(row.method) for row in self.rows), left=True),
            _column(
                "grid point", (row.point + " *" * (row.chosen and bool(row.point)) for row in self.rows), left=True
            ),
        )
        reward = _column("reward", (number_text(row.reward, self.num_seeds, 1, 4) for row in self.rows))
        groups = [(reward,)]
        for i, metric in enumerate(self.metrics):
            texts = (score_text(row.scores[i], metric, self.num_seeds) for row in self.rows)
            groups.append((_column(metric_title(metric), texts),))
        groups.append((_column("cost", (epochs_text(row.epochs) for row in self.rows)),))
        caption = f"Mean ± standard error over {_seeds(self.num_seeds)}; * best mean reward, which is what chooses."
        return Sheet(title="Every grid point", caption=caption, keys=keys, groups=tuple(groups))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The table: three views on the same methods, the grid behind them, and what is missing."""

    views: tuple[View, ...]
    grid: GridTable
    metrics: tuple[str, ...]
    num_seeds: int
    notes: tuple[str, ...]
    """A line for each method and kind of missing or diverged cells."""

    def as_text(self, console: Console) -> None:
        """Print the views, notes and legend, wrapped into several tables where the console is narrow."""
        for view in self.views:
            self._sheet(view).as_text(console)
            console.print()
        for line in (*self.notes, *self.legend()):
            console.print(Text(line))

    def as_markdown(self) -> str:
        """One Markdown table per view, notes and legend."""
        lines = [f"* {line.replace('|', chr(92) + '|')}" for line in (*self.notes, *self.legend())]
        return "\n".join([*(self._sheet(view).as_markdown() for view in self.views), *lines, ""])

    def as_frame(self) -> pd.DataFrame:
        """One row per view, method and metric, numbers unrounded: a score is a fraction, not a percentage."""
        records = [
            {"view": view.key, "method": row.method, "name": display_name(row.method), "metric": metric}
            | {"point": score.estimate.point, **_numbers(score.estimate), "best": score.best, "p": score.p}
            | {"rival": score.rival, "epochs": row.epochs, "total_epochs": row.total_epochs}
            for view in self.views
            for row in view.rows
            for metric, score in zip(self.metrics, row.scores, strict=True)
        ]
        return pd.DataFrame(records)

    def legend(self) -> list[str]:
        """What the signs mean."""
        cut = any(0 < len(s.estimate.values) < self.num_seeds for v in self.views for r in v.rows for s in r.scores)
        spread = ["± standard error of the mean over seeds."] if self.num_seeds > 1 else []
        tested = (
            "p: two-sided paired t-test over common seeds against the best other row of the column, not corrected "
            "for the number of rows."
        )
        return [
            f"{_seeds(self.num_seeds)}. Accuracy, AUC and TAR in %. Bold, or *: best mean of the column.",
            *spread,
            *([tested] if self.num_seeds > 1 else ["One seed: no standard error, and no test of any difference."]),
            *(["(k/n): k of n seeds came through; such a row is not called the best of complete ones."] if cut else []),
            "cost, in epochs: training pictures seen, by all candidates of a search, / size of the training set"
            + ("; with grid: by all grid points that the choice was among." if self.views[0].has_grid() else "."),
        ]

    def _sheet(self, view: View) -> Sheet:
        keys = [_column("method", (display_name(row.method) for row in view.rows), left=True)]
        if view.key == "chosen" and any(row.point for row in view.rows):
            keys.append(_column("grid point", (row.point for row in view.rows), left=True))
        groups = [self._metric_columns(view, i) for i in range(len(self.metrics))]
        totals = tuple(epochs_text(row.total_epochs) for row in view.rows)
        cost = [_column("cost", totals)]
        if view.key == "chosen":
            cost = [_column("cost", (epochs_text(row.epochs) for row in view.rows))]
            if view.has_grid():
                cost.append(_column("with\ngrid", totals))
        return Sheet(title=view.title, caption=view.caption, keys=tuple(keys), groups=(*groups, tuple(cost)))

    def _metric_columns(self, view: View, i: int) -> tuple[Column, ...]:
        metric, scores = self.metrics[i], [row.scores[i] for row in view.rows]
        texts = tuple(score_text(score.estimate, metric, self.num_seeds) for score in scores)
        columns = [Column(header=metric_title(metric), cells=texts, bold=tuple(score.best for score in scores))]
        if view.key == "best":
            columns.append(_column("at", (short_point(score.estimate.point) for score in scores), left=True))
        if any(score.p == score.p for score in scores):
            columns.append(_column("p", (p_text(score.p) for score in scores)))
        return tuple(columns)


def compare_methods(
    frame: pd.DataFrame,
    metrics: Sequence[str],
    *,
    population: int,
    num_train_images: int,
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> Comparison:
    """The table of the cells that are finished.

    Args:
        frame: one row per cell: method, searched, point, value, seed, replicate, reward, num_images, diverged, reason,
            and `test:METRIC` for each metric.
        metrics: what to show, in this order.
        population: B, for the column of equal total cost.
        num_train_images: size of the training set.
        methods, seeds: what the comparison will have, so that what is not there yet is shown as missing; those in
            the frame always belong to it.
    Raises:
        UserError: a metric that was not tested.
        ValueError: columns of the frame are not there, or a cell is there twice.
    """
    cells = read_cells(frame, metrics)
    all_seeds = sorted({*seeds, *(cell.seed for cell in cells)})
    of = {cell.method: [c for c in cells if c.method == cell.method] for cell in cells}
    searched = {method: bool(of.get(method)) and of[method][0].searched for method in {*methods, *of}}
    groups = {method: of.get(method, []) for method in sorted(searched, key=lambda m: method_place(m, searched[m]))}
    build = _Builder(groups=groups, metrics=tuple(metrics), population=population, num_train_images=num_train_images)
    return Comparison(
        views=(build.chosen(), *([build.best()] if build.has_grid else []), build.equal_cost()),
        grid=GridTable(rows=tuple(build.grid_rows()), metrics=tuple(metrics), num_seeds=len(all_seeds)),
        metrics=tuple(metrics),
        num_seeds=len(all_seeds),
        notes=tuple(line for method in groups for line in _notes(method, groups[method], all_seeds)),
    )


@dataclass(frozen=True, kw_only=True)
class _Builder:
    groups: dict[str, list[Cell]]
    metrics: tuple[str, ...]
    population: int
    num_train_images: int

    @property
    def has_grid(self) -> bool:
        return any(len(points_of(group)) > 1 for group in self.groups.values())

    def chosen(self) -> View:
        points = {method: best_point(group, REWARD) for method, group in self.groups.items()}
        choice = "Each hand-crafted loss at the grid point with the best mean reward; test scores have no say."
        return View(
            key="chosen",
            title="At the margin that the reward chose" if self.has_grid else "Test scores",
            caption=choice
            if self.has_grid
            else "One training of each hand-crafted loss, or one search, for each seed.",
            rows=self._rows(lambda m, name: estimate(self.groups[m], points[m], name), points, self._grid_epochs),
        )

    def best(self) -> View:
        groups = self.groups
        return View(
            key="best",
            title="At its best margin",
            caption=(
                "Each hand-crafted loss at the grid point that turned out best on the test set itself, metric by "
                "metric: an advantage that nobody has in practice, and that a search must beat to be worth its cost."
            ),
            rows=self._rows(
                lambda m, name: estimate(groups[m], best_point(groups[m], name), name), {}, self._grid_epochs
            ),
        )

    def equal_cost(self) -> View:
        b = self.population
        return View(
            key="equal_cost",
            title=f"At equal total cost, B = {b}",
            caption=(
                f"One search of {b} candidates against the best by reward of {b} independent trainings of each "
                f"hand-crafted loss, expected over all choices of {b} from its trainings; -: it has fewer."
            ),
            rows=self._rows(lambda m, name: equal_cost_estimate(self.groups[m], name, b), {}, self._equal_epochs),
        )

    def grid_rows(self) -> Iterable[GridRow]:
        for method, group in self.groups.items():
            for point in points_of(group) or [""]:
                yield GridRow(
                    method=method,
                    point=point,
                    chosen=bool(group) and point == best_point(group, REWARD),
                    reward=estimate(group, point, REWARD),
                    scores=tuple(estimate(group, point, metric) for metric in self.metrics),
                    epochs=self._epochs(first_runs(group, point)),
                )

    def _rows(
        self, score: Callable[[str, str], Estimate], points: dict[str, str], total: Callable[[str], float]
    ) -> tuple[Row, ...]:
        methods = list(self.groups)
        columns = [compare_column(methods, [score(method, metric) for method in methods]) for metric in self.metrics]
        return tuple(
            Row(
                method=method,
                point=points.get(method, ""),
                scores=tuple(column[i] for column in columns),
                epochs=self._epochs(first_runs(self.groups[method], best_point(self.groups[method], REWARD))),
                total_epochs=total(method) if any(column[i].estimate.values for column in columns) else math.nan,
            )
            for i, method in enumerate(methods)
        )

    def _epochs(self, cells: Sequence[Cell]) -> float:
        return mean_images(cells) / self.num_train_images

    def _grid_epochs(self, method: str) -> float:
        group = self.groups[method]
        return sum(self._epochs(first_runs(group, point)) for point in points_of(group)) if group else math.nan

    def _equal_epochs(self, method: str) -> float:
        group = self.groups[method]
        return self._epochs(group) * (1 if group and group[0].searched else self.population)


def compare_column(methods: Sequence[str], estimates: Sequence[Estimate]) -> list[Score]:
    """Best, rival and p-value of each row of one column."""
    leader = max((e.place() for e in estimates), default=(0, 0.0))
    scores = []
    for i, own in enumerate(estimates):
        others = [j for j, other in enumerate(estimates) if j != i and other.values]
        rival = max(others, key=lambda j: estimates[j].place(), default=None)
        scores.append(
            Score(
                estimate=own,
                best=bool(own.values) and own.place() == leader,
                p=math.nan if rival is None else paired_difference(own, estimates[rival])[1],
                rival="" if rival is None else methods[rival],
            )
        )
    return scores


def _notes(method: str, cells: Sequence[Cell], seeds: Sequence[int]) -> list[str]:
    found: dict[tuple[tuple[int, ...], str], list[str]] = {}
    for point in points_of(cells) or [""]:
        mine = {cell.seed: cell for cell in first_runs(cells, point)}
        lost: dict[str, list[int]] = {}
        for seed in seeds:
            if seed not in mine:
                lost.setdefault("missing", []).append(seed)
            elif mine[seed].diverged:
                lost.setdefault(f"diverged ({mine[seed].reason})" if mine[seed].reason else "diverged", []).append(seed)
        for what, which in lost.items():
            found.setdefault((tuple(which), what), []).append(point)
    return [
        f"{display_name(method)}{' at ' if any(points) else ''}{', '.join(points)}: "
        f"seed{'s' * (len(which) > 1)} {', '.join(map(str, which))} {what}"
        for (which, what), points in found.items()
    ]


def _column(header: str, cells: Iterable[str], left: bool = False) -> Column:
    return Column(header=header, cells=tuple(cells), left=left)


def _numbers(found: Estimate) -> dict[str, float]:
    return {"mean": found.mean, "se": found.se, "num_seeds": len(found.values)}


def _seeds(num: int) -> str:
    return f"{num} seed" + "s" * (num != 1)
