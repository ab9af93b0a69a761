"""The command that trains one model: losses by name, replays, resume, and what it refuses."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lfs import train
from lfs.commands import FAILED, OK, run_command
from lfs.run_store import RunStore

Train = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(tmp_path: Path, recipe_file: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> Train:
    """Runs `lfs.train` on the small faces; returns exit code, output and errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        short = () if "--resume" in arguments else ("--storage", str(tmp_path), "--trainer.generation-length", "6")
        recipe = () if "--resume" in arguments or "--config" in arguments else ("--config", recipe_file())
        code = run_command(train.main, [*arguments, *recipe, *short])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def test_trains_tests_and_says_where_to_look(command: Train, tmp_path: Path) -> None:
    code, out, err = command("--loss", "arc", "--loss.margin", "0.3", "--generations", "2", "--name", "arc")
    assert (code, err) == (OK, "")
    lines = [line for line in out.splitlines() if line.startswith("generation ")]
    assert [line.split(":")[0] for line in lines[:2]] == ["generation 1/2", "generation 2/2"]
    assert "training loss" in lines[0]
    assert "test: accuracy 0." in out
    store = RunStore(str(tmp_path / "arc"))
    assert store.summaries()[0]["winner_loss"] == {"loss": "arc", "scale": 32.0, "margin": 0.3}


def test_goes_on_where_it_was(command: Train, tmp_path: Path) -> None:
    assert command("--loss", "am", "--generations", "1", "--name", "am")[0] == OK
    code, out, _ = command("--resume", str(tmp_path / "am"), "--generations", "3")
    assert code == OK
    assert "resuming at generation 2 of 3" in out
    assert RunStore(str(tmp_path / "am")).committed() == [0, 1, 2]


def test_replays_a_run_with_its_own_settings(command: Train, tmp_path: Path) -> None:
    command("--loss", "am", "--loss.margin", "0.1", "--generations", "2", "--name", "one")
    settings = ("--storage", str(tmp_path), "--name", "two")
    assert run_command(train.main, ["--loss", str(tmp_path / "one"), *settings, "--seed", "9"]) == OK
    config = RunStore(str(tmp_path / "two")).load_config()
    assert (config.seed, config.generations, config.trainer.generation_length) == (9, 2, 6)
    assert [loss["margin"] for loss in config.schedule] == [0.1, 0.1]


def test_a_replay_is_as_long_as_its_schedule_and_from_scratch(command: Train, tmp_path: Path) -> None:
    command("--loss", "am", "--generations", "1", "--name", "one")
    config = tmp_path / "one" / "config.yaml"
    config.write_text(config.read_text().replace("generations: 1\n", "generations: 4\n"))  # as if stopped early
    settings = ("--storage", str(tmp_path))
    assert run_command(train.main, ["--loss", str(tmp_path / "one"), *settings, "--name", "two"]) == OK
    assert RunStore(str(tmp_path / "two")).committed() == [0]
    started = ("--start", str(tmp_path / "one"), "--generations", "2", "--name", "three")
    assert command("--loss", "am", *started)[0] == OK
    code, _, err = command("--loss", str(tmp_path / "three"))
    assert code == FAILED
    assert "only a run from scratch can be replayed" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--loss is needed: one of softmax, norm_softmax"),
        (("--loss", "ark"), "got 'ark'; did you mean arc"),
        (("--loss", "am", "--loss.margin", "-0.1"), "loss margin of am must be in [0, 2], cosines, got -0.1"),
        (("--loss", "am", "--loss.t", "0.2"), "loss t does not apply to am"),
        (("--loss", "am", "--loss.margin", "big"), "--loss.margin: loss.margin must be a number, got 'big'"),
        (("--loss", "runs/nothing"), "runs/nothing is no run: it has no config.yaml"),
        (("--resume", "x", "--loss", "am"), "--resume goes without --config and --loss"),
        (("--loss", "am", "--start", "runs/nothing"), "is no run"),
    ],
)
def test_refuses(command: Train, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = command(*arguments)
    assert code == FAILED
    [line] = err.splitlines()
    assert message in line
    assert "defect" not in line
    assert {p.name for p in tmp_path.iterdir()} <= {"recipe.yaml"}


def test_a_replay_of_a_loss_unknown_to_this_version_is_refused(command: Train, tmp_path: Path) -> None:
    command("--loss", "am", "--generations", "1", "--name", "one")
    config = tmp_path / "one" / "config.yaml"
    text = config.read_text().replace("schedule: []", "schedule: [{loss: tomorrow, scale: 32.0}]")
    config.write_text(text.replace("  loss:\n    name: am\n", "  loss:\n    name: ''\n"))
    code, _, err = command("--resume", str(tmp_path / "one"), "--generations", "2")
    assert code == FAILED
    assert "got 'tomorrow'" in err.splitlines()[0]


def test_a_search_is_not_resumed_as_a_training(command: Train, tmp_path: Path, recipe_file: Callable[..., str]) -> None:
    from lfs.config import SearchConfig
    from lfs.options import build

    RunStore(str(tmp_path / "search")).create(build(SearchConfig, recipe_file(), {}))
    code, _, err = command("--resume", str(tmp_path / "search"))
    assert code == FAILED
    assert "is a search: continue it with python -m lfs.search --resume" in err
