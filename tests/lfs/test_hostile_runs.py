"""A run directory of any content, whose checksums are right, ends every command that reads it in one line."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lfs.data_digest import data_digest
from lfs.run_store import RunStore
from lfs.service import announced_by, controller_of, is_here
from lfs.stored import generation_of
from search_space.errors import UserError
from tests.fuzz.mutate import nested
from tests.fuzz.runs import SPECIAL, base_files, read_run
from trainers.config import DataConfig
from trainers.data.lmdb_source import write_lmdb

STATE, CONFIG, RESULT = "generations/000002/state.json", "config.yaml", "result.json"
Change = Callable[[dict[str, Any]], object]


def refusal(case: bytes, folder: Path) -> str:
    """The line with which the run is refused; empty: it is not."""
    try:
        read_run(case, folder)
    except UserError as error:
        return str(error)
    return ""


def spoiled(name: str, change: Change) -> bytes:
    """The run with one file's values changed."""
    data = base_files()[name]
    values = yaml.safe_load(data) if name.endswith(".yaml") else json.loads(data)
    change(values)
    return name.encode() + b"\0" + (yaml.safe_dump(values) if name.endswith(".yaml") else json.dumps(values)).encode()


def with_policy(dim: int) -> Change:
    """A policy of so many parameters."""

    def change(values: dict[str, Any]) -> None:
        policy = values["state"]["policy"]
        policy.update({name: (policy[name] or [0.0]) * dim for name in policy if name != "step"})

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (STATE, lambda v: v.clear(), "damaged: expected the state of generation 3: 'state' is missing"),
        (STATE, lambda v: v["state"].update(generation=2), "another generation's"),
        (STATE, lambda v: v["state"].update(num_images=10**400), "whole numbers"),
        (STATE, lambda v: v["state"].update(generation=True), "whole numbers"),
        (STATE, lambda v: v["state"]["policy"].update(std=[0]), "policy std must be > 0"),
        (STATE, with_policy(3), "the policy of another space"),
        (STATE, lambda v: v["summary"].update(best_reward="x"), "best_reward"),
        (STATE, lambda v: v["summary"].update(best_reward=10**400), "best_reward"),
        (STATE, lambda v: v["summary"].update(candidates=10**400), "candidates"),
        (STATE, lambda v: v["summary"].update(extra=10**400), "cannot be written"),
        (STATE, lambda v: v["summary"].update(policy_mean=[]), "one value for each"),
        (STATE, lambda v: v["summary"].update(winner_loss={"loss": "am", "margin": {}}), "stored loss am"),
        (STATE, lambda v: v["summary"].update(winner_loss=nested(100)), "nested too deep"),
        (CONFIG, lambda v: v.update(config=[1] * 2000), "must be"),
        (CONFIG, lambda v: v.update(format="x" * 100_000), "format 'xxx"),
        (CONFIG, lambda v: v["config"].update(population_size=2**40), "population_size"),
        (CONFIG, lambda v: v["config"].update(generations=2), "has 3 generations already, got 2"),
        (RESULT, lambda v: v.update(test={"accuracy": 10**400}), "damaged"),
        (RESULT, lambda v: v.update(test={"tar@far=x": 0.5}), ""),
        ("events/000001.json", lambda v: v.clear(), ""),
        ("running.json", lambda v: v.update(address=["x"]), ""),
        ("generations/000002/COMMIT", lambda v: v.update({"state.json": None}), "damaged"),
    ],
)
def test_values(tmp_path: Path, name: str, change: Change, message: str) -> None:
    line = refusal(spoiled(name, change), tmp_path)
    assert message in line
    assert bool(line) == bool(message)
    assert len(line) < 1000


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", SPECIAL, ids=lambda kind: kind.decode()[1:])
def test_pipes_folders_devices_and_circles_in_place_of_files(tmp_path: Path, kind: bytes) -> None:
    lines = {name: refusal(name.encode() + b"\0" + kind, tmp_path) for name in base_files()}
    assert lines[CONFIG]
    assert lines[STATE]
    assert lines["generations/000002/winner.safetensors"]


@pytest.mark.timeout(20)
def test_a_pipe_among_the_data_of_a_run(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "faces.lmdb", [("key", b"value")])
    os.mkfifo(tmp_path / "list.txt")
    data = DataConfig(train=(str(tmp_path / "faces.lmdb"),), train_list=(str(tmp_path / "list.txt"),))
    with pytest.raises(UserError, match=r"list.txt: .*not a regular file"):
        data_digest(data)


def test_names_of_generations() -> None:
    assert generation_of("000007") == 7
    assert generation_of("123456") == 123456
    for name in ("7", "²", "-00001", "99999999999999999999", "0000007", "٣", "1000000", "", "000007x"):
        assert generation_of(name) is None


@pytest.mark.parametrize("name", ["generations/²/COMMIT", "generations/99999999999999999999/COMMIT"])
def test_folders_that_are_no_generations(tmp_path: Path, name: str) -> None:
    assert not refusal(name.encode() + b"\0{}", tmp_path)


def test_a_run_sends_nobody_to_a_cluster_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lfs.service.joined", lambda address: pytest.fail(f"connected to {address}"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name, data in base_files().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "running.json").write_text('{"address": "203.0.113.7:6379", "host": "h", "pid": 1}')
    assert announced_by(RunStore(str(tmp_path))) == "203.0.113.7:6379"
    with (
        pytest.raises(UserError, match=r"cluster of another machine, 203.0.113.7:6379; if you trust"),
        controller_of(str(tmp_path), "", str(tmp_path)),
    ):
        pass


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("127.0.0.1:6379", True), ("127.8.8.8:1", True), ("[::1]:6379", True), ("localhost:1", True),
        ("127.evil.org:1", False), ("203.0.113.7:6379", False), ("ray://203.0.113.7:10001", False), ("auto", False),
        ("", False),
    ],
)  # fmt: skip
def test_which_addresses_are_of_this_machine(address: str, here: bool) -> None:
    assert is_here(address) == here
