"""Names of metrics: what is measured, and on which pairs."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from search_space.errors import require

if TYPE_CHECKING:
    from trainers.config import PairsConfig

USUAL_METRICS = (
    "accuracy", "auc", "d_prime", "tar@far=0.1", "tar@far=0.01", "tar@far=0.001",
    "all:auc", "all:d_prime", "all:tar@far=0.001", "all:tar@far=0.0001", "all:tar@far=0.00001",
)  # fmt: skip
"""What a final model is tested on unless somebody says otherwise."""

_FAR = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e-?[0-9]+)?"
_NAME = re.compile(rf"(all:)?(?:(accuracy|auc|d_prime)|tar@far=({_FAR}))")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric. `str()` is its name in reports, where equal rates are spelled alike: `all:tar@far=0.0001`."""

    kind: str
    """`accuracy`, `auc`, `d_prime` or `tar`."""

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
        match = _NAME.fullmatch(text)
        law = f"{setting} must be `accuracy`, `auc`, `d_prime` or `tar@far=F`, after `all:` if meant for all pairs"
        require(match is not None, law, text)
        assert match is not None
        far = float(match[3]) if match[3] else None
        require(far is None or 0 < far < 1, f"the far in {setting} must be in (0, 1)", text)
        return cls(kind=match[2] or "tar", far=far, all_pairs=match[1] is not None)

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


def can_give(metric: Metric, sets: "PairsConfig") -> bool:
    """Whether the files that a metric needs are configured."""
    return bool(sets.labels if metric.all_pairs else sets.pairs)


def possible_metrics(sets: "PairsConfig") -> tuple[str, ...]:
    """The usual metrics that configured files can give, if they hold enough pairs."""
    return tuple(name for name in USUAL_METRICS if can_give(Metric.parse(name), sets))
