"""What a resumed run may be given anew, and that everything else is what it was."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lfs.board import pinned
from lfs.config import MAY_CHANGE_ON_RESUME, SearchConfig
from lfs.options import as_flag, checked, flag, leaves, overlay, read_recipe
from lfs.plugins import allow_said, built, spelled_out
from lfs.run_store import RunStore, plain
from search_space.errors import UserError
from trainers.data.builtin import ensure_builtin_faces

PLACE = ("name", "storage")
"""Where a run is says `--resume`."""
DATA_PATHS = (
    "data.root", "data.train", "data.train_list",
    *(f"data.{sets}.{file}" for sets in ("reward", "test") for file in ("lmdb", "pairs", "labels")),
)  # fmt: skip
"""May differ as long as the data behind them does not, see lfs/data_digest.py."""


def resumed(run: str, flags: Mapping[str, str], recipe: str = "") -> tuple[RunStore, dict[str, Any]]:
    """A run to continue, and those of its settings that are given anew.

    Args:
        recipe: a recipe that the run is compared with, as if it were started; empty: only flags count.
    Raises:
        UserError: no such run, or settings that a resume cannot change: all of them are named.
    """
    store = RunStore(run)
    config = store.load_config()
    given = settled(as_given(config, flags, recipe), config)
    if "data.root" in flags and not recipe and "data.train" not in flags:
        refuse_root(flags["data.root"], config)
    refuse_differences(store, config, given)
    changes = {name: value for name in MAY_CHANGE_ON_RESUME if (value := getattr(given, name)) != getattr(config, name)}
    if given.data != config.data:
        changes["data"] = given.data
    done = max(store.committed(), default=-1) + 1
    if given.generations < done:
        raise UserError(f"--generations: {store.uri} has {done} generations already, got {given.generations}")
    return store, changes


def as_given(config: SearchConfig, flags: Mapping[str, str], recipe: str) -> SearchConfig:
    """The configuration that recipe and flags stand for; what a resume may change, only where they name it."""
    if not recipe:
        allow_said(flags)
        return spelled_out(checked(SearchConfig, overlay(plain(asdict(config)), flags, SearchConfig), "", flags=flags))
    given, (_, values, _) = built(SearchConfig, recipe, flags), read_recipe(recipe)
    kept = {name: getattr(config, name) for name in MAY_CHANGE_ON_RESUME if name not in flags and name not in values}
    return replace(given, **kept)


def settled(given: SearchConfig, config: SearchConfig) -> SearchConfig:
    """A configuration with everything filled in that is filled in when a run is made."""
    from lfs.driver import absolute

    start = pinned(given.start) if given.start not in ("", config.start) else given.start
    named = bool(given.data.train) or given.data == config.data
    data = given.data if named else ensure_builtin_faces().data_config(given.data)
    population = given.population_size or config.population_size
    return replace(given, start=start, data=absolute(data), population_size=population)


def refuse_root(root: str, config: SearchConfig) -> None:
    """Raise `UserError` for a new root of the data, which paths of a run, being absolute, would not follow."""
    folder = Path(root).expanduser().resolve()
    other = [path for path in (*config.data.train, *config.data.train_list) if not Path(path).is_relative_to(folder)]
    if other:
        law = f"--data.root: the run has absolute paths, such as {other[0]}, which a root does not move"
        raise UserError(f"{law}; name its --config too, or the files: --data.train and so on")


def refuse_differences(store: RunStore, config: SearchConfig, given: SearchConfig) -> None:
    """Raise `UserError` if a setting differs that must not; the message has all that differ."""
    names = [name for name, _, _ in leaves(SearchConfig) if name not in PLACE]
    changed = [name for name in names if _value(given, name) != _value(config, name)]
    allowed = {*DATA_PATHS, *MAY_CHANGE_ON_RESUME}
    fixed = [name for name in changed if name not in allowed]
    if not fixed:
        return
    law = f"{', '.join(map(flag, fixed))} cannot change in a resumed run, its results would differ"
    said = "; ".join(f"{flag(name)} was {_text(config, name)}, got {_text(given, name)}" for name in changed)
    raise UserError(f"{store.uri}: {law}: {said}; these can: {', '.join(map(flag, MAY_CHANGE_ON_RESUME))}")


def _value(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def _text(config: SearchConfig, name: str) -> str:
    return as_flag(_value(config, name)) or "empty"
