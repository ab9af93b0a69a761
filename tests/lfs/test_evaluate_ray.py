"""Embeddings by Ray tasks: the bytes of one process, also after the driver was killed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lfs import embed_workers, evaluate
from lfs.commands import OK
from lfs.commands import run_command as run_main
from tests.lfs.conftest import Command, free_address, start_ray
from tests.lfs.evaluation_files import make_evaluation

pytestmark = pytest.mark.ray
Start = Callable[..., Command]


def arguments(folder: Path, out: str, *more: str) -> tuple[str, ...]:
    files = ("--lmdb", str(folder / "train.lmdb"), "--list", str(folder / "train.txt"), "--out", str(folder / out))
    return "embed", str(folder / "m1"), *files, "--shard-rows", "4", *more


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_tasks_make_the_bytes_of_one_process(kind: str, run_command: Start, tmp_path: Path) -> None:
    make_evaluation(tmp_path)
    alone = run_command("lfs.evaluate", *arguments(tmp_path, f"alone.{kind}"))
    assert alone.wait() == 0, alone.err.read_text()
    tasks = run_command("lfs.evaluate", *arguments(tmp_path, f"tasks.{kind}", "--num-workers", "2"))
    assert tasks.wait() == 0, tasks.err.read_text()
    assert tasks.err.read_text() == ""
    assert (tmp_path / f"tasks.{kind}").read_bytes() == (tmp_path / f"alone.{kind}").read_bytes()


def test_a_killed_driver_goes_on_in_a_joined_cluster(run_command: Start, tmp_path: Path) -> None:
    make_evaluation(tmp_path)
    alone = run_command("lfs.evaluate", *arguments(tmp_path, "alone.npy"))
    assert alone.wait() == 0, alone.err.read_text()
    first = run_command("lfs.evaluate", *arguments(tmp_path, "x.npy", "--num-workers", "1"))
    first.wait_for(tmp_path / "x.npy.shards" / "000000.safetensors")
    first.kill("lfs.evaluate")
    first.wait()
    first.clean()
    address = free_address()
    start_ray(run_command, "--head", f"--port={address.split(':')[1]}", "--num-cpus=2", "--include-dashboard=false")
    second = run_command("lfs.evaluate", *arguments(tmp_path, "x.npy", "--address", address))
    assert second.wait() == 0, second.err.read_text()
    assert (tmp_path / "x.npy").read_bytes() == (tmp_path / "alone.npy").read_bytes()


def test_ray_starts_once_for_all_models_and_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_evaluation(tmp_path)
    real, starts = embed_workers._cluster, []

    def counted(address: str) -> Any:
        starts.append(address)
        return real(address)

    monkeypatch.setattr(embed_workers, "_cluster", counted)
    monkeypatch.chdir(tmp_path)
    command = ("m1", "m2", "--set", "a=pairs.lmdb,pairs.txt", "--set", "b=pairs.lmdb,pairs.txt", "--num-workers", "1")
    assert run_main(evaluate.main, command) == OK
    assert len(starts) == 1


def test_a_bad_picture_in_a_task_is_one_line(run_command: Start, tmp_path: Path) -> None:
    from tests.lfs.evaluation_files import spoil

    make_evaluation(tmp_path)
    spoil(tmp_path, "5/5")
    command = run_command(
        "lfs.evaluate", *arguments(tmp_path, "x.npy", "--num-workers", "2", "--lmdb", str(tmp_path / "spoiled.lmdb"))
    )
    assert command.wait() == 1
    [line] = command.err.read_text().splitlines()
    assert "spoiled.lmdb: key '5/5': expected a JPEG" in line
