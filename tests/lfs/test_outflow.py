"""Streams that nobody reads, for a while or any more."""

import io
import threading
import time

import pytest

from lfs import outflow
from lfs.outflow import Outflow
from tests.lfs.unread import unread


def test_it_is_the_stream_itself_until_it_flows() -> None:
    out = io.StringIO()
    made = Outflow(out)
    assert made.write("a") == 1
    made.flush()
    assert out.getvalue() == "a"
    assert made.getvalue() == "a"


def test_text_comes_out_in_its_order_whoever_waits() -> None:
    out = io.StringIO()
    made = Outflow(out)
    for round_ in range(50):
        made.flow()
        for number in range(20):
            made.write(f"{round_}.{number} ")
        assert made.settle(60)
        assert not made.pending
        made.write("|")
    assert out.getvalue() == "".join("".join(f"{r}.{n} " for n in range(20)) + "|" for r in range(50))


def test_nobody_waits_for_a_full_pipe_until_it_is_to_settle() -> None:
    with unread() as (stream, all_of_it):
        made = Outflow(stream)
        made.flow()
        before = time.monotonic()
        for number in range(10_000):
            made.write(f"line {number:>60}\n")
            made.flush()
        assert not made.settle(0.1)
        assert time.monotonic() - before < 30
        last = threading.Thread(target=made.write, args=("the end\n",))
        last.start()
        last.join(0.2)
        assert last.is_alive(), "who writes now waits"
        lines = all_of_it().splitlines()
        last.join(60)
    assert lines == [*(f"line {number:>60}" for number in range(10_000)), "the end"]


def test_what_is_too_much_is_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outflow, "MAX_CHARACTERS", 200_000)
    with unread() as (stream, all_of_it):
        made = Outflow(stream)
        made.flow()
        written = sum(made.write("x" * 99 + "\n") for _ in range(5000))
        assert written == 500_000
        assert made.pending <= 200_000
        made.settle(0.0)
        lines = all_of_it().splitlines()
    kept = lines.count("x" * 99)
    assert kept >= 2000
    assert lines[kept:] == [f"({5000 - kept:,} messages were left out while nobody read them)"]


def test_an_error_is_told_to_who_writes_next() -> None:
    with unread() as (stream, all_of_it):
        made = Outflow(stream)
        made.flow()
        for _ in range(1000):
            made.write("x" * 200)
        all_of_it(close=True)
        assert made.settle(60), "nothing waits for a pipe that is gone"
        for act in (lambda: made.write("y"), made.flush):
            with pytest.raises(BrokenPipeError):
                act()
        made.flow()
        with pytest.raises(BrokenPipeError):
            made.write("y")
