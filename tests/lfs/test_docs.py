"""The documents are true: examples run, and what is said of files is what the files hold."""

import json
import os
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors import safe_open

from lfs import evaluate, search, train
from lfs.commands import OK, run_command
from lfs.config import SearchConfig
from lfs.model_file import Description
from lfs.options import build
from lfs.plugins import built, paths
from lfs.run_store import RunStore
from lfs.serial import SerialRun
from lfs.tune_row import Rows
from search_space.config import ADVANTAGE_KINDS
from search_space.spaces import _SPACES, get_space
from tests.lfs.plugin_files import forgotten, install
from tests.lfs.test_serial import quiet
from trainers.data.importers.engine import ImportReport
from trainers.metrics import Metric

DOCS = Path(__file__).parents[2] / "docs"
EXTENDING, FORMATS, ALGORITHM = ((DOCS / f"{name}.md").read_text() for name in ("extending", "formats", "algorithm"))
EXAMPLES = dict(re.findall(r"```python\n# (my_\w+)\.py\n(.*?)```", EXTENDING, re.DOTALL))
COMMANDS = re.findall(r"```bash\n(python -m lfs\.(?:train|search) (?!--resume).*?)\n```", EXTENDING)
SHORT = {"trainer.generation_length": "4", "generations": "2", "population_size": "2"}


@pytest.fixture
def modules(tmp_path: Path) -> Iterator[Path]:
    """A folder with the examples, which can be imported."""
    folder = tmp_path / "modules"
    folder.mkdir()
    for name, text in EXAMPLES.items():
        (folder / f"{name}.py").write_text(text)
    with forgotten(folder, os.environ):  # type: ignore[arg-type]
        yield folder


def test_there_is_one_short_example_of_each_kind() -> None:
    assert list(EXAMPLES) == ["my_loss", "my_space", "my_backbone", "my_reward"]
    assert len(COMMANDS) == len(EXAMPLES)
    for name, text in EXAMPLES.items():
        assert len(text.splitlines()) < 30, name


@pytest.mark.parametrize("command", COMMANDS)
def test_an_example_trains(command: str, modules: Path, tmp_path: Path, recipe_file: Callable[..., str]) -> None:
    _, _, module, *arguments = shlex.split(command)
    parser = {"lfs.train": train.parser, "lfs.search": search.parser}[module]()
    flags = vars(parser.parse_args(arguments)) | SHORT
    for name in ("config", "resume", "detach"):
        flags.pop(name, None)
    if loss := flags.pop("loss", ""):
        flags |= {"mode": "fixed", "loss.name": loss}
    config = built(SearchConfig, recipe_file(), flags)
    [path] = paths(config)
    assert path in command
    store = RunStore(str(tmp_path / "run"))
    store.create(replace(config, storage=str(tmp_path), name="run"))
    status = SerialRun(store).run(quiet)
    assert status["finished"]
    assert status["error"] == ""
    summaries, candidates = store.summaries(), store.load_candidates(1)
    assert np.isfinite(candidates["reward"]).all()
    if "loss" in module or "space" in path or "loss" in path:
        assert summaries[-1]["winner_loss"]["loss"] == "my_loss:Eased"
        assert summaries[0]["winner_parameters"]["k"] == pytest.approx(2)
    if "reward" in path:
        assert summaries[-1]["best_reward"] == candidates["my_reward:gap"].max()
        assert candidates["my_reward:gap_se"].min() > 0
    if "backbone" in path:
        assert "backbone.mix.0.0.weight" in store.load_weights(1)


def test_the_declared_names_are_found(modules: Path) -> None:
    [text] = re.findall(r"```toml\n(.*?)```", EXTENDING, re.DOTALL)
    groups = tomllib.loads(text)["project"]["entry-points"]
    install(modules, "my_package", groups)
    flags = {
        "mode": "fixed", "loss.name": "eased", "space.name": "eased", "trainer.backbone": "patches",
        "reward.metric": "gap",
    }  # fmt: skip
    assert sorted(groups) == sorted(re.findall(r"`(lfs\.\w+)` \|$", EXTENDING, re.MULTILINE))
    named = paths(built(SearchConfig, "", flags))
    assert named == ["my_loss:Eased", "my_space:EasedSpace", "my_backbone:Patches", "my_reward:gap"]


def test_every_space_and_advantage_is_explained() -> None:
    assert all(f"`{name}`" in ALGORITHM for name in (*_SPACES, *ADVANTAGE_KINDS))


# ---- files


def documented(kind: str) -> set[str]:
    """Names in the first column of a table."""
    [table] = re.findall(rf"<!-- fields: {re.escape(kind)} -->\n(.*?)\n\n", FORMATS + "\n", re.DOTALL)
    cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    names = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    assert len(set(names)) == len(names)
    return set(names)


@pytest.fixture(scope="module")
def run(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """A run that came to its end."""
    folder = tmp_path_factory.mktemp("documented")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    config = replace(build(SearchConfig, str(folder / "recipe.yaml"), SHORT), storage=str(folder), name="run")
    store = RunStore(str(folder / "run"))
    store.create(config, {"data.train": "digest"})
    SerialRun(store).run(quiet)
    store.record_event("start", host="here", pid=1)
    return store


def test_every_file_of_a_run_is_described(run: RunStore) -> None:
    for path in Path(run.path).rglob("*"):
        name = re.sub(r"[0-9]{6}", "", path.name) or "generations/"
        assert name.removesuffix(".json") in FORMATS, path
    assert json.loads(run.read("generations", "000001", "COMMIT")).keys() == {
        "state.json", "candidates.parquet", "winner.safetensors",
    }  # fmt: skip
    with safe_open(f"{run.path}/generations/000001/winner.safetensors", "np") as file:  # type: ignore[no-untyped-call]
        assert set(json.loads(file.metadata()["json"])) == {"generation", "candidate"}
        families = {name.partition(".")[0] for name in file.keys()}  # noqa: SIM118 - it is no mapping
    assert families == {"backbone", "head", "momentum"}


def test_the_fields_of_a_run_are_those_of_the_document(run: RunStore) -> None:
    assert set(yaml.safe_load(run.read("config.yaml"))) == documented("config.yaml")
    state = json.loads(run.read("generations", "000001", "state.json"))
    assert state.keys() == {"state", "summary"}
    assert set(state["state"]) == documented("state")
    for name in state["state"]["policy"]:
        assert f"`{name}`" in FORMATS
    assert set(state["summary"]) == documented("summary")
    assert set(json.loads(run.read("result.json"))) == documented("result.json")
    events = json.loads(run.read("events", "000001.json"))
    assert all(f"`{name}`" in FORMATS for name in events)
    columns, named = set(run.load_candidates(1)), documented("candidates.parquet")
    assert named <= columns
    assert_metrics(columns - named)


def assert_metrics(names: set[str]) -> None:
    """All that is left are metrics and their errors."""
    assert {f"{name}_se" for name in names if not name.endswith("_se")} - names <= {"threshold_se"}
    for name in names - {"threshold"}:
        assert str(Metric.parse(name.removesuffix("_se"))) == name.removesuffix("_se")


def test_tunes_columns_are_those_of_the_document(run: RunStore) -> None:
    rows = Rows(run.load_config(), "trainer-000", [])
    [name] = get_space(run.load_config().space).parameter_names
    policy = {f"policy_{what}/{name}": f"policy_{what}/PARAMETER" for what in ("mean", "std")}
    assert {policy.get(column, column) for column in rows.columns} - {name} == documented("tune")


def test_models_embeddings_and_imports_are_as_documented(run: RunStore, tmp_path: Path) -> None:
    assert {field.name for field in fields(ImportReport)} == documented("import.json")
    assert run_command(evaluate.main, ["export", run.uri, "--to", str(tmp_path / "model")]) == OK
    model = yaml.safe_load((tmp_path / "model" / "model.yaml").read_text())
    assert set(model) == set(Description.model_fields) == documented("model.yaml")
    data, out = run.load_config().data, tmp_path / "faces.npy"
    files = ["--lmdb", data.train[0], "--list", data.train_list[0], "--out", str(out)]
    assert run_command(evaluate.main, ["embed", str(tmp_path / "model"), *files]) == OK
    assert set(json.loads(out.with_suffix(".model.json").read_text())) == documented("model.json")
    assert len(out.with_suffix(".keys.txt").read_text().splitlines()) == len(np.load(out))
