"""Compare losses and searches: every one over several seeds, on the same data for the same number of epochs.

Examples:
    python -m lfs.compare --config real_faces --data.root /path/to/faces --num-workers 2
    python -m lfs.compare --losses norm_softmax,am --grid am=0.1,0.3 --searches search --seeds 0,1 --generations 2
    python -m lfs.compare --resume runs/compare-builtin-20260101-120000
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

from lfs.commands import FAILED, OK, run_command
from lfs.config import SEARCH_ONLY, SEED_STEP, AMLFSConfig, CompareConfig, SearchConfig, grid_key
from lfs.locations import under
from lfs.options import Parser, add_flags
from lfs.outcomes import outcome_of
from lfs.plugins import add_allow_flag, allow_said, built, resume_flags, spelled_out
from lfs.run_store import RunStore
from lfs.settings import changed, load_settings, save_settings
from lfs.terminal import spreadsheet_safe
from lfs.view import View, default_name
from search_space.config import LossConfig, SpaceConfig
from search_space.errors import UserError, require
from search_space.loss import loss_from_dict
from search_space.margins import grid_of, make_loss, parameters_of
from search_space.spaces import get_space
from trainers.data.lists import read_list
from trainers.data.sets import resolve

SETTINGS = "comparison.yaml"
MAY_CHANGE = ("num_workers", "address", "dashboard", "seeds", "losses", "searches", "replicates")
"""Settings that a resumed comparison may be given anew: they add rows and seeds, or leave some out."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training of one loss, or one search."""

    method: str
    searched: bool
    seed: int
    parameters: tuple[tuple[str, float], ...] = ()
    """The grid point of a hand-crafted loss: its own parameter and value first."""

    replicate: int = 0
    """0, or the number of a further training that only the equal-cost column uses."""

    @property
    def point(self) -> str:
        """The grid point for a reader."""
        return ",".join(f"{name}={value:g}" for name, value in self.parameters)

    @property
    def name(self) -> str:
        """Folder of its run."""
        again = f"again{self.replicate}" if self.replicate else ""
        parts = (self.method.replace(":", "_"), self.point, f"seed{self.seed}", again)
        return "-".join(part for part in parts if part)


def cells_of(config: CompareConfig) -> list[Cell]:
    """Every training of a comparison, in the order in which they start: whole seeds first, further trainings last."""
    first, further = [], []
    for seed in config.seeds:
        first += [Cell(method=method, searched=True, seed=seed) for method in config.searches]
        for method in config.losses:
            points = points_of(config, method)
            first += [Cell(method=method, searched=False, seed=seed, parameters=point) for point in points]
            missing = config.population - len(points) if config.replicates and config.searches else 0
            for extra in range(missing):  # the grid again, with other seeds
                again, at = divmod(extra, len(points))
                further.append(
                    Cell(method=method, searched=False, seed=seed, parameters=points[at], replicate=again + 1)
                )
    return first + further


def points_of(config: CompareConfig, method: str) -> list[tuple[tuple[str, float], ...]]:
    """Grid points of a hand-crafted loss; one without parameters if it has no grid."""
    points = [tuple(point.items()) for point in grid_of(method)]
    if method in config.grid:
        points = [((own_parameter(method), value),) for value in config.grid[method]]
    for key, values in config.grid.items():
        loss, parameter = grid_key(key)
        if loss != method or parameter is None:
            continue
        if parameter in dict(points[0]):
            raise UserError(f"grid of {key} must be left out: that of {method} is over {parameter} already")
        if parameter not in parameters_of(method):
            raise UserError(f"grid of {key} must be over a parameter of {method}, got {parameter!r}")
        points = [(*point, (parameter, value)) for point in points for value in values]
    return points


def own_parameter(method: str) -> str:
    """The parameter that a grid of a loss is over: the first that its declared grid varies.

    Raises:
        UserError: unknown loss, or one without.
    """
    names = list(grid_of(method)[0])
    if len(names) != 1 or isinstance(grid_of(method)[0][names[0]], bool):
        why = f"its declared one is over {' and '.join(names)}" if names else "the loss has no parameter to vary"
        raise UserError(f"grid of {method} must be left out: {why}")
    return names[0]


def run_of(config: CompareConfig, cell: Cell) -> SearchConfig:
    """The run that trains a cell."""
    seed = cell.seed + SEED_STEP * cell.replicate
    shared = {f: getattr(config, f) for f in SearchConfig.__dataclass_fields__}
    if not cell.searched:
        loss = LossConfig.of(cell.method, dict(cell.parameters))
        return SearchConfig(**{**shared, "mode": "fixed", "loss": loss, "seed": seed})
    mode, space = search_of(config, cell.method)
    return SearchConfig(**{**shared, "mode": mode, "space": space, "seed": seed})


def search_of(config: CompareConfig, method: str) -> tuple[str, SpaceConfig]:
    """Mode and space of a search row.

    Raises:
        UserError: it is none.
    """
    mode, _, name = ("search:am_lfs" if method == "am_lfs" else method).partition(":")
    if mode not in ("search", "random") or (":" in method and not name):
        raise UserError(f"searches must be search, random, am_lfs or MODE:SPACE, got {method!r}")
    if not name or name == config.space.name:
        return mode, config.space
    settings = asdict(config.am_lfs) if name == "am_lfs" else {}
    return mode, SpaceConfig(name=name, scale=config.space.scale, **settings)


def frame_of(config: CompareConfig, root: RunStore) -> pd.DataFrame:
    """One row per finished cell."""
    rows = []
    for cell in cells_of(config):
        outcome = outcome_of(RunStore(under(root.uri, "cells", cell.name)))
        if outcome is None:
            continue
        value = cell.parameters[0][1] if cell.parameters else float("nan")
        rows.append({
            "method": cell.method, "searched": cell.searched, "point": cell.point, "value": value, "seed": cell.seed,
            "replicate": cell.replicate, "reward": outcome.reward, "num_images": outcome.num_images,
            "diverged": outcome.diverged, "reason": outcome.reason,
            **{f"test:{name}": score for name, score in outcome.test.items()},
        })  # fmt: skip
    return pd.DataFrame(rows)


def parser() -> Parser:
    """The command's flags."""
    made = Parser(
        prog="python -m lfs.compare",
        usage="%(prog)s [--config RECIPE | --resume COMPARISON] [--SETTING VALUE ...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--config", metavar="RECIPE", default="", help="YAML file, or a name in configs/ [builtin]")
    made.add_argument("--resume", metavar="COMPARISON", default="", help="folder of a comparison to go on with")
    add_allow_flag(made)
    add_flags(made, CompareConfig, but=("loss", "schedule", "mode", "seed", *SEARCH_ONLY))
    return made


def started(recipe: str, flags: dict[str, str], view: View) -> tuple[RunStore, CompareConfig]:
    """A new comparison: everything checked, its folder made."""
    from lfs import driver

    config: CompareConfig = built(CompareConfig, recipe or "builtin", flags)
    config = replace(config, name=config.name or default_name(f"compare-{Path(recipe or 'builtin').stem}"))
    root = RunStore(under(config.storage, config.name))
    root.require_absent()
    refuse_unused(config)
    check_rows(config)
    config = driver.resolve(config, view)
    require(bool(config.data.test.lmdb), "data.test must name the sets that a comparison is for", config.data.test.lmdb)
    driver.check(config, view)
    save_settings(root, SETTINGS, config)
    return root, config


def refuse_unused(config: CompareConfig) -> None:
    """Refuse settings of rows that a new comparison does not have; a resumed one may leave rows out."""
    unused = [key for key in config.grid if grid_key(key)[0] not in config.losses]
    require(not unused, "grid must be of losses that are compared", unused)
    spaces = [search_of(config, method)[1].name for method in config.searches]
    own = config.space.name != "am_lfs" and "am_lfs" in spaces
    law = "am_lfs needs a row in that space beside the one of `space`, whose settings are its own"
    require(own or config.am_lfs == AMLFSConfig(), law, config.am_lfs)


def check_rows(config: CompareConfig) -> None:
    """Refuse unknown losses and spaces, and grid points out of range, before anything is trained."""
    rows = [search_of(config, method) for method in config.searches]
    twice = [method for method, row in zip(config.searches, rows, strict=True) if rows.count(row) > 1]
    require(not twice, "searches must be distinct", twice)
    for cell in cells_of(config):
        if cell.searched:
            get_space(search_of(config, cell.method)[1])
        else:
            make_loss(LossConfig.of(cell.method, dict(cell.parameters)), scale=config.space.scale)


def resumed(folder: str, flags: dict[str, str], view: View) -> tuple[RunStore, CompareConfig]:
    """A comparison to go on with.

    Raises:
        UserError: there is none, or a flag that would make its rows incomparable.
    """
    from lfs.driver import check

    root = RunStore(folder)
    config = load_settings(root, SETTINGS, CompareConfig)
    allow_said(flags)
    config = spelled_out(replace(config, **changed(config, flags, MAY_CHANGE)))
    check_rows(config)
    check(config, view)
    save_settings(root, SETTINGS, config)
    return root, config


def main(argv: Sequence[str]) -> int:
    """Run the command; see the module."""
    flags = vars(parser().parse_args(argv))
    recipe, resume = flags.pop("config"), flags.pop("resume")
    if resume and recipe:
        raise UserError("--resume goes without --config: the comparison has its own")
    view = View()
    root, config = resumed(resume, flags, view) if resume else started(recipe, flags, view)
    from lfs.cells import train_cells

    runs = {cell.name: run_of(config, cell) for cell in cells_of(config)}
    goes_on = f"python -m lfs.compare {resume_flags(root.shown)}"
    try:
        complete = train_cells(root, config, runs, view, new=not resume, resume=goes_on)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped at once; continue with {goes_on}") from None
    report(root, config, view)
    if not complete:
        view.command("incomplete", f"continue with {goes_on}")
    return OK if complete else FAILED


SHOWN = ("accuracy", "all:tar@far=0.001", "all:tar@far=0.0001")


def metrics_of(frame: pd.DataFrame) -> list[str]:
    """Test metrics that the table shows, of every test set: those of `SHOWN` that were measured, else all."""
    columns = [c.removeprefix("test:") for c in map(str, frame) if c.startswith("test:")]
    names = [c for c in columns if not c.endswith("_se") and c.rpartition("/")[2] != "threshold"]
    return [n for n in names if n.rpartition("/")[2] in SHOWN] or names


def report(root: RunStore, config: CompareConfig, view: View) -> None:
    """Print the table, and write it with every cell and the figures into the comparison's folder."""
    frame = frame_of(config, root)
    if frame.empty or frame["diverged"].all():
        view.say("no cell has come to a score yet" if frame.empty else "every cell that ended has diverged")
        return
    from lfs.figures import comparison_figure, figure_bytes
    from lfs.table import compare_methods

    metrics, (num_images, num_classes) = metrics_of(frame), training_set(config)
    table = compare_methods(
        frame, metrics, population=config.population, num_train_images=num_images,
        methods=(*config.losses, *config.searches), seeds=config.seeds,
    )  # fmt: skip
    view.say("")
    table.as_text(view.console)
    files = {
        "cells.csv": spreadsheet_safe(frame).to_csv(index=False).encode(),
        "table.csv": spreadsheet_safe(table.as_frame()).to_csv(index=False).encode(),
        "grid.csv": spreadsheet_safe(table.grid.as_frame()).to_csv(index=False).encode(),
        "table.md": f"{table.as_markdown()}\n{table.grid.as_markdown()}\n".encode(),
        "comparison.png": figure_bytes(
            comparison_figure(frame, metrics, population=config.population), "comparison.png"
        ),
        **loss_pictures(root, config, num_classes),
    }
    for name, data in files.items():
        root.write(data, name)
    view.say("")
    view.say(f"files        {', '.join(files)} in {root.shown}")


def training_set(config: CompareConfig) -> tuple[int, int]:
    """Pictures and identities of the training set."""
    labels = [read_list(resolve(config.data.root, path))[1] for path in config.data.train_list]
    return sum(map(len, labels)), sum(int(part.max()) + 1 for part in labels)


def loss_pictures(root: RunStore, config: CompareConfig, num_classes: int) -> dict[str, bytes]:
    """What each search learned on the first seed, generation by generation."""
    from lfs.figures import figure_bytes, loss_figure

    pictures = {}
    for cell in cells_of(config):
        store, name = RunStore(under(root.uri, "cells", cell.name)), f"loss-{cell.name}.png"
        if cell.searched and cell.seed == config.seeds[0] and outcome_of(store):
            losses = [(s["generation"] + 1, loss_from_dict(s["winner_loss"])) for s in store.summaries()]
            if losses:
                pictures[name] = figure_bytes(loss_figure(losses, num_classes), name)
    return pictures


if __name__ == "__main__":
    sys.exit(run_command(main))
