"""What a comparison shows while it trains, and how it reads outcomes."""

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from lfs.cells_view import CellsView, work_of
from lfs.outcomes import OUTCOME, outcome_of
from lfs.run_store import RunStore
from lfs.view import View
from search_space.config import LossConfig
from search_space.errors import UserError
from tests.lfs.fakes import config

SEARCH = config(generations=5, warmup_generations=2, population_size=4)
FIXED = replace(SEARCH, mode="fixed", loss=LossConfig(name="am"))


def made(terminal: bool = False) -> tuple[CellsView, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, highlight=False, width=100, force_terminal=terminal, soft_wrap=not terminal)
    return CellsView(View(console=console), {"a": SEARCH, "b": FIXED}, {"b": 2}, 3), out


def test_work_is_counted_in_candidates() -> None:
    assert work_of(SEARCH) == 2 + 3 * 4
    assert work_of(SEARCH, 1) == 1 + 3 * 4
    assert work_of(SEARCH, 4) == 4
    assert [work_of(FIXED, g) for g in (0, 2, 5, 9)] == [5, 3, 0, 0]


def test_a_pipe_gets_one_line_per_finished_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr("lfs.cells_view.time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    view, out = made()
    view.begin(2)  # second 10
    view.started("b")
    view.result("b", {"generation": 2, "reward": 0.5, "reward_se": 0.1, "done": False})
    view.result("b", {"reward": 0.25, "test/accuracy": 0.75, "test/auc": 0.8, "test/other": 1, "done": True})
    # second 20: three of the 17 candidates are behind, 14 are left at 10 / 3 seconds each
    view.result("a", {"reward": float("nan"), "done": True})
    view.end()
    assert out.getvalue().splitlines() == [
        "2 of 5 cells to train, 2 at a time",
        "4/5 b: reward 0.2500, accuracy 0.7500, auc 0.8000, 0:00:47 left",
        "5/5 a: diverged",
    ]


def test_a_terminal_sees_what_runs() -> None:
    view, out = made(terminal=True)
    view.begin(2)
    view.started("a")
    view.result("a", {"generation": 0, "reward": 0.5, "reward_se": 0.125, "done": False})
    view.end()
    text = out.getvalue()
    assert "3/5 cells" in text
    assert "1/5" in text
    assert "0.5000 ± 0.1250" in text


def test_a_failed_cell_is_pointed_out(capsys: pytest.CaptureFixture[str]) -> None:
    view, _ = made()
    view.view.errors = Console(stderr=True, soft_wrap=True)
    view.failed("a")
    assert "a failed; its error is in the tune folder" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", "[]", '{"reward": 1}', '{"reward": 1, "test": null, "num_images": 1}'])
def test_a_damaged_outcome_is_named(tmp_path: Path, text: str) -> None:
    store = RunStore(str(tmp_path))
    assert outcome_of(store) is None
    (tmp_path / OUTCOME).write_text(text)
    with pytest.raises(
        UserError, match=r"outcome\.json: (damaged: expected|not an outcome: (test|num_images|reward): )"
    ):
        outcome_of(store)
