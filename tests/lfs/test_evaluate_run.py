"""Models out of runs and comparisons, and the run's own test scores as the reference."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lfs import evaluate
from lfs.commands import OK, run_command
from lfs.config import SearchConfig
from lfs.model_file import find_models
from lfs.options import build
from lfs.run_store import RunStore
from lfs.serial import SerialRun
from search_space.config import LossConfig
from search_space.errors import UserError
from trainers.config import RewardConfig


@pytest.fixture
def store(recipe_file: Callable[..., str], tmp_path: Path) -> RunStore:
    """A training of two generations, tested with flip averaging."""
    config = build(SearchConfig, recipe_file(generations=2), {})
    trainer = replace(config.trainer, generation_length=6, average=0.5)
    reward = RewardConfig(metric="auc", num_bootstrap=20, flip_average=True)
    config = replace(config, trainer=trainer, reward=reward, name="run", mode="fixed", loss=LossConfig(name="am"))
    made = RunStore(str(tmp_path / "run"))
    made.create(config)
    SerialRun(made).run(lambda status: None)
    return made


def test_the_scores_are_those_of_the_run_itself(store: RunStore, tmp_path: Path) -> None:
    test = store.load_config().data.test
    command = (store.uri, "--set", f"t={test.lmdb[0]},{test.pairs[0]}", "--json", str(tmp_path / "r.json"))
    assert run_command(evaluate.main, command) == OK
    model = json.loads((tmp_path / "r.json").read_text())["models"][0]
    expected: dict[str, Any] = (store.load_result() or {})["test"]
    measures = model["sets"]["t"]["measures"]
    assert measures["accuracy"]["value"] == pytest.approx(expected["accuracy"], abs=1e-12)
    assert measures["accuracy"]["standard_error"] == pytest.approx(expected["accuracy_se"], abs=1e-12)
    assert measures["auc"]["value"] == pytest.approx(expected["auc"], abs=1e-12)
    origin = model["facts"]["origin"]
    assert (origin["run"], origin["generation"], origin["loss"]) == ("run", 2, "am")


def test_a_generation_is_chosen_with_an_at_sign(store: RunStore) -> None:
    models = [find_models(text)[0] for text in (store.uri, f"{store.uri}@2", f"{store.uri}@1")]
    assert [model.label for model in models] == ["run", "run@2", "run@1"]
    digests = [model.load().digest for model in models]
    assert digests[0] == digests[1] != digests[2]
    with pytest.raises(UserError, match=r"has generations 1 to 2, got @3"):
        find_models(f"{store.uri}@3")
    store.prune(1, 1)
    with pytest.raises(UserError, match="weights of generation 1 were deleted"):
        find_models(f"{store.uri}@1")[0].load()


def test_a_run_without_a_generation_has_no_model(store: RunStore, tmp_path: Path) -> None:
    empty = RunStore(str(tmp_path / "empty"))
    empty.create(store.load_config())
    with pytest.raises(UserError, match="has no committed generation yet"):
        find_models(empty.uri)


def test_an_exported_run_is_the_same_model(store: RunStore, tmp_path: Path) -> None:
    assert run_command(evaluate.main, ("export", store.uri, "--to", str(tmp_path / "m"))) == OK
    [found] = find_models(str(tmp_path / "m"))
    assert found.load().digest == find_models(store.uri)[0].load().digest
    assert found.origin["generation"] == 2
