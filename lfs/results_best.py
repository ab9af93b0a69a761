"""The action `best`: the winner with the best reward of a run, and its model as a folder of its own.

    DIR/model.yaml, DIR/model-SHA256.safetensors   what lfs.evaluate takes, and where it came from
    DIR/recipe.yaml                                the run's settings, as a recipe for --config

Examples:
    python -m lfs.results best runs/NAME
    python -m lfs.results best runs/NAME --export models/NAME
    python -m lfs.results best runs/NAME@3 --export models/NAME     the winner of its generation 3
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from lfs.commands import OK
from lfs.config import SearchConfig
from lfs.generations import WINNER
from lfs.outputs import refuse_existing
from lfs.results_output import add_output_flags, console, say, written
from lfs.results_tables import read_facts
from lfs.run_facts import RunFacts
from lfs.run_store import plain, start_of
from lfs.terminal import printable
from lfs.view import parameters_text, reward_text
from search_space.errors import UserError, require
from trainers.whole_file import write_bytes

RECIPE = "recipe.yaml"


def add_parser(actions: Any) -> None:
    """The flags of the action."""
    made = actions.add_parser(
        "best", help="the winner with the best reward, and its model", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    made.set_defaults(run_action=run)
    made.add_argument("run", metavar="RUN", help="a run directory; RUN@G: the winner of its generation G")
    made.add_argument("--export", default="", metavar="DIR", help="folder to write the model to")
    made.add_argument("--overwrite", action="store_true", help="replace a model that is there")
    add_output_flags(made)


def run(options: argparse.Namespace) -> int:
    """Say which one it is, write what was asked for."""
    store, number = start_of(options.run)
    facts = read_facts(store)
    best = _chosen(facts, number)
    kept = WINNER in facts.contents[best["generation"]]
    if not written(best_table(facts, best), options):
        to, model = console(), f"{store.shown}@{best['generation'] + 1}"
        reward = reward_text(best["best_reward"], best["best_reward_se"])
        place = f"generation {best['generation'] + 1} of {facts.config.generations} ({facts.state})"
        to.print(f"{model}: {facts.config.reward.metric} {reward}, candidate {best['winner']}, {place}")
        to.print(f"loss     {best['winner_loss'].get('loss')}: {parameters_text(best['winner_parameters'])}")
        to.print(f"weights  {'there' if kept else 'deleted (--keep-generations) or lost'}")
    if options.export:
        export(facts, best, Path(options.export).expanduser(), overwrite=options.overwrite)
        say(f"model in {printable(options.export)}", options)
    if facts.faults:
        raise UserError(facts.faults[0])
    return OK


def _chosen(facts: RunFacts, number: int | None) -> dict[str, Any]:
    """Summary of the generation with the best reward, or of the one that was asked for.

    Raises:
        UserError: there is none.
    """
    found = facts.best
    if number is not None:
        found = next((summary for summary in facts.summaries if summary["generation"] == number - 1), None)
    if found is None:
        done = [generation + 1 for generation in facts.contents]
        have = f"it has {done[0]} to {done[-1]}" if done else "it has none yet"
        raise UserError(facts.faults[0] if facts.faults else f"{facts.store.uri}: no such generation: {have}")
    return found


def best_table(facts: RunFacts, best: dict[str, Any]) -> pd.DataFrame:
    """The winner in one row."""
    row = {
        "run": facts.store.name,
        "model": f"{facts.store.uri}@{best['generation'] + 1}",
        "state": facts.state,
        "generation": best["generation"],
        "candidate": best["winner"],
        "metric": facts.config.reward.metric,
        "reward": best["best_reward"],
        "reward_se": best["best_reward_se"],
        "loss": json.dumps(best["winner_loss"]),
        "parameters": json.dumps(best["winner_parameters"]),
        "weights": WINNER in facts.contents[best["generation"]],
    }
    return pd.DataFrame([row])


def export(facts: RunFacts, best: dict[str, Any], folder: Path, *, overwrite: bool) -> None:
    """The winner's model and the run's settings as a folder.

    Raises:
        UserError: its weights are gone or damaged, or the folder cannot be written or has a model already.
    """
    from lfs.model_file import MODEL, model_of_run, save_model  # torch takes seconds

    require(not folder.exists() or folder.is_dir(), "--export must name a folder", str(folder))
    refuse_existing([folder / name for name in (MODEL, RECIPE)], overwrite)
    found = model_of_run(facts.store, best["generation"] + 1)
    model = found.load()
    loss = {"winner": best["winner"], "winner_loss": best["winner_loss"], "reward_metric": facts.config.reward.metric}
    write_bytes(folder / RECIPE, recipe_of(facts.config))
    save_model(folder, model, {"source": found.source, **found.origin, **loss})


def recipe_of(config: SearchConfig) -> bytes:
    """A run's settings as a recipe; where the run lies is left out, another one cannot lie there."""
    values = {
        name: value for name, value in plain(asdict(config)).items() if name not in ("name", "storage", "address")
    }
    return yaml.safe_dump(values, sort_keys=False).encode()
