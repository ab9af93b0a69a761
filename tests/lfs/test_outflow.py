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
    with unread() as pipe:
        made = Outflow(pipe.stream)
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
        lines = pipe.all_of_it(last.join).splitlines()
    assert lines == [*(f"line {number:>60}" for number in range(10_000)), "the end"]


def test_what_is_too_much_is_left_out_and_counted_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outflow, "MAX_CHARACTERS", 200_000)
    for more in (0, 3):
        with unread() as pipe:
            made = Outflow(pipe.stream)
            made.flow()
            assert sum(made.write("x" * 99 + "\n") for _ in range(5000)) == 500_000
            assert 190_000 < made.pending <= 200_000

            def rest(made: Outflow = made, more: int = more) -> None:
                for _ in range(more):
                    made.settle(60)
                    made.flow()
                    made.write("y\n")
                assert made.settle(60)

            lines = pipe.all_of_it(rest).splitlines()
        kept = lines.count("x" * 99)
        assert kept >= 1900
        assert lines[kept:] == [f"({5000 - kept:,} messages were left out while nobody read them)", *["y"] * more]


def test_what_is_left_out_is_told_to_who_says_it_himself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outflow, "MAX_CHARACTERS", 1000)
    with unread() as pipe:
        made = Outflow(pipe.stream, says=False)
        made.flow()
        for _ in range(5000):
            made.write("x" * 99 + "\n")
        assert made.left_out() == 0, "there is no room for it"
        text = pipe.all_of_it(lambda: made.settle(60))
        count = made.left_out()
        assert made.left_out() == 0
    assert text == ("x" * 99 + "\n") * (5000 - count)


def test_an_error_is_told_to_who_writes_next() -> None:
    with unread() as pipe:
        made = Outflow(pipe.stream)
        made.flow()
        for _ in range(1000):
            made.write("x" * 200)
        pipe.break_it()
        assert made.settle(60), "nothing waits for a pipe that is gone"
        for act in (lambda: made.write("y"), made.flush):
            with pytest.raises(BrokenPipeError):
                act()
        made.flow()
        with pytest.raises(BrokenPipeError):
            made.write("y")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("can't start new thread")])
def test_a_thread_that_was_not_started_holds_nobody_up(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    made = Outflow(out)
    made.flow()

    def start(thread: threading.Thread) -> None:
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(threading.Thread, "start", start)
        with pytest.raises((KeyboardInterrupt, RuntimeError)):
            made.write("a")
    assert made.settle(60)
    made.write("b")
    assert out.getvalue() == "ab"


def test_whatever_goes_wrong_with_a_stream_is_told() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise MemoryError

    made = Outflow(Full())
    made.flow()
    made.write("a")
    assert made.settle(60)
    with pytest.raises(MemoryError):
        made.write("b")
