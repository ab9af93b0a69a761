"""The script behind the table on real faces: what earlier sittings measured is found again, and nothing else."""

import json
import signal
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from benchmarks import real_faces_table
from lfs import compare
from lfs.cells import prepare
from lfs.commands import FAILED, run_command
from lfs.config import CompareConfig
from lfs.options import build
from lfs.outcomes import OUTCOME, CellOutcome, outcome_of
from lfs.run_store import RunStore
from lfs.serial import SerialRun
from lfs.settings import load_settings
from lfs.view import View
from search_space.errors import UserError


@pytest.fixture
def config(recipe: dict[str, Any], tmp_path: Path) -> CompareConfig:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    flags = {"storage": str(tmp_path / "runs"), "name": "table", "seeds": "0", "losses": "am", "searches": "search"}
    return build(CompareConfig, str(path), flags)


def outcome(root: RunStore, cell: str) -> CellOutcome | None:
    return outcome_of(RunStore(f"{root.uri}/cells/{cell}"))


def finish(root: RunStore, config: CompareConfig, cells: list[str]) -> None:
    """As if these cells had been trained, the second in vain, and the table written."""
    for i, name in enumerate(cells):
        made = CellOutcome(reward=0.1 + i / 7, test={"accuracy": 2 / 3, "accuracy_se": 0.01}, num_images=100)
        if i == 1:
            made = replace(made, reward=float("nan"), test={}, diverged=True, reason="loss is inf, at step 3")
        RunStore(f"{root.uri}/cells/{name}").write(json.dumps(asdict(made)).encode(), OUTCOME)
    root.write(compare.frame_of(config, root).to_csv(index=False).encode(), "cells.csv")


def test_cells_of_earlier_sittings_are_found_again_if_settings_are_the_same(
    config: CompareConfig, tmp_path: Path
) -> None:
    cells = [cell.name for cell in compare.cells_of(config)]
    assert cells[:2] == ["search-seed0", "am-margin=0.1-seed0"]
    root = real_faces_table.opened(config, tmp_path / "results", View())
    finish(root, config, cells[:2])
    real_faces_table.keep(root, config, tmp_path / "results")

    more_seeds = real_faces_table.opened(replace(config, name="more", seeds=(0, 1)), tmp_path / "results", View())
    assert more_seeds.uri != root.uri
    assert outcome(more_seeds, cells[0]) == outcome(root, cells[0])
    diverged = outcome(more_seeds, cells[1])
    assert diverged is not None
    assert (diverged.diverged, diverged.reason) == (True, "loss is inf, at step 3")
    assert outcome(more_seeds, cells[2]) is None

    policy = replace(config, name="policy", policy=replace(config.policy, lr=0.01))
    other_policy = real_faces_table.opened(policy, tmp_path / "results", View())
    assert outcome(other_policy, cells[0]) is None
    assert outcome(other_policy, cells[1]) is not None, "a hand-crafted loss has no policy"


def test_results_that_came_in_between_reach_a_folder_that_is_there(config: CompareConfig, tmp_path: Path) -> None:
    root = real_faces_table.opened(config, tmp_path / "results", View())
    [name, *_] = [cell.name for cell in compare.cells_of(config)]
    wider = replace(config, name="elsewhere", seeds=(0, 1))
    other = real_faces_table.opened(wider, tmp_path / "results", View())
    finish(other, wider, [name])
    real_faces_table.keep(other, wider, tmp_path / "results")
    assert outcome(root, name) is None
    assert real_faces_table.opened(config, tmp_path / "results", View()).uri == root.uri
    assert outcome(root, name) is not None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--set", "sedes=1"),
            "--set takes NAME=VALUE with a setting of lfs.compare, such as seeds=0,1; got 'sedes",
        ),
        (("--set", "seeds"), "--set takes NAME=VALUE with a setting of lfs.compare"),
        (("--set", "seeds=-1"), "seeds must be in 0..9999"),
        (("--set", "seed=1"), "--set takes NAME=VALUE with a setting of lfs.compare"),
        (("--set", "losses=am", "grid=arc=0.1"), "grid must be of losses that are compared, got ['arc']"),
        (("--results", ".."), "--results must be a plain folder name, got '..'"),
        ((), "celeba_subset_labels.txt"),
    ],
)
def test_refuses(
    config: CompareConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    where = [str(tmp_path), "--storage", str(tmp_path / "runs")]
    assert run_command(real_faces_table.main, [*where, *words]) == FAILED
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "runs").exists()


def test_a_folder_made_for_data_elsewhere_is_refused(config: CompareConfig, tmp_path: Path) -> None:
    root = real_faces_table.opened(config, tmp_path / "results", View())
    stored = yaml.safe_load(root.read(compare.SETTINGS))
    stored["settings"]["data"]["train"] = ["/elsewhere/train.lmdb"]
    root.write(yaml.safe_dump(stored).encode(), compare.SETTINGS)
    with pytest.raises(UserError, match="was made for /elsewhere/train.lmdb; remove it, or take another --storage"):
        real_faces_table.opened(config, tmp_path / "results", View())


def test_candidates_of_finished_searches_are_kept_with_their_settings(config: CompareConfig, tmp_path: Path) -> None:
    short = replace(config, generations=2, population_size=2, trainer=replace(config.trainer, generation_length=6))
    root, results = real_faces_table.opened(short, tmp_path / "results", View()), tmp_path / "results"
    [search] = [cell for cell in compare.cells_of(short) if cell.searched]
    run_config = compare.run_of(load_settings(root, compare.SETTINGS, CompareConfig), search)
    store = prepare(root, {search.name: run_config})[search.name]
    run = SerialRun(store)
    run.generation()
    finish(root, short, [])
    real_faces_table.keep_candidates(root, short, results)
    assert not (results / "candidates.csv").exists(), "a search that is not finished"

    run.run(lambda _: None)
    finish(root, short, [search.name])
    real_faces_table.keep(root, short, results)
    kept = pd.read_csv(results / "candidates.csv")
    assert kept[["generation", "candidate"]].to_numpy().tolist() == [[0, 0], [1, 0], [1, 1]]
    assert set(kept["settings"]) == {real_faces_table.digest(short, search)}
    assert kept["reward"].to_numpy()[-1] == store.load_candidates(1)["reward"].to_numpy()[-1]


class Clock(subprocess.Popen):  # type: ignore[type-arg]
    """A process that ends when it is told to the second time, and notes what it was told."""

    def __init__(self, waits: list[BaseException | None]) -> None:
        self.waits, self.told, self.timeouts, self.returncode = waits, [], [], None

    def poll(self) -> int | None:
        return None if self.waits else 0

    def wait(self, timeout: float | None = None) -> int:
        self.timeouts.append(timeout)
        if (what := self.waits.pop(0)) is not None:
            raise what
        return 0

    def send_signal(self, number: int) -> None:
        self.told.append(number)

    def __del__(self) -> None:
        pass


def test_the_end_is_asked_for_once_and_a_ctrl_c_is_waited_for() -> None:
    late = Clock([subprocess.TimeoutExpired("lfs.compare", 60), KeyboardInterrupt(), None])
    real_faces_table.finished(late, 60)
    assert late.told == [signal.SIGINT]
    assert late.timeouts == [60, None, None]
