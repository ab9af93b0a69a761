"""The tiny recipe of tests/lfs, and hosts that live as long as the module that uses them."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.lab import Lab, why_not
from tests.lfs.conftest import recipe  # noqa: F401


@pytest.fixture(scope="module")
def lab(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:  # noqa: F811
    """A laptop with Ray's token, hosts `head` and `worker`, and a search of seconds in /mnt/shared/tiny.yaml."""
    if reason := why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("lab")
    faces = Path(recipe["data"]["train"][0]).parent
    subprocess.run(["cp", "-r", str(faces), str(folder / "faces")], check=True)
    small = recipe | {"generations": 3, "trainer": recipe["trainer"] | {"generation_length": 60}}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(small).replace(str(faces), "/mnt/shared/faces"))
    made = Lab(folder, "head", "worker")
    try:
        (folder / "hosts.json").write_text(json.dumps(made.hosts))
        assert made.run("ray", "get-auth-token", "--generate").returncode == 0
        yield made
    finally:
        spaces = made.namespaces()
        made.close()
    deadline = time.monotonic() + 20
    while spaces & {name for process in Path("/proc").glob("[0-9]*/ns/pid") if (name := target(process))}:
        assert time.monotonic() < deadline, "processes of the hosts are left"


def target(link: Path) -> str:
    """Where a link in /proc leads; empty if its process has ended."""
    try:
        return str(link.readlink())
    except OSError:
        return ""
