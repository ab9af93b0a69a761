"""Tables as text and as files."""

import io
import json
import time

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from lfs.results_output import as_json, show

ROWS = 60_000


def long_table() -> pd.DataFrame:
    """More rows than any screen."""
    rewards = np.linspace(0.0, 1.0, ROWS)
    return pd.DataFrame(
        {"generation": np.arange(ROWS), "reward": rewards, "loss": [[float(r)] * 4 for r in rewards], "trainer": "é"}
    )


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_time_for_a_table_grows_with_its_rows_and_no_faster(form: str) -> None:
    table, out = long_table(), io.StringIO()
    began = time.process_time()
    if form == "json":
        out.write(as_json(table).decode())
    else:
        show(table, Console(file=out, width=100))
    assert time.process_time() - began < 20, "a square would take minutes"
    assert len(out.getvalue().splitlines()) == ROWS + (2 if form == "json" else 1)


def test_json_has_a_row_on_each_line_and_null_for_what_is_missing() -> None:
    rows = [
        {"reward": 0.5, "won": True, "loss": [1.0, float("nan")], "seen": np.int64(3), "note": None},
        {"reward": float("inf"), "won": False, "loss": [], "seen": np.int64(-1), "note": 'a "word"\n'},
    ]
    text = as_json(pd.DataFrame(rows)).decode()
    assert json.loads(text) == [
        {"reward": 0.5, "won": True, "loss": [1.0, None], "seen": 3, "note": None},
        {"reward": None, "won": False, "loss": [], "seen": -1, "note": 'a "word"\n'},
    ]
    assert [line[:2] for line in text.splitlines()] == ["[", " {", " {", "]"]
    assert json.loads(as_json(pd.DataFrame(rows[:0]))) == []
