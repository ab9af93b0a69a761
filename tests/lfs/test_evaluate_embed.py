"""`lfs.evaluate embed`: the same bytes however often it is interrupted and whoever works."""

import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from filelock import FileLock

from lfs import embed_workers, evaluate
from lfs.commands import FAILED, OK, run_command
from lfs.embedding_file import open_embeddings
from lfs.embedding_shards import ShardStore
from search_space.errors import UserError
from tests.lfs.evaluation_files import NUM_PICTURES, by_key, make_evaluation, small_model, spoil
from trainers import whole_file
from trainers.data.lists import read_list
from trainers.embedder import EmbedOptions, Shard, embed_shard

COMMAND = ("embed", "m1", "--lmdb", "train.lmdb", "--list", "train.txt", "--shard-rows", "16")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_evaluation(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def embed(out: str, *more: str) -> int:
    return run_command(evaluate.main, (*COMMAND, "--out", out, *more))


def refused(capsys: pytest.CaptureFixture[str], out: str, *more: str) -> str:
    capsys.readouterr()
    assert embed(out, *more) == FAILED
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_rows_are_in_list_order_in_both_kinds_of_file(folder: Path) -> None:
    keys, labels = read_list("train.txt")
    expected = embed_shard(
        small_model(), Shard(number=0, lmdb="train.lmdb", keys=tuple(keys)), EmbedOptions()
    ).embeddings
    for dtype, tolerance in (("float32", 1e-6), ("float16", 1e-3)):
        for name in (f"{dtype}.npy", f"{dtype}.parquet"):
            assert embed(name, "--dtype", dtype) == OK
            file = open_embeddings(name)
            assert (len(file), file.dim, file.made_by["sha256"]) == (NUM_PICTURES, 8, small_model().digest)
            whole = np.concatenate([part.copy() for part in file.chunks(7)])
            assert whole.dtype == dtype
            np.testing.assert_allclose(whole, expected, rtol=tolerance, atol=tolerance)
            wanted = [keys[5], keys[59], keys[0]]
            np.testing.assert_array_equal(by_key(file, wanted), whole[[5, 59, 0]].astype(np.float32))
    table = pyarrow.parquet.read_table("float32.parquet")
    assert table.column("key").to_pylist() == list(keys)
    assert table.column("label").to_pylist() == labels.tolist()
    assert Path("float32.keys.txt").read_text() == Path("train.txt").read_text()
    assert np.load("float32.npy", allow_pickle=False).shape == (NUM_PICTURES, 8)
    assert not list(Path().glob("*.shards"))


def stop_after(num: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Shards that are put before everything ends."""
    put, done = ShardStore.put, []

    def dying(store: ShardStore, result: Any) -> None:
        if len(done) == num:
            raise KeyboardInterrupt
        put(store, result)
        done.append(result.number)

    monkeypatch.setattr(ShardStore, "put", dying)
    return done


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_an_interrupted_work_goes_on_to_the_same_bytes(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed(f"whole.{kind}") == OK
    with monkeypatch.context() as patch:
        assert stop_after(2, patch) == []
        assert embed(f"parts.{kind}") == FAILED
    assert not Path(f"parts.{kind}").exists()
    shards = Path(f"parts.{kind}.shards")
    assert sorted(p.name for p in shards.glob("*.safetensors")) == ["000000.safetensors", "000001.safetensors"]
    (shards / "000001.safetensors").write_bytes((shards / "000001.safetensors").read_bytes()[:-1])
    (shards / "000003.safetensors").write_bytes(b"")
    with monkeypatch.context() as patch:
        done = stop_after(9, patch)
        assert embed(f"parts.{kind}") == OK
    assert done == [1, 2, 3]
    assert "1 of 4 shards are there already" in capsys.readouterr().out
    assert Path(f"parts.{kind}").read_bytes() == Path(f"whole.{kind}").read_bytes()
    assert not shards.exists()


def test_a_full_disk_at_the_end_keeps_the_shards(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    last = Path("x.npy.shards/000003.safetensors")

    def full() -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(
            whole_file, "sync_path", lambda folder: full() if last.exists() and folder != last.parent else None
        )
        line = refused(capsys, "x.npy")
    assert "cannot be written: No space left on device" in line
    assert not Path("x.npy").exists()
    assert len(list(Path("x.npy.shards").glob("*.safetensors"))) == 4
    assert embed("x.npy") == OK
    assert not list(Path().glob(".*.partial"))


def _one(shard: Shard) -> Any:
    return embed_shard(small_model(), shard, EmbedOptions())


def test_processes_of_a_pool_make_the_same_bytes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert embed("alone.npy") == OK

    def pooled(
        _: embed_workers.Workers, model: Any, numbers: Any, shard: Callable[[int], Shard], options: EmbedOptions
    ) -> Iterator[Any]:
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
            yield from reversed(list(pool.map(_one, map(shard, numbers))))

    monkeypatch.setattr(embed_workers.Workers, "embed", pooled)
    assert embed("pooled.npy") == OK
    assert Path("pooled.npy").read_bytes() == Path("alone.npy").read_bytes()
    assert Path("pooled.keys.txt").read_bytes() == Path("alone.keys.txt").read_bytes()


def test_threads_do_not_show(folder: Path) -> None:
    for threads in ("1", "3"):
        assert embed(f"{threads}.npy", "--num-threads", threads) == OK
    assert Path("1.npy").read_bytes() == Path("3.npy").read_bytes()


def test_bad_pictures_are_named_or_left_out_and_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(folder, "0/2", "9/5")
    arguments = ("--lmdb", "spoiled.lmdb")
    assert "spoiled.lmdb: key '0/2': expected a JPEG" in refused(capsys, "bad.npy", *arguments)
    assert embed("whole.npy") == OK
    for name in ("bad.npy", "bad.parquet"):
        assert embed(name, *arguments, "--skip-bad") == OK
        assert "2 pictures do not decode and are left out; they are listed in bad.bad.txt" in capsys.readouterr().err
        assert [line.split()[0] for line in Path("bad.bad.txt").read_text().splitlines()] == ["0/2", "9/5"]
        file = open_embeddings(name)
        assert len(file) == NUM_PICTURES - 2
        kept = [row for row in range(NUM_PICTURES) if row not in (2, 59)]
        whole = np.load("whole.npy", allow_pickle=False)[kept]
        np.testing.assert_array_equal(np.concatenate([part.copy() for part in file.chunks(100)]), whole)
        with pytest.raises(UserError, match="key '0/2' has no embedding here"):
            by_key(file, ["0/1", "0/2"])


def test_other_settings_never_mix(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        assert embed("x.npy") == FAILED
    line = refused(capsys, "x.npy", "--no-flip")
    assert "x.npy.shards holds shards of other settings (made_by.flip)" in line
    assert "rows" in refused(capsys, "x.npy", "--shard-rows", "8")
    done = stop_after(9, monkeypatch)
    assert embed("x.npy", "--no-flip", "--overwrite") == OK
    assert done == [0, 1, 2, 3]
    assert json.loads(Path("x.model.json").read_text())["flip"] is False


def test_bad_input_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert embed("x.npy") == OK
    Path("folder.npy").mkdir()
    Path("twice.txt").write_text("0/0 0\n\n0/1 0\n0/0 0\n")
    Path("more.txt").write_text("0/0 0\nnobody 0\n")
    cases = {
        ("x.npy",): "x.npy is there already; choose another name, or replace it with --overwrite",
        ("folder.npy",): "expected the name of a file to write, got a folder",
        ("x.txt",): "--out must be a .npy or .parquet file",
        ("y.npy", "--list", "twice.txt"): "line 4 of twice.txt: expected each key once, got '0/0' again",
        ("y.npy", "--list", "more.txt"): "line 2 of more.txt: key 'nobody' is not in train.lmdb",
        ("y.npy", "--list", "none.txt"): "none.txt: expected a readable text file",
        ("y.npy", "--lmdb", "none.lmdb"): "none.lmdb: no such LMDB",
        ("y.npy", "--shard-rows", "0"): "--shard-rows must be at least 1",
        ("no/such\0/y.npy",): "",
    }
    for arguments, line in cases.items():
        assert line in refused(capsys, *arguments), arguments
    lock = FileLock("y.npy.shards/lock")
    Path("y.npy.shards").mkdir(exist_ok=True)
    with lock:
        assert "another process is writing it" in refused(capsys, "y.npy")
    assert not Path("y.npy").exists()


def test_overwriting_leaves_nothing_of_the_old(folder: Path) -> None:
    spoil(folder, "0/2")
    assert embed("x.npy", "--lmdb", "spoiled.lmdb", "--skip-bad") == OK
    assert embed("x.npy", "--overwrite") == OK
    assert not Path("x.bad.txt").exists()
    assert len(open_embeddings("x.npy")) == NUM_PICTURES
