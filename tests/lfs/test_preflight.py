"""What nodes say of themselves, and the one line for each thing that may be wrong there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import lmdb
import pytest

from lfs import look
from lfs.preflight import data_paths, refuse_data, refuse_storage, refuse_versions
from search_space.errors import UserError
from trainers.config import DataConfig, PairsConfig
from trainers.data.builtin import builtin_cache


def test_a_node_says_what_it_has(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "a.lmdb")) as made, made.begin(write=True) as writing:
        writing.put(b"k", b"v")
    (tmp_path / "list.txt").write_text("k 0\n")
    (tmp_path / ".mark").write_text("abc")
    paths = [str(tmp_path / name) for name in ("a.lmdb", "list.txt", "missing")]
    for mark in (f"{tmp_path}/.mark", f"file://{tmp_path}/.mark"):
        found = look.look(paths, mark)
        assert found["mark"] == "abc"
    assert found["sizes"][paths[0]] > 4096
    assert [found["sizes"][path] for path in paths[1:]] == [4, -1]
    assert look.look([], f"{tmp_path}/nothing")["mark"] == ""
    assert look.MISSING not in found["versions"].values()


def test_the_digest_of_the_code_changes_with_the_code(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    for package in look.PACKAGES:
        shutil.copytree(root / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-c", "from lfs import look; print(look.__file__, look.code())"]

    def digest() -> str:
        out = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()
        assert out[0].startswith(str(tmp_path))
        return out[1]

    assert digest() == look.code()
    with (tmp_path / "trainers" / "schedule.py").open("a") as file:
        file.write("# changed\n")
    assert digest() != look.code()


def test_it_runs_where_this_project_is_missing(tmp_path: Path) -> None:
    (tmp_path / "look.py").write_text(Path(look.__file__).read_text())
    code = "import look; print(look.look(['/nothing'], '')['versions'])"
    run = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, env={}
    )
    assert "'lfs': 'none'" in run.stdout
    assert "'code of lfs': 'none'" in run.stdout


def test_a_version_that_differs_is_named() -> None:
    mine = look.versions()
    refuse_versions("node 10.0.0.2", mine, mine)
    for name, other in (("torch", "1.0"), ("lfs", look.MISSING), ("code of lfs", "0123456789"), ("Python", "3.9")):
        with pytest.raises(UserError, match=re.escape(f"10.0.0.2 has {name} {other}, the driver {mine[name]}")):
            refuse_versions("node 10.0.0.2", {**mine, name: other}, mine)


def test_storage_that_a_node_cannot_read_is_named() -> None:
    refuse_storage("node x", "/nfs/runs/a", True)
    with pytest.raises(UserError, match="that every node sees .*, but node x cannot read /runs/a; see --storage"):
        refuse_storage("node x", "/runs/a", False)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"/d/a": -1}, "/d/a is not there or cannot be read on node x"),
        ({"/d/l": 7}, "/d/l has 7 bytes on node x and 10 on the driver's"),
        ({"/d/a": 7}, ""),  # an LMDB that was copied may have another size
    ],
)
def test_data_that_a_node_lacks_is_named(found: dict[str, int], message: str) -> None:
    data = DataConfig(train=("/d/a",), train_list=("/d/l",), reward=PairsConfig(lmdb=("/d/p",), pairs=("/d/q",)))
    expected = dict.fromkeys(data_paths(data), 10)
    assert list(expected) == ["/d/a", "/d/l", "/d/p", "/d/q"]
    there: Any = {**expected, **found}
    if not message:
        refuse_data("node x", data, there, expected)
        return
    with pytest.raises(UserError, match=message):
        refuse_data("node x", data, there, expected)


def test_only_the_built_in_faces_are_made_where_they_are_missing(tmp_path: Path) -> None:
    from trainers.data.builtin import BuiltinFaces, FaceSetSpec, _name

    folder = tmp_path / "cache" / _name(FaceSetSpec())
    assert builtin_cache(BuiltinFaces(folder=folder, num_folds=10).data_config()) == tmp_path / "cache"
    assert builtin_cache(DataConfig(train=("/d/a",), train_list=("/d/l",))) is None
    assert builtin_cache(DataConfig()) is None
