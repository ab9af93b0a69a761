"""What must hold after a search that was disturbed, and how long its generations waited for the dead."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from lfs.run_store import RunStore
from tests.fault.observer import Look
from tests.lfs.test_search_ray import digest

SLACK_S = 5.0
"""A generation waits no longer for a dead trainer than one training of its candidate and this."""


@dataclass(frozen=True, kw_only=True)
class Strike:
    """A fault that hit."""

    victim: str
    moment: str
    at: float
    """Seconds of the monotonic clock."""
    since_start_s: float
    generation: int | None
    """Of the search at the time; None: nobody had seen one yet."""
    state: str
    """Of the search at the time: `start`, `training`, `closing`, `testing`, `ended`."""
    trainers: tuple[str, ...] = ()
    """Those that died."""
    pids: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Wait:
    """What a generation waited for."""

    victim: str
    generation: int
    candidates: tuple[int, ...]
    waited_s: float
    """From the death, or the last outcome of the other candidates, to the close."""
    allowed_s: float


def broken_laws(run: Path, undisturbed: Path, generations: int, starts: int) -> list[str]:
    """Laws that a run has broken, in words; none: it is the undisturbed one to the last bit.

    Args:
        starts: of drivers, including those that were killed before they said so.
    """
    store, found = RunStore(str(run)), []
    if store.committed() != list(range(generations)):
        found.append(f"committed are {store.committed()}, not 0..{generations - 1}")
    names = sorted(path.name for path in (run / "generations").iterdir())
    if names != [f"{g:06d}" for g in range(generations)]:
        found.append(f"generations are {names}")
    if store.load_result() != RunStore(str(undisturbed)).load_result():
        found.append("result.json differs")
    for number, (here, there) in enumerate(zip(digest(run), digest(undisturbed), strict=False)):
        parts = zip(("state", "summary", "candidates", "weights"), here, there, strict=True)
        found += [f"generation {number}: {name} differs" for name, a, b in parts if a != b]
    told = [event["action"] for event in store.events()]
    if not (1 <= len(told) <= starts and set(told) == {"start"}):
        found.append(f"events tell {told} of {starts} starts")
    left = [str(path) for path in run.rglob("*.tmp") if "tune" not in path.relative_to(run).parts[0]]
    return found + ([f"temporary files: {left}"] if left else [])


def waits(strikes: Sequence[Strike], looks: Sequence[Look], candidate_s: float) -> list[Wait]:
    """How long generations waited for trainers that died while others lived, alone or with their node.

    Generations in which something else died too are left out.
    """
    found = []
    for strike in strikes:
        alone = [s for s in strikes if s.generation == strike.generation] == [strike]
        if strike.victim in ("trainer", "node") and alone and strike.generation is not None:
            wait = _wait(strike, strike.generation, looks, candidate_s)
            found += [wait] if wait else []
    return found


def _wait(strike: Strike, generation: int, looks: Sequence[Look], candidate_s: float) -> Wait | None:
    """The wait for one death; None: nobody waited, or no other trainer lived."""
    before = [look for look in looks if look.at <= strike.at and look.generation == generation]
    after = [look for look in looks if look.at > strike.at and look.generation == generation]
    closed = next((look.at for look in looks if look.generation > generation), None)
    if not before or closed is None or closed < strike.at:
        return None
    lost = before[-1].held_by(frozenset(strike.trainers))
    done = before[-1].done
    for look in after:  # a winner whose weights died with its trainer is trained again
        lost, done = lost | (done - look.done), done | look.done
    survivors = before[-1].trainers - len(strike.trainers)
    if not lost or survivors < 1:
        return None
    others = frozenset(range(len(before[-1].candidates))) - lost
    ready = next((look.at for look in [*before, *after] if others <= look.done), closed)
    return Wait(
        victim=strike.victim, generation=generation, candidates=tuple(sorted(lost)),
        waited_s=closed - max(strike.at, ready), allowed_s=math.ceil(len(lost) / survivors) * candidate_s + SLACK_S,
    )  # fmt: skip


def recoveries(strikes: Sequence[Strike], looks: Sequence[Look]) -> list[float | None]:
    """Seconds from each fault to the next outcome of a candidate; None: there was none before the next fault."""
    found: list[float | None] = []
    for strike, then in zip_longest(strikes, strikes[1:]):
        later = [look for look in looks if strike.at < look.at < (then.at if then else math.inf)]
        known = max((look.progress for look in looks if look.at <= strike.at), default=(0, 0))
        if strike.victim not in ("trainer", "node") and later:  # back to the last commit, so far as can be seen
            known = min(look.progress for look in later)
            later = later[next(i for i, look in enumerate(later) if look.progress == known) :]
        at = next((look.at for look in later if look.progress > known), None)
        found.append(None if at is None else at - strike.at)
    return found
