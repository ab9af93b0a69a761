"""`lfs.evaluate embed`: the same bytes however often it is interrupted and whoever works."""

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import yaml
from filelock import FileLock

from lfs import embed_workers, evaluate
from lfs.commands import FAILED, INTERRUPTED, OK, run_command
from lfs.embedding_file import open_embeddings
from lfs.embedding_shards import ShardStore
from search_space.errors import UserError
from tests.lfs.evaluation_files import NUM_PICTURES, by_key, make_evaluation, small_model, spoil
from trainers import whole_file
from trainers.data import lmdb_source
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


def test_the_pages_of_an_lmdb_are_checked_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = tuple(read_list("train.txt")[0])
    checked: list[Path] = []
    monkeypatch.setattr(lmdb_source, "check_structure", checked.append)
    shards = [Shard(number=number, lmdb="train.lmdb", keys=keys[number : number + 2]) for number in range(3)]
    assert len(list(embed_workers.here(small_model(), range(3), shards.__getitem__, EmbedOptions()))) == 3
    assert checked == [Path("train.lmdb")]


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
        assert embed(f"parts.{kind}") == INTERRUPTED
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
        assert (
            f"2 pictures do not decode and are left out; they are listed in {name}.bad.txt" in capsys.readouterr().err
        )
        assert [line.split()[0] for line in Path(f"{name}.bad.txt").read_text().splitlines()] == ["0/2", "9/5"]
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
        assert embed("x.npy") == INTERRUPTED
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
    assert not Path("x.npy.bad.txt").exists()
    assert len(open_embeddings("x.npy")) == NUM_PICTURES


def contents() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().glob("x.*") if path.is_file()}


def test_no_file_of_another_is_replaced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("x.npy", "x.keys.txt", "x.model.json", "x.npy.bad.txt"):
        Path(name).write_text("mine")
        assert f"{name} is there already" in refused(capsys, "x.npy")
        assert contents() == {name: b"mine"}
        Path(name).unlink()
    Path("x.npy.bad.txt").mkdir()
    assert "x.npy.bad.txt: expected the name of a file to write" in refused(capsys, "x.npy", "--overwrite")
    assert not Path("x.npy.shards").exists()
    Path("x.npy.bad.txt").rmdir()
    spoil(folder, "0/2")
    assert embed("x.npy", "--lmdb", "spoiled.lmdb", "--skip-bad") == OK
    before = contents()
    assert embed("x.parquet") == OK
    assert contents().items() > before.items()


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_what_was_there_stays_until_the_new_is_complete(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert embed(f"x.{kind}") == OK
    before = contents()

    def dying(_: ShardStore) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ShardStore, "_parts", dying)
        assert embed(f"x.{kind}", "--no-flip", "--overwrite") == INTERRUPTED
    assert contents() == before
    assert embed(f"x.{kind}", "--no-flip", "--overwrite") == OK
    assert open_embeddings(f"x.{kind}").made_by["flip"] is False


@pytest.mark.parametrize("moves", [0, 1, 2, 3])
def test_a_kill_while_files_are_brought_to_their_places(
    moves: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert embed("x.npy") == OK
    whole = contents()
    for path in whole:
        Path(path).unlink()
    real, left = os.replace, [moves]

    def replace(source: Path, to: Path) -> None:
        if source.parent.name == "whole":
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
        real(source, to)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", replace)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # the last thing of all
        assert embed("x.npy") == (INTERRUPTED if moves < 3 else OK)
    assert Path("x.npy").exists() == (moves == 3)
    done = stop_after(0, monkeypatch)
    assert embed("x.npy") == OK
    assert (contents(), done) == (whole, [])
    assert not Path("x.npy.shards").exists()


def test_nothing_of_a_killed_process_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(_: int) -> None:
        if list(Path().rglob(".x.npy.*.partial")):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", killed)
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # who is killed cleans nothing up
        assert embed("x.npy") == INTERRUPTED
    assert list(Path().rglob(".x.npy.*.partial"))
    assert embed("x.npy") == OK
    assert not list(Path().rglob("*.partial"))


def test_going_on_heeds_what_is_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(folder, "0/2")

    def dying(_: ShardStore) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ShardStore, "put_together", dying)
        assert embed("x.npy", "--lmdb", "spoiled.lmdb", "--skip-bad") == INTERRUPTED
    assert "key '0/2': expected a JPEG" in refused(capsys, "x.npy", "--lmdb", "spoiled.lmdb")
    file = Path("x.npy.shards/settings.json")
    cpu = file.read_text()
    assert '"device": "cpu"' in cpu
    file.write_text(cpu.replace('"cpu"', '"cuda"'))
    assert "other settings (made_by.device)" in refused(capsys, "x.npy", "--lmdb", "spoiled.lmdb", "--skip-bad")
    file.write_text(cpu)
    done = stop_after(0, monkeypatch)
    spelled = ("embed", str(folder / "m1"), *COMMAND[2:], "--lmdb", "spoiled.lmdb", "--skip-bad", "--out", "x.npy")
    assert run_command(evaluate.main, spelled) == OK
    assert done == []


@pytest.mark.parametrize(
    ("gpus", "device", "of_cluster", "found"),
    [
        (None, None, 0, (0, "cpu")), (None, None, 4, (1, "cuda")), (None, "cpu", 4, (0, "cpu")),
        (None, "cuda", 0, (1, "cuda")), (0.0, None, 4, (0, "cpu")), (0.5, None, 4, (0.5, "cuda")),
    ],
)  # fmt: skip
def test_tasks_take_a_gpu_where_there_is_any(
    gpus: float | None, device: str | None, of_cluster: float, found: tuple[float, str]
) -> None:
    assert embed_workers.task_device(gpus, device, of_cluster) == found


def test_pictures_none_of_which_decodes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(folder, "0/2", "9/5")
    Path("two.txt").write_text("0/2\n9/5\n")
    line = refused(capsys, "x.npy", "--lmdb", "spoiled.lmdb", "--list", "two.txt", "--skip-bad")
    assert "spoiled.lmdb: expected pictures, got 2 none of which decodes: " in line
    assert not contents()


def test_lists_without_labels(folder: Path) -> None:
    keys, _ = read_list("train.txt")
    Path("keys.txt").write_text("".join(f"{key}\n" for key in keys))
    for name in ("x.npy", "x.parquet"):
        assert embed(name, "--list", "keys.txt") == OK
        assert list(open_embeddings(name).names()) == list(keys)
    assert Path("x.keys.txt").read_text() == Path("keys.txt").read_text()
    assert pyarrow.parquet.read_table("x.parquet").column_names == ["key", "embedding"]


def test_pictures_of_named_sets(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gallery = {"protocol": "megaface", "lmdb": "train.lmdb", "probes": "probes.txt", "distractors": "d.txt"}
    templates = {"protocol": "ijbc", "lmdb": "train.lmdb", "templates": "t.txt", "pairs": "p.txt"}
    sets = yaml.safe_load(Path("sets.yaml").read_text())
    texts = {"d": "9/1\n", "t": "0/1 1 0\n0/0 2 1\n0/1 3 0\n", "p": "1 2 1\n1 3 0\n", "probes": "0/1 0\n0/0 0\n"}
    for name, text in texts.items():
        Path(f"{name}.txt").write_text(text)
    Path("sets.yaml").write_text(yaml.safe_dump(sets | {"mf": gallery, "t": templates}))

    def command(name: str, *more: str) -> tuple[str, ...]:
        return "embed", "m1", "--protocols", name, "--sets", "sets.yaml", "--overwrite", *(more or ("--out", "x.npy"))

    for name, keys in (("mf/distractors", ["9/1"]), ("mf/probes", ["0/1", "0/0"]), ("t", ["0/1", "0/0"])):
        assert run_command(evaluate.main, command(name)) == OK
        assert list(open_embeddings("x.npy").names()) == keys
    assert run_command(evaluate.main, command("mine", "--set", "mine=pairs.lmdb,pairs.txt", "--out", "x.npy")) == OK
    scored = ("--embeddings", "x.npy", "--protocols", "faces", "--sets", "sets.yaml")
    assert run_command(evaluate.main, scored) == OK
    for arguments, line in {
        command("mf"): "--protocols must name one of mf/probes, mf/distractors, got 'mf'",
        command("mf/people"): "--protocols must name one of mf/probes, mf/distractors, got 'mf/people'",
        command("face"): "no set 'face'; did you mean 'faces'?",
        (*command("faces"), "--list", "train.txt"): "--protocols must be given without --lmdb and --list",
        ("embed", "m1", "--lmdb", "train.lmdb", "--out", "x.npy", "--overwrite"): "--lmdb and --list, or --protocols",
    }.items():
        capsys.readouterr()
        assert run_command(evaluate.main, arguments) == FAILED
        assert line in capsys.readouterr().err
