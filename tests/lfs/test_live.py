"""What is drawn anew in place, beside what is printed; and what an interruption does."""

import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pyte
import pytest
from rich.console import Console
from rich.text import Text

from lfs import progress
from lfs.columns import Column, Columns
from lfs.commands import INTERRUPTED
from lfs.live import LiveArea
from lfs.progress import WorkProgress, rate_text, waiting
from lfs.quiet import interrupts
from lfs.run_store import RunStore
from lfs.search_screen import SearchScreen
from lfs.terminal import SafeConsole, encodable
from lfs.view import View
from tests.lfs.test_view import rendered, status

LONG = [f"margin_{i}" for i in range(10)]


class Screen(io.StringIO):
    """A terminal that is written to."""

    def __init__(self, columns: int = 60, lines: int = 12) -> None:
        super().__init__()
        self.screen = pyte.HistoryScreen(columns, lines, history=1000)
        self.stream = pyte.Stream(self.screen)

    def write(self, text: str) -> int:
        self.stream.feed(text.replace("\n", "\r\n"))
        return super().write(text)

    def shown(self) -> list[str]:
        """All lines, scrolled up or not."""
        above = ["".join(line[x].data for x in range(self.screen.columns)) for line in self.screen.history.top]
        return "\n".join(line.rstrip() for line in (*above, *self.screen.display)).rstrip("\n").split("\n")


def on(screen: Screen) -> SafeConsole:
    size = {"width": screen.screen.columns, "height": screen.screen.lines}
    return SafeConsole(file=screen, force_terminal=True, legacy_windows=False, **size)


def test_what_is_printed_stands_above_the_area_and_nothing_is_left_of_it() -> None:
    screen = Screen()
    console = on(screen)
    area = LiveArea(console)
    with area.shown():
        area.show(Text("first\nsecond"))
        console.print("one")
        assert screen.shown() == ["one", "first", "second"]
        print("by a plug-in")
        print("by another", file=sys.stderr)
        area.show(Text("third"))
        assert screen.shown() == ["one", "by a plug-in", "by another", "third"]
        assert screen.screen.cursor.x == 0
        for number in range(30):
            console.print(f"line {number}")
    assert screen.shown()[-3:] == ["line 27", "line 28", "line 29"]
    assert "third" not in screen.shown()
    assert "\x1b[?25l" not in screen.getvalue(), "a hidden cursor stays so after kill -9"


def test_an_area_is_never_higher_than_the_terminal() -> None:
    screen = Screen(lines=6)
    area = LiveArea(on(screen))
    with area.shown():
        for last in (20, 21):
            area.show(Text("\n".join(f"row {number}" for number in range(last))))
            assert screen.shown() == [f"row {number}" for number in range(5)]


def test_lines_that_a_narrower_terminal_has_broken_are_taken_away() -> None:
    screen = Screen(columns=80)
    console = on(screen)
    area = LiveArea(console)
    with area.shown():
        area.show(Text("x" * 70 + "\n" + "y" * 30))
        console.width = 40  # the first line takes two now
        area.show(Text("z"))
        assert "\r\x1b[3A\x1b[J" in screen.getvalue()


def test_a_warning_stands_above_what_is_live() -> None:
    screen = Screen(columns=80, lines=40)
    view = View(on(screen), on(screen))
    view.start(status())
    view.update(status() | {"notes": ["trainer-001 cannot take part"]})
    shown = screen.shown()
    assert shown[:2] == ["resuming at generation 3 of 5", "warning: trainer-001 cannot take part"]
    assert sum(line.startswith("generation 3/5") for line in shown) == 1
    view.stop()
    assert screen.shown() == shown[:2]


def test_a_terminal_that_is_gone_stops_nothing() -> None:
    class Gone(Screen):
        gone = False

        def write(self, text: str) -> int:
            if self.gone:
                raise OSError(5, "Input/output error")
            return super().write(text)

    screen, before = Gone(columns=80, lines=40), sys.stdout
    view = View(on(screen), on(screen))
    view.start(status())
    screen.gone = True
    view.update(status() | {"notes": ["a node is gone"]})
    view.say("stopping")
    view.stop()
    view.finish("runs/x", status(5))
    assert sys.stdout is before


@pytest.mark.parametrize("names", [["margin"], LONG, ["m_cos", "m_arc", "t", "gamma", "scale"]])
def test_a_search_fits_every_terminal_and_no_number_is_cut(names: list[str]) -> None:
    made = status(4)
    values = [0.1234 * (i + 1) for i in range(len(names))]
    policy = {"parameter_names": names, "policy_mean": values, "policy_std": values}
    margins = values if names[0].startswith("margin") else []
    won = {"winner_parameters": dict(zip(names, values, strict=True)), "winner_margins": margins}
    summaries = [summary | policy | won for summary in made["summaries"]] * 3
    candidate = {"margins": margins, "parameters": won["winner_parameters"], "reward_se": 0.0123}
    for width, height, count in product((40, 60, 80, 140), (12, 24, 40), (1, 16, 64)):
        candidates = [
            made["candidates"][(0, 3)[i % 2] if i != 1 else 1] | candidate | {"index": i, "reward": (0.9, None)[i % 2]}
            for i in range(count)
        ]
        shown = SearchScreen(status=made | policy | {"candidates": candidates, "summaries": summaries})
        lines = rendered(shown, width, height)
        assert len(lines) < height
        assert all(len(line) <= width for line in lines)
        assert not re.search(r"\d…|±\n", "\n".join(lines))
        assert any("0.9000 ± 0.0123" in line for line in lines) or height == 12
        assert count < 64 or any(line.startswith("and ") and " more" in line for line in lines)


def test_running_candidates_are_shown_before_others() -> None:
    made = status()
    states = ["queued"] * 30 + ["done"] * 30 + ["running"] * 4
    candidates = [
        made["candidates"][0] | {"index": i, "state": state, "reward": i / 100 if state == "done" else None}
        for i, state in enumerate(states)
    ]
    lines = rendered(SearchScreen(status=made | {"candidates": candidates}), 80, 24)
    running = [line.split()[0] for line in lines if "running" in line]
    assert running == ["60", "61", "62", "63"]
    assert [line.split()[0] for line in lines if " done " in line][-1] == "59", "the best of those that are done"
    assert any(line.endswith("30 queued") for line in lines)


def test_the_least_important_columns_go_first_and_are_named() -> None:
    table = Columns(
        columns=[
            Column(title="name", cells=["a"]), Column(title="middle", cells=["0.1234 ± 0.0001"], rank=1),
            Column(title="least", cells=["0.123456"], rank=2),
        ]
    )  # fmt: skip
    assert rendered(table, 31) == ["name  middle           least", "a     0.1234 ± 0.0001  0.123456"]
    assert " ".join(rendered(table, 30)[2:]) == "without least: the terminal is narrow"
    assert rendered(table, 20)[:2] == ["name", "a"]


def test_a_bar_leaves_when_there_is_no_room_for_it() -> None:
    screen = Screen(columns=40)
    now = 0.0
    with WorkProgress(console=on(screen), clock=lambda: now) as work:
        work.update("embedding", 0, 1_000_000)
        now = 100.0
        work.update("embedding", 500, 1_000_000)
        assert screen.shown() == ["embedding 500 of 1,000,000 pictures,", "5/s, 55:31:40 left"]
    assert screen.shown() == [""]


@pytest.mark.parametrize("live", [True, False])
def test_work_of_a_moment_is_not_shown_and_longer_one_is(live: bool) -> None:
    screen, now = Screen(), 0.0
    console = on(screen) if live else Console(file=screen)
    with WorkProgress("generations", console, lambda: now, after_s=1.0) as work:
        for now in (0.0, 0.5, 0.9):
            work.update("reading the run", round(100 * now), 1000)
        assert screen.getvalue() == ""
        now = 20.0
        work.update("reading the run", 400, 1000)
        assert "reading the run" in screen.getvalue()
        assert "400 of 1,000 generations, 20/s, 0:00:30 left" in " ".join(screen.getvalue().split())
    assert (screen.shown() == [""]) == live


@pytest.mark.parametrize(("rate", "text"), [(1234.5, "1,234/s"), (10.2, "10/s"), (1.26, "1.3/s"), (0.0123, "0.012/s")])
def test_a_rate_has_two_digits(rate: float, text: str) -> None:
    assert rate_text(rate) == text


def test_bytes_have_a_unit() -> None:
    work = WorkProgress("bytes", Console(file=io.StringIO()), clock=lambda: 0.0)
    work.update("reading the weights", 0, 260_000_000)
    assert work.text(130_000_000, 260_000_000, 2.0) == "130.0 MB of 260.0 MB, 65.0 MB/s, 0:00:02 left"


@pytest.mark.parametrize("live", [True, False])
def test_who_waits_says_so_after_a_while(live: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "WAITED_S", 0.01)
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.01)
    screen = Screen()
    console = on(screen) if live else Console(file=screen)
    with waiting("starting Ray", console):
        _until(lambda: "starting Ray ... 0:00:0" in screen.getvalue())
    assert (screen.shown() == [""]) == live
    assert not [thread for thread in threading.enumerate() if thread.name == "waiting"]


def test_what_takes_a_moment_is_not_mentioned() -> None:
    screen = Screen()
    with waiting("starting Ray", on(screen)):
        pass
    assert screen.getvalue() == ""


def _until(said: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not said():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_terminal_without_unicode_gets_signs_of_the_same_width() -> None:
    assert encodable("0.5 ± 0.1 … Å", "ascii") == "0.5 ~ 0.1 . \\xc5"
    assert encodable("0.5 ± 0.1 … Å", "latin-1") == "0.5 ± 0.1 . Å"
    bytes_ = io.BytesIO()
    console = SafeConsole(file=io.TextIOWrapper(bytes_, encoding="ascii"), width=80)
    view = View(console, console)
    view.start(status())
    view.stop()
    view.finish("runs/Å", status(5))
    console.file.flush()
    assert b"0.0100  " in bytes_.getvalue()
    assert b" ~ " in bytes_.getvalue()
    assert b"runs/\\xc5" in bytes_.getvalue()


def test_no_line_ends_before_an_error() -> None:
    screen = Screen(columns=20)
    on(screen).print("accuracy 0.12345 ± 0.00012, AUC 0.9 ± 0.1")
    assert screen.shown() == ["accuracy", "0.12345 ± 0.00012,", "AUC 0.9 ± 0.1"]


def test_a_pipe_is_no_terminal_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    view = View()
    view.start(status())
    view.update(status())
    view.stop()
    assert "\x1b" not in capsys.readouterr().out


PRESSED = """
import os, signal, sys, threading, time
from lfs.quiet import interrupts
say = lambda line: print(line, flush=True)

def naps():  # a signal that comes just before a sleep does not wake it
    for _ in range(2000):
        time.sleep(0.05)

try:
    with interrupts(threading.Event(), lambda: say("after this"), lambda: say("now")):
        say("ready")
        naps()
except KeyboardInterrupt:
    say("ending")
    naps()
"""


def test_ctrl_c_is_answered_at_once_each_time_and_the_third_ends_the_process() -> None:
    with subprocess.Popen([sys.executable, "-c", PRESSED], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "after this\n"
        process.send_signal(signal.SIGINT)
        assert {process.stdout.readline(), process.stdout.readline()} == {"now\n", "ending\n"}
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == INTERRUPTED


@pytest.mark.parametrize(("number", "says"), [(signal.SIGTERM, "ending\n"), (signal.SIGHUP, "")])
def test_other_signals_stop_at_once(number: signal.Signals, says: str) -> None:
    code = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n{PRESSED}"  # tests may run under nohup
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        if says:
            assert says in (process.stdout.readline(), process.stdout.readline())
            process.send_signal(number)
        assert process.wait(30) == INTERRUPTED


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts(threading.Event()):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_while_a_command_is_imported_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich" / "__init__.py").write_text("raise KeyboardInterrupt\n")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    done = subprocess.run(
        [sys.executable, "-m", "lfs.results"], env=environment, capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.returncode in (-signal.SIGINT, INTERRUPTED)
    assert done.stderr == "\nlfs: interrupted\n"


def test_a_run_is_read_with_progress(tmp_path: Path) -> None:
    with tarfile.open(Path(__file__).parent / "golden" / "format-2" / "run.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    store = RunStore(str(tmp_path / "run"))
    weights: list[tuple[int, int]] = []
    generations: list[tuple[int, int]] = []
    loaded = store.load_last(lambda *at: weights.append(at))
    assert loaded is not None
    assert weights[-1][0] == weights[-1][1] > 1000
    store.summaries(lambda *at: generations.append(at))
    assert generations[-1] == (2, 2)
