"""Recipes and flags: what they set, and the one line that each mistake ends in."""

import argparse
import dataclasses
import typing
from pathlib import Path

import pytest
import yaml

from lfs.config import CompareConfig, ReliabilityConfig, SearchConfig
from lfs.options import RECIPES, add_flags, build, field_help, flag, leaves
from lfs.search import parser
from search_space.errors import UserError
from search_space.spaces import get_space


@pytest.fixture
def recipe(tmp_path: Path) -> typing.Callable[[str], str]:
    def write(text: str) -> str:
        (tmp_path / "recipe.yaml").write_text(text)
        return str(tmp_path / "recipe.yaml")

    return write


def test_flags_are_laid_over_the_recipe_over_the_defaults(recipe: typing.Callable[[str], str]) -> None:
    path = recipe(
        "seed: 4\ntrainer:\n  lr: 1e-2\n  batch_size: 32\ndata:\n  train: a.lmdb, b.lmdb\n  train_list: [x, y]\n"
    )
    config = build(
        SearchConfig, path, {"trainer.batch_size": "16", "data.reward.folds": "0,1,4", "gpus_per_worker": "0.5"}
    )
    assert (config.seed, config.trainer.lr, config.trainer.batch_size, config.trainer.momentum) == (4, 0.01, 16, 0.9)
    assert config.data.train == ("a.lmdb", "b.lmdb")
    assert config.data.train_list == ("x", "y")
    assert config.data.reward.folds == (0, 1, 4)
    assert config.gpus_per_worker == 0.5
    assert build(SearchConfig, "", {"gpus_per_worker": "auto"}).gpus_per_worker is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "seed: 1\ntrainer:\n  batchsize: 4\n",
            r"recipe.yaml, line 3: unknown key 'trainer.batchsize'; did you mean 'batch_size'\?",
        ),
        ("qwertz: 1\n", "recipe.yaml, line 1: unknown key 'qwertz'; expected one of name, storage, mode"),
        ("seed: 1\n\ntrainer:\n  lr: fast\n", "recipe.yaml, line 4: trainer.lr must be a number, got 'fast'"),
        ("generations: 2.5\n", "line 1: generations must be a whole number, got 2.5"),
        ("trainer: 3\n", "line 1: trainer must hold `key: value` lines, got 3"),
        ("trainer:\n  lr: 0.1\n  momentum: 2\n", r"recipe.yaml, line 3: momentum must be in \[0, 1\), got 2.0"),
        ("mode: learn\n", "line 1: mode must be one of search, random, fixed, got 'learn'"),
        ("- 1\n", "line 1: expected `key: value` lines, got list"),
        ("a: [1\n", "recipe.yaml, line 2: not YAML"),
        ("name: a/b\n", "line 1: name must be a plain folder name, without any of .*, got 'a/b'"),
        ("num_workers: 0\n", "line 1: num_workers must be at least 1, got 0"),
    ],
)
def test_mistakes_in_a_recipe_name_file_and_line(recipe: typing.Callable[[str], str], text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build(SearchConfig, recipe(text), {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"num_workers": "0"}, "--num-workers: num_workers must be at least 1, got 0"),
        ({"trainer.batch_size": "abc"}, "--trainer.batch-size: trainer.batch_size must be a whole number, got 'abc'"),
        ({"data.flip": "maybe"}, "--data.flip: data.flip must be a boolean"),
        ({"data.reward.folds": "0,11"}, r"--data.reward.folds: folds must be distinct and in 0..9, got \(0, 11\)"),
        ({"reward.metric": "tar@far=2"}, r"--reward.metric: the far in metric must be in \(0, 1\), got 'tar@far=2'"),
    ],
)
def test_mistakes_in_flags_name_the_flag(flags: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(SearchConfig, "", flags)


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="no recipe 'buildin': expected a YAML file, or one of builtin"):
        build(SearchConfig, "buildin", {})


def test_an_unknown_flag_exits_2_with_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parser().parse_args(["--num-workrs", "2"])
    assert caught.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "did you mean --num-workers?" in line


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_builds_and_sets_only_what_it_says(path: Path) -> None:
    config = dataclasses.asdict(build(SearchConfig, path.stem, {}))

    def compare(said: dict[str, typing.Any], got: dict[str, typing.Any]) -> None:
        for key, value in said.items():
            if isinstance(value, dict):
                compare(value, got[key])
            else:
                assert got[key] == (tuple(value) if isinstance(value, list) else value), key

    compare(yaml.safe_load(path.read_text()), config)


def test_every_setting_has_a_docstring_and_a_flag() -> None:
    made = argparse.ArgumentParser(allow_abbrev=False)
    add_flags(made, SearchConfig)
    names = [name for name, _, note in leaves(SearchConfig) if note]
    assert len(names) > 50
    assert {flag(n) for n in names} < set(made._option_string_actions)
    assert field_help(SearchConfig)["seed"] == "Everything random follows from it."


def test_the_help_of_every_setting_says_its_default_as_a_flag_takes_it() -> None:
    notes = {name: note for name, _, note in leaves(ReliabilityConfig)}
    assert notes["grid"].endswith("[am=0.0,0.1,0.2,0.3,0.4,0.5]")
    assert notes["policy.betas"].endswith("[0.5,0.999]")
    assert notes["orders"].endswith("[2]")
    assert not notes["metrics"].endswith("]")
    for cls in (CompareConfig, ReliabilityConfig):
        assert all("MISSING" not in note and "<" not in note.partition("[")[2] for _, _, note in leaves(cls))


@pytest.mark.parametrize("name", ["global", "local", "paper_global", "am_lfs", "unified"])
def test_a_recipe_can_search_another_space(name: str) -> None:
    made = build(SearchConfig, "real_faces", {"space.name": name})
    assert get_space(made.space).name == name
    assert made.space.scale == 16, "the recipe's"
    if name == "unified":
        assert made.space.search == ("target", "scale")
    assert build(SearchConfig, "real_faces", {"space.search": "none"}).space.search is None
