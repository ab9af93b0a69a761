"""What the figures of a report show, as numbers: where the gain came from, who worked when, what it cost.

Where the gain came from. The parent of a generation is the winner before it, whose weights every candidate starts
from; both are rewarded on the same pairs. With r the rewards of the generation that are known:

    gain         max(r) - reward of the parent
    by training  mean(r) - reward of the parent: what one more generation of training gives with a loss that is drawn
                 from the policy and not chosen; a policy that has learned raises it too
    by choosing  max(r) - mean(r): what the choice of the winner adds; both add up to the gain
    luck         what choosing would give if all candidates were equally good and only the noise of their measurement
                 differed: c * sigma, with c the expected largest of so many standard normal numbers, and sigma the
                 median paired standard error to the winner / sqrt(2)

The first generation has no parent whose reward is known, and is left out.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import ndtr

from lfs.report_run import Generation, Run, number
from lfs.run_facts import event_time

KINDS = ("training", "validating", "waiting", "lost work", "dead")
LEAST_PAUSE_S = 60.0
"""Nobody works for so long, and for `PAUSE` candidates: the search was stopped, and the time is cut out. That is a
guess, for runs that do not say when they went on."""
PAUSE = 5
Times = npt.NDArray[np.float64]
MAX_LOST = 10_000
"""Of a generation: candidates whose work came to nothing."""
TAR = re.compile(r"(?:(?P<set>.*)/)?(?P<all>all:)?tar@far=(?P<far>[0-9.e+-]+)")


def gains(run: Run) -> pd.DataFrame:
    """Where the gain of each generation came from, see the module.

    Returns:
        Columns generation (from 0), gain, training, choosing, luck (NaN where no paired errors are known), in units of
        the reward.
    """
    rows = []
    for before, now in zip(run.generations, run.generations[1:], strict=False):
        mean = number(now.summary["mean_reward"])
        if now.number == before.number + 1 and math.isfinite(now.best + before.best + mean):
            gain = {"gain": now.best - before.best, "training": mean - before.best, "choosing": now.best - mean}
            rows.append({"generation": now.number, **gain, "luck": luck(now)})
    return pd.DataFrame(rows, columns=["generation", "gain", "training", "choosing", "luck"])


def luck(generation: Generation) -> float:
    """See the module; NaN: not known."""
    reward, paired, won = (generation.candidates[name].to_numpy() for name in ("reward", "paired_se", "winner"))
    known = ~np.isnan(reward)
    count, errors = int(known.sum()), paired[known & ~won & ~np.isnan(paired)]
    if count < 2:
        return 0.0 if count else math.nan
    return expected_maximum(count) * float(np.median(errors)) / math.sqrt(2) if len(errors) else math.nan


@cache
def expected_maximum(count: int) -> float:
    """Mean of the largest of `count` independent standard normal numbers."""
    x = np.linspace(-10, 10, 20_001)
    density = count * np.exp(-x * x / 2) / math.sqrt(2 * math.pi) * ndtr(x) ** (count - 1)
    return float((x * density).sum() * (x[1] - x[0]))


def noise(run: Run) -> pd.Series:
    """Median paired standard error of the other candidates to the winner, by generation; NaN: not known."""
    rows = run.candidates
    medians = rows.loc[~rows["winner"]].groupby("generation")["paired_se"].median()
    return medians.reindex([g.number for g in run.generations])


@dataclass(frozen=True, kw_only=True)
class Shifts:
    """Who worked when."""

    bars: pd.DataFrame
    """Columns trainer, kind (of `KINDS`), begin and end in seconds of work since the first lease, text."""

    trainers: pd.DataFrame
    """By trainer, seconds of each of `KINDS` from its first lease to its last report, and `utilisation`: the share of
    training and validating."""

    paused_s: float
    """Time in which the search was stopped, which is cut out."""

    @property
    def utilisation(self) -> float:
        """Share of all trainers' time in which they trained or validated."""
        return float(self.trainers[["training", "validating"]].sum().sum() / self.trainers[list(KINDS)].sum().sum())


@dataclass(frozen=True)
class _Piece:
    """One candidate in one trainer's hands; times in seconds."""

    trainer: str
    begin: float
    end: float
    train_s: float
    validate_s: float
    text: str
    lost: bool = False
    died: bool = False


def shifts(run: Run) -> Shifts | None:
    """Who worked when; None if the run does not say, as those of older versions do not."""
    pieces = _pieces(run)
    if not pieces:
        return None
    spans = np.array([(piece.begin, piece.end) for piece in pieces])
    pauses = _pauses(spans, _went_on(run.events))
    clock = _Clock(pauses, float(spans.min()))
    work: dict[str, list[_Piece]] = {}
    for piece in pieces:
        work.setdefault(piece.trainer, []).append(clock.moved(piece))
    bars: list[tuple[str, str, float, float, str]] = []
    for trainer in sorted(work, key=_natural):
        bars += _bars(sorted(work[trainer], key=lambda piece: (piece.begin, piece.end)))
    frame = pd.DataFrame(bars, columns=["trainer", "kind", "begin", "end", "text"])
    took = frame.assign(s=frame["end"] - frame["begin"]).pivot_table("s", "trainer", "kind", "sum", fill_value=0.0)
    took = took.reindex(index=frame["trainer"].drop_duplicates(), columns=list(KINDS), fill_value=0.0)
    total = took.sum(axis=1)
    took["utilisation"] = (took["training"] + took["validating"]) / total.where(total > 0, 1.0)
    return Shifts(bars=frame, trainers=took, paused_s=float((pauses[:, 1] - pauses[:, 0]).sum()))


def _pieces(run: Run) -> list[_Piece]:
    rows = run.candidates
    rows = rows[(rows["reported_at"] >= rows["leased_at"]) & (rows["trainer"] != "")]
    done = [
        _Piece(
            row["trainer"], row["leased_at"], row["reported_at"], max(0.0, row["train_s"]), max(0.0, row["validate_s"]),
            f"generation {row['generation'] + 1}, candidate {row['candidate']:.0f}",
        )
        for row in rows.fillna(0.0).to_dict("records")
    ]  # fmt: skip
    lost = [
        _Piece(
            str(one["trainer"])[:100], begin, end, 0.0, 0.0,
            f"generation {g.number + 1}, candidate {one['candidate']}, {'trainer died' if one['died'] else 'given up'}",
            lost=True, died=one["died"],
        )
        for g in run.generations for one in g.summary.get("lost", [])[:MAX_LOST]
        if (begin := number(one["leased_at"])) <= (end := number(one["lost_at"]))
    ]  # fmt: skip
    return done + lost


def _went_on(events: Sequence[Mapping[str, Any]]) -> Times:
    """When a driver started or a pause was over, rising."""
    times = [event_time(event) for event in events if event.get("action") in ("start", "resume")]
    return np.sort(np.array([at.timestamp() for at in times if at], np.float64))


def _pauses(spans: Times, went_on: Times) -> Times:
    """[n, 2] begin and end of the times in which the search was stopped: from the last work before it went on. What
    passes from there to the first work is waiting.
    """
    spans = spans[np.argsort(spans[:, 0])]
    ends, begins = np.maximum.accumulate(spans[:, 1])[:-1], spans[1:, 0]
    if len(went_on):
        last = went_on[np.maximum(0, np.searchsorted(went_on, begins, side="right") - 1)]
        idle = (last > ends) & (last <= begins)
        return np.stack([ends[idle], last[idle]], axis=1)
    least = max(LEAST_PAUSE_S, PAUSE * float(np.median(spans[:, 1] - spans[:, 0])))
    idle = begins - ends > least
    return np.stack([ends[idle], begins[idle]], axis=1)


class _Clock:
    """Seconds of work: time without pauses, from the first lease."""

    def __init__(self, pauses: Times, start: float) -> None:
        self._ends, self._start = pauses[:, 1], start
        self._behind = np.concatenate([[0.0], np.cumsum(pauses[:, 1] - pauses[:, 0])])

    def moved(self, piece: _Piece) -> _Piece:
        behind = float(self._behind[np.searchsorted(self._ends, piece.begin, side="right")])
        begin, end = (at - self._start - behind for at in (piece.begin, piece.end))
        return replace(piece, begin=begin, end=end)


def _bars(pieces: Sequence[_Piece]) -> list[tuple[str, str, float, float, str]]:
    """One trainer's time from its first lease to its last report."""
    bars, now, dead = [], pieces[0].begin, False

    def add(kind: str, end: float, text: str) -> None:
        nonlocal now
        if end > now:
            bars.append((pieces[0].trainer, kind, now, end, text))
            now = end

    for piece in pieces:
        add("dead" if dead else "waiting", piece.begin, "")
        if piece.lost:
            add("lost work", piece.end, piece.text)
        else:  # what comes before the training: the base weights
            add("waiting", piece.end - piece.validate_s - piece.train_s, "")
            add("training", piece.end - piece.validate_s, piece.text)
            add("validating", piece.end, piece.text)
        dead = piece.died
    return bars


def _natural(name: str) -> tuple[str, int, str]:
    """trainer-2 before trainer-10."""
    digits = name[len(name.rstrip("0123456789")) :]
    return name.rstrip("0123456789"), int(digits[:9] or 0), name


def costs(run: Run) -> pd.DataFrame:
    """What each generation took.

    Returns:
        Columns generation, training_s and validating_s of all trainers together, wall_s, images, total_images so far,
        candidates.
    """
    own = ("train_s", "validate_s", "num_images")
    sums = run.candidates.groupby("generation")[list(own)].sum().reindex([g.number for g in run.generations]).fillna(0)
    made = pd.DataFrame({
        "generation": [g.number for g in run.generations], "training_s": sums["train_s"].tolist(),
        "validating_s": sums["validate_s"].tolist(), "images": sums["num_images"].tolist(),
        "wall_s": [number(g.summary.get("wall_s")) for g in run.generations],
        "candidates": [g.summary["candidates"] for g in run.generations],
    })  # fmt: skip
    return made.assign(total_images=made["images"].cumsum())


def stored_points(metrics: Mapping[str, float]) -> pd.DataFrame:
    """The operating points among stored test scores: columns set, far, tar, tar_se."""
    rows = []
    for name, value in metrics.items():
        match = TAR.fullmatch(name)
        far = _positive(match["far"]) if match else math.nan
        if match and far == far:
            where = (match["set"] or "test") + (", all pairs" if match["all"] else ", listed pairs") + ", at the end"
            rows.append({"set": where, "far": far, "tar": number(value), "tar_se": number(metrics.get(f"{name}_se"))})
    return pd.DataFrame(rows, columns=["set", "far", "tar", "tar_se"])


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if 0 < value <= 1 else math.nan
