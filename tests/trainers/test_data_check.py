"""The look at all data before training: what passes, and one clear line for what does not."""

from dataclasses import replace
from pathlib import Path

import pytest

from search_space.errors import UserError
from tests.trainers.data_files import encode, smooth_picture, write_pairs, write_pictures, write_training_set
from trainers.config import DataConfig, PairsConfig
from trainers.data import check
from trainers.data.check import check_data, overlap_warning
from trainers.data.datum import encode_datum
from trainers.data.lmdb_source import write_lmdb


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    write_training_set(tmp_path, "a", [0, 1, 0, 1, 2])
    write_training_set(tmp_path, "b", [0, 1, 1])
    keys = [f"p{index}" for index in range(6)]
    write_pictures(tmp_path / "pairs.lmdb", {key: smooth_picture(i) for i, key in enumerate(keys)}, subdir=True)
    write_pairs(tmp_path / "reward.txt", keys[:5], num_folds=2)
    write_pairs(tmp_path / "test.txt", keys[1:], num_folds=2)
    return DataConfig(
        root=str(tmp_path),
        train=("a.lmdb", "b.lmdb"),
        train_list=("a.txt", "b.txt"),
        reward=PairsConfig(lmdb="pairs.lmdb", pairs="reward.txt", num_folds=2),
        test=PairsConfig(lmdb="pairs.lmdb", pairs="test.txt", num_folds=2),
        input_size=32,
    )


def test_report(config: DataConfig) -> None:
    report = check_data(config, batch_size=8)
    assert report.test is not None
    assert (report.train.num_pictures, report.train.num_identities, report.train.num_records) == (8, 5, 8)
    assert (report.reward.num_pictures, report.reward.num_pairs, report.reward.num_records) == (5, 8, 6)
    assert str(report).splitlines() == [
        "train: 8 pictures, 5 identities",
        "reward: 5 pictures, 8 pairs",
        "test: 5 pictures, 8 pairs",
    ]


def test_test_pairs_are_optional(config: DataConfig) -> None:
    assert check_data(replace(config, test=PairsConfig())).test is None


def test_many_keys_are_sampled_and_the_report_says_so(config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "MAX_KEYS_LOOKED_UP", 3)
    report = check_data(config)
    assert report.train.num_keys_looked_up == 3
    assert "(a sample of 3 keys looked up)" in str(report)


def edit(config: DataConfig, name: str, old: str, new: str) -> None:
    path = Path(config.root, name)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("b.txt", "b/1.jpg 1", "\nb/gone.jpg 1", "line 3 of .*b.txt: key 'b/gone.jpg' is not in .*b.lmdb"),
        ("a.txt", "a/1.jpg 1", "a/1.jpg", "line 2 of .*a.txt: expected `lmdb_key label`"),
        ("a.txt", "a/1.jpg 1", "a/1.jpg -1", "line 2 of .*a.txt: .*label >= 0"),
        ("a.txt", "a/4.jpg 2", "a/4.jpg 3", "line 5 of .*a.txt: .*without gaps"),
        ("reward.txt", "p3 p4 1", "p3 nobody 1", "line 4 of .*reward.txt: key 'nobody' is not in .*pairs.lmdb"),
        ("test.txt", "p2 p3 1\n", "", "test.txt: .*num_folds = 2 divides, got 7 pairs"),
        ("test.txt", "p2 p3 1", "p2 p3 yes", "line 2 of .*test.txt: expected `key1 key2 1.0`"),
    ],
)
def test_bad_lines(config: DataConfig, name: str, old: str, new: str, message: str) -> None:
    edit(config, name, old, new)
    with pytest.raises(UserError, match=message) as caught:
        check_data(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.lmdb", "a.txt", "reward.txt"])
def test_missing_files(config: DataConfig, name: str) -> None:
    Path(config.root, name).unlink()
    with pytest.raises(UserError, match=f"{name}: (no such|expected a readable)"):
        check_data(config)


@pytest.mark.parametrize(
    "value", [b"no datum", encode_datum(b"no picture"), encode_datum(encode(smooth_picture(1))[:99])]
)
def test_broken_records(config: DataConfig, value: bytes) -> None:
    write_lmdb(Path(config.root, "a.lmdb"), [(f"a/{index}.jpg", value) for index in range(5)])
    with pytest.raises(UserError, match=r"a.lmdb: key 'a/0.jpg': expected a (Caffe Datum|JPEG or PNG), got"):
        check_data(config)


def test_required_parts(config: DataConfig) -> None:
    with pytest.raises(UserError, match="expected training pictures"):
        check_data(DataConfig())
    with pytest.raises(UserError, match=r"expected data.reward.lmdb and data.reward.pairs, got '' and 'x.txt'"):
        check_data(replace(config, reward=PairsConfig(pairs="x.txt")))
    with pytest.raises(UserError, match=r"at least one batch of pictures \(batch_size = 9\), got 8"):
        check_data(config, batch_size=9)


@pytest.mark.parametrize(
    ("reward", "test", "warned"),
    [
        ({}, {}, True),
        ({"folds": (0, 1, 2, 3, 4)}, {"folds": (5, 6, 7, 8, 9)}, False),
        ({"folds": (0, 1, 2, 3, 4)}, {"folds": (4, 5)}, True),
        ({"folds": (0, 1)}, {}, True),
        ({"folds": (0, 1, 2, 3, 4)}, {"num_folds": 4, "folds": (2, 3)}, False),
        ({"folds": (0, 1, 2, 3, 4, 5)}, {"num_folds": 4, "folds": (2, 3)}, True),
        ({}, {"pairs": "other.txt"}, False),
        ({}, {"pairs": "folder/../pairs.txt"}, True),
    ],
)
def test_overlap_warning(reward: dict[str, object], test: dict[str, object], warned: bool) -> None:
    parts = [PairsConfig(**{"pairs": "pairs.txt", **part}) for part in (reward, test)]  # type: ignore[arg-type]
    message = overlap_warning(DataConfig(root="/data", reward=parts[0], test=parts[1]))
    assert (message is not None) == warned
    if message:
        assert "/data/pairs.txt" in message
        assert "\n" not in message
    assert overlap_warning(DataConfig()) is None
