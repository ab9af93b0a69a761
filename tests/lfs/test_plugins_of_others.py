"""Runs of others import nothing by themselves, and the code of plug-ins is recorded."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from lfs import evaluate, look, plugins, results, search, status, train
from lfs.commands import FAILED, OK, run_command
from lfs.config import SearchConfig
from lfs.driver import old_run
from lfs.messages import GenerationRecord
from lfs.options import build
from lfs.preflight import refuse_versions
from lfs.run_store import RunStore
from lfs.serial import SerialRun
from lfs.view import View
from search_space.config import LossConfig, SpaceConfig
from search_space.errors import UserError
from tests.lfs.plugin_files import LOSS, SPACE, Write
from trainers.candidate import Weights

# ---- runs of others


@pytest.fixture(scope="module")
def trained(
    recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[SearchConfig, GenerationRecord, Weights]:
    """A configuration, and one generation of its search."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"generations": 2, "population_size": 1}))
    config = replace(build(SearchConfig, str(folder / "recipe.yaml"), {}), storage=str(folder), name="run")
    config = replace(config, trainer=replace(config.trainer, generation_length=2))
    store = RunStore(str(folder / "run"))
    store.create(config)
    record = SerialRun(store).generation()
    assert record
    return config, record, store.load_weights(0)


def path_in(config: SearchConfig, setting: str, path: str) -> SearchConfig:
    """The configuration with a dotted path in one place."""
    fixed = {"mode": "fixed", "population_size": 1}
    changes: dict[str, Any] = {
        "space": {"space": SpaceConfig(name=path)},
        "backbone": {"trainer": replace(config.trainer, backbone=path)},
        "metric": {"reward": replace(config.reward, metric=path)},
        "loss": fixed | {"loss": LossConfig(name=path)},
        "schedule": fixed | {"schedule": ({"loss": path, "scale": 32.0},)},
    }
    return replace(config, **changes[setting])


SETTINGS = ("space", "backbone", "metric", "loss", "schedule")


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_run_of_others_imports_nothing(
    write: Write,
    trained: Any,
    tmp_path: Path,
    setting: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lfs.service.addresses", lambda *_: {})  # no cluster of this machine is asked
    mark = write("trap", "open(__file__ + '.mark', 'w')\n") / "trap.py.mark"
    config, record, weights = trained
    foreign = {"loss": "trap:X", "scale": 32.0}
    record = replace(
        record,
        rows=[row | {"loss": json.dumps(foreign)} for row in record.rows],
        summary=record.summary | {"winner_loss": foreign},
    )
    store = RunStore(str(tmp_path / "runs" / "foreign"))
    store.create(path_in(config, setting, "trap:X"))
    store.commit(record, weights)
    data = config.data.test
    pairs = f"mine={data.lmdb[0]},{data.pairs[0]}"
    looks = (
        (results, [store.uri]), (results, [store.uri, "--candidates"]), (results, ["--storage", f"{tmp_path}/runs"]),
    )  # fmt: skip
    for command, arguments in looks:
        assert run_command(command.main, arguments) == OK, capsys.readouterr()
    assert run_command(status.main, [store.uri]) == FAILED
    assert "no running search 'foreign'" in capsys.readouterr().err
    resumes = train if setting in ("loss", "schedule") else search
    refused = [(resumes, ["--resume", store.uri])]
    if setting == "backbone":
        refused += [
            (evaluate, [store.uri, "--set", pairs]), (evaluate, ["export", store.uri, "--to", str(tmp_path / "model")]),
        ]  # fmt: skip
    for command, arguments in refused:
        assert run_command(command.main, arguments) == FAILED
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert lines[0].endswith("trap:X is code, which is not run because a configuration names it; "
                                 "if you trust it, add --allow-plugins trap")  # fmt: skip
    run_command(train.main, ["--loss", store.uri, "--storage", str(tmp_path / "runs"), "--name", "replay"])
    assert "--allow-plugins trap" in capsys.readouterr().err
    assert not mark.exists(), "the code of a foreign run was imported"
    assert run_command(resumes.main, ["--resume", store.uri, "--allow-plugins", "trap"]) == FAILED
    assert "module trap has no X" in capsys.readouterr().err
    assert mark.exists()


def test_an_exported_model_of_others_imports_nothing(
    write: Write, trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = write("trap", "open(__file__ + '.mark', 'w')\n") / "trap.py.mark"
    config, record, weights = trained
    store = RunStore(str(tmp_path / "run"))
    store.create(config)
    store.commit(record, weights)
    assert run_command(evaluate.main, ["export", store.uri, "--to", str(tmp_path / "model")]) == OK
    file = tmp_path / "model" / "model.yaml"
    file.write_text(file.read_text().replace("backbone: small", "backbone: trap:X"))
    pairs = f"mine={config.data.test.lmdb[0]},{config.data.test.pairs[0]}"
    capsys.readouterr()
    assert run_command(evaluate.main, [str(tmp_path / "model"), "--set", pairs]) == FAILED
    assert "backbone trap:X is code" in capsys.readouterr().err
    assert not mark.exists()


# ---- which code it was


def test_the_code_of_a_plug_in_is_recorded_and_a_change_is_said(
    write: Write, trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, record, weights = trained
    folder = write("mine", LOSS + SPACE)
    store = RunStore(str(tmp_path / "run"))
    store.create(replace(config, space=SpaceConfig(name="mine:Space")))
    store.commit(record, weights)
    assert store.load_versions()["plug-in mine"] == f"code {look.code(('mine',))}"
    plugins.allow(["mine"])
    old_run(store, {}, View())
    assert "plug-in" not in "".join(capsys.readouterr())
    with (folder / "mine.py").open("a") as file:
        file.write("# changed\n")
    old_run(store, {}, View())
    assert "plug-in mine was 'code" in "".join(capsys.readouterr())


def test_a_node_without_the_plug_in_is_named(write: Write) -> None:
    write("mine", LOSS)
    here = look.look([], "", ["mine"])["versions"]
    assert here["plug-in mine"] == f"code {look.code(('mine',))}"
    there = here | {"plug-in mine": look.plugins(["no_such_module"])["plug-in no_such_module"]}
    refuse_versions("node 10.0.0.2", here, here)
    with pytest.raises(
        UserError, match=r"node 10.0.0.2 has plug-in mine none, the driver code \w{10}; install the same"
    ):
        refuse_versions("node 10.0.0.2", there, here)
