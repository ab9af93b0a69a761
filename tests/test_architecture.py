"""The import arrows: search_space <- trainers <- lfs, and Ray in lfs alone."""

import ast
import configparser
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NUMERICS = {"numpy", "torch"}
FORMATS = {"cv2", "google", "lmdb", "pyarrow", "safetensors"}
CACHE = {"filelock", "platformdirs"}
FILES = {"io", "os", "pathlib", "shutil", "tempfile"}
STDLIB = set(sys.stdlib_module_names)
NETWORK = {"psutil"}  # the interface of an address
ALLOWED = {
    "search_space": {"search_space"} | NUMERICS | (STDLIB - FILES),
    "trainers": {"search_space", "trainers"} | NUMERICS | FORMATS | CACHE | NETWORK | STDLIB,
}

IMPORT_ALL = """
import importlib, pkgutil, sys
for name in ("search_space", "trainers"):
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        importlib.import_module(module.name)
upward = sorted({name.partition(".")[0] for name in sys.modules} & {"ray", "lfs"})
sys.exit(f"imported: {upward}" if upward else 0)
"""


def forbidden(source, package):
    """Modules that `source` imports, anywhere in it, and `package` must not."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module)
    return sorted(name for name in found if name.partition(".")[0] not in ALLOWED[package])


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_follow_the_arrows(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = {str(file.relative_to(ROOT)): forbidden(file.read_text(), package) for file in files}
    assert not {file: names for file, names in wrong.items() if names}


def test_every_package_is_installed():
    found = {str(f.parent.relative_to(ROOT)) for p in (*ALLOWED, "lfs") for f in (ROOT / p).rglob("__init__.py")}
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    assert {name.replace("/", ".") for name in found} == listed - {"configs"}


@pytest.mark.parametrize(
    ("source", "package", "names"),
    [
        ("import ray", "trainers", ["ray"]),
        ("def f():\n    from ray import tune", "trainers", ["ray"]),
        ("from lfs.generation import x", "trainers", ["lfs.generation"]),
        ("import trainers.config", "search_space", ["trainers.config"]),
        ("import lmdb, numpy", "search_space", ["lmdb"]),
        ("from pathlib import Path", "search_space", ["pathlib"]),
        ("from . import x\nimport math, torch.nn", "search_space", []),
    ],
)
def test_the_walk_sees_wrong_imports(source, package, names):
    assert forbidden(source, package) == names


def test_the_lower_packages_run_without_ray():
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
