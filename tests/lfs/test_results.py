"""What the command shows of runs as they are: live, half-written, damaged, from another version, on other storage."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.fs
import pytest

from lfs.commands import FAILED, OK
from lfs.files import ArrowFiles, LocalFiles
from lfs.generation import Search
from lfs.generations import CANDIDATES
from lfs.messages import GenerationRecord
from lfs.presence import RUNNING, Presence, is_held
from lfs.results_output import loss_text
from lfs.results_tables import runs_table
from lfs.run_facts import read_run
from lfs.run_store import RunStore
from search_space.errors import UserError
from tests.lfs.fakes import WEIGHTS, config, drive

Results = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def records() -> list[GenerationRecord]:
    return drive(Search(config()))


def make_run(path: Path, records: list[GenerationRecord], done: int = 5, **changes: object) -> RunStore:
    """A run so many of whose five generations are committed."""
    store = RunStore(str(path))
    store.create(config(**changes))
    store.record_event("start", host="here", pid=1)
    for record in records[:done]:
        record.summary.setdefault("images_per_s", 10.0)
        store.commit(record, WEIGHTS)
    if done == 5:
        test = {"accuracy": 0.75, "accuracy_se": 0.01, "tar@far=1e-2": 0.5, "tar@far=1e-2_se": 0.02}
        store.write_result({"generation": 4, "test": test})
    return store


@pytest.fixture
def root(tmp_path: Path, records: list[GenerationRecord]) -> Path:
    """A storage root with a finished run and one that was stopped."""
    make_run(tmp_path / "runs" / "whole", records)
    make_run(tmp_path / "runs" / "part", records, 3)
    return tmp_path / "runs"


def rows(results_command: Results, *arguments: object) -> list[dict[str, Any]]:
    """What a command writes as JSON, and nothing else."""
    code, out, err = results_command(*arguments, "--json", "-")
    assert (code, err) == (OK, "")
    found: list[dict[str, Any]] = json.loads(out)
    return found


def test_the_list_has_state_score_age_size_and_cost(
    root: Path, records: list[GenerationRecord], results_command: Results
) -> None:
    found = {row["run"]: row for row in rows(results_command, "--storage", root)}
    whole, part = found["whole"], found["part"]
    assert (whole["state"], whole["done"], whole["generations"]) == ("finished", 5, 5)
    assert (part["state"], part["done"], part["test_score"]) == ("stopped", 3, None)
    assert whole["best_reward"] == max(record.summary["best_reward"] for record in records)
    assert (whole["test_metric"], whole["test_score"], whole["test_accuracy"]) == ("tar@far=1e-2", 0.5, 0.75)
    assert whole["num_images"] == records[4].state.num_images == sum(len(record.rows) * 10 for record in records)
    assert whole["candidates"] == sum(len(record.rows) for record in records)
    assert whole["size_bytes"] == sum(p.stat().st_size for p in (root / "whole").rglob("*") if p.is_file())
    assert 0 <= whole["age_s"] < 600
    code, out, _ = results_command("--storage", root)
    assert code == OK
    assert "5/5" in out
    assert "tar@far=1e-2 0.5000 ± 0.0200" in out


def test_a_run_that_is_worked_on_says_so_without_ray(root: Path, results_command: Results) -> None:
    store = RunStore(str(root / "part"))
    with Presence(store):
        assert is_held(store)
        assert "3 of 5 generations, running" in results_command(root / "part")[1]
        store.record_event("pause", by="me")
        assert "paused" in results_command(root / "part")[1]
        store.record_event("resume", by="me")
        assert "running" in results_command(root / "part")[1]
    assert not is_held(store)
    assert "3 of 5 generations, stopped" in results_command(root / "part")[1]


def test_whoever_looks_keeps_no_driver_from_starting(root: Path) -> None:
    import fcntl
    import threading

    store = RunStore(str(root / "part"))
    with Presence(store):
        pass
    Path(store.path, ".lock").touch()
    glance = Path(store.path, ".lock").open()  # noqa: SIM115  # as a look holds it, but for longer
    fcntl.flock(glance, fcntl.LOCK_SH)
    threading.Timer(0.1, glance.close).start()
    with Presence(store):
        assert is_held(store)


def test_a_driver_on_other_storage_is_alive_for_a_minute_after_its_last_sign(root: Path) -> None:
    import os

    far = RunStore(f"file://{root}/part")
    assert not is_held(far)
    far.write(b"{}", RUNNING)
    assert is_held(far)
    assert read_run(far).state == "running"
    before = time.time() - 61
    os.utime(root / "part" / RUNNING, (before, before))
    assert not is_held(far)


def test_a_generation_that_is_not_committed_yet_and_files_that_come_meanwhile(
    root: Path, records: list[GenerationRecord], results_command: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = RunStore(str(root / "part"))
    for name in ("state.json", "winner.safetensors.0a1b2c3d.tmp"):
        part.write(b"half", "generations", "000003", name)
    assert [row["generation"] for row in rows(results_command, part.path)] == [0, 1, 2]
    load = RunStore.load_state

    def meanwhile(store: RunStore, generation: int) -> Any:
        if len(store.committed()) == 3:
            part.commit(records[3], WEIGHTS)
            part.prune(3, 1)
        return load(store, generation)

    monkeypatch.setattr(RunStore, "load_state", meanwhile)
    assert [row["generation"] for row in rows(results_command, part.path)] == [0, 1, 2]
    assert [row["weights"] for row in rows(results_command, part.path)] == [False, False, False, True]


def spoil(root: Path) -> None:
    """A root with everything that may be wrong with a run."""
    for name in ("newer", "no_table", "no_weights", "rotten", "strange"):
        shutil.copytree(root / "whole", root / name)
    text = (root / "newer" / "config.yaml").read_text()
    (root / "newer" / "config.yaml").write_text(text.replace("format: 2", "format: 99"))
    (root / "no_table" / "generations" / "000002" / CANDIDATES).unlink()
    for path in (root / "no_weights").rglob("*.safetensors"):
        path.unlink()
    (root / "rotten" / "generations" / "000001" / "state.json").write_text("{}")
    (root / "strange" / "config.yaml").write_text("[")
    (root / "half" / "generations").mkdir(parents=True)
    (root / "draft").mkdir()
    (root / "draft" / "config.yaml.0a1b2c3d.tmp").write_text("for")
    (root / "faces").mkdir()


def test_what_is_wrong_with_a_run_is_in_the_list_and_the_rest_is_readable(root: Path, results_command: Results) -> None:
    spoil(root)
    found = {row["run"]: row for row in rows(results_command, "--storage", root)}
    assert set(found) == {
        "whole", "part", "newer", "no_table", "no_weights", "rotten", "strange", "half", "draft"
    }  # fmt: skip
    assert {name: row["state"] for name, row in found.items()} == {
        "whole": "finished", "part": "stopped", "newer": "unreadable", "no_table": "finished",
        "no_weights": "finished", "rotten": "finished", "strange": "unreadable", "half": "half-written",
        "draft": "half-written",
    }  # fmt: skip
    assert "format 99" in found["newer"]["note"]
    assert "newer version" in found["newer"]["note"]
    assert found["no_table"]["note"] == "candidates.parquet of generation 3 is gone"
    assert found["no_weights"]["note"] == "no weights left"
    assert "000001/state.json: damaged" in found["rotten"]["note"]
    assert found["rotten"]["best_reward"] == found["whole"]["best_reward"]
    assert not found["whole"]["note"]
    code, out, err = results_command("--storage", root)
    assert (code, err) == (OK, "")
    assert "half-written" in out


def test_what_is_wrong_with_a_run_is_one_line_after_what_can_be_read(root: Path, results_command: Results) -> None:
    spoil(root)
    for name, flags, shown, message in (
        ("newer", [], 0, "format 99"),
        ("strange", [], 0, "not a run's configuration"),
        ("half", [], 0, "is no run: it has no config.yaml"),
        ("rotten", [], 4, "000001/state.json: damaged"),
        (
            "no_table",
            ["--candidates"],
            13,
            "000002/candidates.parquet: a file of a committed generation cannot be read",
        ),
    ):
        code, out, err = results_command(root / name, *flags)
        assert code == FAILED
        [line] = err.splitlines()
        assert message in line
        assert "defect" not in line
        if shown:
            assert sum(row.split()[0].rstrip("w").isdigit() for row in out.splitlines() if row.strip()) == shown
    assert results_command(root / "no_weights", "--candidates")[0] == OK


@pytest.mark.parametrize("kind", ["nowhere", "file"])
def test_a_storage_root_that_is_none(tmp_path: Path, results_command: Results, kind: str) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = results_command("--storage", tmp_path / kind)
    assert code == FAILED
    assert "no such folder; searches put it there, or name another with --storage" in err
    assert len(err.splitlines()) == 1


class Watched(ArrowFiles):
    """Files of a storage that is far away, and which of them were fetched."""

    def __init__(self, filesystem: pyarrow.fs.FileSystem) -> None:
        super().__init__(filesystem)
        self.fetched: list[tuple[str, int]] = []

    def read(self, path: str) -> Iterator[bytes]:
        for data in super().read(path):
            self.fetched.append((path, len(data)))
            yield data


def test_no_weights_are_fetched_from_other_storage(
    root: Path, results_command: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in root.rglob("*.safetensors"):
        path.write_bytes(b"x" * 10_000_000)
    watched = Watched(pyarrow.fs.LocalFileSystem())
    monkeypatch.setattr("lfs.folder.open_files", lambda uri: (watched, uri.removeprefix("file://")))
    uri = f"file://{root}"
    for arguments in (
        ["--storage", uri], [f"{uri}/whole"], [f"{uri}/whole", "--candidates"], ["best", f"{uri}/whole"],
        ["diff", f"{uri}/whole", f"{uri}/part"], ["schedule", f"{uri}/whole", "--out", root / "losses.yaml"],
    ):  # fmt: skip
        watched.fetched.clear()
        code, _, err = results_command(*arguments)
        assert (code, err) == (OK, "")
        assert watched.fetched
        assert not [path for path, _ in watched.fetched if path.endswith(".safetensors")]
        assert sum(size for _, size in watched.fetched) < 200_000


def test_torch_ray_and_opencv_are_left_alone(root: Path) -> None:
    whole, part = str(root / "whole"), str(root / "part")
    actions = [[whole, "--candidates"], [whole], ["--storage", str(root)], ["diff", whole, part]]
    actions += [["best", whole], ["schedule", whole], [whole, "--candidates", "--columns", "loss"]]
    code = "import sys; from lfs import results; assert not any(map(results.main, eval(sys.argv[1]))); "
    code += "print(*{'torch', 'ray', 'cv2'} & set(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code, repr(actions)], capture_output=True, text=True, check=True)
    assert done.stderr.split() == []


def test_the_old_forms_write_what_they_show(root: Path, tmp_path: Path, results_command: Results) -> None:
    csv, parquet = tmp_path / "c.csv", tmp_path / "c.parquet"
    code, out, _ = results_command(root / "whole", "--candidates", "--csv", csv, "--parquet", parquet)
    assert (code, out) == (OK, f"17 rows in {csv}, {parquet}\n")
    table = pd.read_parquet(parquet)
    assert pd.read_csv(csv)["reward"].tolist() == table["reward"].tolist()
    store = RunStore(str(root / "whole"))
    slow = pd.concat([store.load_candidates(g) for g in range(5)], ignore_index=True)
    pd.testing.assert_frame_equal(table, slow)
    assert [row["generation"] for row in rows(results_command, root / "whole")] == [0, 1, 2, 3, 4]
    assert results_command(root / "whole", "--csv", csv, "--parquet", parquet)[0] == OK
    assert len(pd.read_parquet(parquet)) == 5


def test_generations_count_from_1_on_the_screen_and_from_0_in_files(root: Path, results_command: Results) -> None:
    out = results_command(root / "part", "--candidates", "--columns", "generation")[1]
    assert out.split() == ["generation", "1", *"2222", *"3333"]
    numbers = [row["generation"] for row in rows(results_command, root / "part", "--candidates")]
    assert numbers == [0, *4 * [1], *4 * [2]]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('{"loss": "mine:Loss", "scale": 16.0, "size": 0.3}', "scale 16, size 0.3"),
        ('{"loss": "steps", "slopes": [1.5, 2.0]}', "slopes_0 1.5, slopes_1 2"),
        ('{"loss": "softmax"}', '{"loss": "softmax"}'),
        ('{"loss": "x", "y": {"z": 1}, "size": 1e999}', "size inf"),
        ("{", "{"),
    ],
)
def test_a_loss_without_margins_is_shown_by_its_numbers_without_its_code(text: str, shown: str) -> None:
    assert loss_text(text) == shown
    assert loss_text(text, np.array([0.25])) == "0.250"


def test_a_device_stays_a_device_and_two_tables_do_not_share_the_output(root: Path, results_command: Results) -> None:
    null = Path("/dev/null")
    assert results_command(root / "whole", "--csv", null, "--parquet", null)[0] == OK
    assert null.is_char_device()
    code, out, err = results_command(root / "whole", "--csv", "-", "--json", "-")
    assert (code, out) == (FAILED, "")
    assert "one of --json, --csv and --parquet can be standard output" in err


def test_a_run_called_like_an_action(root: Path, results_command: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("diff", "best", "schedule", "show"):
        shutil.copytree(root / "whole", root / name)
    monkeypatch.chdir(root)
    for name in ("diff", "best", "schedule", "show"):
        assert f"{name}: search in space global" in results_command(f"./{name}")[1]
    assert results_command("best", "best")[0] == OK
    assert results_command("--storage", ".")[1].count("finished") == 5
    monkeypatch.chdir(root.parent)
    assert results_command()[1].count("finished") == 5  # runs/ is where runs are


def test_a_long_table_is_the_same_in_plain_lines(
    root: Path, results_command: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    laid_out = results_command(root / "whole", "--candidates")[1]
    monkeypatch.setattr("lfs.results_output.MANY_ROWS", 3)
    plain = results_command(root / "whole", "--candidates")[1]
    assert [line.rstrip() for line in laid_out.splitlines()] == plain.splitlines()


def test_nothing_hostile_reaches_a_terminal_or_a_csv(root: Path, results_command: Results) -> None:
    store = RunStore(str(root / "whole"))
    store.record_event("=1+1\x1b[2J", by="\u202eevil")
    name = root / "=cmd\x1b[31m"
    shutil.copytree(root / "whole", name)
    for arguments in (["--storage", root], [name], ["diff", name, root / "part"], ["best", name]):
        for form in ([], ["--csv", "-"], ["--json", "-"]):
            code, out, _ = results_command(*arguments, *form)
            assert code == OK
            assert all(c.isprintable() or c == "\n" for c in out)
    assert "\n'=cmd" in results_command("--storage", root, "--csv", "-")[1]


def test_runs_are_sorted_by_their_start(root: Path, records: list[GenerationRecord]) -> None:
    event = root / "whole" / "events" / "000001.json"
    event.write_text(json.dumps({"action": "start", "time": "2999-01-01T00:00:00+00:00"}))
    assert runs_table(str(root))["run"].tolist() == ["whole", "part"]
    event.write_text(json.dumps({"action": "start", "time": "2001-01-01T00:00:00+00:00"}))
    assert runs_table(str(root))["run"].tolist() == ["part", "whole"]
    event.write_text(json.dumps({"action": "start", "time": "9" * 1000}))
    assert set(runs_table(str(root))["run"]) == {"part", "whole"}


@pytest.mark.parametrize("damaged", [1, 2, 3])
def test_a_damaged_event_hides_no_other(root: Path, results_command: Results, damaged: int) -> None:
    store = RunStore(str(root / "part"))
    store.record_event("pause", by="ann")
    store.record_event("resume", by="bob")
    lines = {1: "  start  (here, process 1)", 2: "  pause  (ann)", 3: "  resume  (bob)"}
    (root / "part" / "events" / f"{damaged:06d}.json").write_text('{"action": 7, "time": "2001-01-01T00:00:00+00:00"}')
    code, out, err = results_command(store.path)
    assert code == FAILED
    assert [number for number, line in lines.items() if line in out] == [n for n in lines if n != damaged]
    assert len(err.splitlines()) == 1
    assert f"events/{damaged:06d}.json: damaged" in err
    with pytest.raises(UserError, match=f"events/{damaged:06d}.json: damaged"):
        store.events()  # a resume would go by half of what users said


def test_a_run_whose_first_event_is_damaged_did_not_start_with_its_second(root: Path, results_command: Results) -> None:
    events = root / "part" / "events"
    (events / "000001.json").write_text("[")
    (events / "000002.json").write_text(json.dumps({"action": "stop", "time": "2999-01-01T00:00:00+00:00"}))
    started = read_run(RunStore(str(root / "part"))).started
    assert started
    assert started.year < 2999
    assert "2999-01-01T00:00:00+00:00  stop" in results_command(root / "part")[1]


def test_links_are_not_followed_into_the_size(root: Path, tmp_path: Path) -> None:
    files = LocalFiles(str(root))
    before = files.size(str(root / "whole"))
    (root / "whole" / "link").symlink_to("/usr")
    (root / "whole" / "loop").symlink_to("..")
    assert files.size(str(root / "whole")) == before
    assert ArrowFiles(pyarrow.fs.LocalFileSystem()).size(str(root / "part")) == files.size(str(root / "part"))
