"""The command: files that it writes, and one line for what it cannot."""

import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import pytest

from lfs import report
from lfs.commands import run_command
from tests.lfs.report_runs import MadeRun


@pytest.fixture
def run(tmp_path: Path) -> str:
    return MadeRun(tmp_path / "run", generations=3).done().uri


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["report"])


def command(*argv: str) -> int:
    return run_command(report.main, list(argv))


def test_a_page_and_its_figures(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(run, "--png", "figures") == 0
    assert (tmp_path / "run.html").read_text().startswith("<!doctype html>")
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert names == ["cost.png", "gain.png", "loss.png", "policy.png", "reward.png", "trainers.png"]
    for name in names:
        assert min(cv2.imread(f"figures/{name}").shape[:2]) > 200
    assert "report   run.html (" in capsys.readouterr().out
    first = {name: Path("figures", name).read_bytes() for name in names}
    assert command(run, "--png", "figures", "--overwrite") == 0
    assert first == {name: Path("figures", name).read_bytes() for name in names}


def test_what_is_there_is_kept(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("run.html").write_text("mine")
    assert command(run) == 1
    assert "run.html is there already" in capsys.readouterr().err
    assert Path("run.html").read_text() == "mine"


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["none"], 1, "none is no run"), (["--port", "3"], 2, "--port goes with --serve"),
        (["--serve", "--out", "x"], 2, "--serve writes no files"),
        (["--serve", "--overwrite"], 2, "--serve writes no files"), (["--port", "70000"], 2, "from 0 to 65535"),
        (["--out", "run"], 1, "expected the name of a file"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_input_is_one_line(
    run: str, flags: Sequence[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = list(flags) if flags == ["none"] else [run, *flags]
    if code == 2:
        with pytest.raises(SystemExit) as end:
            command(*argv)
        assert end.value.code == 2
    else:
        assert command(*argv) == code
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_missing_part_is_a_warning_and_the_rest_is_written(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    (Path(run) / "generations/000001/candidates.parquet").unlink()
    assert command(run) == 0
    assert "warning: missing in the report: " in capsys.readouterr().err
    assert "candidates.parquet" in Path("run.html").read_text()
