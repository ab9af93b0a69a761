"""What a user sees, screen by screen, on terminals of several kinds; see tests/lfs/terminals.py."""

import os
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from lfs.commands import INTERRUPTED
from lfs.run_store import RunStore
from tests.lfs.terminals import CTRL_C, CTRL_Q, CTRL_S, Terminal, check, masked

Start = Callable[..., Terminal]
NARROW, WIDE = (80, 24), (140, 40)
HOLDS = '''"""A reward that waits in the middle of a generation until it is let go."""

import os
import time
from pathlib import Path

import numpy as np

calls = 0


def gap(scores, same):
    """How far genuine pairs lie above impostors."""
    global calls
    calls += len(scores) > 10  # fewer where a plug-in is looked at
    while calls > int(os.environ["HOLD_AFTER"]) and not Path(os.environ["GO"]).exists():
        time.sleep(0.05)
    return float(np.median(scores[same]) - np.median(scores[~same]))
'''
RESULTS = """
from lfs.commands import run_command
from lfs.results import main

for command in ("", "runs/run", "runs/run --candidates"):
    print(f"$ python -m lfs.results {command}")
    assert run_command(main, command.split()) == 0
    print()
"""
FORMATS = Path(__file__).parent / "golden"
HELD = r"(.*\n)+ +0 +done.*\n +1 +running(.*\n)+ +1w "
"""A whole screen of a generation that is held."""

CALLS = 3
"""Of a metric for each candidate: its value, and one for each resample."""


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Start]:
    """Starts commands on terminals; all that they started is gone after the test."""
    started: list[Terminal] = []

    def start(*command: str, size: tuple[int, int] = NARROW, **variables: str) -> Terminal:
        started.append(Terminal(tmp_path, *command, size=size, **variables))
        return started[-1]

    yield start
    for one in started:
        one.clean()


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_search_on_every_kind_of_terminal_and_its_ends(
    terminal: Start, recipe_file: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "held_reward.py").write_text(HOLDS)
    go, run = tmp_path / "go", tmp_path / "runs" / "made"
    environment = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}", "GO": str(go), "HOLD_AFTER": str(2 * CALLS)}
    reward = {"metric": "held_reward:gap", "num_bootstrap": CALLS - 1, "test_metrics": ["accuracy"]}
    recipe = recipe_file(reward=reward, population_size=20, space={"name": "local"})
    length = ("--trainer.generation-length", "10")
    new = ("--config", recipe, *length, "--num-workers", "1", "--name", "made")

    first = terminal("-m", "lfs.search", *new, **environment)
    first.wait_for(HELD)  # in the second generation: the first is one of warm-up
    check("search-80", first.text())
    first.resize(*WIDE)
    first.wait_for(r"best reward .* policy margin" + HELD)
    check("search-140", first.text())
    first.type(CTRL_C)
    first.wait_for(r"to go on .*\n(.*\n)*generation .* stopping" + HELD)
    check("ctrl-c-once", first.text())
    go.touch()
    assert first.wait() == INTERRUPTED
    check("ctrl-c-once-end", first.text())
    assert RunStore(str(run)).committed() == [0, 1]

    go.unlink()
    resume = ("--resume", "runs/made", "--allow-plugins", "held_reward")
    second = terminal("-m", "lfs.search", *resume, **environment | {"HOLD_AFTER": str(CALLS)})
    second.wait_for(HELD)
    second.type(CTRL_C)
    second.wait_for("to go on")
    second.type(CTRL_C)
    assert second.wait() == INTERRUPTED
    check("ctrl-c-twice", second.text())
    assert RunStore(str(run)).committed() == [0, 1]

    go.touch()
    third = terminal("-m", "lfs.search", *resume, TERM="dumb", **environment)
    assert third.wait() == 0
    check("search-dumb", third.text())
    assert b"\x1b" not in third.raw
    assert RunStore(str(run)).committed() == [0, 1, 2, 3]


@pytest.mark.ray
def test_a_search_in_a_pipe(undisturbed: Path) -> None:
    said = (undisturbed.parent / "out.txt").read_text(encoding="utf-8")
    check("search-pipe", masked("\n".join(line.rstrip() for line in said.splitlines())), undisturbed.parent)


def test_ctrl_c_while_the_built_in_faces_are_made(terminal: Start, tmp_path: Path) -> None:
    shown = terminal("-m", "lfs.search", "--name", "made", LFS_CACHE_DIR=str(tmp_path / "cache"))
    shown.wait_for(r"of 9,000 pictures, .* left")
    check("making-faces", shown.text())
    shown.type(CTRL_C)
    assert shown.wait() == INTERRUPTED
    check("making-faces-interrupted", shown.text())


def test_an_import_says_how_far_it_is_and_for_how_long(terminal: Start, tmp_path: Path) -> None:
    picture = cv2.imencode(".jpg", np.zeros((300, 300, 3), np.uint8))[1].tobytes()
    for person in range(6):
        (tmp_path / "faces" / f"{person}").mkdir(parents=True)
        for number in range(1024):
            (tmp_path / "faces" / f"{person}" / f"{number}.jpg").write_bytes(picture)
    shown = terminal("-m", "lfs.data", "import", "faces", "set", "--workers", "1")
    shown.wait_for(r"importing ━+ N of 6,144 pictures, N/s, T left")
    check("import", shown.text())
    shown.type(CTRL_C)
    assert shown.wait() == INTERRUPTED
    check("import-interrupted", shown.text())


@pytest.mark.parametrize(
    ("name", "size", "variables"),
    [
        ("results-80", NARROW, {}), ("results-140", WIDE, {}), ("results-40", (40, 24), {}),
        ("results-ascii", NARROW, {"PYTHONIOENCODING": "ascii"}),
    ],
)  # fmt: skip
def test_results(terminal: Start, tmp_path: Path, name: str, size: tuple[int, int], variables: dict[str, str]) -> None:
    (tmp_path / "runs").mkdir()
    with tarfile.open(FORMATS / "format-2" / "run.tar.xz") as archive:
        archive.extractall(tmp_path / "runs", filter="data")
    began = time.time() - 3 * 3600
    os.utime(tmp_path / "runs" / "run" / "config.yaml", (began, began))
    shown = terminal("-c", RESULTS, size=size, **variables)
    assert shown.wait() == 0
    check(name, shown.text())


def test_a_window_that_is_closed_ends_a_training_that_goes_on_later(
    terminal: Start, recipe_file: Callable[..., str], tmp_path: Path
) -> None:
    recipe = recipe_file(generations=500)
    flags = ("--trainer.generation-length", "2", "--loss", "am", "--name", "made")
    first = terminal("-m", "lfs.train", "--config", recipe, *flags)
    first.wait_for(r"generation 3/500")
    first.hang_up()
    assert first.process.wait(60) == INTERRUPTED
    done = RunStore(str(tmp_path / "runs" / "made")).committed()
    assert done[:2] == [0, 1]
    again = terminal("-m", "lfs.train", "--resume", "runs/made", "--generations", str(len(done) + 1))
    assert again.wait() == 0
    assert f"resuming at generation {len(done) + 1} of {len(done) + 1}" in again.text()


@pytest.mark.parametrize("then", [CTRL_Q, ""])
def test_a_terminal_that_is_stopped_holds_nothing_up(
    terminal: Start, recipe_file: Callable[..., str], tmp_path: Path, then: str
) -> None:
    flags = ("--trainer.generation-length", "2", "--loss", "am", "--name", "made")
    shown = terminal("-m", "lfs.train", "--config", recipe_file(generations=500), *flags)
    shown.wait_for(r"generation 3/500")
    shown.type(CTRL_S)
    time.sleep(1.0)
    store = RunStore(str(tmp_path / "runs" / "made"))
    seen, deadline = len(store.committed()), time.monotonic() + 120
    while len(store.committed()) < seen + 10:
        assert time.monotonic() < deadline, "it waits for its terminal"
        time.sleep(0.1)
    shown.type(then)
    if then:
        shown.wait_for(rf"generation ({'|'.join(str(number) for number in range(seen + 9, 500))})/500")
    shown.type(CTRL_C)  # lets a stopped terminal go on, too
    assert shown.wait() == INTERRUPTED
    assert "to go on      python -m lfs.train --resume runs/made" in shown.text()


def test_ctrl_c_stops_a_training_after_its_generation(
    terminal: Start, recipe_file: Callable[..., str], tmp_path: Path
) -> None:
    flags = ("--trainer.generation-length", "2", "--loss", "am", "--name", "made")
    shown = terminal("-m", "lfs.train", "--config", recipe_file(generations=500), *flags)
    shown.wait_for(r"generation 3/500")
    shown.type(CTRL_C)
    assert shown.wait() == INTERRUPTED
    assert "to go on      python -m lfs.train --resume runs/made" in shown.text()
    assert shown.text().endswith("stopped       continue with python -m lfs.train --resume runs/made")
