"""A search whose trainer is two processes, on real Ray: the same outcome as with one, also after -9 for either."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lfs.run_store import RunStore
from tests.lfs.conftest import Command
from tests.lfs.test_search_ray import digest
from trainers.data.check import NUM_DECODED, _sample
from trainers.data.lmdb_source import write_lmdb
from trainers.data.sets import TrainingSet, _permutation

pytestmark = pytest.mark.ray
Start = Callable[..., Command]
TWO_RANKS = ("--num-workers", "1", "--cpus-per-worker", "2", "--ranks-per-worker", "2")


@pytest.fixture(scope="module")
def short(recipe: dict[str, Any]) -> dict[str, Any]:
    """A search of few steps at a low rate, at which rounding stays small."""
    trainer = recipe["trainer"] | {"generation_length": 30, "sync_batchnorm": True, "lr": 0.01}
    return recipe | {"generations": 3, "population_size": 3, "trainer": trainer}


def search(folder: Path, recipe: dict[str, Any], *arguments: str) -> Command:
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    place = ("--config", str(folder / "recipe.yaml"), "--storage", str(folder), "--name", "run")
    return Command(folder, "lfs.search", *place, *arguments)


@pytest.fixture(scope="module")
def undisturbed(short: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The search with two ranks, left alone."""
    folder = tmp_path_factory.mktemp("undisturbed")
    command = search(folder, short, *TWO_RANKS)
    try:
        assert command.wait() == 0, command.err.read_text()
        assert command.err.read_text() == ""
        assert "1 trainer(s) of 2 CPU in 2 ranks fit" in command.out.read_text()
    finally:
        command.clean()
    return folder / "run"


def rewards(run: Path) -> list[float]:
    store = RunStore(str(run))
    return [reward for g in store.committed() for reward in store.load_candidates(g)["reward"]]


def test_two_ranks_find_what_one_finds(undisturbed: Path, short: dict[str, Any], tmp_path: Path) -> None:
    command = search(tmp_path, short, "--num-workers", "1")
    try:
        assert command.wait() == 0, command.err.read_text()
    finally:
        command.clean()
    np.testing.assert_allclose(rewards(undisturbed), rewards(tmp_path / "run"), atol=0.02)
    ours, one = (RunStore(str(run)).load_weights(0) for run in (undisturbed, tmp_path / "run"))
    assert ours.keys() == one.keys()
    assert ours["head.weight"].shape == one["head.weight"].shape
    np.testing.assert_allclose(ours["head.weight"], one["head.weight"], atol=0.01 * np.abs(one["head.weight"]).max())


@pytest.mark.parametrize("victim", ["ray::Rank", "ray::ResourceTrainable"])
def test_a_rank_that_is_killed_costs_the_candidate_alone(
    undisturbed: Path, short: dict[str, Any], tmp_path: Path, victim: str
) -> None:
    command = search(tmp_path, short, *TWO_RANKS)
    try:
        command.wait_for(tmp_path / "run" / "generations" / "000000" / "COMMIT")
        others = {"ray::Rank": "ray::ResourceTrainable", "ray::ResourceTrainable": "ray::Rank"}[victim]
        before = set(command.family(others))
        command.kill(victim)
        deadline = time.monotonic() + 60
        while before & set(command.family(others)):  # the other rank ends too
            assert time.monotonic() < deadline, "the other rank lives on"
            time.sleep(0.1)
        assert command.wait() == 0, command.err.read_text()
    finally:
        command.clean()
    assert digest(tmp_path / "run") == digest(undisturbed)


def test_a_picture_that_only_rank_1_cannot_read_ends_the_search_in_its_line(
    short: dict[str, Any], tmp_path: Path
) -> None:
    data, batch = short["data"], short["trainer"]["batch_size"]
    training = TrainingSet(data["train"], data["train_list"], data["input_size"])
    seen_early = set(_sample(len(training), NUM_DECODED).tolist())  # by the check before the search
    order = _permutation(len(training), short["seed"], 0).reshape(-1, batch)
    number = next(n for step in order[2:] for n in step[batch // 2 :].tolist() if n not in seen_early)
    source, _, key = training.pictures.locate(number)
    keys = [training.pictures.locate(n)[2] for n in range(len(training))]
    items = [
        (one, b"no picture" if one == key else value) for one, value in zip(keys, source.get_many(keys), strict=True)
    ]
    write_lmdb(tmp_path / "train.lmdb", items)

    spoilt = short | {"data": data | {"train": [str(tmp_path / "train.lmdb")]}}
    command = search(tmp_path, spoilt, *TWO_RANKS)
    try:
        assert command.wait() == 1
        [line] = command.err.read_text().splitlines()
        assert f"train.lmdb: key {key!r}" in line
    finally:
        command.clean()
