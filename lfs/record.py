"""What a closed generation leaves: a row for each candidate, and the whole generation in one line."""

import json
import math
from typing import Any

from lfs.messages import Report
from lfs.open_generation import OpenGeneration


def tried_row(work: OpenGeneration, generation: int, index: int) -> dict[str, Any]:
    """The row of a candidate of which no more is known than what it was, and whether it was dropped."""
    loss = work.losses[index]
    return {
        "generation": generation,
        "candidate": index,
        "reward": None,
        "reward_se": None,
        "paired_se": None,
        "advantage": 0.0,
        "winner": False,
        "diverged": False,
        "dropped": index in work.dropped,
        "reason": work.dropped.get(index, ""),
        "action": [float(x) for x in work.actions[index]],
        "margins": [float(m) for m in loss.margins],
        "a": [float(a) for a in loss.a],
        "loss": json.dumps(loss.to_dict()),
        "trainer": "",
        "num_images": 0,
        "train_s": None,
        "validate_s": None,
    }


def outcome(report: Report, advantage: float, paired_se: float, *, won: bool) -> dict[str, Any]:
    """What the row of a candidate says besides, once it has its outcome; a diverged one has no reward."""
    rewards = {"reward": report.reward, "reward_se": report.reward_se, "paired_se": paired_se}
    return {
        **({} if report.diverged else rewards),
        "advantage": advantage,
        "winner": won,
        "diverged": report.diverged,
        "reason": report.reason,
        "trainer": report.trainer,
        "num_images": report.num_images,
        "train_s": report.train_s,
        "validate_s": report.validate_s,
        **report.metrics,
    }


def summary(
    work: OpenGeneration, rows: list[dict[str, Any]], winner: Report, *, mode: str, warmup: bool
) -> dict[str, Any]:
    """The generation in one line; the policy after it is the caller's to add."""
    rewards = [row["reward"] for row in rows if row["reward"] is not None]
    won, lost = rows[winner.index], [row for row in rows if row["diverged"]]
    moved = any(row["advantage"] for row in rows)
    return {
        "generation": winner.generation,
        "mode": mode,
        "warmup": warmup,
        "candidates": len(rows),
        "diverged": len(lost),
        "why_diverged": f"candidate {lost[0]['candidate']}: {lost[0]['reason']}" if lost else "",
        "dropped": len(work.dropped),
        "rejected": work.rejected,
        "best_reward": winner.reward,
        "best_reward_se": winner.reward_se,
        "mean_reward": math.fsum(rewards) / len(rewards),
        "winner": winner.index,
        "train_loss": won.get("train_loss"),
        "winner_margins": won["margins"],
        "winner_loss": work.losses[winner.index].to_dict(),
        "winner_parameters": work.losses[winner.index].parameters(),
        "moved": moved and mode == "search",
        "tied": not warmup and len(work.reports) > 1 and not moved,
    }
