"""The command beside another process that commits, prunes, extends and ends the run that is looked at."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from lfs.commands import OK
from lfs.run_store import RunStore

GENERATIONS, BEHIND = 40, 3
WRITER = f"""
import sys
from lfs import blocks
from lfs.generation import Search
from lfs.presence import Presence
from lfs.run_store import RunStore
from tests.lfs.fakes import config, drive
from tests.lfs.test_run_store import WEIGHTS

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


def test_a_run_that_is_written_meanwhile_is_whole_at_any_moment(
    tmp_path: Path, results_command: Callable[..., tuple[int, str, str]]
) -> None:
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
