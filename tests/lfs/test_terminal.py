"""Nothing that comes from a file steers the terminal, breaks a table or becomes a formula."""

import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from rich.table import Table
from rich.text import Text

from lfs import results
from lfs.commands import FAILED, MAX_LINE, OK, run_command
from lfs.run_store import RunStore
from lfs.sheet import Column, Sheet
from lfs.terminal import SafeConsole, printable, spreadsheet_safe
from lfs.view import View
from search_space.errors import UserError
from tests.lfs.fakes import config

HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b31m\u202egnp.exe\u2066\x00\r\b\u200b\udc80"


def is_clean(text: str) -> bool:
    """Whether a terminal would show all of it as it is."""
    return all(c.isprintable() or c == "\n" for c in text)


def test_every_character_without_a_shape_is_spelled_out() -> None:
    shown = printable(HOSTILE)
    assert is_clean(shown)
    assert "\n" not in shown
    for part in ("\\x1b]0;title\\x07", "\\x9b31m", "\\u202egnp.exe", "\\udc80", "\\r"):
        assert part in shown
    assert printable("Ångström 0.5 ± 0.1 … 人") == "Ångström 0.5 ± 0.1 … 人"
    assert printable("a\nb") == "a\\nb"
    assert printable("a\nb", keep="\n") == "a\nb"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_console_prints_no_control_characters_of_others(terminal: bool) -> None:
    plain, spoiled = ([io.StringIO(), SafeConsole] for _ in range(2))
    for (out, make), text in ((plain, "calm"), (spoiled, HOSTILE)):
        console = make(file=out, width=300, force_terminal=terminal, legacy_windows=False)  # type: ignore[operator]
        table = Table(box=None)
        table.add_column("name" + text)
        table.add_row(text)
        table.add_row(Text(text, style="bold"))
        console.print(text)
        console.print(table)
    own, found = plain[0].getvalue(), spoiled[0].getvalue()  # type: ignore[union-attr]
    assert "title" in found
    assert found.count("\x1b") == own.count("\x1b")  # rich's own, for the styles
    assert not set(found) & set("\x07\x9b\u202e\u2066\x00\r\b\u200b\udc80")


def test_square_brackets_are_no_markup() -> None:
    out = io.StringIO()
    text = "[red]a[/red] :smile: [link=http://x]y[/link]"
    console = SafeConsole(file=out, width=100)
    console.print(text)
    View(console).say(text)
    assert out.getvalue() == f"{text}\n" * 2


def test_errors_are_one_printable_line(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (UserError(f"bad {HOSTILE}\nsecond"), OSError(5, HOSTILE), UserError("x" * 10**6)):

        def main(argv: Sequence[str], error: Exception = error) -> int:
            raise error

        assert run_command(main, []) == FAILED
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert is_clean(said)
        assert len(said) < MAX_LINE + 100


def test_markdown_cells_stay_cells() -> None:
    sheet = Sheet(
        title="t",
        caption="c",
        keys=(Column(header="a|b", cells=(f"x|y\nz{HOSTILE}",)),),
        groups=((Column(header="h", cells=("1",)),),),
    )
    row = sheet.as_markdown().splitlines()[-1]
    assert row.startswith("| x\\|y z\\x1b]0;")
    assert row.replace("\\|", "").count("|") == 3


def test_texts_are_no_formulas() -> None:
    table = pd.DataFrame({"=name": ["=1+1", "+1", "-1", "@x", "\tx", "plain", None], "value": [-1.5, 2, 3, 4, 5, 6, 7]})
    safe = spreadsheet_safe(table)
    assert list(safe) == ["'=name", "value"]
    assert safe["'=name"].tolist()[:6] == ["'=1+1", "'+1", "'-1", "'@x", "'\tx", "plain"]
    assert safe["value"].tolist() == table["value"].tolist()


def test_results_of_a_run_with_a_hostile_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "\x1b[31mred\u202e"
    RunStore(str(tmp_path / name)).create(config())
    assert run_command(results.main, ["--storage", str(tmp_path)]) == OK
    assert run_command(results.main, [str(tmp_path / name)]) == OK
    shown = capsys.readouterr().out
    assert "\\x1b[31mred\\u202e" in shown
    assert is_clean(shown)
