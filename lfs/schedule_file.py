"""The losses that a run went through, as a file that `lfs.train --loss FILE` replays.

    format: 1
    run: runs/NAME                  where they come from
    schedule:                       generation by generation, the last one to the end
    - loss: {loss: margin, ...}     as the run stores it; the rest is for the reader
      candidate: 3
      reward: 0.76
    config: {...}                   the run's settings, which the replay has too unless --config names others

A file of `schedule` alone, written by hand, will do.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pydantic
import yaml

from lfs.config import SearchConfig
from lfs.options import checked, line_of, read_recipe, refuse_unknown
from lfs.run_facts import RunFacts
from lfs.run_store import plain
from search_space.errors import UserError, shown

FORMAT = 1


class Step(pydantic.BaseModel, extra="forbid"):
    """One generation's winner."""

    loss: dict[str, Any]
    candidate: int | None = None
    reward: float | None = None


class Schedule(pydantic.BaseModel, extra="forbid"):
    """What the file holds."""

    format: int = FORMAT
    run: str = ""
    schedule: list[Step] = pydantic.Field(min_length=1)
    config: dict[str, Any] | None = None


def schedule_bytes(facts: RunFacts) -> bytes:
    """The file of a run.

    Raises:
        UserError: it has no generation yet, or one that cannot be read: a replay would not be one.
    """
    if facts.faults:
        raise UserError(facts.faults[0])
    if not facts.summaries:
        raise UserError(f"{facts.store.uri} has no committed generation yet, so there is nothing to replay")
    steps = [
        {"loss": summary["winner_loss"], "candidate": summary["winner"], "reward": summary["best_reward"]}
        for summary in facts.summaries
    ]
    values = {"format": FORMAT, "run": facts.store.uri, "schedule": steps, "config": plain(asdict(facts.config))}
    return yaml.safe_dump(values, sort_keys=False).encode()


def read_schedule(file: str) -> tuple[tuple[dict[str, Any], ...], SearchConfig | None]:
    """The losses of a file, and the settings that go with them, if any.

    Raises:
        UserError: it cannot be read, holds something else, or a loss that this version does not know.
    """
    from search_space.loss import loss_from_dict  # torch takes seconds

    path, values, node = read_recipe(file)
    if isinstance(found := values.get("format", FORMAT), int) and found != FORMAT:
        raise UserError(
            f"{path}, line {line_of(node, ('format',))}: format {found}; this version reads format {FORMAT}"
        )
    try:
        said = Schedule.model_validate(values)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        keys = tuple(map(str, first["loc"]))
        where = f", line {line}" if (line := line_of(node, keys)) else ""
        law = f"{path}{where}: not a schedule of losses (python -m lfs.results schedule RUN writes one)"
        raise UserError(f"{law}: {'.'.join(keys)[:100]}: {first['msg'][:200]}, got {shown(first['input'])}") from None
    for number, step in enumerate(said.schedule, 1):
        try:
            loss_from_dict(step.loss)
        except UserError as error:
            raise UserError(f"{path}: loss {number} of the schedule: {error}") from None
    return tuple(step.loss for step in said.schedule), _settings(said.config, f"{path}: config")


def _settings(values: Mapping[str, Any] | None, place: str) -> SearchConfig | None:
    if values is None:
        return None
    refuse_unknown(SearchConfig, dict(values), place, None)
    return checked(SearchConfig, dict(values), place)
