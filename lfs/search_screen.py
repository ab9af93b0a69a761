"""The screen of a running search: what fits into the terminal as it is now, the most telling first."""

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from lfs.columns import Column, Columns
from lfs.progress import duration_text
from lfs.terminal import GLUE
from lfs.view import parameters_text, policy_text, reward_text, summary_table

MAX_ROWS = 16
"""Candidates shown one by one, however high the terminal is."""

MAX_SUMMARIES = 8
FEW_SUMMARIES = 3
"""So many generations are shown before candidates have all their rows."""

GAP = "   "
STYLES = {"done": "green", "diverged": "red", "dropped": "red", "queued": "dim"}
TELLING = ("running", "done", "diverged", "dropped", "queued")
"""States of candidates, those first that are shown where not all fit."""


@dataclass(frozen=True, kw_only=True)
class SearchScreen:
    """A controller's status as one screen."""

    status: dict[str, Any]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        status, width = self.status, options.max_width
        heads = [(line, "bold") for line in flowed(headline(status), width)]
        heads += [(line, "dim") for line in flowed(rates(status), width)]
        for line, style in heads:
            yield Text(line, style=style)
        left = options.size.height - 1 - len(heads)
        if status["testing"]:
            yield Text("testing the final model ...")
            rows, left = 0, left - 1
        else:
            rows, left = shared_out(len(status["candidates"]), len(status["summaries"]), left)
            yield from candidates_shown(status["candidates"], rows, width)
        if status["summaries"] and (last := min(MAX_SUMMARIES, left - 2)) > 0:
            yield Text("")
            yield summary_table(status["summaries"][-last:], says_less=False)


def shared_out(candidates: int, summaries: int, lines: int) -> tuple[int, int]:
    """Rows of candidates, and lines that are left for generations with a blank line and a title before them."""
    few = min(summaries, FEW_SUMMARIES)
    room = lines - 1 - (few + 2 if few else 0)
    rows = min(candidates, MAX_ROWS, room)
    if rows < candidates:  # a line says what is left out
        rows = min(MAX_ROWS, max(1, room - 1))
    return rows, lines - 1 - rows - (rows < candidates)


def headline(status: dict[str, Any]) -> list[str]:
    """Where the search stands."""
    fixed = status["mode"] == "fixed"
    number = min(status["generation"] + 1, status["generations"])
    warm = " (warm-up)" if not fixed and status["generation"] < status["warmup_generations"] else ""
    parts = [f"generation {number}/{status['generations']}{warm}"]
    parts += [] if status["state"] in ("running", "testing") else [status["state"]]
    parts.append(f"best reward {reward_text(status['best'])}")
    if not fixed:
        what = "margin" if all(name.startswith("margin") for name in status["parameter_names"]) else "loss"
        parts.append(f"policy {what} {policy_text(status)}")
    return parts


def rates(status: dict[str, Any]) -> list[str]:
    """How fast it goes, and how long it takes."""
    fixed, trainers = status["mode"] == "fixed", status["trainers"]
    if not fixed and not trainers and status["state"] == "running":
        return ["waiting for trainers to start"]
    parts = [f"{status['images_per_s']:,.0f} images/s"]
    parts += [] if fixed else [f"{trainers} trainer{'s' * (trainers != 1)}"]
    parts.append(f"{duration_text(status['eta_s'])} left")
    return parts + ([f"{status['rejected']} draws rejected"] if status["rejected"] else [])


def flowed(parts: Sequence[str], width: int) -> Iterator[str]:
    """The parts in lines of at most `width`; one is broken, between words, only if it is longer by itself."""
    line = ""
    for part in parts:
        if line and cell_len(line + GAP + part) > width:
            yield line
            line = ""
        line += (GAP if line else "") + part
        if cell_len(line) > width:
            glued = line.replace(" ± ", f"{GLUE}±{GLUE}")
            *whole, line = (part.replace(GLUE, " ") for part in textwrap.wrap(glued, width))
            yield from whole
    if line:
        yield line


def candidates_shown(candidates: Sequence[dict[str, Any]], rows: int, width: int) -> Iterator[Columns | Text]:
    """The running generation's candidates, and how those stand that find no place, if there is room for it."""
    best = sorted(candidates, key=lambda c: (TELLING.index(c["state"]), -(c["reward"] or 0.0), c["index"]))
    shown = sorted(best[:rows], key=lambda c: c["index"])
    yield candidate_table(shown)
    if rest := Counter(c["state"] for c in best[rows:]):
        counts = ", ".join(f"{rest[state]} {state}" for state in TELLING if rest[state])
        more = f"and {rest.total()} more"
        yield Text(line if cell_len(line := f"{more}: {counts}") <= width else more, style="dim")


def candidate_table(candidates: Sequence[dict[str, Any]]) -> Columns:
    """Some candidates, a row each."""
    what = "margin" if all(c["margins"] for c in candidates) else "loss"
    return Columns(
        columns=[
            Column(title="candidate", cells=[str(c["index"]) for c in candidates], right=True, rank=1),
            Column(
                title="state", cells=[f"{state_text(c):13}" for c in candidates],
                styles=[STYLES.get(c["state"], "") for c in candidates],
            ),
            Column(title="reward", cells=[reward_text(c["reward"], c["reward_se"]) for c in candidates]),
            Column(title=what, cells=[parameters_text(c["parameters"]) for c in candidates], rank=2),
        ],
        says_less=False,
    )  # fmt: skip


def state_text(candidate: dict[str, Any]) -> str:
    """What a candidate does, and how far it is."""
    state, done, total = candidate["state"], candidate["done"], candidate["total"]
    if state != "running" or not total:
        return str(state)
    return f"running {100 * done // total:3d} %"
