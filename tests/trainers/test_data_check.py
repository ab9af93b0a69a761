"""The look at all data before training: what passes, and one clear line for what does not."""

from dataclasses import replace
from pathlib import Path

import pytest

from search_space.errors import UserError
from tests.trainers.data_files import encode, smooth_picture, write_pairs, write_pictures, write_training_set
from trainers.config import DataConfig, PairsConfig, RewardConfig
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
        reward=PairsConfig(lmdb=("pairs.lmdb",), pairs=("reward.txt",), num_folds=2),
        test=PairsConfig(lmdb=("pairs.lmdb",), pairs=("test.txt",), num_folds=2),
        input_size=32,
    )


def test_report(config: DataConfig) -> None:
    report = check_data(config, batch_size=8)
    [reward], [test] = report.reward, report.test
    assert (report.train.num_pictures, report.train.num_identities, report.train.num_records) == (8, 5, 8)
    assert (reward.num_pictures, reward.num_pairs, reward.num_records) == (5, 8, 6)
    assert (test.num_pictures, test.num_pairs) == (5, 8)
    assert str(report).splitlines() == [
        "train: 8 pictures, 5 identities",
        "reward: 5 pictures, 8 pairs",
        "test: 5 pictures, 8 pairs",
    ]


def test_test_pairs_are_optional(config: DataConfig) -> None:
    assert check_data(replace(config, test=PairsConfig())).test == ()


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
    with pytest.raises(UserError, match=r"reward sets need LMDBs .*, got \(\), \('x.txt',\) and \(\)"):
        check_data(replace(config, reward=PairsConfig(pairs=("x.txt",))))
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
        ({}, {"pairs": ("other.txt",)}, False),
        ({}, {"pairs": ("folder/../pairs.txt",)}, True),
    ],
)
def test_overlap_warning(reward: dict[str, object], test: dict[str, object], warned: bool) -> None:
    parts = [PairsConfig(**{"pairs": ("pairs.txt",), **part}) for part in (reward, test)]  # type: ignore[arg-type]
    message = overlap_warning(DataConfig(root="/data", reward=parts[0], test=parts[1]))
    assert (message is not None) == warned
    if message:
        assert "/data/pairs.txt" in message
        assert "\n" not in message
    assert overlap_warning(DataConfig()) is None


# label lists


def write_people(path: Path, name: str, people: range, num_folds: int = 2) -> None:
    """Four pictures of each person in one LMDB, their labels, and pairs in folds of people of their own."""
    keys = {person: [f"{person}-{i}" for i in range(4)] for person in people}
    pictures = {key: smooth_picture(sum(key.encode())) for person in people for key in keys[person]}
    write_pictures(path / f"{name}.lmdb", pictures)
    (path / f"{name}_labels.txt").write_text("".join(f"{key} {p}\n" for p in people for key in keys[p]))
    each = len(people) // num_folds
    folds = [people[fold * each : (fold + 1) * each] for fold in range(num_folds)]
    lines = [
        f"{a}-0 {a}-1 1\n{a}-2 {b}-3 0\n" for fold in folds for a, b in zip(fold, (*fold[1:], fold[0]), strict=True)
    ]
    (path / f"{name}_pairs.txt").write_text("".join(lines))


@pytest.fixture
def labelled(tmp_path: Path) -> DataConfig:
    """Reward on folds 0 and 1, test on folds 2 and 3 of the same files."""
    write_training_set(tmp_path, "a", [0, 1, 0, 1, 2])
    write_people(tmp_path, "faces", range(10, 30), num_folds=4)
    files = {
        name: (f"faces{end}",) for name, end in (("lmdb", ".lmdb"), ("pairs", "_pairs.txt"), ("labels", "_labels.txt"))
    }
    sets = [PairsConfig(**files, num_folds=4, folds=folds, max_per_identity=3) for folds in ((0, 1), (2, 3))]  # type: ignore[arg-type]
    return DataConfig(
        root=str(tmp_path), train=("a.lmdb",), train_list=("a.txt",), reward=sets[0], test=sets[1], input_size=32
    )


def test_people_and_all_pairs_are_counted(labelled: DataConfig) -> None:
    report = check_data(labelled, reward=RewardConfig(metric="all:auc"))
    assert report.warnings == ()
    assert [r.num_pictures for r in (*report.reward, *report.test)] == [40, 40]  # the pairs name the fourth pictures
    assert str(report).splitlines()[1:] == [
        f"{name}: 40 pictures, 10 identities, 20 pairs, 30 genuine, 405 impostor pairs in all"
        for name in ("reward", "test")
    ]


def test_people_in_reward_and_test_are_refused(labelled: DataConfig) -> None:
    law = r"must not share people, got 5 of .*faces_labels.txt in both \(one is label 15\); take other folds"
    with pytest.raises(UserError, match=law):
        check_data(replace(labelled, test=replace(labelled.test, folds=(1, 2))))
    with pytest.raises(UserError, match="must not share people, got 10 of"):
        check_data(replace(labelled, test=replace(labelled.test, folds=(), pairs=())))
    only_pairs = replace(labelled.test, folds=(1, 2), labels=())
    assert check_data(replace(labelled, test=only_pairs)).test[0].num_pairs == 20


def test_a_label_without_a_picture_is_named(labelled: DataConfig) -> None:
    edit(labelled, "faces_labels.txt", "11-1 11", "\n11-9 11")
    edit(labelled, "faces_pairs.txt", "11-0 11-1 1", "11-0 11-2 1")
    with pytest.raises(UserError, match=r"line 7 of .*faces_labels.txt: key '11-9' is not in .*faces.lmdb"):
        check_data(labelled)


def test_rates_too_low_for_the_data(labelled: DataConfig) -> None:
    with pytest.raises(
        UserError, match="metric all:tar@far=0.002 needs at least 500 impostor pairs in every set, got 405"
    ):
        check_data(labelled, reward=RewardConfig(metric="all:tar@far=2e-3"))
    reward = RewardConfig(metric="all:tar@far=1e-2", test_metrics=("all:tar@far=2e-2", "all:tar@far=5e-2"))
    first, second = check_data(labelled, reward=reward).warnings
    assert first.startswith("metric all:tar@far=0.01 on the reward sets rests on about 4.0 false accepts")
    assert second.startswith("metric all:tar@far=0.02 on the test sets rests on about 8.1 false accepts")


def test_metrics_without_their_data(labelled: DataConfig) -> None:
    for reward, message in (
        (RewardConfig(metric="all:auc"), "metric all:auc on the reward sets needs label lists, got none"),
        (RewardConfig(metric="auc", test_metrics=("accuracy",)), "metric accuracy on the test sets needs pairs files"),
    ):
        changed = replace(
            labelled, reward=replace(labelled.reward, labels=()), test=replace(labelled.test, pairs=(), folds=())
        )
        with pytest.raises(UserError, match=message):
            check_data(changed, reward=reward)


def test_several_sets_are_reported_each(labelled: DataConfig) -> None:
    write_people(Path(labelled.root), "more", range(100, 106))
    both = PairsConfig(lmdb=("faces.lmdb", "more.lmdb"), labels=("faces_labels.txt", "more_labels.txt"))
    report = check_data(replace(labelled, reward=both, test=PairsConfig()))
    assert [str(r).split(",")[0] for r in report.reward] == ["reward faces: 80 pictures", "reward more: 24 pictures"]
