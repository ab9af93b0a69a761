"""Two runs side by side, the best model of a run as `lfs.evaluate` takes it, and a run's losses as `lfs.train` does."""

import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lfs import evaluate, train
from lfs.commands import FAILED, OK, run_command
from lfs.config import SearchConfig
from lfs.driver import new_run
from lfs.model_file import find_models
from lfs.options import build
from lfs.run_store import RunStore
from lfs.schedule_file import read_schedule
from lfs.serial import SerialRun
from lfs.view import View
from search_space.errors import UserError
from tests.lfs.test_resume import GOLDEN

Results = Callable[..., tuple[int, str, str]]


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """A real run of two generations."""
    with tarfile.open(GOLDEN / "format-2" / "run.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def searched(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """A real search of three short generations, without Ray."""
    folder = tmp_path_factory.mktemp("searched")
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    flags = {"generations": "3", "population_size": "2", "trainer.generation_length": "4", "name": "one"}
    store, _ = new_run(build(SearchConfig, str(path), {**flags, "storage": str(folder)}), View())
    SerialRun(store).run(lambda status: None)
    return store


def test_settings_that_differ_stand_side_by_side(golden: Path, searched: RunStore, results_command: Results) -> None:
    code, out, err = results_command("diff", golden, searched.path, "--json", "-")
    assert (code, err) == (OK, "")
    rows = {(row["kind"], row["name"]): (row["run_1"], row["run_2"]) for row in json.loads(out)}
    one, two = RunStore(str(golden)).load_config(), searched.load_config()
    assert rows["setting", "generations"] == ("2", "3")
    assert rows["setting", "reward.metric"] == (one.reward.metric, two.reward.metric)
    assert ("setting", "seed") not in rows  # both 5
    assert {("setting", "name"), ("setting", "storage")}.isdisjoint(rows)
    best = [max(store.summaries(), key=lambda s: s["best_reward"]) for store in (RunStore(str(golden)), searched)]
    assert rows["outcome", "best_reward"] == tuple(json.dumps(summary["best_reward"]) for summary in best)
    everything = json.loads(results_command("diff", golden, searched.path, "--all", "--json", "-")[1])
    assert ["5", "5"] in [[row["run_1"], row["run_2"]] for row in everything if row["name"] == "seed"]
    shown = results_command("diff", golden, searched.path)[1]
    assert "reward.metric" in shown
    assert "±" in shown
    same = [row["kind"] for row in json.loads(results_command("diff", golden, golden, "--json", "-")[1])]
    assert set(same) == {"outcome"}


def test_values_of_two_runs_are_shown_as_they_are_stored(
    golden: Path, tmp_path: Path, results_command: Results
) -> None:
    other = shutil.copytree(golden, tmp_path / "other")
    stored = yaml.safe_load((golden / "config.yaml").read_text())
    flag = stored["config"]["trainer"]["deterministic"]
    stored["config"]["trainer"]["deterministic"] = not flag
    stored["versions"] |= {"numpy": "0.10"}
    (other / "config.yaml").write_text(yaml.safe_dump(stored))
    code, out, err = results_command("diff", golden, other)
    assert (code, err) == (OK, "")
    lines = {tuple(line.split()[:2]): line.split()[2:] for line in out.splitlines() if line.split()}
    assert lines["setting", "trainer.deterministic"] == [json.dumps(flag), json.dumps(not flag)]
    assert lines["version", "numpy"][1] == "0.10"
    best = max(RunStore(str(golden)).summaries(), key=lambda summary: summary["best_reward"])["generation"]
    assert lines["outcome", "best_generation"] == [str(best + 1)] * 2
    rows = json.loads(results_command("diff", golden, other, "--json", "-")[1])
    assert [row["run_1"] for row in rows if row["name"] == "best_generation"] == [str(best)]


def test_the_best_model_is_what_evaluate_takes(
    searched: RunStore, tmp_path: Path, results_command: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "models" / "best"
    code, out, err = results_command("best", searched.path, "--export", folder)
    assert (code, err) == (OK, "")
    best = max(searched.summaries(), key=lambda summary: summary["best_reward"])
    assert f"@{best['generation'] + 1}: auc {best['best_reward']:.4f}" in out
    [model] = find_models(str(folder))
    weights, trained = model.load().weights, searched.load_weights(best["generation"])
    assert weights
    for name, array in weights.items():
        np.testing.assert_array_equal(array, trained[f"backbone.{name}"])
    assert model.origin["winner_loss"] == best["winner_loss"]
    config = searched.load_config()
    again = build(SearchConfig, str(folder / "recipe.yaml"), {})
    assert again == replace(config, name="", storage="runs")
    sets = f"mine={config.data.test.lmdb[0]},{config.data.test.pairs[0]}"
    scores = tmp_path / "scores.json"
    assert run_command(evaluate.main, [str(folder), "--set", sets, "--json", str(scores)]) == OK
    from_run = tmp_path / "run.json"
    number = best["generation"] + 1
    assert run_command(evaluate.main, [f"{searched.path}@{number}", "--set", sets, "--json", str(from_run)]) == OK
    [mine], [theirs] = (json.loads(path.read_text())["models"] for path in (scores, from_run))
    assert mine["sets"] == theirs["sets"]
    capsys.readouterr()
    code, _, err = results_command("best", searched.path, "--export", folder)
    assert code == FAILED
    assert "is there already; choose another name, or replace it with --overwrite" in err
    assert results_command("best", f"{searched.path}@1", "--export", folder, "--overwrite")[0] == OK
    assert find_models(str(folder))[0].origin["generation"] == 1


def test_the_best_of_what_is_not_there(golden: Path, tmp_path: Path, results_command: Results) -> None:
    for arguments, message in (
        ([f"{golden}@7"], "no such generation: it has 1 to 2"),
        ([f"{golden}@0"], "no such generation"),
        ([tmp_path / "nothing"], "is no run"),
    ):
        code, _, err = results_command("best", *arguments)
        assert code == FAILED
        assert message in err
        assert len(err.splitlines()) == 1
    for weights in golden.rglob("*.safetensors"):
        weights.unlink()
    code, out, err = results_command("best", golden, "--export", tmp_path / "model")
    assert code == FAILED
    assert "weights  deleted (--keep-generations) or lost" in out
    assert "the weights of generation 1 were deleted" in err
    assert not (tmp_path / "model").exists()


def test_a_schedule_replays_as_its_run_does(searched: RunStore, tmp_path: Path, results_command: Results) -> None:
    file = tmp_path / "losses.yaml"
    code, out, err = results_command("schedule", searched.path, "--out", file)
    assert (code, out, err) == (OK, f"3 losses in {file}\n", "")
    by_run = train.configured(searched.path, "", {"seed": "9", "name": "x"})
    by_file = train.configured(str(file), "", {"seed": "9", "name": "x"})
    assert by_file == by_run
    assert list(by_file.schedule) == [summary["winner_loss"] for summary in searched.summaries()]
    stored = ["--storage", str(tmp_path), "--name", "replay"]
    assert run_command(train.main, ["--loss", str(file), *stored]) == OK
    replay = RunStore(str(tmp_path / "replay"))
    assert [s["winner_loss"] for s in replay.summaries()] == [s["winner_loss"] for s in searched.summaries()]
    # The same losses from the same first weights on the same batches: the lineage itself is trained again.
    assert [s["best_reward"] for s in replay.summaries()] == [s["best_reward"] for s in searched.summaries()]
    assert results_command("schedule", searched.path, "--out", file)[0] == FAILED
    table = json.loads(results_command("schedule", searched.path, "--json", "-")[1])
    rewards = [summary["best_reward"] for summary in searched.summaries()]
    assert [row["reward"] for row in table] == rewards
    assert [row["gain"] for row in table] == [None, rewards[1] - rewards[0], rewards[2] - rewards[1]]


def test_a_table_on_standard_output_is_alone_there(
    searched: RunStore, tmp_path: Path, results_command: Results
) -> None:
    file, folder = tmp_path / "losses.yaml", tmp_path / "model"
    code, out, err = results_command("schedule", searched.path, "--out", file, "--json", "-")
    assert (code, len(json.loads(out)), err) == (OK, 3, f"3 losses in {file}\n")
    code, out, err = results_command("best", searched.path, "--export", folder, "--json", "-")
    assert (code, len(json.loads(out)), err) == (OK, 1, f"model in {folder}\n")
    code, out, err = results_command("best", searched.path, "--export", folder, "--overwrite", "--csv", "-")
    assert (code, len(out.splitlines()), err) == (OK, 2, f"model in {folder}\n")


def test_no_gain_is_given_over_a_generation_that_cannot_be_read(
    searched: RunStore, tmp_path: Path, results_command: Results
) -> None:
    rewards = [summary["best_reward"] for summary in searched.summaries()]
    gains = {0: [(1, None), (2, rewards[2] - rewards[1])], 1: [(0, None), (2, None)]}
    for damaged, left in gains.items():
        run = shutil.copytree(searched.path, tmp_path / str(damaged))
        (run / "generations" / f"{damaged:06d}" / "state.json").write_text("{}")
        code, out, _ = results_command("schedule", run, "--json", "-")
        assert code == FAILED
        assert [(row["generation"], row["gain"]) for row in json.loads(out)] == left


def test_a_schedule_by_hand_is_as_long_as_it_is(tmp_path: Path, recipe_file: Callable[..., str]) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("schedule:\n- loss: {loss: am, margin: 0.1}\n- loss: {loss: arc, margin: 0.3}\n")
    made = train.configured(str(file), "", {})
    assert (made.mode, made.generations, [loss["loss"] for loss in made.schedule]) == ("fixed", 2, ["am", "arc"])
    assert made.name.startswith("replay-mine-")
    assert train.configured(str(file), recipe_file(generations=7), {}).generations == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "schedule: Field required"),
        ("[]", "expected `key: value` lines"),
        ("schedule: []", "line 1: not a schedule of losses"),
        ("schedule:\n- loss: {loss: tomorrow}\n", "loss 1 of the schedule: stored loss must be one of"),
        ("schedule:\n- loss: {loss: am, margin: -3}\n", "loss 1 of the schedule: "),
        ("schedule:\n- loss: {loss: am, margin: {}}\n", "loss 1 of the schedule: "),
        ("schedule:\n- {los: {loss: am}}\n", "schedule.0"),
        ("format: 7\nschedule:\n- loss: {loss: am}\n", "line 1: format 7; this version reads format 1"),
        ("format: x\nschedule:\n- loss: {loss: am}\n", "line 1: not a schedule of losses"),
        ("schedule:\n- loss: {loss: am}\nconfig: {sed: 1}\n", "unknown key 'sed'; did you mean 'seed'?"),
        ("schedule:\n- loss: {loss: am}\nconfig: {seed: x}\n", "seed must be a whole number, got 'x'"),
        ("schedule:\n- loss: {loss: am}\nconfig: {start: runs/x}\n", "went on from runs/x; only a run from scratch"),
        ("schedule: [", "not YAML"),
        ("schedule: !!python/object:os.system x", "not YAML"),
        ("a: &a [*a]\nschedule: *a\n", "not usable"),
    ],
)
def test_a_file_that_is_no_schedule(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    file = tmp_path / "losses.yaml"
    file.write_text(text)
    assert run_command(train.main, ["--loss", str(file), "--storage", str(tmp_path)]) == FAILED
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert str(file) in line
    assert "defect" not in line


def test_a_run_with_a_generation_that_cannot_be_read_is_no_schedule(
    golden: Path, tmp_path: Path, results_command: Results
) -> None:
    (golden / "generations" / "000001" / "state.json").write_text("{}")
    code, _, err = results_command("schedule", golden, "--out", tmp_path / "losses.yaml")
    assert code == FAILED
    assert "000001/state.json: damaged" in err
    assert not (tmp_path / "losses.yaml").exists()
    with pytest.raises(UserError, match="no recipe"):
        read_schedule(str(tmp_path / "losses.yaml"))
