"""Imports from end to end: labels, bytes that hang on nothing else, tries that are stopped, and bad pictures."""

import errno
import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from search_space.errors import UserError
from tests.trainers.importers.sources import (
    SIZE,
    imported,
    jpeg,
    png,
    with_header,
    write_folder,
    write_records,
    write_tar,
)
from trainers.data.importers import engine, plan, shard
from trainers.data.importers.convert import Conversion
from trainers.data.importers.engine import ImportReport, import_faces
from trainers.data.importers.folder import FolderSource
from trainers.data.importers.packed_lmdb import write_packed
from trainers.data.importers.plan import Choice
from trainers.data.importers.recordio import RecordSource
from trainers.data.importers.source import Catalogue, Progress, Source
from trainers.data.importers.tables import TableSource
from trainers.data.importers.webdataset import WebDatasetSource
from trainers.data.lmdb_structure import check_structure
from trainers.data.sets import TrainingSet

TO_SIZE = Conversion(size=SIZE)
MADE = ("faces.lmdb", "labels.txt", "identities.txt")


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SHARD_PICTURES", 4)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Identities 2, 10 and 7, of 5, 3 and 4 pictures; one of each is larger, and is resized."""
    counts = {2: 5, 10: 3, 7: 4}
    names = [(who, n) for who, count in counts.items() for n in range(count)]
    files = {f"{who}/{n}.jpg": jpeg(who * 100 + n, SIZE + 9 * (n == 1)) for who, n in names}
    return write_folder(tmp_path / "root", files)


def run(root: Path, target: Path, **settings: object) -> ImportReport:
    """An import in this process."""
    settings = {"workers": 1, **settings}
    return import_faces(FolderSource(root), target, TO_SIZE, **settings)  # type: ignore[arg-type]


def made(target: Path) -> list[bytes]:
    """The bytes of what an import is for."""
    return [(target / name).read_bytes() for name in MADE]


def test_everything_is_there(root: Path, tmp_path: Path) -> None:
    report = run(root, tmp_path / "out")
    found = imported(tmp_path / "out")
    assert {key: label for key, (label, _) in found.items()} == {
        f"{who}/{n}.jpg": label for label, (who, count) in enumerate(((2, 5), (7, 4), (10, 3))) for n in range(count)
    }
    for key, (label, datum) in found.items():
        assert datum.label == label
        assert datum.encoded
        if key.endswith("/1.jpg"):
            assert datum.data != (root / key).read_bytes()
        else:
            assert datum.data == (root / key).read_bytes()
    assert (tmp_path / "out" / "identities.txt").read_text() == "0 2\n1 7\n2 10\n"
    assert (tmp_path / "out" / "labels.txt").read_text().startswith("2/0.jpg 0\n2/1.jpg 0\n")
    assert (report.num_pictures, report.num_identities, report.num_copied) == (12, 3, 9)
    assert sorted(os.listdir(tmp_path)) == ["out", "root"]
    assert json.loads((tmp_path / "out" / "import.json").read_text())["num_pictures"] == 12
    training_set = TrainingSet([tmp_path / "out/faces.lmdb"], [tmp_path / "out/labels.txt"], SIZE)
    assert training_set.num_classes == 3


def test_labels_of_names_are_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    write_folder(tmp_path / "root", {f"{who}/1.jpg": jpeg(n) for n, who in enumerate(("b", "B", "10", "9", "\u00e9"))})
    run(tmp_path / "root", tmp_path / "out")
    assert (tmp_path / "out/identities.txt").read_text() == "0 10\n1 9\n2 B\n3 b\n4 \u00e9\n"


def test_the_number_of_processes_changes_nothing(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "one")
    run(root, tmp_path / "two", workers=2)
    assert made(tmp_path / "one") == made(tmp_path / "two")


def test_the_lmdb_is_packed_in_the_order_of_its_keys(tmp_path: Path) -> None:
    values = [bytes([n % 251]) * size for n, size in enumerate([3000, 500, 5000, 1, 2000] * 500)]
    keys = [f"{n:05d}" for n in range(len(values))]
    for name in ("a", "b"):
        write_packed(tmp_path / name, zip(keys, values, strict=True), np.array([len(value) for value in values]))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    check_structure(tmp_path / "a")
    with lmdb.open(str(tmp_path / "a"), subdir=False, readonly=True, lock=False) as env:
        stat, info = env.stat(), env.info()
        with env.begin() as transaction:
            found = [(bytes(key).decode(), bytes(value)) for key, value in transaction.cursor()]
    assert found == list(zip(keys, values, strict=True))
    used = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
    assert info["last_pgno"] - used < 12
    with pytest.raises(UserError, match="expected keys in order, got 'a' after a later one"):
        write_packed(tmp_path / "c", [("b", b"x"), ("a", b"x")], np.array([1, 1]))


def test_kept_and_excluded(root: Path, tmp_path: Path) -> None:
    report = run(root, tmp_path / "kept", choice=Choice(only=["10", "2", "99"]))
    assert report.unknown == ("99",)
    assert (tmp_path / "kept/identities.txt").read_text() == "0 2\n1 10\n"
    report = run(root, tmp_path / "rest", choice=Choice(but=["10", "2", "77"]))
    assert report.unknown == ("77",)
    assert list(imported(tmp_path / "rest")) == [f"7/{n}.jpg" for n in range(4)]
    with pytest.raises(UserError, match="expected some of the 3 identities .one is '10'. to be kept, got none"):
        run(root, tmp_path / "none", choice=Choice(only=["1"]))


def test_the_first_bad_picture_ends_it(root: Path, tmp_path: Path) -> None:
    (root / "7/3.jpg").write_bytes(b"no picture")
    (root / "7/2.jpg").write_bytes(jpeg(1)[:200])
    for workers in (1, 2):
        with pytest.raises(
            UserError, match=r"7/2.jpg: expected .*; --skip-bad leaves such pictures out and lists them"
        ):
            run(root, tmp_path / "out", workers=workers)
    assert not (tmp_path / "out").exists()
    report = run(root, tmp_path / "out", skip_bad=True)
    assert (report.num_pictures, report.num_skipped, report.num_identities) == (10, 2, 3)
    lines = (tmp_path / "out/skipped.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == [f"{root}/7/2.jpg", f"{root}/7/3.jpg"]
    assert "7/2.jpg" not in imported(tmp_path / "out")


def test_bad_pictures_of_an_earlier_try_are_not_forgotten(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "7/3.jpg").write_bytes(b"no picture")
    with monkeypatch.context() as patch:
        patch.setattr(engine, "write_packed", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(UserError, match="cannot be written: full; 12 of 12 pictures are done"):
            run(root, tmp_path / "out", skip_bad=True)
    with pytest.raises(
        UserError, match=r"7/3.jpg: expected a JPEG or PNG, got 10 bytes that begin with b'no pictu'; --skip"
    ):
        run(root, tmp_path / "out")
    assert run(root, tmp_path / "out", skip_bad=True).num_resumed == 12


def test_an_identity_without_good_pictures_has_no_label(root: Path, tmp_path: Path) -> None:
    for n in range(4):
        (root / f"7/{n}.jpg").write_bytes(b"no picture")
    run(root, tmp_path / "out", skip_bad=True)
    assert (tmp_path / "out/identities.txt").read_text() == "0 2\n1 10\n"
    assert all(label == datum.label for label, datum in imported(tmp_path / "out").values())
    for path in root.rglob("*.jpg"):
        path.write_bytes(b"no picture")
    with pytest.raises(UserError, match="expected pictures that decode, got none; the first: .*10/0.jpg"):
        run(root, tmp_path / "none", skip_bad=True)


@pytest.mark.parametrize("at", range(11))
def test_a_full_disk_half_way(at: int, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fsync of an import fails once, as writing does; the next try goes on, and gives the same bytes."""
    run(root, tmp_path / "whole")
    count = 0

    def fsync(descriptor: int, real: object = os.fsync) -> None:
        nonlocal count
        count += 1
        if count > at:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)  # type: ignore[operator]

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(
            UserError, match=r"cannot be written: No space left on device; \d+ of 12 pictures are done"
        ) as caught:
            run(root, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    report = run(root, tmp_path / "out")
    assert made(tmp_path / "out") == made(tmp_path / "whole")
    assert report.num_resumed == 4 * min(3, at // 2)  # the first fsync is the fingerprint's; each shard has two
    assert sorted(os.listdir(tmp_path)) == ["out", "root", "whole"]


def import_slowly(root: Path, target: Path) -> None:
    """Runs in a process that is killed."""
    plan.SHARD_PICTURES = 4
    real = shard.convert

    def convert(data: bytes, conversion: Conversion) -> object:
        time.sleep(0.2)
        return real(data, conversion)

    shard.convert = convert  # type: ignore[assignment]
    run(root, target)


def test_killed_half_way(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "whole")
    process = multiprocessing.get_context("spawn").Process(target=import_slowly, args=(root, tmp_path / "out"))
    process.start()
    shards = tmp_path / ".out.import" / "shards"
    deadline = time.monotonic() + 120
    while not list(shards.glob("*.shard")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.join()
    assert not (tmp_path / "out").exists()
    report = run(root, tmp_path / "out")
    assert 4 <= report.num_resumed < 12
    assert made(tmp_path / "out") == made(tmp_path / "whole")


def test_another_source_or_other_settings_start_over(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(engine, "write_packed", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(UserError):
            run(root, tmp_path / "out")
    (root / "2/4.jpg").write_bytes(jpeg(999))
    assert run(root, tmp_path / "out").num_resumed == 0
    assert imported(tmp_path / "out")["2/4.jpg"][1].data == jpeg(999)


def test_shards_that_are_damaged_are_made_again(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(root, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(engine, "write_packed", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(UserError):
            run(root, tmp_path / "out")
    first, second, third = sorted((tmp_path / ".out.import/shards").iterdir())
    first.write_bytes(first.read_bytes()[:-1])
    second.write_bytes(second.read_bytes()[3:])
    (tmp_path / ".out.import/shards/0000002.shard.abcd.partial").write_bytes(b"half")
    third.write_bytes(b"")
    assert run(root, tmp_path / "out").num_resumed == 0
    assert made(tmp_path / "out") == made(tmp_path / "whole")


def test_a_target_appears_whole_or_not_at_all(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(root, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(engine.os, "rename", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
        with pytest.raises(UserError, match="12 of 12 pictures are done"):
            run(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert run(root, tmp_path / "out").num_resumed == 12
    assert made(tmp_path / "out") == made(tmp_path / "whole")


def test_a_target_that_is_taken(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    run(root, tmp_path / "empty")
    before = made(tmp_path / "empty")
    report = run(root, tmp_path / "empty")
    assert (report.num_pictures, report.was_there) == (12, True)
    assert made(tmp_path / "empty") == before
    with pytest.raises(UserError, match="expected a new folder, got what another import has made"):
        run(root, tmp_path / "empty", choice=Choice(but=["2"]))
    write_folder(tmp_path / "full", {"a": b"x"})
    (tmp_path / "file").write_bytes(b"x")
    for name in ("full", "file"):
        with pytest.raises(UserError, match=f"{name}: expected a new folder, got"):
            run(root, tmp_path / name)


def test_a_link_as_target(root: Path, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    for name, goal in (("link", "far"), ("dangling", "deep/new")):
        (tmp_path / name).symlink_to(tmp_path / goal)
        run(root, tmp_path / name)
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / goal / "faces.lmdb").is_file()
        assert run(root, tmp_path / name).was_there
    assert sorted(os.listdir(tmp_path)) == ["dangling", "deep", "far", "link", "root"]


def test_a_mount_point_as_target_is_refused_before_the_source_is_read(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "out")
    with pytest.raises(UserError, match="out: expected a new folder, got a mount point, which cannot be"):
        run(tmp_path / "none", tmp_path / "out")


@pytest.mark.parametrize("but", [(), ("2",)])
def test_a_target_that_another_import_makes_meanwhile(
    but: tuple[str, ...], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One begins when there is no target yet, and gets the lock when there is."""

    def scan(source: FolderSource, progress: Progress, real: Any = FolderSource.scan) -> Catalogue:
        monkeypatch.undo()
        run(root, tmp_path / "out", choice=Choice(but=but))
        return real(source, progress)

    monkeypatch.setattr(FolderSource, "scan", scan)
    if but:
        with pytest.raises(UserError, match="got what another import has made"):
            run(root, tmp_path / "out")
    else:
        assert run(root, tmp_path / "out").was_there


def test_damaged_pictures_that_decode_are_counted(
    root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("2/0.jpg", "7/1.jpg"):  # one is copied, one resized
        data = bytearray((root / name).read_bytes())
        data[-40:-2] = bytes(38)
        (root / name).write_bytes(data)
    (root / "10/0.jpg").write_bytes((root / "10/0.jpg").read_bytes()[:-2])  # bad: not doubtful, too
    report = run(root, tmp_path / "out", skip_bad=True)
    assert (report.num_pictures, report.num_skipped, report.num_doubtful) == (11, 1, 2)
    lines = (tmp_path / "out/doubtful.txt").read_text().splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"{root}/2/0.jpg", f"{root}/7/1.jpg"]
    assert "Corrupt JPEG data" in lines[0]
    assert capfd.readouterr().err == ""


def test_a_source_that_goes_away_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the target, and whether bad pictures are skipped or not."""
    files = [jpeg(n) for n in range(5)]
    pq.write_table(pa.table({"image": files, "label": [1] * 5}), tmp_path / "a.parquet")
    members = [(f"{n}.{kind}", data) for n in range(5) for kind, data in (("jpg", files[n]), ("cls", b"1"))]
    sources: list[tuple[Path, Source]] = [
        (write_records(tmp_path / "rec", with_header([(1, data) for data in files])), RecordSource(tmp_path / "rec")),
        (write_tar(tmp_path / "a.tar", members), WebDatasetSource([tmp_path / "a.tar"])),
        (tmp_path / "a.parquet", TableSource([tmp_path / "a.parquet"])),
        (write_folder(tmp_path / "set", {"1/1.jpg": files[0]}) / "1/1.jpg", FolderSource(tmp_path / "set")),
    ]
    for path, source in sources:
        real = engine.plan_import

        def lose(*given: Any, path: Path = path, real: Any = real) -> Any:
            path.unlink()
            return real(*given)

        with monkeypatch.context() as patch:
            patch.setattr(engine, "plan_import", lose)
            with pytest.raises(UserError, match="No such file") as caught:
                import_faces(source, tmp_path / "out", TO_SIZE, workers=1, skip_bad=True)
        assert str(caught.value).startswith(f"{path}: ")


def test_one_import_at_a_time(root: Path, tmp_path: Path) -> None:
    import filelock

    (tmp_path / ".out.import").mkdir()
    with filelock.FileLock(tmp_path / ".out.import/lock"), pytest.raises(UserError, match="one import at a time"):
        run(root, tmp_path / "out")


def test_png_and_progress(root: Path, tmp_path: Path) -> None:
    (root / "2/0.png").write_bytes(png(1))
    seen: list[tuple[str, int, int]] = []
    import_faces(
        FolderSource(root), tmp_path / "out", Conversion(size=SIZE, encoding="PNG"), workers=1,
        progress=lambda *at: seen.append(at),
    )  # fmt: skip
    found = imported(tmp_path / "out")
    assert found["2/0.png"][1].data == png(1)
    assert found["2/0.jpg"][1].data == (root / "2/0.jpg").read_bytes()
    assert found["2/1.jpg"][1].data.startswith(b"\x89PNG")
    stages = list(dict.fromkeys(stage for stage, *_ in seen))
    assert stages == ["reading the source", "importing", "writing the LMDB"]
    assert [at for stage, *at in seen if stage == "importing"] == [[0, 13], [4, 13], [8, 13], [12, 13], [13, 13]]
