"""The table of an evaluation in the paper's layout: methods down, sets across; and the same numbers for programs.

Layout: Wang et al. 2020, arXiv 2007.06542, its tables of verification results.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import pandas as pd
from rich.console import Console

from lfs.evaluation import ModelResult
from lfs.sheet import Column, Sheet, is_fraction, metric_title
from trainers.protocol import Measure


@dataclass(frozen=True, kw_only=True)
class Number:
    """One measure of one row: the mean over its models."""

    value: float
    """NaN: the set cannot tell."""

    se: float
    """Over models if there are several, else over folds or resamples; NaN: not known."""

    def text(self, name: str) -> str:
        """For a cell: fractions in %."""
        if math.isnan(self.value):
            return "-"
        unit, digits = (100, 2) if is_fraction(name) else (1, 4)
        se = "" if math.isnan(self.se) else f" ± {self.se * unit:.{digits}f}"
        return f"{self.value * unit:.{digits}f}{se}"


@dataclass(frozen=True, kw_only=True)
class EvaluationTable:
    """What all models came to in all protocols.

    Args:
        results: those with the same label (seeds of one method) become one row.
        titles: of the protocols by name, in the order of the columns.
    """

    results: Sequence[ModelResult]
    titles: Mapping[str, str]

    @property
    def labels(self) -> list[str]:
        """The rows."""
        return list(dict.fromkeys(result.label for result in self.results))

    def number(self, label: str, protocol: str, measure: str) -> Number:
        """One measure of one row."""
        found = [
            m
            for r in self.results
            if r.label == label
            for m in r.results[protocol].measures
            if m.name == measure and m.value is not None
        ]
        values = [m.value for m in found if m.value is not None]
        if not values:
            return Number(value=math.nan, se=math.nan)
        own = found[0].standard_error
        alone = math.nan if own is None else own
        return Number(value=fmean(values), se=stdev(values) / math.sqrt(len(values)) if len(values) > 1 else alone)

    def as_text(self, console: Console) -> None:
        """Print both tables, wrapped where the console is narrow."""
        for sheet in self._sheets():
            sheet.as_text(console)
            console.print()

    def as_markdown(self) -> str:
        """Both tables."""
        return "\n".join(sheet.as_markdown() for sheet in self._sheets())

    def as_frame(self) -> pd.DataFrame:
        """One row per model, set and measure, numbers unrounded: a score is a fraction, not a percentage."""
        records = [
            {"method": r.label, "model": r.source, "set": name, "measure": m.name, "value": m.value}
            | {"standard_error": m.standard_error}
            for r in self.results
            for name, result in r.results.items()
            for m in result.measures
        ]
        return pd.DataFrame(records, columns=["method", "model", "set", "measure", "value", "standard_error"])

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {"models": [_model_dict(result) for result in self.results], "titles": dict(self.titles)}

    def _sheets(self) -> list[Sheet]:
        return [self._headlines(), self._details()]

    def _measures(self, protocol: str, headline: bool) -> list[Measure]:
        return [m for m in self.results[0].results[protocol].measures if m.headline == headline]

    def _headlines(self) -> Sheet:
        columns = []
        for name, title in self.titles.items():
            measures = self._measures(name, headline=True)
            plain = [m.name for m in measures] == ["accuracy"]
            group = [
                self._column(name, m.name, title if plain else f"{title}\n{metric_title(m.name)}") for m in measures
            ]
            columns.append(tuple(group))
        judged = self._judged()
        if len(judged) > 1:
            means = [fmean(self.number(label, n, "accuracy").value for n in judged) for label in self.labels]
            columns.append((_marked("average", [Number(value=m, se=math.nan) for m in means], "accuracy"),))
        what = "Accuracy" if len(judged) == len(self.titles) else "Accuracy and rates" if judged else "Rates"
        folds = "over folds" if what == "Accuracy" else "over folds of accuracy"
        spreads = ["over the models of a row where there are several"] * (len(self.labels) < len(self.results))
        spreads += [folds] * bool(judged)
        caption = f"{what} in %" + (f", mean ± standard error {', else '.join(spreads)}" if spreads else "") + "."
        caption += " Bold, or *: best of the column." if len(self.labels) > 1 else ""
        plain = all("@" not in m.name for n in self.titles for m in self._measures(n, headline=True))
        title = "Verification" if plain else "Identification and verification"
        return Sheet(
            title=title, caption=caption, keys=(Column(header="method", cells=tuple(self.labels), left=True),),
            groups=tuple(columns),
        )  # fmt: skip

    def _judged(self) -> list[str]:
        """Protocols whose pairs are judged, in folds."""
        return [n for n in self.titles if any(m.name == "accuracy" for m in self._measures(n, headline=True))]

    def _details(self) -> Sheet:
        rows = [(label, name) for name in self.titles for label in self.labels]
        names = list(dict.fromkeys(m.name for n in self.titles for m in self._measures(n, headline=False)))
        groups = []
        for measure in names:
            cells = tuple(self._cell(label, name, measure) for label, name in rows)
            groups.append((Column(header=metric_title(measure), cells=cells),))
        for what in ("pairs", "probes", "distractors"):
            numbers = [self._counts(label, name).get(what) for label, name in rows]
            if any(numbers):
                groups.append((Column(header=what, cells=tuple("" if n is None else f"{n:,}" for n in numbers)),))
        keys = (
            Column(header="method", cells=tuple(label for label, _ in rows), left=True),
            Column(header="set", cells=tuple(self.titles[name] for _, name in rows), left=True),
        )
        folds = ", mean over folds where there are some" if self._judged() else ""
        caption = f"Rates and AUC in %; thresholds: cosines{folds}; -: too few impostor pairs to tell."
        return Sheet(title="Set by set", caption=caption, keys=keys, groups=tuple(groups))

    def _cell(self, label: str, protocol: str, measure: str) -> str:
        """A measure; empty if the protocol has none of that name."""
        if all(m.name != measure for m in self._measures(protocol, headline=False)):
            return ""
        return self.number(label, protocol, measure).text(measure)

    def _counts(self, label: str, protocol: str) -> dict[str, int]:
        return next(r for r in self.results if r.label == label).results[protocol].counts

    def _column(self, protocol: str, measure: str, header: str) -> Column:
        return _marked(header, [self.number(label, protocol, measure) for label in self.labels], measure)


def _marked(header: str, numbers: Sequence[Number], measure: str) -> Column:
    """A column whose best is bold, if there is a choice."""
    best = max((n.value for n in numbers if not math.isnan(n.value)), default=math.nan)
    bold = tuple(n.value == best for n in numbers) if len(numbers) > 1 else ()
    return Column(header=header, cells=tuple(n.text(measure) for n in numbers), bold=bold)


def _model_dict(result: ModelResult) -> dict[str, Any]:
    sets = {}
    for name, found in result.results.items():
        skipped = [pair for one, pairs in result.skipped.items() if one.partition("/")[0] == name for pair in pairs]
        sets[name] = {
            "counts": found.counts,
            "measures": {m.name: {"value": m.value, "standard_error": m.standard_error} for m in found.measures},
            **({"skipped": dict(skipped)} if skipped else {}),
        }
    return {"method": result.label, "model": result.source, "facts": result.facts, "sets": sets}
