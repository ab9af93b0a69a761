"""Whole searches in real processes, and what their users see; tests/fault/ kills each of those processes."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lfs.commands import INTERRUPTED
from lfs.generation import Search
from lfs.messages import as_report
from lfs.run_store import RunStore
from tests.lfs.conftest import Command, free_address, start_ray
from tests.lfs.tensorboard_reader import hparam_rows, scalars
from tests.lfs.test_bad_input import mounted
from trainers.candidate import Candidate
from trainers.trainer import CandidateTrainer

pytestmark = pytest.mark.ray
Start = Callable[..., Command]
BY_THE_WAY = ("trainer", "train_s", "validate_s", "leased_at", "reported_at")
"""Columns of a candidate that say who worked and how long, not what came out."""


def digest(run: Path | RunStore) -> list[Any]:
    """All that a search computed: states, candidates and the winners' weights, to the last bit."""
    store = run if isinstance(run, RunStore) else RunStore(str(run))
    made = []
    for generation in store.committed():
        state, summary = store.load_state(generation)
        rows = (
            store.load_candidates(generation)
            .drop(columns=list(BY_THE_WAY), errors="ignore")
            .to_json(double_precision=15)
        )
        weights = store.read("generations", f"{generation:06d}", "winner.safetensors")
        facts = {k: v for k, v in summary.items() if k not in ("wall_s", "images_per_s", "lost")}
        made.append((json.dumps(state.to_dict()), json.dumps(facts), rows, weights))
    return made


def test_a_killed_driver_leaves_nothing_behind_and_resumes_to_the_same_end(
    undisturbed: Path, run_command: Start, recipe_file: Callable[..., str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = ("--config", recipe_file(), "--num-workers", "2", "--storage", str(tmp_path), "--name", "run")
    first = run_command("lfs.search", *arguments)
    first.wait_for(run / "generations" / "000001" / "COMMIT")
    first.kill("lfs.search")
    first.wait()
    first.clean()
    done = RunStore(str(run)).committed()
    assert done[:2] == [0, 1]
    assert len(done) < 4
    second = run_command("lfs.search", "--resume", str(run), "--num-workers", "1")
    assert second.wait() == 0, second.err.read_text()
    assert f"resuming at generation {len(done) + 1} of 4" in second.out.read_text()
    assert digest(run) == digest(undisturbed)


def test_the_search_is_replayed_without_ray(undisturbed: Path) -> None:
    store = RunStore(str(undisturbed))
    config = store.load_config()
    trainer = CandidateTrainer(config.trainer, config.data, config.reward, seed=config.seed)
    search = Search(config)
    while (lease := search.lease("shell")).kind == "train":
        candidate = Candidate(generation=lease.generation, index=lease.index, loss=search.space.decode(lease.action))
        result = trainer.run(candidate, lease.base)
        search.report(as_report(result, "shell"), result.weights)
        if search.ready_to_close:
            record, weights = search.close(), search.best_weights
            assert record.state == store.load_state(record.generation)[0]
            assert record.rows[record.winner]["reward"] == record.summary["best_reward"]
            stored = store.load_weights(record.generation)
            assert all(np.array_equal(stored[name], weights[name]) for name in stored)
            search.advance(record, weights)
    assert search.state.generation == config.generations
    assert trainer.test(search.base) == (store.load_result() or {})["test"]


def test_ctrl_c_stops_after_the_generation_and_says_how_to_go_on(
    undisturbed: Path, run_command: Start, recipe_file: Callable[..., str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = ("--config", recipe_file(), "--num-workers", "2", "--storage", str(tmp_path), "--name", "run")
    command = run_command("lfs.search", *arguments)
    command.wait_for(run / "generations" / "000000" / "COMMIT")
    os.killpg(command.process.pid, signal.SIGINT)  # as a terminal does: the whole foreground group
    assert command.wait() == INTERRUPTED, command.err.read_text()
    assert "stopping after this generation" in command.out.read_text()
    assert f"continue with python -m lfs.search --resume {run}" in command.out.read_text()
    done = digest(run)
    assert 1 <= len(done) < 4
    assert done == digest(undisturbed)[: len(done)]


def test_a_disk_that_fills_up_ends_the_search_in_one_line_with_its_commits_intact(
    undisturbed: Path, run_command: Start, recipe_file: Callable[..., str], tmp_path: Path
) -> None:
    size = sum(path.stat().st_size for path in undisturbed.rglob("*") if path.is_file())
    disk = tmp_path / "disk"
    if os.geteuid() != 0 or not mounted(disk, f"size={size // 2}"):
        pytest.skip("needs to mount a file system")
    try:
        arguments = ("--config", recipe_file(), "--num-workers", "1", "--storage", str(disk), "--name", "run")
        command = run_command("lfs.search", *arguments)
        assert command.wait() == 1
        [line] = command.err.read_text().splitlines()
        assert "No space left on device" in line
        assert f"continue with --resume {disk}/run" in line
        done = digest(disk / "run")
        assert done == digest(undisturbed)[: len(done)]
        assert len(done) < 4
    finally:
        command.clean()
        subprocess.run(["umount", str(disk)], check=True)


def test_a_search_joins_a_cluster_with_its_token_and_leaves_it_running(
    undisturbed: Path, run_command: Start, recipe_file: Callable[..., str], tmp_path: Path
) -> None:
    address = free_address()
    port = f"--port={address.split(':')[1]}"
    cluster = start_ray(run_command, "--head", port, "--num-cpus=2", "--include-dashboard=false")
    arguments = ("--config", recipe_file(), "--num-workers", "2", "--storage", str(tmp_path), "--name", "run")
    command = run_command("lfs.search", *arguments, "--address", address)
    assert command.wait() == 0, command.err.read_text()
    assert digest(tmp_path / "run") == digest(undisturbed)
    assert cluster.process.poll() is None
    assert cluster.family("gcs_server")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--address", "127.0.0.1:9"), "no Ray cluster answers at 127.0.0.1:9"),
        (("--cpus-per-worker", "999"), "a trainer needs 999 CPU, the cluster has"),
    ],
)
def test_a_search_that_cannot_start_is_one_line_and_no_run(
    run_command: Start, recipe_file: Callable[..., str], tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    place = ("--config", recipe_file(), "--storage", str(tmp_path), "--name", "run")
    command = run_command("lfs.search", *place, *arguments)
    assert command.wait() == 1
    [line] = command.err.read_text().splitlines()
    assert message in line
    assert not (tmp_path / "run").exists()


def test_the_snippet_of_the_readme_opens_the_run_with_tune(undisturbed: Path) -> None:
    [snippet] = [code for code in readme_snippets() if "Tuner.restore" in code]
    code = snippet.replace("/absolute/path/to/runs/NAME", str(undisturbed))
    asked = "print(grid.get_best_result('reward', 'max', scope='all').metrics['trainer'], len(grid))"
    done = subprocess.run([sys.executable, "-c", code + asked], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    head, *rows, best = done.stdout.splitlines()
    columns = "generation candidate trainer reward margin policy_mean/margin images_per_s"
    assert head.split() == columns.split(" ")
    numbers = [tuple(map(int, row.split()[:2])) for row in rows]
    assert numbers == [(0, 0), *((generation, index) for generation in (1, 2, 3) for index in range(4))]
    assert best == "trainer-000 1"


def readme_snippets() -> list[str]:
    """Python that the README shows."""
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)


def test_the_first_command_of_the_readme_on_the_built_in_faces(run_command: Start) -> None:
    short = ("--generations", "2", "--trainer.generation-length", "0.2")
    command = run_command("lfs.search", "--num-workers", "8", *short)
    assert command.wait() == 0, command.err.read_text()
    out = command.out.read_text()
    assert "train: 6,000 pictures, 300 identities" in out
    assert "they share 8 candidates a generation" in out
    assert re.search(r"^generations   python -m lfs.results runs/builtin-\d{8}-\d{6}$", out, flags=re.MULTILINE), out


def test_tune_s_own_results_and_tensorboard_read_the_run(undisturbed: Path) -> None:
    store = RunStore(str(undisturbed))
    candidates = pd.concat([store.load_candidates(g) for g in range(4)], ignore_index=True)
    trial = undisturbed / "tune" / "trainer-000"
    assert (trial / "stderr").exists()  # what it printed is kept with the run
    table = pd.read_csv(trial / "progress.csv")
    assert table["done"].tolist() == [False] * 12 + [True]
    same = set(candidates) & set(table) - set(BY_THE_WAY)
    assert {"generation", "candidate", "reward", "reward_se", "num_images", "auc", "auc_se", "train_loss"} < same
    for name in same - {"reason"}:
        assert table[name].tolist() == pytest.approx(candidates[name].tolist()), name
    assert table["timesteps_total"].tolist() == list(range(1, 14))
    assert table["margin"].tolist() == pytest.approx([margins[0] for margins in candidates["margins"]])
    drawn_from = [Search(store.load_config()), *(Search(store.load_config(), store.load_state(g)[0]) for g in range(3))]
    policies = [search.policy_of(search.state.policy) for search in drawn_from]
    for what in ("policy_mean", "policy_std"):
        expected = [policies[generation][what][0] for generation in candidates["generation"]]
        assert table[f"{what}/margin"].tolist() == pytest.approx(expected)
    found, [row] = scalars(trial), hparam_rows(undisturbed / "tune").values()
    for name in ("reward", "margin", "policy_mean/margin", "policy_std/margin", "images_per_s", "auc"):
        steps, values = zip(*found[f"ray/tune/{name}"], strict=True)
        assert (list(steps), list(values)) == (list(range(1, 14)), pytest.approx(table[name].tolist())), name
    assert row["metrics"]["ray/tune/reward"] == pytest.approx(table["reward"].iloc[-1])
    assert (row["hparams"]["trainer"], row["hparams"]["seed"], row["hparams"]["space.name"]) == (0, 5, "global")


def test_results_show_what_the_search_found(undisturbed: Path, run_command: Start, tmp_path: Path) -> None:
    listing = run_command("lfs.results", "--storage", str(undisturbed.parent))
    generations = run_command("lfs.results", str(undisturbed))
    candidates = run_command("lfs.results", str(undisturbed), "--candidates")
    files = (str(tmp_path / "c.csv"), str(tmp_path / "c.parquet"))
    tables = run_command("lfs.results", str(undisturbed), "--candidates", "--csv", files[0], "--parquet", files[1])
    for command in (listing, generations, candidates, tables):
        assert command.wait() == 0, command.err.read_text()
    assert "finished" in listing.out.read_text()
    assert "4 of 4 generations" in generations.out.read_text()
    assert "test: accuracy" in generations.out.read_text()
    assert len(candidates.out.read_text().splitlines()) == 14
    assert len(pd.read_csv(files[0])) == len(pd.read_parquet(files[1])) == 13
    rewards = pd.read_parquet(files[1]).groupby("generation")["reward"].max()
    assert rewards.tolist() == [s["best_reward"] for s in RunStore(str(undisturbed)).summaries()]
