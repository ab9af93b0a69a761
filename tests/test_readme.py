"""The README tells the truth: its commands parse, its files exist, its output has the form of the real one."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from lfs.options import RECIPES, Parser
from lfs.run_store import RunStore
from trainers.data.builtin import FaceSetSpec, ensure_builtin_faces
from trainers.data.datum import decode_datum
from trainers.data.lmdb_source import LmdbSource

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"python -m (lfs\.\w+[^\n`#|&]*)", README + (ROOT / "cluster/README.md").read_text())))


def blocks(language: str) -> list[str]:
    """Fenced code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_first_screen_holds_two_commands() -> None:
    first, second = (block.strip() for block in blocks("bash")[:2])
    assert "\n" not in first + second
    assert first.endswith("python -m lfs.search --num-workers 8")
    assert second.endswith("pytest")
    assert all("pip install -q -c constraints.txt -e" in line for line in (first, second))
    assert README[: README.index(second)].count("\n") < 30


def test_ci_runs_the_second_command_as_it_stands() -> None:
    assert "<!-- test command -->\n```bash" in README
    assert "/<!-- test command -->/" in (ROOT / ".ci" / "run").read_text()


def test_pairs_of_public_sets_are_brought_into_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    people = [f"m.0{number}" for number in range(301)]
    fold = [f"{name}\t1\t2\n" for name in people[1:]]
    fold += [f"{one}\t1\t{other}\t3\n" for one, other in pairwise(people)]
    Path("African_pairs.txt").write_text("".join(fold * 10))
    Path("pair_SLLFW.txt").write_text("Ada/Ada_0001.jpg\r\nAda/Ada_0002.jpg\r\nBo/Bo_0001.jpg\r\nAda/Ada_0003.jpg\r\n")
    Path("ijbc_face_tid_mid.txt").write_text("1.jpg 5 7\n")
    for folder in ("sllfw", "rfw", "ijbc"):
        Path(folder).mkdir()
    [block] = [block for block in blocks("bash") if "pair_SLLFW" in block]
    script = block.replace("python -m", f"{sys.executable} -m").replace(" --lmdb rfw/african/faces.lmdb", "")
    subprocess.run(["bash", "-ec", script], check=True, timeout=100, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert Path("sllfw/pairs.txt").read_text().splitlines() == [
        "Ada/Ada_0001.jpg Ada/Ada_0002.jpg 1", "Bo/Bo_0001.jpg Ada/Ada_0003.jpg 0",
    ]  # fmt: skip
    made = Path("rfw/african_pairs.txt").read_text().splitlines()
    assert (len(made), made[0]) == (6000, "m.01/m.01_0001.jpg m.01/m.01_0002.jpg 1")
    assert Path("ijbc/templates.txt").read_text() == "loose_crop/1.jpg 5 7\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str) -> None:
    module, *arguments = shlex.split(command)
    made: Parser = importlib.import_module(module).parser()
    made.parse_args(arguments)


def test_recipes_and_linked_files_exist() -> None:
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", README) + re.findall(r"`(configs/\S+?\.yaml)`", README):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"--config (\w+)\b(?!\.yaml)", README):
        assert (RECIPES / f"{name}.yaml").exists(), name


def test_the_shown_output_is_of_the_built_in_recipe() -> None:
    [output] = [block for block in blocks("text") if "generation 1/" in block]
    total = int(re.findall(r"generation 1/(\d+)", output)[0])
    shown = [line for line in output.splitlines() if line.startswith("generation ") and "/" in line]
    assert len(shown) == total
    form = (
        r"generation \d+/\d+( \(warm-up\))?: best 0\.\d{4} ± 0\.\d{4}, mean 0\.\d{4}, winner's margin 0\.\d{3}, "
        r"policy 0\.\d{3} ± 0\.\d{3}, [\d,]+ images/s(, \d+:\d\d:\d\d left)?"
    )
    assert all(re.fullmatch(form, line) for line in shown), shown
    assert f"generations: {total}\n" in (RECIPES / "builtin.yaml").read_text()


@pytest.mark.ray
def test_from_a_folder_of_pictures_to_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = FaceSetSpec(num_train_people=320, num_train_pictures=20, num_pair_people=20, num_pair_pictures=4, num_same=2)
    faces = ensure_builtin_faces(tmp_path / "cache", spec=spec).folder
    source = LmdbSource(faces / "train.lmdb")
    for key in source.keys():  # noqa: SIM118 - it is no mapping
        path = tmp_path / "photos" / key.removeprefix("train/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(decode_datum(source.get(key)).data)
    monkeypatch.chdir(tmp_path)
    [script] = [block for block in blocks("bash") if "ls photos" in block]
    [recipe] = [block for block in blocks("yaml") if "mine.yaml" in block]
    Path("mine.yaml").write_text(recipe)
    short = "--name mine --generations 1 --trainer.generation-length 2 --trainer.generation-unit steps"
    assert script.endswith("--num-workers 2\n")
    script = f"{script.rstrip()} {short}".replace("python -m", f"{sys.executable} -m")
    subprocess.run(["bash", "-euc", script], check=True, timeout=280, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert RunStore("runs/mine").load_result() is not None
