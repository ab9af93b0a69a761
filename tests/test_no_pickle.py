"""No file that a user can hand over is ever executed: the code has no way to, and planted pickles stay asleep."""

import ast
import contextlib
import pickle
from pathlib import Path

import numpy as np
import pytest

from search_space.errors import UserError
from tests.fuzz.runs import COMMANDS, base_files, quiet
from trainers.checkpoint import load_checkpoint
from trainers.data.eval_bin import read_eval_bin
from trainers.data.lists import Keys, read_list, read_pairs
from trainers.data.lmdb_source import LmdbSource, write_lmdb
from trainers.data.sets import Pictures

ROOT = Path(__file__).parents[1]
MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "imp", "runpy", "code"}
CALLS = {"eval", "exec", "compile", "__import__", "execfile"}
ATTRIBUTES = {
    ("torch", "load"), ("torch.jit", "load"), ("torch.hub", "load"), ("yaml", "load"), ("yaml", "unsafe_load"),
    ("yaml", "full_load"), ("yaml", "load_all"), ("pd", "read_pickle"), ("pandas", "read_pickle"), ("np", "fromfile"),
    ("os", "system"), ("os", "popen"), ("yaml", "Loader"), ("yaml", "UnsafeLoader"), ("yaml", "FullLoader"),
}  # fmt: skip


def doors(source: str) -> list[str]:
    """Ways to run what a file holds."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                found += [alias.name for alias in node.names if alias.name.partition(".")[0] in MODULES]
            case ast.ImportFrom():
                found += [str(node.module)] * (str(node.module).partition(".")[0] in MODULES)
            case ast.Call(func=ast.Name(id=name)) if name in CALLS:
                found.append(name)
            case ast.Call(func=ast.Attribute(value=value, attr="load")) if ast.unparse(value) in ("np", "numpy"):
                allowed = [k.value for k in node.keywords if k.arg == "allow_pickle"]
                found += ["np.load"] * (not allowed or ast.unparse(allowed[0]) != "False")
            case ast.keyword(arg="shell", value=ast.Constant(value=True)):
                found.append("shell=True")
            case ast.Attribute(value=value, attr=attr) if (ast.unparse(value), attr) in ATTRIBUTES:
                found.append(f"{ast.unparse(value)}.{attr}")
    return found


@pytest.mark.parametrize("package", ["search_space", "trainers", "lfs"])
def test_no_door_is_in_the_code(package: str) -> None:
    found = {str(file.relative_to(ROOT)): doors(file.read_text()) for file in sorted((ROOT / package).rglob("*.py"))}
    assert found
    assert not {file: names for file, names in found.items() if names}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "eval('1')", "torch.load(f)", "np.load(f)", "import joblib.x",
        "np.load(f, allow_pickle=x)", "yaml.load(t, Loader=yaml.Loader)", "yaml.unsafe_load(t)", "pd.read_pickle(f)",
        "run(x, shell=True)",
    ],
)  # fmt: skip
def test_the_walk_sees_doors(source: str) -> None:
    assert doors(source)
    assert not doors("np.load(f, allow_pickle=False); yaml.safe_load(t); re.compile(x); model.eval()")


class Planted:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.mark,)


@pytest.fixture(params=["pickle", "numpy"])
def planted(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[bytes, Path]:
    """A pickle, bare or in a file of numpy's, and the mark that it would leave."""
    mark = tmp_path / "executed"
    if request.param == "pickle":
        return pickle.dumps(Planted(mark)), mark
    np.save(tmp_path / "array.npy", np.array([Planted(mark)], object), allow_pickle=True)
    return (tmp_path / "array.npy").read_bytes(), mark


def test_a_run_of_planted_pickles(planted: tuple[bytes, Path], tmp_path: Path) -> None:
    data, mark = planted
    for spoiled in ("", *base_files()):
        root = tmp_path / "run"
        for name, content in base_files().items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data if spoiled in ("", name) else content)
            (root / name).with_suffix(".pkl").write_bytes(data)
        for command in COMMANDS:
            with quiet(), contextlib.suppress(UserError):
                command([str(root)])
    assert not mark.exists()
    pickle.loads(pickle.dumps(Planted(mark)))  # noqa: S301
    assert mark.exists(), "the pickle does nothing"


def test_data_of_planted_pickles(planted: tuple[bytes, Path], tmp_path: Path) -> None:
    data, mark = planted
    path = tmp_path / "file"
    path.write_bytes(data)
    write_lmdb(tmp_path / "faces.lmdb", [("key", data)])
    pictures = Pictures([LmdbSource(tmp_path / "faces.lmdb")], [0], Keys.of(["key"]), 32, 0)
    readers = (
        load_checkpoint, read_eval_bin, read_list, lambda path: read_pairs(path, 2), lambda path: len(LmdbSource(path)),
        lambda _: pictures.read(np.array([0])),
    )  # fmt: skip
    for read in readers:
        with pytest.raises(UserError):
            read(path)
    assert not mark.exists()
