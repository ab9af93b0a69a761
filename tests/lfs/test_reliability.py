"""The command that studies how far a reward ranks losses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lfs import reliability
from lfs.config import ReliabilityConfig
from lfs.run_store import RunStore
from tests.lfs.conftest import Command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--grid", "am=0.1,0.2"), "grid must have at least 3 losses"),
        (("--orders", "1"), "orders must be at least 2, got 1"),
        (("--grid", "softmax=1,2,3"), "grid of softmax must be left out"),
        (("--grid", "adacos=0,1,2"), "grid of adacos must be left out"),
        (("--grid", "am=0,0.1,0.2 am.scale=16"), "grid must be over a loss's own parameter"),
        (("--lengths", "inf"), "lengths must be > 0 and finite"),
        (("--after", "1e400"), "after must be >= 0 and finite"),
        (("--metrics", "all:auc"), "metric all:auc on the reward sets needs label lists"),
        (("--trainer.average", "0.5", "--lengths", "60,120"), "lengths must be one length"),
        (("--trainer.average", "0.5", "--lengths", "60", "--after", "90"), "lengths must be one length"),
        (("--metrics", "tar@far=2"), "must be in (0, 1)"),
        (("--after", "1000", "--lengths", "300,701"), "must be whole multiples of one length, at least 15 here"),
        (("--start", "nothing"), "is no run"),
        (("--resume", "nothing"), "cannot be resumed: it has no reliability.yaml"),
    ],
)
def test_a_study_of_reliability_refuses(
    refused: Callable[..., str], tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    assert message in refused(*arguments, main=reliability.main)
    assert not (tmp_path / "runs").exists()


def test_lengths_of_a_study_are_whole_generations_of_its_runs(tmp_path: Path) -> None:
    settings = ReliabilityConfig(after=3.0, lengths=(1.5, 6.0), orders=2)
    made = reliability.plan(settings, RunStore(str(tmp_path)))
    assert made.base is not None
    assert (made.base.generations, made.base.trainer.generation_length) == (2, 1.5)
    assert made.generations == {1.5: 2, 6.0: 5}
    assert {run.generations for run in made.cells.values()} == {6}
    assert {run.order for run in made.cells.values()} == {1, 2}
    assert len(made.cells) == 12


@pytest.mark.ray
def test_a_study_of_reliability(
    run_command: Callable[..., Command], recipe: dict[str, Any], recipe_file: Callable[..., str], tmp_path: Path
) -> None:
    reward = recipe["data"]["reward"]
    labelled = reward | {"labels": reward["pairs"].replace("_pairs", "_labels")}
    path = recipe_file(data=recipe["data"] | {"reward": labelled})
    where = ("--config", path, "--storage", str(tmp_path), "--name", "study", "--num-workers", "2")
    study = ("--grid", "am=0,0.2,0.4", "--after", "6", "--lengths", "6,12")
    command = run_command("lfs.reliability", *where, *study)
    assert command.wait() == 0, command.err.read_text()
    table = pd.read_csv(tmp_path / "study" / "reliability.csv")
    names = ["accuracy", "auc", "d_prime", "tar@far=0.01", "tar@far=0.001"]
    everyone = [f"all:{name}" for name in names]  # but no lower FAR: the set has 6,840 impostor pairs
    assert list(zip(table["length"], table["metric"], strict=True)) == [
        (length, name) for length in (6.0, 12.0) for name in names + everyone
    ]
    known = table["metric"].isin(["auc", "all:auc", "all:accuracy"])
    assert table["rank_correlation"][known].between(-1, 1).all()
    assert (table["paired_se"][known] > 0).all()
    assert "rank correlation" in command.out.read_text()
    more = run_command("lfs.reliability", "--resume", str(tmp_path / "study"), "--orders", "3")
    assert more.wait() == 0, more.err.read_text()
    assert "3 of 9 cells to train" in more.out.read_text()
