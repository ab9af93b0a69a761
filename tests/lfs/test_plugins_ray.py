"""Plug-ins on a real cluster of two nodes: trainers of the other node run them, and a node without them is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lfs import look
from lfs.run_store import RunStore
from tests.lfs.conftest import free_address, start_ray
from tests.lfs.plugin_files import LOSS, SPACE
from tests.lfs.test_search_ray import Start

pytestmark = [pytest.mark.ray, pytest.mark.slow]
REST = """
from torch import nn

def net(dim, size):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, dim))

def gap(scores, same):
    return float(scores[same].mean() - scores[~same].mean())
"""
ROOT = str(Path(look.__file__).parents[1])


def test_another_node_runs_plug_ins_and_one_without_them_is_named(
    run_command: Start, recipe: dict[str, Any], recipe_file: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "mine.py").write_text(LOSS + SPACE + REST)
    having = f"{tmp_path / 'modules'}:{ROOT}"
    head = free_address()
    port = f"--port={head.split(':')[1]}"
    start_ray(run_command, "--head", port, "--num-cpus=0", "--include-dashboard=false", PYTHONPATH=having)
    trainer = recipe["trainer"] | {"backbone": "mine:net", "generation_length": 4}
    own = recipe_file(
        generations=2, population_size=2, space={"name": "mine:Space"}, trainer=trainer,
        reward=recipe["reward"] | {"metric": "mine:gap"},
    )  # fmt: skip
    arguments = ("--address", head, "--config", own, "--num-workers", "1", "--storage", str(tmp_path), "--name", "run")

    bare = start_ray(run_command, f"--address={head}", "--num-cpus=1", PYTHONPATH=ROOT)
    refused = run_command("lfs.search", *arguments, PYTHONPATH=having)
    assert refused.wait() == 1
    [line] = refused.err.read_text().splitlines()
    assert "every node must have the driver's versions: node " in line
    assert "has plug-in mine none, the driver code " in line
    assert not (tmp_path / "run").exists()
    bare.clean()

    start_ray(run_command, f"--address={head}", "--num-cpus=1", PYTHONPATH=having)
    search = run_command("lfs.search", *arguments, PYTHONPATH=having)
    assert search.wait() == 0, search.err.read_text()
    store = RunStore(str(tmp_path / "run"))
    assert store.committed() == [0, 1]
    assert json.loads(store.load_candidates(1)["loss"][0])["loss"] == "mine:Mine"
    assert set(store.load_candidates(1)) >= {"mine:gap", "mine:gap_se"}

    looks = (
        ("lfs.results", store.path), ("lfs.results", store.path, "--candidates"), ("lfs.results", "best", store.path),
        ("lfs.results", "diff", store.path, store.path), ("lfs.results", "schedule", store.path),
        ("lfs.results", "--storage", str(tmp_path)),
    )  # fmt: skip
    for look_at in looks:  # by somebody who lacks the module
        shown = run_command(*look_at, PYTHONPATH=ROOT)
        assert (shown.wait(), shown.err.read_text()) == (0, ""), look_at
        assert "gap" in shown.out.read_text() or "size" in shown.out.read_text()
