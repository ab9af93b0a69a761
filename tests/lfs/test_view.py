"""What a user reads: the live view, the plain lines, the table at the end."""

import io
import os
import re
import subprocess
import sys
import threading
import time
from typing import Any

import pyte
import pytest
from rich.console import Console

from lfs.generation import Search
from lfs.progress import duration_text
from lfs.search_screen import SearchScreen
from lfs.view import (
    View,
    generation_line,
    margins_text,
    parameters_text,
    reward_text,
    score_lines,
    summary_table,
)
from tests.lfs.fakes import config, drive
from tests.lfs.unread import unread


def status(generation: int = 2) -> dict[str, Any]:
    """A controller's status in the middle of a search."""
    search = Search(config(generations=5))
    records = drive(search, until=lambda s: s.state.generation == generation)
    summaries = [r.summary | {"images_per_s": 1234.5, "wall_s": 2.0} for r in records]
    states = ["done", "running", "diverged", "queued"]
    candidates = [
        {"index": i, "state": s, "margins": [0.1 * i], "parameters": {"margin": 0.1 * i}, "trainer": None,
         "reward": 0.9 if s == "done" else None,
         "reward_se": 0.01, "done": 30, "total": 60} for i, s in enumerate(states)
    ]  # fmt: skip
    return {
        "mode": "search", "generation": generation, "generations": 5, "warmup_generations": 1,
        "candidates": candidates, "testing": False, "rejected": 0,
        "trainers": 2, "images_per_s": 2000.0, "eta_s": 75.0, "summaries": summaries, "best": 0.95,
        "test": None, "num_images": 5000, "error": "", "finished": False, "state": "running", "notes": [],
        "name": "made", "run": "runs/made",
        **search.policy_of(search.state.policy),
    }  # fmt: skip


def rendered(what: Any, width: int = 100, height: int = 40) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, highlight=False)
    console.print(what)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        (
            {"diverged": 2, "why_diverged": "candidate 3: loss is nan at step 7"},
            ", 2 diverged (candidate 3: loss is nan",
        ),
        ({"diverged": 2, "why_diverged": None}, ", 2 diverged, winner's"),  # written before reasons were
        ({"dropped": 1}, ", 1 dropped, winner's"),
        ({"tied": True}, ", rewards tied: nothing learned, winner's"),
    ],
)
def test_a_generation_line_says_what_went_wrong(changes: dict[str, Any], shown: str) -> None:
    of = status()
    assert shown in generation_line(of["summaries"][-1] | changes, of)
    assert shown not in generation_line(of["summaries"][-1], of)


def test_the_live_view_shows_candidates_policy_rate_and_time_left() -> None:
    lines = rendered(SearchScreen(status=status()))
    assert lines[0].startswith("generation 3/5   best reward 0.9500   policy margin 0.")
    assert lines[1] == "2,000 images/s   2 trainers   0:01:15 left"
    assert lines[3].split() == ["0", "done", "0.9000", "±", "0.0100", "0.000"]
    assert lines[4].split() == ["1", "running", "50", "%", "-", "0.100"]
    assert lines[5].split()[:2] == ["2", "diverged"]
    assert lines[6].split()[:2] == ["3", "queued"]
    assert lines[9].split()[0] == "1w"


def test_the_live_view_fits_80_columns() -> None:
    assert all(len(line) <= 80 for line in rendered(SearchScreen(status=status()), width=80))


def test_many_candidates_are_cut_short() -> None:
    many = status()
    many["candidates"] = many["candidates"] * 10
    assert any("and 24 more" in line for line in rendered(SearchScreen(status=many)))


def test_a_pipe_gets_one_line_per_generation_once() -> None:
    out = io.StringIO()
    view = View(console=Console(file=out, highlight=False, soft_wrap=True, width=80))
    view.start(status(0))
    for generation in (0, 1, 1, 3):
        view.update(status(generation))
    view.stop()
    lines = out.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == ["generation 1/5 (warm-up)", "generation 2/5", "generation 3/5"]


def test_a_resumed_search_does_not_tell_its_past_again() -> None:
    out = io.StringIO()
    view = View(console=Console(file=out, highlight=False, soft_wrap=True))
    view.start(status(2))
    view.update(status(2))
    view.stop()
    assert out.getvalue() == "resuming at generation 3 of 5\n"


def test_a_generation_in_one_line() -> None:
    summary = status()["summaries"][1] | {"diverged": 1, "policy_mean": [0.2], "policy_std": [0.1], "best_reward": 0.5}
    summary |= {"best_reward_se": 0.25, "mean_reward": 0.25, "winner_parameters": {"margin": 0.3}}
    line = generation_line(summary, status())
    assert line == (
        "generation 2/5: best 0.5000 ± 0.2500, mean 0.2500, 1 diverged, winner's margin 0.300, "
        "policy 0.200 ± 0.100, 1,234 images/s, 0:01:15 left"
    )


def test_the_end_shows_the_table_the_test_scores_and_where_to_look() -> None:
    out = io.StringIO()
    scores = {
        "accuracy": 0.9, "accuracy_se": 0.01, "threshold": 0.3, "auc": 0.95, "tar@far=0.01": 0.5,
        "tar@far=0.01_se": 0.02,
        "all:auc": 0.9375, "all:tar@far=0.0001": 0.125,
    }  # fmt: skip
    View(console=Console(file=out, highlight=False, width=120)).finish("runs/x", status(5) | {"test": scores})
    text = out.getvalue()
    assert "test: accuracy 0.9000 ± 0.0100, AUC 0.9500, TAR@FAR=0.01 0.5000 ± 0.0200\n" in text
    assert "test, all pairs: AUC 0.9375, TAR@FAR=0.0001 0.1250\n" in text
    assert "5,000 training images in all\n" in text
    assert "python -m lfs.results runs/x --candidates" in text
    assert "tensorboard --logdir runs/x" in text


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (margins_text([0.25]), "0.250"), (margins_text([0.1 * i for i in range(10)]), "0.00 … 0.50 … 0.90"),
        (reward_text(None), "-"), (reward_text(float("nan")), "-"), (reward_text(0.5), "0.5000"),
        (duration_text(None), "?"), (duration_text(3725), "1:02:05"),
    ],
)  # fmt: skip
def test_numbers_for_a_reader(got: str, expected: str) -> None:
    assert got == expected


def test_a_loss_without_a_margin_is_shown_by_its_parameters() -> None:
    many = {"m_cos": 0.35, "m_arc": 0.0123, "t": 1.2, "gamma": 2.0, "scale": 32.0}
    assert parameters_text(many) == "m_cos 0.35, m_arc 0.0123, t 1.2, gamma 2 …"
    assert parameters_text({"m_arc": 0.0, "m_cos": 0.3, "t_easy": 0.0, "scale": 20.0}) == "m_cos 0.3, scale 20"
    assert parameters_text({"dynamic": 0.0}) == "dynamic 0", "only a parameter that has no effect at 0 is left out"
    summary = status()["summaries"][1] | {
        "winner_parameters": {"t": 0.2}, "winner_margins": [], "parameter_names": ["t"], "policy_mean": [0.25],
        "policy_std": [0.125], "rejected": 3,
    }  # fmt: skip
    line = generation_line(summary, status())
    assert ", 3 rejected, winner's loss t 0.2, policy t 0.25 ± 0.12, " in line
    assert "winner's loss" in rendered(summary_table([summary]), 120)[0]


def test_a_training_with_one_loss_shows_no_policy() -> None:
    shown = status()
    fixed = [s | {"mode": "fixed", "train_loss": 3.25, "parameter_names": []} for s in shown["summaries"]]
    line = generation_line(fixed[1] | {"best_reward": 0.5, "best_reward_se": 0.25}, shown)
    assert line == "generation 2/5: reward 0.5000 ± 0.2500, training loss 3.250, 1,234 images/s, 0:01:15 left"
    lines = rendered(SearchScreen(status=shown | {"mode": "fixed", "summaries": fixed, "parameter_names": []}))
    assert "policy" not in "\n".join(lines)
    assert "trainers" not in lines[1]


def test_several_test_sets_and_sets_without_listed_pairs() -> None:
    scores = {"all:d_prime": 2.5, "lfw/accuracy": 0.75, "cfp/all:auc": 0.5, "cfp/all:auc_se": 0.25}
    assert score_lines(scores) == [
        "test, all pairs: d' 2.5000", "test, lfw: accuracy 0.7500", "test, cfp, all pairs: AUC 0.5000 ± 0.2500",
    ]  # fmt: skip


def test_a_pause_a_wait_and_a_note_are_told_once_each() -> None:
    out, errors = io.StringIO(), io.StringIO()
    view = View(Console(file=out, highlight=False, soft_wrap=True), Console(file=errors, soft_wrap=True))
    view.start(status(), attached=True)
    for state in ("running", "pausing", "paused", "paused", "running", "waiting for room", "testing"):
        view.update(status() | {"state": state, "notes": ["trainer-001 cannot take part: no torch"]})
    view.stop()
    assert out.getvalue().splitlines() == [
        "made (runs/made), running, generation 3 of 5",
        *("paused at generation 3 of 5", "running at generation 3 of 5"),
        *("waiting for room at generation 3 of 5", "testing at generation 3 of 5"),
    ]
    assert errors.getvalue() == "warning: trainer-001 cannot take part: no torch\n"
    assert "paused" in rendered(SearchScreen(status=status() | {"state": "paused"}))[0]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_search_does_not_wait_for_who_does_not_read(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lfs.view.SETTLE_S", 0.05)
    with unread() as pipe:
        views = [Console(file=pipe.stream, force_terminal=terminal, highlight=False, width=90) for _ in range(2)]
        view = View(*views)
        view.start(status(0))
        before = time.monotonic()
        shown = status(2) | {"notes": [f"note {number}" for number in range(5)]}
        for number in range(500):
            view.update(shown)
            view.say(f"line {number} {'x' * 70}")
        view.stop()
        assert time.monotonic() - before < 60
        finishing = threading.Thread(target=view.finish, args=("runs/made", status(4)))
        finishing.start()
        text = pipe.all_of_it(finishing.join)
    said = re.findall(r"line (\d+) x", text)
    assert said == [str(number) for number in range(len(said))], "in their order"
    assert "warning: note 3" in text
    assert text.rstrip().endswith("tensorboard --logdir runs/made"), "and the end is behind them"


def test_lines_and_warnings_in_one_pipe_come_in_their_order() -> None:
    with unread() as pipe, os.fdopen(os.dup(pipe.stream.fileno()), "w") as other:
        view = View(*(Console(file=stream, width=80, soft_wrap=True) for stream in (pipe.stream, other)))
        view.start(status(0))
        for number in range(3000):
            (view.say if number % 2 else view.warn)(f"line {number}.")
        other.close()
        text = pipe.all_of_it(lambda: view.settle(60))
    assert re.findall(r"line (\d+)\.", text) == [str(number) for number in range(3000)]


ENDS = """
import sys
from rich.console import Console
from lfs import view as views

views.SETTLE_S = 0.1
view = views.View(Console(force_terminal=sys.argv[1] == "live", highlight=False, width=80, soft_wrap=True))
view.begin()
view.draw("what is live")
for number in range(10_000):
    view.say(f"line {number}.")
if sys.argv[2] == "stopped":
    view.stop()
raise SystemExit("its error")
"""


@pytest.mark.parametrize("stopped", ["stopped", "not"])
@pytest.mark.parametrize("live", ["live", "plain"])
def test_a_process_that_ends_waits_for_who_reads_it(live: str, stopped: str) -> None:
    with unread() as pipe:
        command = [sys.executable, "-c", ENDS, live, stopped]
        with subprocess.Popen(command, stdout=pipe.stream, stderr=subprocess.PIPE, text=True) as process:
            time.sleep(3)
            assert process.poll() is None, "it waits"
            text = pipe.all_of_it(lambda: process.wait(60))
            assert process.stderr
            said = process.stderr.read()
    assert process.returncode == 1
    assert re.findall(r"line (\d+)\.", text) == [str(number) for number in range(10_000)]
    assert "its error" in said + text


def test_a_live_area_survives_what_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lfs.outflow.MAX_CHARACTERS", 2000)
    with unread() as pipe:
        view = View(Console(file=pipe.stream, force_terminal=True, highlight=False, width=80, height=24))
        view.begin()
        view.draw("area 1\narea 2")
        for number in range(6000):
            view.say(f"line {number}.")
        view.draw("higher\n" * 8)  # is left out, too

        def rest() -> None:
            view.settle(60)
            view.say("after")
            view.stop()

        text = pipe.all_of_it(rest)
    screen = pyte.HistoryScreen(80, 24, history=10_000)
    pyte.ByteStream(screen).feed(text.replace("\n", "\r\n").encode())
    lines = [line.rstrip() for line in screen.display]
    above = ["".join(line[x].data for x in range(80)) for line in screen.history.top]
    shown = re.findall(r"(?m)^line (\d+)\.", "\n".join([*above, *lines]))
    assert shown == re.findall(r"line (\d+)\.", text), "nothing is drawn over"
    missing = 6000 - len(shown) + 1  # the higher one
    assert f"({missing:,} messages were left out while nobody read them)" in lines
    assert [line for line in lines if line][-1] == "after"


def test_screens_that_nobody_sees_are_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lfs.view.SETTLE_S", 0.05)
    with unread() as pipe:
        view = View(Console(file=pipe.stream, force_terminal=True, width=80))
        view.start(status(0))
        for _ in range(2000):
            view.update(status(2))
        view.stop()
        assert 10 < pipe.all_of_it(lambda: view.settle(60)).count("generation 3/5") < 500


def test_the_command_to_go_on_is_said_with_the_first_word_of_an_end_and_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    view = View()
    view.stopping_now("python -m lfs.search --resume runs/x")
    assert capsys.readouterr().out.splitlines()[1] == "to go on      python -m lfs.search --resume runs/x"
    view.stopping_now("python -m lfs.search --resume runs/x")
    assert "to go on" not in capsys.readouterr().out
    view = View()
    view.stopping("this generation", "python -m lfs.search --resume runs/x")
    view.stopping_now("python -m lfs.search --resume runs/x")
    assert capsys.readouterr().out.count("to go on") == 1
