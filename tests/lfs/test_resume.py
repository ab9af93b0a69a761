"""A resumed run is what it was: its format, its settings and its data; what may differ, may."""

import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from lfs.config import SearchConfig
from lfs.data_digest import data_digest, refuse_other_data
from lfs.driver import new_run, old_run
from lfs.options import build
from lfs.resume import resumed
from lfs.run_store import RunStore
from lfs.view import View
from search_space.errors import UserError
from tests.lfs.golden_run import DONE, finish
from trainers.config import DataConfig
from trainers.data.lists import read_list
from trainers.data.lmdb_source import LmdbSource, write_lmdb

GOLDEN = Path(__file__).parent / "golden"
OTHER_CPU = 5e-6
"""Relative difference of a reward between CPUs; 1e-6 was seen between AVX-512 and none."""


def flags_of(recipe: dict[str, Any]) -> dict[str, str]:
    """The recipe's data as flags."""
    data = recipe["data"]
    flags = {"data.train": data["train"][0], "data.train_list": data["train_list"][0]}
    return flags | {f"data.{name}.{kind}": path for name in ("reward", "test") for kind, path in data[name].items()}


@pytest.mark.parametrize("format_", [path.name for path in sorted(GOLDEN.glob("format-*"))])
def test_a_run_of_an_older_format_goes_on_as_it_would_have(
    format_: str, recipe: dict[str, Any], tmp_path: Path
) -> None:
    with tarfile.open(GOLDEN / format_ / "run.tar.xz") as packed:
        packed.extractall(tmp_path, filter="data")
    pairs = {name: recipe["data"][name]["pairs"] for name in ("reward", "test")}
    labels = {f"data.{name}.labels": path.replace("_pairs", "_labels") for name, path in pairs.items()}
    more = {"generations": str(DONE + 1), "keep_generations": "1"}
    store, changes = resumed(str(tmp_path / "run"), flags_of(recipe) | labels | more)
    assert (store.load_result() or {})["generation"] == DONE - 1
    store.write_config(old_run(store, changes, View()))
    ours, expected = finish(store), json.loads((GOLDEN / format_ / "expected.json").read_text())
    assert ours["policy"] == expected["policy"]
    assert ours["rewards"] == pytest.approx(expected["rewards"], rel=OTHER_CPU)
    assert (store.load_result() or {})["generation"] == DONE
    assert store.committed() == list(range(DONE + 1))
    with pytest.raises(UserError, match=r"weights of generation 2 were deleted .*; .* have theirs: 3\.\.3"):
        store.load_weights(DONE - 1)


@pytest.fixture
def run(recipe_file: Callable[..., str], tmp_path: Path) -> RunStore:
    """A run of the small recipe, not trained."""
    config = build(SearchConfig, recipe_file(), {"name": "run", "storage": str(tmp_path), "num_workers": "3"})
    return new_run(config, View())[0]


def test_the_same_recipe_and_flags_are_no_change(run: RunStore, recipe_file: Callable[..., str]) -> None:
    same = {"seed": "5", "storage": "elsewhere", "data.flip": "true", "trainer.backbone": "small"}
    assert resumed(run.uri, same, recipe_file())[1] == {}
    assert resumed(run.uri, same)[1] == {}
    named = resumed(run.uri, {"num_workers": "2"}, recipe_file(generations=9, population_size=0))[1]
    assert named == {"num_workers": 2, "generations": 9}


def test_all_settings_that_differ_are_named_and_which_may(run: RunStore, recipe_file: Callable[..., str]) -> None:
    with pytest.raises(UserError) as caught:
        resumed(run.uri, {"trainer.lr": "0.2", "max_workers": "1"}, recipe_file(seed=6, generations=7))
    message = str(caught.value)
    assert "--seed, --trainer.lr cannot change in a resumed run" in message
    for told in ("--trainer.lr was 0.1, got 0.2", "--seed was 5, got 6", "--generations was 4, got 7", "--max-workers"):
        assert told in message
    assert "these can: --num-workers, --max-workers" in message
    assert "\n" not in message


def test_fewer_generations_than_there_are_are_refused(run: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunStore, "committed", lambda _: [0, 1])
    with pytest.raises(UserError, match="has 2 generations already, got 1"):
        resumed(run.uri, {"generations": "1"})


def moved(recipe: dict[str, Any], to: Path) -> dict[str, str]:
    """The same data elsewhere, as flags."""
    shutil.copytree(Path(recipe["data"]["train"][0]).parent, to)
    return {setting: str(to / Path(path).name) for setting, path in flags_of(recipe).items()}


def test_the_same_data_may_lie_elsewhere(run: RunStore, recipe: dict[str, Any], tmp_path: Path) -> None:
    flags = moved(recipe, tmp_path / "moved")
    config = old_run(*resumed(run.uri, flags), View())
    assert config.data.train == (flags["data.train"],)
    assert config.data.reward.pairs == (flags["data.reward.pairs"],)


@pytest.mark.parametrize("setting", ["data.train", "data.train_list", "data.reward.pairs", "data.test.lmdb"])
def test_other_data_is_refused_by_name(run: RunStore, recipe: dict[str, Any], tmp_path: Path, setting: str) -> None:
    flags = moved(recipe, tmp_path / "moved")
    path = Path(flags[setting])
    if path.suffix == ".lmdb":
        keys = read_list(flags["data.train_list"])[0] if setting == "data.train" else []
        source = LmdbSource(path)
        with_one_more = [(key, source.get(key)) for key in keys] or whole(path)
        path.unlink()
        write_lmdb(path, [*with_one_more, ("zzz", with_one_more[0][1])])
    else:
        lines = path.read_text().splitlines()
        lines[0], lines[1] = lines[1], lines[0]
        path.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=rf"data is not what .* was started with: {path} differs \({setting}"):
        old_run(*resumed(run.uri, flags), View())


def whole(path: Path) -> list[tuple[str, bytes]]:
    """All records of an LMDB."""
    import lmdb

    with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as source, source.begin() as transaction:
        return [(bytes(key).decode(), bytes(value)) for key, value in transaction.cursor()]


def test_a_compacted_copy_is_the_same_data(run: RunStore, tmp_path: Path) -> None:
    data = run.load_config().data
    write_lmdb(tmp_path / "copy.lmdb", whole(Path(data.train[0])))
    assert data_digest(replace(data, train=(str(tmp_path / "copy.lmdb"),))) == run.load_digest()


def test_other_pictures_of_the_same_keys_and_sizes_are_other_data(
    run: RunStore, recipe: dict[str, Any], tmp_path: Path
) -> None:
    flags = moved(recipe, tmp_path / "moved")
    path = Path(flags["data.train"])
    records = whole(path)
    path.unlink()
    write_lmdb(path, [(key, bytes([*value[:-1], value[-1] ^ 1])) for key, value in records])
    was, now = LmdbSource(run.load_config().data.train[0]), LmdbSource(path)
    assert was.extent() == now.extent()
    refuse_other_data(run, run.load_config().data)
    changed = replace(run.load_config().data, train=(str(path),))
    with pytest.raises(UserError, match=rf"{path} differs \(data\.train\[0\] was 128 entries"):
        refuse_other_data(run, changed)


def test_a_digest_of_the_extent_alone_is_compared_by_the_extent(run: RunStore, tmp_path: Path) -> None:
    stored, data = yaml.safe_load(run.read("config.yaml")), run.load_config().data
    digest = {name: text.partition(", ")[0] for name, text in stored["data"].items()}
    assert digest["data.train[0]"].endswith("pages")
    run.write(yaml.safe_dump(stored | {"data": digest}).encode(), "config.yaml")
    refuse_other_data(run, data)
    digest["data.train[0]"] = "127" + digest["data.train[0]"].removeprefix("128")
    run.write(yaml.safe_dump(stored | {"data": digest}).encode(), "config.yaml")
    with pytest.raises(UserError, match=r"data\.train\[0\] was 127 entries on"):
        refuse_other_data(run, data)


def test_records_are_looked_into_evenly_and_in_bounds(tmp_path: Path) -> None:
    keys = [f"k{number:04d}" for number in range(2500)]
    write_lmdb(tmp_path / "faces", [(key, b"same") for key in keys])
    (tmp_path / "list").write_text("".join(f"{key} {row % 2}\n" for row, key in enumerate(keys)))
    data = DataConfig(train=(str(tmp_path / "faces"),), train_list=(str(tmp_path / "list"),))
    before = data_digest(data)
    assert "sha256 of 1000 records" in before["data.train[0]"]
    for key, seen in ((keys[0], True), (keys[-1], True), (keys[1], False), (keys[2], True)):
        write_lmdb(tmp_path / "other", [(other, b"else" if other == key else b"same") for other in keys])
        assert (data_digest(replace(data, train=(str(tmp_path / "other"),))) != before) == seen


def test_a_root_that_is_given_again_is_no_change_and_another_one_is_refused(run: RunStore, tmp_path: Path) -> None:
    folder = Path(run.load_config().data.train[0]).parent
    assert resumed(run.uri, {"data.root": str(folder)})[1] == {}
    with pytest.raises(UserError, match=r"--data\.root: the run has absolute paths, such as .*train\.lmdb"):
        resumed(run.uri, {"data.root": str(tmp_path / "elsewhere")})


def test_the_configuration_holds_the_digest_and_keeps_it(run: RunStore) -> None:
    run.write_config(replace(run.load_config(), generations=9))
    stored = yaml.safe_load(run.read("config.yaml"))
    assert stored["data"]["data.train_list[0]"].startswith("sha256 ")
    assert stored["data"]["data.train[0]"].startswith("128 entries on ")
    assert stored["config"]["generations"] == 9
