"""How the runs of a comparison ended."""

from collections.abc import Collection
from dataclasses import dataclass

import pydantic

from lfs.run_store import RunStore
from search_space.errors import UserError

OUTCOME = "outcome.json"
"""Written last: scores of the final model, or why there is none. A cell that has it is not run again."""


@dataclass(frozen=True, kw_only=True)
class CellOutcome:
    """How a cell ended."""

    reward: float
    """On the reward pairs, of the final model; NaN if it diverged."""

    test: dict[str, float]
    num_images: int
    """Training pictures seen by all candidates."""

    diverged: bool = False
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class KeptScore:
    """One metric of a generation's model."""

    value: float
    replicates: list[float]


def scores_file(generation: int) -> str:
    """Where a cell keeps further scores of a generation's model."""
    return f"scores-{generation:06d}.json"


def outcome_of(store: RunStore) -> CellOutcome | None:
    """The outcome of a cell; None: not finished."""
    if not store.exists(OUTCOME):
        return None
    try:
        return pydantic.TypeAdapter(CellOutcome).validate_python(store.read_json(OUTCOME), strict=False)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise UserError(
            f"{store.uri}/{OUTCOME}: not an outcome: {where}: {first['msg']}; delete it to finish the cell anew"
        ) from None


def scores_of(store: RunStore, generation: int, metrics: Collection[str]) -> dict[str, KeptScore] | None:
    """Further scores of a generation's model, by metric; None: not measured.

    Args:
        metrics: what must have been measured.

    Raises:
        UserError: the file is damaged.
    """
    file = scores_file(generation)
    if not store.exists(file):
        return None
    damage = f"{store.uri}/{file}: not the scores of {', '.join(metrics)}: "
    try:
        scores = pydantic.TypeAdapter(dict[str, KeptScore]).validate_python(store.read_json(file))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{damage}{where}: {first['msg']}; delete it to measure anew") from None
    if set(scores) != set(metrics) or len({len(score.replicates) for score in scores.values()}) != 1:
        raise UserError(f"{damage}it has {', '.join(scores) or 'none'}; delete it to measure anew")
    return scores
