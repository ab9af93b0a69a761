"""The command beside another process that commits, prunes, extends and ends the run that is looked at."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lfs import blocks, report
from lfs.commands import OK, run_command
from lfs.run_facts import read_run
from lfs.run_store import RunStore
from tests.lfs.report_runs import MadeRun
from tests.lfs.unread import unread

Results = Callable[..., tuple[int, str, str]]
GENERATIONS, BEHIND = 40, 3
WRITER = f"""
import sys
from lfs import blocks
from lfs.generation import Search
from lfs.presence import Presence
from lfs.run_store import RunStore
from tests.lfs.fakes import config, drive
from tests.lfs.fakes import WEIGHTS

blocks.BLOCK = 4
settings = config(generations={GENERATIONS}, keep_generations=2)
store = RunStore(sys.argv[1])
store.create(settings)
with Presence(store):
    store.record_event("start", host="here", pid=1)
    for record in drive(Search(settings)):
        store.commit(record, WEIGHTS)
        store.prune(record.generation, 2)
        print(record.generation, flush=True)
    store.write_result({{"generation": {GENERATIONS - 1}, "test": {{"accuracy": 0.5, "accuracy_se": 0.1}}}})
"""


def test_a_run_that_is_written_meanwhile_is_whole_at_any_moment(tmp_path: Path, results_command: Results) -> None:
    run, looks = tmp_path / "runs" / "live", 0
    with subprocess.Popen([sys.executable, "-c", WRITER, str(run)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout
        assert writer.stdout.readline() == "0\n"
        told, alive = 1, True
        while alive:
            alive = writer.poll() is None
            before = len(RunStore(str(run)).committed())
            looks += 1
            for arguments in (
                [run], [run, "--candidates"], ["--storage", run.parent], ["best", run], ["schedule", run],
                ["diff", run, run],
            ):  # fmt: skip
                code, out, err = results_command(*arguments, "--json", "-")
                assert (code, err) == (OK, ""), arguments
                rows = json.loads(out)
                if arguments[0] == "schedule" or arguments == [run]:
                    numbers = [row["generation"] for row in rows]
                    assert numbers == list(range(len(numbers)))
                    assert before <= len(numbers) <= GENERATIONS
                if arguments == [run, "--candidates"]:
                    done = rows[-1]["generation"] + 1
                    expected = [(0, 0), *((g, index) for g in range(1, done) for index in range(4))]
                    assert [(row["generation"], row["candidate"]) for row in rows] == expected
                    assert all(sum(row["winner"] for row in rows if row["generation"] == g) == 1 for g in range(done))
                if arguments[0] == "--storage":
                    assert rows[0]["state"] in (("running", "finished", "stopped") if alive else ("finished",))
                    assert before <= rows[0]["done"] <= GENERATIONS
            told = max(told, done)
    assert writer.returncode == 0
    assert told == GENERATIONS
    assert looks >= BEHIND


def test_what_takes_long_to_read_has_progress_on_the_error_stream(
    tmp_path: Path, results_command: Results, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 4)
    run = MadeRun(tmp_path / "runs" / "run", generations=6).done().path
    commands = {
        "1 of 1 runs": (["--storage", tmp_path / "runs"],),
        "6 of 6 generations": ([run], [run, "--candidates"], ["best", run], ["schedule", run], ["diff", run, run]),
    }
    for last, several in commands.items():
        for arguments in several:
            assert results_command(*arguments)[2] == ""
            with monkeypatch.context() as slow:
                slow.setattr("lfs.progress.WAITED_S", -1.0)
                slow.setattr("lfs.progress.LINE_EVERY_S", -1.0)
                code, out, err = results_command(*arguments, "--json", "-")
            assert (code, bool(json.loads(out))) == (OK, True)
            assert re.search(rf": {last}(, [0-9.,]+/s, 0:00:00 left)?$", err.splitlines()[-1]), err
            assert last == "1 of 1 runs" or "4 of 6 generations" in err
    monkeypatch.setattr("lfs.progress.WAITED_S", -1.0)
    monkeypatch.setattr("lfs.progress.LINE_EVERY_S", -1.0)
    told = list[tuple[int, int]]()
    read_run(RunStore(run), lambda *at: told.append(at))
    assert (told[0], told[-1]) == ((0, 6), (6, 6))  # the first begins to count the time
    assert run_command(report.main, [run, "--out", str(tmp_path / "page.html")]) == OK
    assert "reading the run: 6 of 6 generations" in capsys.readouterr().err


@pytest.mark.parametrize("broken", ["full", "nobody"])
def test_progress_that_cannot_be_shown_holds_nothing_back(broken: str, tmp_path: Path) -> None:
    run = MadeRun(tmp_path / "run", generations=6).done().path
    code = "from lfs import progress\nprogress.WAITED_S = progress.LINE_EVERY_S = -1.0\n"
    code += f"from lfs.commands import run_command\nfrom lfs.results import main\nrun_command(main, [{str(run)!r}])"
    with unread() as pipe, open("/dev/full", "w") as full:
        pipe.break_it()
        errors = full if broken == "full" else pipe.stream
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=errors, text=True, timeout=60
        )
    assert len(done.stdout.splitlines()) >= 8
