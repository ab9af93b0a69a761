"""Names of metrics: what is measured, and on which pairs."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from search_space.errors import require, shown
from search_space.plugins import Names, is_path

if TYPE_CHECKING:
    from trainers.config import PairsConfig

USUAL_METRICS = (
    "accuracy", "auc", "d_prime", "tar@far=0.1", "tar@far=0.01", "tar@far=0.001",
    "all:auc", "all:d_prime", "all:tar@far=0.001", "all:tar@far=0.0001", "all:tar@far=0.00001",
)  # fmt: skip
"""What a final model is tested on unless somebody says otherwise."""

_FAR = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e-?[0-9]+)?"
_TAR = re.compile(rf"tar@far=({_FAR})")
_ALL = "all:"

PluginMetric = Callable[[npt.NDArray[np.float64], npt.NDArray[np.bool_]], float]
"""Of the scores of pairs, [num_pairs], rising, and whether each pair is genuine, [num_pairs]; higher is better."""


def _fault(found: object, _: str) -> str:
    """What must be changed in a plug-in's function for it to be a metric; empty: nothing."""
    if not callable(found):
        return f"be a function of (scores, same), got {shown(found)}"
    value = found(np.array([-0.2, 0.1, 0.4, 0.6]), np.array([False, True, False, True]))
    good = isinstance(value, int | float | np.floating) and math.isfinite(value)
    return "" if good else f"give a finite number, got {shown(value)}"


NAMES: Names[PluginMetric] = Names("metric", "lfs.metrics", ("accuracy", "auc", "d_prime"), _fault)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric. `str()` is its name in reports, where equal rates are spelled alike: `all:tar@far=0.0001`."""

    kind: str
    """`accuracy`, `auc`, `d_prime`, `tar`, or the dotted path of a plug-in."""

    far: float | None = None
    """False-accept rate of `tar`."""

    all_pairs: bool = False
    """On all pairs of the labelled pictures, not on the listed ones."""

    @classmethod
    def parse(cls, text: str, setting: str = "metric") -> "Metric":
        """The metric of a name.

        Raises:
            UserError: no such metric, or a rate that is none; `setting` is named.
        """
        everywhere, name = text.startswith(_ALL), text.removeprefix(_ALL)
        if match := _TAR.fullmatch(name):
            far = float(match[1])
            require(0 < far < 1, f"the far in {setting} must be in (0, 1)", text)
            return cls(kind="tar", far=far, all_pairs=everywhere)
        law = f"{setting} must be `accuracy`, `auc`, `d_prime` or `tar@far=F`, after `all:` if meant for all pairs"
        kind = NAMES.spelled(name, law)
        law = f"{setting} of a plug-in is on listed pairs, without `all:` in front"
        require(kind in NAMES.own or not everywhere, law, text)
        return cls(kind=kind, all_pairs=everywhere)

    def __str__(self) -> str:
        return ("all:" if self.all_pairs else "") + (self.kind if self.far is None else f"tar@far={self.far}")


def parse_mean(text: str, setting: str = "metric") -> tuple[Metric, ...]:
    """The metrics of `A+B+...`, which stands for their mean; mostly there is one.

    Raises:
        UserError: as `Metric.parse`, one that is there twice, or metrics of listed and of all pairs together.
    """
    metrics = tuple(Metric.parse(name.strip(), setting) for name in text.split("+"))
    require(len(set(metrics)) == len(metrics), f"the metrics in {setting} must be distinct", text)
    one_kind = len({metric.all_pairs for metric in metrics}) == 1  # their resamples are not the same
    require(one_kind, f"the metrics in {setting} must be all on listed pairs or all on `all:` pairs", text)
    return metrics


def spelled_out(text: str) -> str:
    """`A+B+...` with entry points as dotted paths; everything else stays as it is written."""
    metrics = parse_mean(text)
    return "+".join(map(str, metrics)) if any(is_path(metric.kind) for metric in metrics) else text


def load_plugin(metric: Metric) -> None:
    """Raise `UserError` if a metric is that of a plug-in which cannot be used."""
    if is_path(metric.kind):
        NAMES.plugin(metric.kind)


def can_give(metric: Metric, sets: "PairsConfig") -> bool:
    """Whether the files that a metric needs are configured."""
    return bool(sets.labels if metric.all_pairs else sets.pairs)


def possible_metrics(sets: "PairsConfig") -> tuple[str, ...]:
    """The usual metrics that configured files can give, if they hold enough pairs."""
    return tuple(name for name in USUAL_METRICS if can_give(Metric.parse(name), sets))
