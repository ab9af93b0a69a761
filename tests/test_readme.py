"""The README tells the truth: its commands parse, its files exist, its output has the form of the real one."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from lfs.options import RECIPES, Parser

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


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str) -> None:
    module, *arguments = shlex.split(command)
    made: Parser = importlib.import_module(module).parser()
    made.parse_args(arguments)


def test_recipes_and_linked_files_exist() -> None:
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", README) + re.findall(r"`(configs/\S+?\.yaml)`", README):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"--config (\w+)", README):
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
