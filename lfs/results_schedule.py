"""The action `schedule`: the lineage of winning losses, and as a file that lfs.train replays.

Examples:
    python -m lfs.results schedule runs/NAME
    python -m lfs.results schedule runs/NAME --out losses.yaml
    python -m lfs.train --loss losses.yaml --seed 1
"""

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd

from lfs.commands import OK
from lfs.outputs import refuse_existing
from lfs.results_output import add_output_flags, console, say, show, written
from lfs.results_tables import read_facts
from lfs.run_facts import RunFacts
from lfs.run_store import RunStore
from lfs.schedule_file import schedule_bytes
from lfs.terminal import printable
from lfs.view import parameters_text
from search_space.errors import UserError
from trainers.whole_file import write_bytes


def add_parser(actions: Any) -> None:
    """The flags of the action."""
    made = actions.add_parser(
        "schedule", help="the winning losses, for lfs.train --loss", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    made.set_defaults(run_action=run)
    made.add_argument("run", metavar="RUN", help="a run directory")
    made.add_argument("--out", default="", metavar="FILE", help="YAML file to write")
    made.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    add_output_flags(made)


def run(options: argparse.Namespace) -> int:
    """Show the lineage, write the file."""
    out = Path(options.out).expanduser()
    if options.out:
        refuse_existing([out], options.overwrite)
    facts = read_facts(RunStore(options.run))
    table = schedule_table(facts)
    if options.out:
        write_bytes(out, schedule_bytes(facts))
        say(f"{len(table)} losses in {printable(options.out)}", options)
    if not written(table, options) and not options.out:
        to = console()
        if table.empty:
            to.print("no generations yet")
        else:
            show(table.assign(loss=[parameters_text(s["winner_parameters"]) for s in facts.summaries]), to)
    if facts.faults:
        raise UserError(facts.faults[0])
    return OK


def schedule_table(facts: RunFacts) -> pd.DataFrame:
    """One row per generation that can be read: who won, with which loss, and what the gain over its parent was, which
    is the generation just before, if that can be read too."""
    rewards = {summary["generation"]: summary["best_reward"] for summary in facts.summaries}
    rows = [
        {
            "generation": summary["generation"],
            "candidate": summary["winner"],
            "reward": summary["best_reward"],
            "reward_se": summary["best_reward_se"],
            "gain": summary["best_reward"] - before if before is not None else None,
            "warmup": summary["warmup"],
            "loss": json.dumps(summary["winner_loss"]),
        }
        for summary in facts.summaries
        for before in (rewards.get(summary["generation"] - 1),)
    ]
    return pd.DataFrame(rows)
