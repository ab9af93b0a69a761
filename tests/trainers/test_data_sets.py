"""Batches as a function of (seed, step); caches, threads and sources that must not show."""

import pickle
from pathlib import Path

import pytest
import torch

from search_space.errors import UserError
from tests.trainers.data_files import write_training_set
from trainers.config import DataConfig
from trainers.data.decode import decode_picture
from trainers.data.lists import read_list
from trainers.data.lmdb_source import LmdbSource, write_lmdb
from trainers.data.sets import TrainingSet

LABELS = [0, 1, 2, 0, 1, 2, 2, 1, 0, 0, 1]
Files = tuple[Path, Path]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_training_set(tmp_path_factory.mktemp("one"), "one", LABELS)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_training_set(tmp_path_factory.mktemp("two"), "two", [1, 0, 1, 0, 1])


def make_set(*files: Files, cache_bytes: int = 0, size: int = 32) -> TrainingSet:
    return TrainingSet([lmdb for lmdb, _ in files], [path for _, path in files], size, cache_bytes)


def picture(files: Files, row: int) -> torch.Tensor:
    """The picture of a row of a list, read the plain way."""
    key = read_list(files[1])[0][row]
    return torch.from_numpy(decode_picture(LmdbSource(files[0]).get(key), 32))


def run(
    training_set: TrainingSet, num_steps: int = 8, threads: int = 0, flip: bool = True
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(training_set.batches(0, num_steps, 4, seed=3, flip=flip, decode_threads=threads))


def assert_same(a: list[tuple[torch.Tensor, torch.Tensor]], b: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    assert len(a) == len(b)
    for (pictures_a, labels_a), (pictures_b, labels_b) in zip(a, b, strict=True):
        assert torch.equal(pictures_a, pictures_b)
        assert torch.equal(labels_a, labels_b)


def which(pictures: torch.Tensor, pool: torch.Tensor) -> list[tuple[int, bool]]:
    """(row in `pool`, mirrored) of each picture."""
    found = []
    for one in pictures:
        matches = [
            (i, m) for i, p in enumerate(pool) for m, q in ((False, p), (True, p.flip(1))) if torch.equal(one, q)
        ]
        assert len(matches) == 1
        found += matches
    return found


def test_an_epoch_is_a_permutation_without_the_rest(one: Files) -> None:
    training_set = make_set(one)
    pool = torch.stack([picture(one, row) for row in range(len(LABELS))])
    assert (len(training_set), training_set.num_classes, training_set.num_batches(4)) == (11, 3, 2)
    orders, flips = [], []
    for epoch in range(4):
        rows: list[int] = []
        for step in (2 * epoch, 2 * epoch + 1):
            pictures, labels = training_set.batch_at(step, 4, seed=3)
            assert (pictures.dtype, pictures.shape, labels.dtype) == (torch.uint8, (4, 32, 32, 3), torch.int64)
            found = which(pictures, pool)
            assert labels.tolist() == [LABELS[row] for row, _ in found]
            rows += [row for row, _ in found]
            flips += [mirrored for _, mirrored in found]
        assert len(set(rows)) == 8
        orders.append(tuple(rows))
    assert len(set(orders)) == 4
    assert 0 < sum(flips) < len(flips)


def test_batches_depend_on_seed_and_step_alone(one: Files) -> None:
    fresh, used = make_set(one), make_set(one)
    run(used, 7)
    for step in (9, 0, 4):
        assert_same([used.batch_at(step, 4, 3)], [fresh.batch_at(step, 4, 3)])
    assert_same(list(fresh.batches(3, 4, 4, seed=3)), run(used)[3:7])
    assert not torch.equal(fresh.batch_at(0, 4, 3)[0], fresh.batch_at(0, 4, 4)[0])


def test_flip_off_is_the_same_order_unmirrored(one: Files) -> None:
    pool = torch.stack([picture(one, row) for row in range(len(LABELS))])
    mirrored, plain = (which(make_set(one).batch_at(1, 4, 3, flip)[0], pool) for flip in (True, False))
    assert [row for row, _ in mirrored] == [row for row, _ in plain]
    assert not any(flag for _, flag in plain)


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("cache_bytes", [0, 2**20])
def test_cache_and_threads_change_nothing(one: Files, two: Files, threads: int, cache_bytes: int) -> None:
    expected = run(make_set(one, two))
    training_set = make_set(one, two, cache_bytes=cache_bytes)
    for _ in range(2):  # the second time from the cache
        assert_same(run(training_set, threads=threads), expected)


def test_a_batch_is_the_callers_own(one: Files) -> None:
    training_set = make_set(one, cache_bytes=2**20)
    expected = run(training_set)
    for pictures, labels in run(training_set):
        pictures.zero_()
        labels.zero_()
    assert_same(run(training_set), expected)


def test_cache_spares_the_lmdb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write_training_set(tmp_path, "faces", [0, 1, 0, 1])
    just_enough = 4 * 32 * 32 * 3
    cached, uncached = make_set(files, cache_bytes=just_enough), make_set(files, cache_bytes=just_enough - 1)
    for training_set in (cached, uncached):
        training_set.batch_at(0, 4, 0)
    monkeypatch.delattr(LmdbSource, "get_many")
    cached.batch_at(5, 4, 0)
    with pytest.raises(AttributeError, match="get_many"):
        uncached.batch_at(5, 4, 0)


def test_decode_ahead_is_bounded_and_stops_with_the_consumer(one: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    training_set = make_set(one)
    asked: list[int] = []
    batch_at = training_set.batch_at

    def spy(step: int, batch_size: int, seed: int, flip: bool, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(step)
        return batch_at(step, batch_size, seed, flip, part)

    monkeypatch.setattr(training_set, "batch_at", spy)
    batches = training_set.batches(0, 10**9, 4, seed=3, decode_threads=2)
    for _ in range(3):
        next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert max(asked) < 3 + 2 * 2


def test_an_error_in_a_decode_thread_reaches_the_consumer(tmp_path: Path) -> None:
    lmdb_path, list_path = write_training_set(tmp_path, "faces", [0, 1, 0, 1])
    list_path.write_text(list_path.read_text().replace("faces/2.jpg", "faces/gone.jpg"))
    training_set = make_set((lmdb_path, list_path))
    with pytest.raises(UserError, match=r"faces.lmdb: key 'faces/gone.jpg' is not in this LMDB"):
        list(training_set.batches(0, 4, 4, seed=0, decode_threads=2))


def test_labels_of_later_lists_are_offset(one: Files, two: Files) -> None:
    training_set = make_set(one, two)
    assert training_set.num_classes == 5
    assert training_set.labels.tolist() == [*LABELS, 4, 3, 4, 3, 4]
    pool = torch.stack([picture(one, row) for row in range(11)] + [picture(two, row) for row in range(5)])
    pictures, labels = training_set.batch_at(0, 16, seed=1)
    found = [row for row, _ in which(pictures, pool)]
    assert sorted(found) == list(range(16))
    assert labels.tolist() == training_set.labels[found].tolist()


def test_from_config_resolves_paths_and_size(one: Files, two: Files) -> None:
    config = DataConfig(
        root=str(one[0].parent),
        train=(one[0].name, str(two[0])),
        train_list=(one[1].name, str(two[1])),
        input_size=16,
    )
    pictures, _ = TrainingSet.from_config(config).batch_at(0, 4, 0)
    assert pictures.shape == (4, 16, 16, 3)


def test_sets_can_be_pickled(one: Files) -> None:
    training_set = make_set(one)
    expected = run(training_set)
    assert_same(run(pickle.loads(pickle.dumps(training_set))), expected)  # noqa: S301


def test_fewer_pictures_than_a_batch(one: Files) -> None:
    with pytest.raises(UserError, match=r"at least one batch of pictures \(batch_size = 12\), got 11"):
        make_set(one).batch_at(0, 12, 0)


def test_one_list_per_lmdb(one: Files) -> None:
    with pytest.raises(UserError, match="one list file per LMDB, got 2 LMDBs and 1 lists"):
        TrainingSet([one[0], one[0]], [one[1]], 32)


def test_broken_records_are_named(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "faces", [("a", b"no datum"), ("b", b"\x0a\x05no jp")])
    (tmp_path / "a.txt").write_text("a 0\n")
    (tmp_path / "b.txt").write_text("b 0\n")
    with pytest.raises(UserError, match="faces: key 'a': expected a Caffe Datum, got 8 bytes"):
        make_set((tmp_path / "faces", tmp_path / "a.txt")).batch_at(0, 1, 0)
    with pytest.raises(UserError, match="faces: key 'b': expected a JPEG or PNG, got 5 bytes"):
        make_set((tmp_path / "faces", tmp_path / "b.txt")).batch_at(0, 1, 0)
