"""The command that compares losses: which runs it makes of which settings, what it refuses, and a whole one with -9."""

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from lfs import cells, compare, presence
from lfs.cells import CellTrial, prepare
from lfs.commands import FAILED
from lfs.compare import Cell, cells_of, points_of, run_of, search_of
from lfs.config import CompareConfig
from lfs.folder import StorageError
from lfs.generation import DivergedError
from lfs.options import build
from lfs.outcomes import outcome_of, scores_file, scores_of
from lfs.presence import Presence
from lfs.run_store import RunStore
from lfs.settings import changed, save_settings
from lfs.view import View
from search_space.config import SpaceConfig
from search_space.errors import UserError
from tests.lfs.conftest import Command
from trainers.checkpoint import from_bytes

SHORT = (
    "--trainer.generation-length",
    "6",
    "--generations",
    "2",
    "--population-size",
    "2",
    "--warmup-generations",
    "1",
)


def config(**changes: object) -> CompareConfig:
    values: dict[str, object] = {"population_size": 4, "losses": ("am", "norm_softmax"), "searches": ("search",)}
    return CompareConfig(**values | changes)  # type: ignore[arg-type]


def test_every_method_is_trained_on_every_seed_and_further_trainings_come_last() -> None:
    cells = cells_of(config(seeds=(0, 5), grid={"am": (0.1, 0.3)}))
    assert [cell.name for cell in cells[:4]] == ["search-seed0", "am-margin=0.1-seed0", "am-margin=0.3-seed0",
                                                 "norm_softmax-scale=16-seed0"]  # fmt: skip
    further = [cell for cell in cells if cell.replicate]
    assert cells[-len(further) :] == further
    assert [cell.name for cell in further] == [
        "am-margin=0.1-seed0-again1", "am-margin=0.3-seed0-again1",
        "am-margin=0.1-seed5-again1", "am-margin=0.3-seed5-again1",
    ]  # fmt: skip
    assert len({cell.name for cell in cells}) == len(cells)


def test_each_loss_has_at_least_b_trainings_per_seed_unless_told_otherwise() -> None:
    for population in (2, 4, 8):
        cells = cells_of(config(population_size=population, seeds=(0,), losses=("softmax", "am")))
        counts = pd.Series([cell.method for cell in cells if not cell.searched]).value_counts()
        assert counts["softmax"] == population
        assert counts["am"] == max(population, 5)
    assert all(not cell.replicate for cell in cells_of(config(replicates=False)))


def test_a_cell_is_an_ordinary_run() -> None:
    settings = config(seeds=(3,), generations=5)
    am = run_of(settings, Cell(method="am", searched=False, seed=3, parameters=(("margin", 0.2),), replicate=1))
    assert (am.mode, am.loss.name, am.loss.margin, am.seed, am.population) == ("fixed", "am", 0.2, 10_003, 1)
    search = run_of(settings, Cell(method="search", searched=True, seed=3))
    assert (search.mode, search.space, search.seed, search.population) == ("search", settings.space, 3, 4)
    assert am.generations == search.generations == 5
    assert am.trainer == search.trainer


def test_rows_of_searches() -> None:
    settings = config()
    assert search_of(settings, "random") == ("random", settings.space)
    assert search_of(settings, "am_lfs")[1] == SpaceConfig(name="am_lfs", scale=settings.space.scale)
    free = build(CompareConfig, "", {"am_lfs.intercepts": "free", "am_lfs.std": "0.1", "space.scale": "20"})
    wanted = SpaceConfig(name="am_lfs", intercepts="free", std=0.1, scale=20.0)
    assert search_of(free, "am_lfs") == search_of(free, "search:am_lfs") == ("search", wanted)
    assert search_of(settings, "random:local")[1].name == "local"
    with pytest.raises(UserError, match="searches must be search, random, am_lfs or MODE:SPACE, got 'best'"):
        search_of(settings, "best")


def test_a_grid_replaces_the_declared_one() -> None:
    settings = config(grid={"am": (0.05,)})
    assert points_of(settings, "am") == [(("margin", 0.05),)]
    assert points_of(config(losses=("softmax",)), "softmax") == [()]
    with pytest.raises(UserError, match="grid of softmax must be left out"):
        points_of(config(losses=("softmax",), grid={"softmax": (1.0,)}), "softmax")
    both = config(grid={"am": (0.05, 0.1), "am.scale": (16.0, 32.0)})
    assert [Cell(method="am", searched=False, seed=0, parameters=p).name for p in points_of(both, "am")] == [
        f"am-margin={margin},scale={scale}-seed0" for margin in (0.05, 0.1) for scale in (16, 32)
    ]
    assert len(points_of(config(grid={"am.scale": (16.0, 32.0)}), "am")) == 2 * len(points_of(config(), "am"))
    scaled = run_of(both, Cell(method="am", searched=False, seed=0, parameters=points_of(both, "am")[1]))
    assert (scaled.loss.margin, scaled.loss.scale) == (0.05, 32.0)
    with pytest.raises(UserError, match="grid of magface must be left out: its declared one is over l_m and u_m"):
        points_of(config(losses=("magface",), grid={"magface": (0.2,)}), "magface")


def test_grids_are_read_from_flags() -> None:
    made = build(CompareConfig, "", {"losses": "am,arc", "grid": "am=0.1,0.2 arc=0.5"})
    assert made.grid == {"am": (0.1, 0.2), "arc": (0.5,)}
    with pytest.raises(UserError, match="--grid: "):
        build(CompareConfig, "", {"grid": "am=big"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--losses", "am,ark"), "got 'ark'; did you mean arc"),
        (("--searches", "search:globel"), "got 'globel'; did you mean global"),
        (("--grid", "am=0.1,9"), "loss margin of am must be in [0, 2], cosines, got 9"),
        (("--grid", "magface=0.1"), "grid must be of losses that are compared, got ['magface']"),
        (("--losses", "am", "--grid", "am.t=0.1"), "grid of am.t must be over a parameter of am, got 't'"),
        (
            ("--losses", "am", "--grid", "am.margin=0.1"),
            "grid of am.margin must be left out: that of am is over",
        ),
        (("--losses", "am", "--grid", "am.size=0.1"), "grid of am.size must be over a parameter of am, got 'size'"),
        (("--losses", "am", "--grid", "am.=0.1"), "grid of am. must be over a parameter of am, got ''"),
        (("--searches", "search", "--am-lfs.std", "0.1"), "am_lfs needs a row in that space"),
        (("--searches", "search", "--am-lfs.std", "-3"), "--am-lfs.std: space std must be > 0"),
        (("--space.name", "am_lfs", "--searches", "am_lfs", "--am-lfs.std", "0.1"), "am_lfs needs a row in that space"),
        (("--losses", "am", "--grid", "arc.scale=16"), "grid must be of losses that are compared, got ['arc.scale']"),
        (("--seeds", "1,1"), "seeds must be distinct"),
        (("--losses", "am,am"), "losses and searches must be distinct"),
        (("--searches", "am_lfs,search:am_lfs"), "searches must be distinct, got ['am_lfs', 'search:am_lfs']"),
        (("--am-lfs.intercepts", "no"), "space intercepts must be one of"),
        (("--searches", "search:"), "searches must be search, random, am_lfs or MODE:SPACE, got 'search:'"),
        (("--grid", "am=0.1,0.10000001"), "grid must have one or more distinct values of am"),
        (("--losses", "", "--searches", ""), "must name at least one row"),
        (("--resume", "nothing"), "cannot be resumed: it has no comparison.yaml"),
    ],
)
def test_refuses(refused: Callable[..., str], tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    assert message in refused(*arguments)
    assert not (tmp_path / "runs").exists()


def test_a_cell_of_other_settings_is_not_taken_for_ours(tmp_path: Path) -> None:
    root, run = RunStore(str(tmp_path)), run_of(config(), Cell(method="am", searched=False, seed=0))
    prepare(root, {"am": run})
    prepare(root, {"am": replace(run, num_workers=7)})
    with pytest.raises(UserError, match=r"cells/am was made with other settings \(seed, generations\); remove it"):
        prepare(root, {"am": replace(run, generations=9, seed=1)})


@pytest.mark.parametrize("error", [UserError("/gone.lmdb: no such LMDB"), DivergedError("all diverged")])
def test_only_divergence_is_an_outcome(tmp_path: Path, error: UserError) -> None:
    trial = CellTrial.__new__(CellTrial)
    trial.store = trial.root = RunStore(str(tmp_path))
    trial.scores, trial.trouble, trial.session = None, "", "tune"

    class Run:
        search = SimpleNamespace(over=False, error="", state=SimpleNamespace(num_images=7))
        board = SimpleNamespace(summaries=[])

        def generation(self) -> None:
            raise error

    trial.run_ = Run()
    result = trial.step()
    assert result["done"]
    outcome = outcome_of(trial.store)
    if isinstance(error, DivergedError):
        assert outcome is not None
        assert (outcome.diverged, outcome.reason, outcome.num_images) == (True, "all diverged", 7)
    else:
        assert outcome is None
        assert result["trouble"] == "/gone.lmdb: no such LMDB"


def test_trials_stop_when_another_driver_has_taken_their_comparison_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = RunStore(f"file://{tmp_path}/compared")
    stopped: list[bool] = []

    class Tuner:
        def __init__(self, trainable: Any, *, param_space: dict[str, Any], **_: Any) -> None:
            self.space = param_space

        def fit(self) -> None:
            other, until = Presence(root), time.monotonic() + 20
            while not root.exists(self.space["session"], cells.STOP) and time.monotonic() < until:
                other._write()  # again: a beat that was under way may have written over it
                time.sleep(0.01)
            for session in (self.space["session"], "tune-2"):
                trial = CellTrial.__new__(CellTrial)
                trial.root, trial.session, trial.trouble, trial.run_ = root, session, "", SimpleNamespace()
                trial._advance = lambda run: {"done": False}
                stopped.append(trial.step()["done"])

    monkeypatch.setattr(presence, "BEAT_S", 0.01)
    monkeypatch.setattr(presence, "SETTLE_S", 0.0)
    monkeypatch.setattr(cells.tune, "Tuner", Tuner)
    for name in ("waited_for_ray", "quiet_logs"):
        monkeypatch.setattr(cells, name, lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(cells, "alive_nodes", lambda: [{"Resources": {"CPU": 2.0}}])
    monkeypatch.setattr(cells, "growth_of_cluster", lambda *_: None)
    runs = {"am": run_of(config(), Cell(method="am", searched=False, seed=0))}
    assert not cells.train_cells(root, config(), runs, View())
    assert stopped == [True, False], "its own trials, and not those of the other driver"
    assert "is worked on already by process" in "".join(capsys.readouterr())


@pytest.mark.ray
def test_a_comparison_outlives_its_driver_and_a_trial(
    run_command: Callable[..., Command], recipe_file: Callable[..., str], tmp_path: Path
) -> None:
    """Killed with -9 in the middle and resumed: the same cells, to the last bit, as those of single runs."""
    root = tmp_path / "compared"
    rows = ("--losses", "am,curricular", "--grid", "am=0.1,0.3 curricular=0.2", "--searches", "search", "--seeds", "1")
    where = ("--config", recipe_file(), "--storage", str(tmp_path), "--name", "compared", "--num-workers", "2")
    first = run_command("lfs.compare", *where, *rows, *SHORT)
    first.wait_for(root / "cells" / "search-seed1" / "generations" / "000000" / "COMMIT")
    first.kill("ray::ResourceTrainable")
    first.wait_for(root / "cells" / "am-margin=0.1-seed1" / "outcome.json")
    first.kill("lfs.compare")
    first.wait()
    first.clean()

    refused = run_command("lfs.compare", "--resume", str(root), "--reward.metric", "accuracy")
    assert refused.wait() == FAILED
    [line] = refused.err.read_text().splitlines()
    assert "--reward.metric cannot change on resume" in line

    stopped = run_command("lfs.compare", "--resume", str(root), "--num-workers", "1")
    stopped.wait_for(root / "tune-2")
    os.kill(stopped.process.pid, signal.SIGINT)
    assert stopped.wait() == FAILED
    assert "stopping after the running generations" in stopped.out.read_text()
    assert f"continue with python -m lfs.compare --resume {root}" in stopped.out.read_text()
    assert not (root / "stop").exists()

    second = run_command("lfs.compare", "--resume", str(root), "--num-workers", "1")
    assert second.wait() == 0, second.err.read_text()
    out = second.out.read_text()
    assert "AM-Softmax" in out
    assert "Search-Softmax" in out
    for name in ("cells.csv", "table.csv", "grid.csv", "table.md", "comparison.png", "loss-search-seed1.png"):
        assert (root / name).stat().st_size > 0, name
    cells = pd.read_csv(root / "cells.csv")
    assert sorted(cells["method"]) == ["am", "am", "curricular", "curricular", "search"]
    images = cells.set_index("method")["num_images"]
    assert images["search"] == 3 * 6 * 16
    assert set(images["am"]) == {2 * 6 * 16}

    alone = run_command(
        "lfs.train", "--config", where[1], "--loss", "am", "--loss.margin", "0.3", "--seed", "1",
        "--storage", str(tmp_path), "--name", "alone", *SHORT[:4],
    )  # fmt: skip
    assert alone.wait() == 0, alone.err.read_text()
    cell = root / "cells" / "am-margin=0.3-seed1"
    assert (
        json.loads((cell / "outcome.json").read_text())["test"]
        == json.loads((tmp_path / "alone" / "result.json").read_text())["test"]
    )
    both = [(p / "generations" / "000001" / "winner.safetensors").read_bytes() for p in (cell, tmp_path / "alone")]
    ours, theirs = (from_bytes(data, source="")[0] for data in both)
    assert all((ours[name] == theirs[name]).all() for name in theirs)

    third = run_command("lfs.compare", "--resume", str(root))
    assert third.wait() == 0, third.err.read_text()
    assert "to train" not in third.out.read_text()


def test_settings_of_a_comparison_that_are_damaged(
    refused: Callable[..., str], tmp_path: Path, recipe_file: Callable[..., str]
) -> None:
    root = RunStore(str(tmp_path / "made"))
    save_settings(root, compare.SETTINGS, config())
    text = root.read(compare.SETTINGS).decode()
    for there, damage, message in (
        ("seeds:", "sedes:", "unknown key 'sedes'; did you mean 'seeds'?"),
        ("settings:", "settings: 3\nrest:", "not the settings of a comparison"),
        ("format: ", "format: 9", "this version reads format"),
    ):
        root.write(text.replace(there, damage).encode(), compare.SETTINGS)
        assert message in refused("--resume", root.uri)


def test_a_loss_with_a_grid_may_be_left_out_on_resume_and_equal_flags_are_no_change() -> None:
    stored = config(losses=("combined", "am"), grid={"am": (0.1, 0.3)})
    assert changed(stored, {"grid": "am=0.1,0.3", "losses": "combined"}, compare.MAY_CHANGE) == {
        "losses": ("combined",)
    }
    shorter = replace(stored, losses=("combined",))
    assert {cell.method for cell in cells_of(shorter)} == {"combined", "search"}
    with pytest.raises(UserError, match="--grid cannot change on resume"):
        changed(stored, {"grid": "am=0.1"}, compare.MAY_CHANGE)


def test_storage_that_cannot_be_written_ends_a_cell_at_once() -> None:
    def generation() -> None:
        raise StorageError("/full: No space left on device")

    trial = CellTrial.__new__(CellTrial)
    trial.trouble, trial.session, trial.root = "", "tune", SimpleNamespace(exists=lambda *names: False)
    trial.store = SimpleNamespace(uri="/full")
    trial.run_ = SimpleNamespace(search=SimpleNamespace(over=False), generation=generation)
    result = trial.step()
    assert result["done"]
    assert result["trouble"] == "storage /full: No space left on device"


def test_scores_that_are_not_those_asked_for_are_damage(tmp_path: Path) -> None:
    store = RunStore(str(tmp_path / "cell"))
    good = {name: {"value": 0.5, "replicates": [0.4, 0.6]} for name in ("auc", "accuracy")}
    store.write(json.dumps(good).encode(), scores_file(3))
    found = scores_of(store, 3, ("accuracy", "auc"))
    assert found is not None
    assert found["auc"].replicates == [0.4, 0.6]
    assert scores_of(store, 4, ("auc",)) is None
    for bad in ({}, {"auc": good["auc"]}, good | {"auc": {"value": 0.5, "replicates": [0.4]}}, {"auc": 3}):
        store.write(json.dumps(bad).encode(), scores_file(3))
        with pytest.raises(UserError, match="not the scores of accuracy, auc: .*; delete it to measure anew"):
            scores_of(store, 3, ("accuracy", "auc"))
