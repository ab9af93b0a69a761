"""Plug-ins that a configuration names: who said so, what they are called in a run, and which code they are.

A dotted path runs code, and runs are handed over. So it counts where the user wrote it for this command: in a flag, in
the recipe that a flag names, or as --allow-plugins. Processes that a command starts learn of it by `VARIABLE`.
"""

import argparse
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from lfs import look
from lfs.config import CompareConfig, ReliabilityConfig, SearchConfig, grid_key
from lfs.options import build
from search_space import margins, plugins, spaces
from search_space.errors import shown
from search_space.plugins import is_module, is_path
from trainers import backbones, metrics

Config = TypeVar("Config", bound=SearchConfig)
VARIABLE = "LFS_PLUGINS"
"""Environment variable with the modules that a process may import plug-ins from."""
SETTINGS = (
    "loss.name", "space.name", "trainer.backbone", "reward.metric", "reward.record", "reward.test_metrics", "losses",
    "searches", "grid", "metrics",
)  # fmt: skip
"""Settings that may name plug-ins."""
_LAST_PATH = re.compile(r"[\w.]+:[\w.]+$")


def allow(modules: Iterable[str]) -> None:
    """Let this process, and those that it starts, import plug-ins from these modules."""
    plugins.allow(modules)
    if plugins.allowed():
        os.environ[VARIABLE] = ",".join(plugins.allowed())


plugins.allow(filter(is_module, os.environ.get(VARIABLE, "").split(",")))  # what the process that started this one may


def resume_flags(run: str) -> str:
    """What goes on with a run on the command line: with the plug-ins that this process may import."""
    allowed = ",".join(plugins.allowed())
    return f"--resume {run}" + (f" --allow-plugins {allowed}" if allowed else "")


def add_allow_flag(made: argparse.ArgumentParser) -> None:
    """The flag that lets a run that is handed over name plug-ins; it takes effect when it is parsed."""
    made.add_argument(
        "--allow-plugins", action=_Allow, type=_modules, metavar="MODULES", default=argparse.SUPPRESS,
        help="modules whose code may run because a run or model names it, comma separated; see docs/extending.md",
    )  # fmt: skip


class _Allow(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        allow(values)


def _modules(text: str) -> list[str]:
    modules = [part.strip() for part in text.split(",")]
    if not all(map(is_module, modules)):
        raise argparse.ArgumentTypeError(f"expected names of modules, comma separated, got {shown(text)}")
    return modules


def built(cls: type[Config], recipe: str, flags: Mapping[str, str]) -> Config:
    """`options.build`, with the plug-ins that recipe and flags name allowed, and all spelled out.

    Raises:
        UserError: as `build`, or an unknown name.
    """
    config = spelled_out(build(cls, recipe, flags))
    allow(path.partition(":")[0] for path in paths(config))
    return config


def allow_said(flags: Mapping[str, str]) -> None:
    """Allow the plug-ins that flags name, beside a run whose own are not."""
    words = [word for name in SETTINGS for word in re.split(r"[,+=\s]+", flags.get(name, ""))]
    found = [match[0] for word in words if (match := _LAST_PATH.search(word))]
    allow(path.partition(":")[0] for path in found if is_path(path))


def spelled_out(config: Config) -> Config:
    """The same with entry points spelled out as dotted paths, which say more than names where a package is missing.

    Raises:
        UserError: an unknown name.
    """
    loss, reward = config.loss, config.reward
    trainer = replace(config.trainer, backbone=backbones.NAMES.spelled(config.trainer.backbone))
    config = replace(
        config,
        trainer=trainer,
        space=replace(config.space, name=spaces.NAMES.spelled(config.space.name)),
        loss=replace(loss, name=margins.NAMES.spelled(loss.name)) if loss.name else loss,
        reward=replace(
            reward,
            metric=metrics.spelled_out(reward.metric),
            record=tuple(map(metrics.spelled_out, reward.record)),
            test_metrics=tuple(map(metrics.spelled_out, reward.test_metrics)),
        ),
    )
    if isinstance(config, CompareConfig | ReliabilityConfig):
        config = replace(config, grid={_spelled_key(key): values for key, values in config.grid.items()})
    if isinstance(config, CompareConfig):
        losses, searches = map(margins.NAMES.spelled, config.losses), map(_spelled_search, config.searches)
        config = replace(config, losses=tuple(losses), searches=tuple(searches))
    return config


def _spelled_key(key: str) -> str:
    loss, parameter = grid_key(key)
    own = margins.NAMES.spelled(loss)
    return own if parameter is None else f"{own}.{parameter}"


def _spelled_search(text: str) -> str:
    mode, _, space = text.partition(":")
    return f"{mode}:{spaces.NAMES.spelled(space)}" if space else text


def paths(config: SearchConfig) -> list[str]:
    """Dotted paths of the plug-ins that a configuration, once spelled out, names."""
    reward = config.reward
    names: list[Any] = [config.loss.name, config.space.name, config.trainer.backbone]
    names += [part for text in (reward.metric, *reward.record, *reward.test_metrics) for part in text.split("+")]
    names += [values.get("loss") for values in config.schedule]
    if isinstance(config, CompareConfig | ReliabilityConfig):
        names += [grid_key(key)[0] for key in config.grid]
    if isinstance(config, CompareConfig):
        names += [*config.losses, *(search.partition(":")[2] for search in config.searches)]
    if isinstance(config, ReliabilityConfig):
        names += [part for text in config.metrics for part in text.split("+")]
    return list(dict.fromkeys(name for name in names if isinstance(name, str) and is_path(name)))


def packages(config: SearchConfig) -> list[str]:
    """Top-level modules of the plug-ins that a configuration names: every node must have them, in one version."""
    return sorted({path.partition(":")[0].partition(".")[0] for path in paths(config)})


def changed_code(config: SearchConfig, recorded: Mapping[str, object]) -> list[str]:
    """A line for each plug-in that is not what it was when its run was started.

    Args:
        recorded: versions that the run recorded.
    """
    now = look.plugins(packages(config))
    return [
        f"{name} was {shown(recorded[name])} when the run was started and is {version} now: results may differ"
        for name, version in now.items()
        if name in recorded and recorded[name] != version
    ]
