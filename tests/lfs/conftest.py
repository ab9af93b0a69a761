"""Small faces as real files, and searches as real processes that are cleaned up by their session id."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lfs import commands, compare, controller, results
from lfs.generation import Search
from lfs.messages import GenerationRecord
from lfs.run_store import RunStore
from tests.lfs.faces import TINY
from tests.lfs.fakes import WEIGHTS, config, drive
from tests.lfs.plugin_files import Write, forgotten
from trainers.data.builtin import ensure_builtin_faces


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A search of seconds on small built-in faces, as a recipe's values."""
    return small_recipe(tmp_path_factory.mktemp("faces"))


def small_recipe(faces: Path) -> dict[str, Any]:
    """The recipe, with its faces in a folder, where they are made unless they are there."""
    data = ensure_builtin_faces(faces, spec=TINY).data_config()
    sets = (("reward", data.reward), ("test", data.test))
    pairs = {name: {"lmdb": p.lmdb[0], "pairs": p.pairs[0]} for name, p in sets}
    network = {"backbone": "small", "embedding_dim": 16, "batch_size": 16}
    return {
        "generations": 4, "population_size": 4, "seed": 5,
        "data": {"train": list(data.train), "train_list": list(data.train_list), "input_size": 24, **pairs},
        "trainer": network | {"generation_length": 120, "generation_unit": "steps"},
        "reward": {"metric": "auc", "num_bootstrap": 20},
    }  # fmt: skip


@pytest.fixture
def recipe_file(recipe: dict[str, Any], tmp_path: Path) -> Callable[..., str]:
    """Writes the recipe, changed at the top level, to a file."""

    def write(**changes: Any) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe | changes))
        return str(path)

    return write


class Command:
    """A command of the project as a real process, in a session of its own.

    Args:
        within: shell commands to run before it, in a mount namespace of its own.
        variables: of its environment.
    """

    def __init__(self, folder: Path, module: str, *arguments: str, within: str = "", **variables: str) -> None:
        self.out, self.err = folder / "out.txt", folder / "err.txt"
        place = folder / "cwd"
        place.mkdir()
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "TUNE_", "OMP_"))}
        environment |= {"CUDA_VISIBLE_DEVICES": ""} | variables  # bits are promised for CPUs
        with self.out.open("ab") as out, self.err.open("ab") as err:
            command = [sys.executable, "-m", module, *arguments]
            if within:
                command = ["unshare", "--mount", "sh", "-c", f'{within} && exec "$@"', "sh", *command]
            self.process = subprocess.Popen(
                command, stdout=out, stderr=err, start_new_session=True, env=environment, cwd=place
            )

    def wait(self, timeout_s: float = 150) -> int:
        """The exit code."""
        return self.process.wait(timeout_s)

    def family(self, name: str = "") -> list[int]:
        """Living processes of this session whose command line holds `name`."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, IndexError, ValueError):
                after = (entry / "stat").read_text().rpartition(")")[2].split()
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
                if int(after[3]) == self.process.pid and after[0] != "Z" and name in line:
                    found.append(int(entry.name))
        return sorted(found)

    def kill(self, name: str) -> int:
        """End one process of the session with -9, as the out-of-memory killer would."""
        deadline = time.monotonic() + 60
        while not (pids := self.family(name)):
            assert time.monotonic() < deadline, f"no process {name}"
            time.sleep(0.05)
        os.kill(pids[0], signal.SIGKILL)
        return pids[0]

    def wait_for(self, path: Path, timeout_s: float = 120) -> None:
        """Until a file appears; fails if the command ends first."""
        deadline = time.monotonic() + timeout_s
        while not path.exists():
            assert self.process.poll() is None, f"ended before {path.name}: {self.err.read_text()}"
            assert time.monotonic() < deadline, f"{path} never came"
            time.sleep(0.02)

    def wait_for_line(self, text: str, timeout_s: float = 60) -> None:
        """Until the command has printed something; fails if the command ends without."""
        deadline = time.monotonic() + timeout_s
        while text not in self.out.read_text():
            ended = self.process.poll() is not None
            assert (not ended and time.monotonic() < deadline) or text in self.out.read_text(), self.err.read_text()
            time.sleep(0.2)

    def clean(self) -> None:
        """End whatever is left of the session."""
        for pid in self.family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(30)


def start_ray(run_command: Callable[..., Command], *arguments: str, within: str = "", **variables: str) -> Command:
    """A node of a cluster on loopback, which runs until it is cleaned away."""
    start = ["start", "--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1", *arguments]
    joins = {} if "--head" in arguments else {"RAY_AUTH_MODE": "token"}  # whoever joins sends it only when told to
    node = run_command("ray.scripts.scripts", *start, within=within, **joins, **variables)
    node.wait_for_line("Ray runtime started")
    return node


def free_address() -> str:
    """An address on loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def run_command(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Starts commands; all that they started is gone after the test."""
    started: list[Command] = []

    def start(module: str, *arguments: str, within: str = "", **variables: str) -> Command:
        folder = tmp_path / f"command-{len(started)}"
        folder.mkdir()
        started.append(Command(folder, module, *arguments, within=within, **variables))
        return started[-1]

    yield start
    for command in started:
        command.clean()


@pytest.fixture(scope="session")
def undisturbed(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The search on one trainer, left alone."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    arguments = (
        "--config",
        str(folder / "recipe.yaml"),
        "--num-workers",
        "1",
        "--storage",
        str(folder),
        "--name",
        "run",
    )
    command = Command(folder, "lfs.search", *arguments)
    try:
        assert command.wait() == 0, command.err.read_text()
        out = command.out.read_text()
        assert command.err.read_text() == ""
        assert [line.split(":")[0] for line in out.splitlines() if line.startswith("generation ")][:4] == [
            "generation 1/4 (warm-up)", "generation 2/4", "generation 3/4", "generation 4/4",
        ]  # fmt: skip
        assert "test: accuracy 0." in out
        assert f"python -m lfs.results {folder}/run --candidates" in out
    finally:
        command.clean()
    return folder / "run"


@pytest.fixture
def bare_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    """A run of three trainers whose weights stay where they are."""

    async def fetch(reference: Any) -> Any:
        return reference

    monkeypatch.setattr(controller, "leave_garbage", lambda: None)  # it is for a process of its own
    monkeypatch.setattr(controller.ray, "put", lambda weights: weights)
    monkeypatch.setattr(controller, "_fetch", fetch)
    store = RunStore(str(tmp_path / "run"))
    store.create(config(warmup_generations=5, population_size=3, num_workers=3))
    return store


@pytest.fixture
def results_command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs `lfs.results`; exit code, output, errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = commands.run_command(results.main, [str(argument) for argument in arguments])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    """Writes modules that can be imported during the test."""
    folder = tmp_path / "modules"
    folder.mkdir()

    def module(name: str, text: str) -> Path:
        (folder / f"{name}.py").write_text(text)
        return folder

    with forgotten(folder, os.environ):  # type: ignore[arg-type]
        yield module


@pytest.fixture
def records() -> list[GenerationRecord]:
    """Of a whole search."""
    return drive(Search(config()))


@pytest.fixture
def store(tmp_path: Path, records: list[GenerationRecord]) -> RunStore:
    """A run of three of those generations."""
    store = RunStore(str(tmp_path / "runs" / "one"))
    store.create(config())
    for record in records[:3]:
        store.commit(record, WEIGHTS)
    return store


@pytest.fixture
def refused(tmp_path: Path, recipe_file: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must be refused before Ray starts; returns its one line."""

    def run(*arguments: str, main: Callable[..., int] = compare.main) -> str:
        where = () if "--resume" in arguments else ("--config", recipe_file(), "--storage", str(tmp_path / "runs"))
        assert commands.run_command(main, [*arguments, *where]) == commands.FAILED
        [line] = capsys.readouterr().err.splitlines()
        assert "defect" not in line
        return line

    return run
