"""What the files of a run hold, checked when they are read: whoever can write them can match their checksums."""

from typing import Annotated, Any

import pydantic

from lfs.messages import SearchState
from search_space.errors import UserError
from trainers.untrusted import parse_json

MAX_GENERATIONS = 10**6
Count = Annotated[int, pydantic.Field(ge=0, lt=2**63)]


class LostWork(pydantic.BaseModel):
    """A candidate that a trainer had and did not bring to its end, in seconds since 1970 (see lfs/timesheet.py)."""

    trainer: str
    candidate: Count
    died: bool
    leased_at: float
    lost_at: float


class Summary(pydantic.BaseModel, extra="allow"):
    """A generation in one line, as `state.json` holds it; further values are kept as they are."""

    generation: Count
    mode: str
    warmup: bool
    candidates: Count
    diverged: Count
    why_diverged: str = ""
    dropped: Count = 0
    tied: bool = False
    rejected: Count
    best_reward: float
    best_reward_se: float | None
    mean_reward: float
    winner: Count
    train_loss: float | None
    winner_margins: list[float]
    winner_loss: dict[str, Any]
    winner_parameters: dict[str, float]
    moved: bool
    parameter_names: list[str]
    policy_mean: list[float]
    policy_std: list[float]
    images_per_s: float = 0.0
    wall_s: float = 0.0
    lost: list[LostWork] = []


class Result(pydantic.BaseModel, extra="allow"):
    """Test scores of the final model, as `result.json` holds them."""

    generation: Count
    test: dict[str, float]


class Event(pydantic.BaseModel, extra="allow"):
    """What was done to a search, as a file of `events/` holds it."""

    action: str = ""
    generation: Count = 0


def state_and_summary(data: bytes, generation: int, place: str) -> tuple[SearchState, dict[str, Any]]:
    """State after a generation, and its summary, from its `state.json`.

    Args:
        place: the file's, for messages.
    Raises:
        UserError: it holds something else, or another generation.
    """
    try:
        values = parse_json(data)
        state = SearchState.from_dict(values["state"])
        summary = summary_of(values["summary"], generation)
        numbers = (state.generation, state.num_images, state.policy.step)
        if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
            raise ValueError("counts must be whole numbers")
        if state.generation != generation + 1:
            raise ValueError("it is another generation's")
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{place}: damaged: expected the state of generation {generation + 1}: {_why(error)}") from None
    return state, summary


def summary_of(values: object, generation: int) -> dict[str, Any]:
    """A generation in one line, from what is stored of it.

    Raises:
        ValueError: it is something else, or another generation's.
    """
    summary = Summary.model_validate(values).model_dump(exclude_unset=True)
    if summary["generation"] != generation:
        raise ValueError("it is another generation's")
    if len({len(summary[name]) for name in ("parameter_names", "policy_mean", "policy_std")}) != 1:
        raise ValueError("policy_mean and policy_std must have one value for each of parameter_names")
    return summary


def result_of(values: dict[str, Any], place: str) -> dict[str, Any]:
    """The final model's test scores, from what `result.json` holds.

    Raises:
        UserError: it holds something else.
    """
    try:
        return Result.model_validate(values).model_dump()
    except (ValueError, OverflowError) as error:
        raise UserError(
            f"{place}: damaged: expected `generation` and `test` ({_why(error)}); delete it to test again"
        ) from None


def event_of(values: dict[str, Any], place: str) -> dict[str, Any]:
    """What was done to a search, from what a file of `events/` holds.

    Raises:
        UserError: it holds something else.
    """
    try:
        return Event.model_validate(values).model_dump(exclude_unset=True)
    except (ValueError, OverflowError) as error:
        raise UserError(f"{place}: damaged: expected an `action`, and a `generation` if any ({_why(error)})") from None


def generation_of(folder: str) -> int | None:
    """Number of the generation that a folder of `generations/` is for; None: it is something else's."""
    number = int(folder) if folder.isascii() and folder.isdigit() and len(folder) < 10 else MAX_GENERATIONS
    return number if number < MAX_GENERATIONS and folder == f"{number:06d}" else None


def _why(error: Exception) -> str:
    if isinstance(error, pydantic.ValidationError):
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        return f"{'.'.join(map(str, first['loc']))[:100]}: {first['msg'][:200]}"
    text = str(error).split("\n")[0][:200]
    return f"{text} is missing" if isinstance(error, KeyError) else text
