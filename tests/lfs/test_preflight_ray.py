"""Nodes that cannot work on a search, on a real cluster of two: each is one line before anything starts."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lfs import look
from tests.lfs.conftest import free_address, start_ray
from tests.lfs.test_search_ray import Start

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(
        os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], check=False).returncode != 0,
        reason="needs to mount over a folder, which root may",
    ),
]


@pytest.fixture
def head(run_command: Start) -> str:
    """A head on which no trainer has room."""
    address = free_address()
    start_ray(run_command, "--head", f"--port={address.split(':')[1]}", "--num-cpus=0", "--include-dashboard=false")
    return address


def refused(run_command: Start, address: str, *arguments: str) -> str:
    """The one line that a search ends with; a node that was just ended may be warned of before."""
    command = run_command("lfs.search", "--address", address, "--name", "run", *arguments)
    assert command.wait() == 1
    *warnings, line = command.err.read_text().splitlines()
    assert all(text.startswith("warning: node ") and "does not answer" in text for text in warnings)
    return line


def test_a_node_without_the_storage_the_data_or_the_same_code_is_named(
    head: str, run_command: Start, recipe: dict[str, Any], recipe_file: Callable[..., str], tmp_path: Path
) -> None:
    folders = {name: tmp_path / name for name in ("shared", "private", "data")}
    for folder in folders.values():
        folder.mkdir()
    lists = {"train_list": [str(shutil.copy(path, folders["data"])) for path in recipe["data"]["train_list"]]}
    recipe_here = recipe_file()
    hidden = recipe_file(data=recipe["data"] | lists)
    mounts = " && ".join(f"mount -t tmpfs none {folders[name]}" for name in ("private", "data"))
    worker = start_ray(run_command, f"--address={head}", "--num-cpus=2", within=mounts)

    line = refused(run_command, head, "--config", recipe_here, "--storage", str(folders["private"]))
    assert line.startswith("lfs.search: storage must be one folder that every node sees (NFS, s3://, gs://), but node ")
    assert not (folders["private"] / "run").exists()
    line = refused(run_command, head, "--config", hidden, "--storage", str(folders["shared"]))
    assert f"data must be under the same path on every node: {lists['train_list'][0]} is not there" in line
    assert list(folders["shared"].iterdir()) == []
    worker.clean()
    other = tmp_path / "other"
    for package in (*look.PACKAGES, "configs"):
        shutil.copytree(Path(look.__file__).parents[1] / package, other / package)
    (other / "lfs" / "view.py").open("a").write("# another version\n")
    start_ray(run_command, f"--address={head}", "--num-cpus=2", PYTHONPATH=str(other))
    line = refused(run_command, head, "--config", recipe_here, "--storage", str(folders["shared"]))
    assert "every node must have the driver's versions: node " in line
    assert f"the driver {look.code()}" in line
    assert list(folders["shared"].iterdir()) == []
