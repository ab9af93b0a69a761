"""The command on runs in an object store: pyarrow's S3 client against a real server, whose requests are counted."""

import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from lfs.commands import FAILED, OK
from lfs.model_file import find_models
from lfs.run_store import RunStore
from tests.lfs.object_store import BUCKET, KEYS, Server, fetched, make_bucket, needs_server, place, s3_server
from tests.lfs.test_resume import GOLDEN

pytestmark = [pytest.mark.slow, needs_server]
Results = Callable[..., tuple[int, str, str]]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server with a real run of two generations in `runs/one`, and in `runs/two` without the weights."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with tarfile.open(GOLDEN / "format-2" / "run.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    with s3_server(tmp_path / "server.txt") as process:
        make_bucket(process)
        files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
        for name in ("one", "two"):
            store = RunStore(place(process, "runs", name))
            for path in files if name == "one" else [path for path in files if path.suffix != ".safetensors"]:
                store.write(path.read_bytes(), *path.relative_to(tmp_path / "run").parts)
        yield process


def test_runs_in_an_object_store_are_shown_as_local_ones_and_no_weights_are_fetched(
    server: Server, tmp_path: Path, results_command: Results
) -> None:
    one, two, root = place(server, "runs", "one"), place(server, "runs", "two"), place(server, "runs")
    local, log = str(tmp_path / "run"), tmp_path / "server.txt"
    code, out, err = results_command("--storage", root, "--json", "-")
    assert (code, err) == (OK, "")
    rows = {row["run"]: row for row in json.loads(out)}
    assert set(rows) == {"one", "two"}
    assert (rows["one"]["done"], rows["one"]["note"]) == (2, "")
    assert rows["two"]["note"] == "no weights left"
    assert rows["one"]["size_bytes"] > rows["two"]["size_bytes"] > 0
    assert rows["one"]["num_images"] == RunStore(local).load_state(1)[0].num_images
    for flags in ([], ["--candidates"], ["--candidates", "--where", "winner", "--sort", "reward:desc"]):
        for form in ([], ["--json", "-"], ["--csv", "-"]):
            found, expected = results_command(one, *flags, *form), results_command(local, *flags, *form)
            assert [line.replace("one:", "run:") for line in found[1].splitlines()] == expected[1].splitlines()
            assert found[::2] == expected[::2] == (OK, "")
    assert results_command("schedule", one, "--json", "-")[1] == results_command("schedule", local, "--json", "-")[1]
    assert results_command("schedule", one, "--out", tmp_path / "losses.yaml")[0] == OK
    code, out, err = results_command("diff", one, two)
    assert (code, err) == (OK, "")
    code, out, err = results_command("best", one)
    assert (code, err) == (OK, "")
    assert "weights  there" in out
    asked = fetched(log.read_text())
    assert {name.rsplit("/", 1)[1] for name in asked} >= {"config.yaml", "COMMIT", "state.json", "candidates.parquet"}
    assert not [name for name in asked if name.endswith(".safetensors")]


def test_the_best_model_is_fetched_alone(server: Server, tmp_path: Path, results_command: Results) -> None:
    store, log = RunStore(str(tmp_path / "run")), tmp_path / "server.txt"
    before = len(fetched(log.read_text()))
    code, _, err = results_command("best", place(server, "runs", "one"), "--export", tmp_path / "model")
    assert (code, err) == (OK, "")
    best = max(store.summaries(), key=lambda summary: summary["best_reward"])["generation"]
    weights = {name for name in fetched(log.read_text())[before:] if name.endswith(".safetensors")}
    assert weights == {f"runs/one/generations/{best:06d}/winner.safetensors"}
    [model] = find_models(str(tmp_path / "model"))
    for name, array in model.load().weights.items():
        np.testing.assert_array_equal(array, store.load_weights(best)[f"backbone.{name}"])
    code, _, err = results_command("best", place(server, "runs", "two"), "--export", tmp_path / "none")
    assert code == FAILED
    assert "were deleted" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("root", [("nowhere",), ("runs", "one", "config.yaml")])
def test_a_root_that_is_none_is_one_line(
    server: Server, tmp_path: Path, results_command: Results, root: tuple[str, ...]
) -> None:
    code, _, err = results_command("--storage", place(server, *root))
    assert code == FAILED
    assert "no such folder" in err
    assert len(err.splitlines()) == 1


def test_a_bucket_that_is_not_there_is_one_line(server: Server, results_command: Results) -> None:
    run = place(server, "runs", "one")
    nowhere = run.replace(f"//{BUCKET}/", "//another/")
    for arguments in (["--storage", nowhere], [nowhere], ["best", nowhere]):
        code, _, err = results_command(*arguments)
        assert code == FAILED
        assert len(err.splitlines()) == 1
        assert "defect" not in err
