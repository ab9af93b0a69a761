"""Cells of comparisons that nobody trained, and the tables of them."""

import io
import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich.console import Console

from lfs.table import Comparison, Row, compare_methods

TAR = "all:tar@far=0.001"
NUM_TRAIN = 1000


def cell(method: str, seed: int, accuracy: float, reward: float = 0.0, **more: Any) -> dict[str, Any]:
    """One row of the frame; `tar` is 0.5 - accuracy / 2, so that the two metrics disagree."""
    searched = more.pop("searched", method in ("search", "random", "am_lfs"))
    point = more.pop("point", "")
    return {
        "method": method, "searched": searched, "point": point,
        "value": float(point.partition("=")[2]) if point else math.nan, "seed": seed, "replicate": 0,
        "reward": reward, "num_images": 40_000 if searched else 10_000, "diverged": False, "reason": "",
        "test:accuracy": accuracy, f"test:{TAR}": 0.5 - accuracy / 2, **more,
    }  # fmt: skip


def diverged(method: str, seed: int, **more: Any) -> dict[str, Any]:
    lost = {"diverged": True, "reason": "loss is not finite", "num_images": 2000, f"test:{TAR}": math.nan}
    return cell(method, seed, math.nan, math.nan, **lost, **more)


def small_frame() -> pd.DataFrame:
    """Softmax; AM at 0.1 (best by test accuracy) and 0.2 (best by reward); a search. Seeds 0, 1, 2."""
    rows = []
    for seed, luck in enumerate((0.00, 0.01, 0.03)):
        rows += [
            cell("search", seed, 0.90 + luck, 0.5),
            cell("am", seed, 0.80 + 2 * luck, 0.40 - luck, point="margin=0.2"),
            cell("am", seed, 0.85 + luck * luck, 0.20 + luck, point="margin=0.1"),
            cell("softmax", seed, 0.70 - luck, 0.1),
        ]
    return pd.DataFrame(rows)


def compared(frame: pd.DataFrame, metrics: Sequence[str] = ("accuracy", TAR), **more: Any) -> Comparison:
    return compare_methods(frame, metrics, **{"population": 2, "num_train_images": NUM_TRAIN, **more})


def row(table: Comparison, view: str, method: str) -> Row:
    [found] = [r for v in table.views if v.key == view for r in v.rows if r.method == method]
    return found


def text_of(what: Any, width: int = 80, terminal: bool = False) -> str:
    file = io.StringIO()
    what.as_text(Console(file=file, width=width, highlight=False, force_terminal=terminal))
    return file.getvalue()
