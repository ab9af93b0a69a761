"""Verification sets: which pictures, pairs and people they hold, and the line that is named when files do not fit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from search_space.errors import UserError
from tests.trainers.data_files import smooth_picture, write_pairs, write_pictures
from trainers.config import PairsConfig
from trainers.data.verification_set import VerificationSet, verification_sets

NUM_KEYS = 12
PEOPLE = [0, 0, 0, 1, 1, 4, 4, 4, 4, 7, 7, 2]  # of k0, k1 ...


@pytest.fixture
def pairs_config(tmp_path: Path) -> PairsConfig:
    keys = [f"p{index}" for index in range(9)]
    write_pictures(tmp_path / "pairs.lmdb", {key: smooth_picture(i) for i, key in enumerate(keys)}, extension=".png")
    write_pairs(tmp_path / "pairs.txt", keys, num_folds=4)
    return PairsConfig(lmdb=("pairs.lmdb",), pairs=("pairs.txt",), num_folds=4)


@pytest.mark.parametrize("folds", [(), (1, 3)])
@pytest.mark.parametrize("cache_bytes", [0, 2**20])
def test_listed_pairs(tmp_path: Path, pairs_config: PairsConfig, folds: tuple[int, ...], cache_bytes: int) -> None:
    one = VerificationSet(replace(pairs_config, folds=folds), 0, tmp_path, 32, cache_bytes)
    lines = (tmp_path / "pairs.txt").read_text().splitlines()
    kept = [(number, line.split()) for number, line in enumerate(lines) if not folds or number // 4 in folds]
    listed = one.listed
    assert listed is not None
    assert one.labelled is None
    assert [one.keys[i] for i in listed.left] == [fields[0] for _, fields in kept]
    assert [one.keys[i] for i in listed.right] == [fields[1] for _, fields in kept]
    assert listed.same.tolist() == [fields[2] == "1" for _, fields in kept]
    assert listed.lines.tolist() == [number + 1 for number, _ in kept]
    assert listed.fold.tolist() == np.repeat(np.arange(len(folds) or 4), 4).tolist()
    assert len(listed) == len(kept)
    assert len(set(one.keys)) == len(one.keys)
    for _ in range(2):
        pictures = torch.cat(list(one.images(4)))
        expected = np.stack([smooth_picture(int(key[1:])) for key in one.keys])
        np.testing.assert_array_equal(pictures.numpy(), expected)


@pytest.fixture
def config(tmp_path: Path) -> PairsConfig:
    """People 0 and 1 in fold 0; 4 and 7 in fold 1, and 0, 2 in fold 2. Person 2 has one picture."""
    pictures = {f"k{index}": smooth_picture(index) for index in range(NUM_KEYS)}
    write_pictures(tmp_path / "faces.lmdb", pictures, extension=".png")
    pairs = ["k0 k1 1", "k0 k3 0", "k6 k5 1", "k9 k6 0", "k0 k2 1", "k1 k11 0"]
    (tmp_path / "pairs.txt").write_text("\n".join(pairs))
    (tmp_path / "labels.txt").write_text("".join(f"k{i} {p}\n" for i, p in enumerate(PEOPLE)))
    return PairsConfig(lmdb=("faces.lmdb",), pairs=("pairs.txt",), labels=("labels.txt",), num_folds=3)


def people(one: VerificationSet) -> dict[str, int]:
    assert one.labelled is not None
    return {one.keys[row]: label for row, label in zip(one.labelled.rows, one.labelled.labels.tolist(), strict=True)}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        ({"folds": (0, 1)}, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ({"folds": (0, 2)}, [0, 1, 2, 3, 4, 11]),
        ({"folds": (0, 2), "max_per_identity": 2}, [0, 1, 3, 4, 11]),
        ({"pairs": ()}, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        ({"pairs": (), "max_per_identity": 3}, [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11]),
    ],
)
def test_the_people_of_a_set(
    tmp_path: Path, config: PairsConfig, changes: dict[str, tuple[int, ...]], expected: list[int]
) -> None:
    one = VerificationSet(replace(config, **changes), 0, tmp_path, 32)  # type: ignore[arg-type]
    assert people(one) == {f"k{i}": PEOPLE[i] for i in expected}
    assert one.labelled is not None
    assert one.labelled.file_rows.tolist() == expected
    labels = [PEOPLE[i] for i in expected]
    both = [(a, b) for i, a in enumerate(labels) for b in labels[:i]]
    assert one.labelled.num_identities == len(set(labels))
    assert one.labelled.num_genuine == sum(a == b for a, b in both)
    assert one.labelled.num_impostor == sum(a != b for a, b in both)


def test_the_cap_takes_the_first_of_the_list_whatever_its_order(tmp_path: Path, config: PairsConfig) -> None:
    lines = [f"k{i} {PEOPLE[i]}" for i in (8, 0, 3, 7, 4, 6, 1, 2)]
    (tmp_path / "labels.txt").write_text("\n\n".join(lines))
    one = VerificationSet(replace(config, pairs=(), max_per_identity=2), 0, tmp_path, 32)
    assert one.keys == ("k8", "k0", "k3", "k7", "k4", "k1")


def test_pictures_that_pairs_and_labels_share_come_once_and_those_of_pairs_first(
    tmp_path: Path, config: PairsConfig
) -> None:
    one = VerificationSet(replace(config, folds=(1, 2), max_per_identity=2), 0, tmp_path, 32)
    assert one.keys == ("k6", "k5", "k9", "k0", "k2", "k1", "k11", "k10")
    assert [one.keys[i] for i in one.rows(listed=True, labelled=False)] == list(one.keys[:7])
    assert sorted(one.keys[i] for i in one.rows(listed=False, labelled=True)) == sorted(people(one))
    assert one.rows(listed=True, labelled=True).tolist() == list(range(8))
    found = torch.cat(list(one.images(3, np.array([7, 1])))).numpy()
    np.testing.assert_array_equal(found, np.stack([smooth_picture(10), smooth_picture(5)]))


def test_a_sample_of_impostor_pairs_is_counted(tmp_path: Path, config: PairsConfig) -> None:
    one = VerificationSet(replace(config, max_impostors=7), 0, tmp_path, 32)
    assert one.labelled is not None
    assert one.labelled.num_impostor == 7


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("labels.txt", "k3 1", "k3 one", "line 4 of .*labels.txt: expected `lmdb_key label` with an integer label"),
        ("labels.txt", "k3 1", "k3 1\n\nk0 0", "line 6 of .*labels.txt: expected each key once, got 'k0' again"),
        ("pairs.txt", "k9 k6", "k9 kx", "line 4 of .*pairs.txt: key 'kx' has no label in .*labels.txt"),
        ("labels.txt", "k11 2\n", "", "line 6 of .*pairs.txt: key 'k11' has no label in .*labels.txt; check that both"),
        ("labels.txt", "k5 4", "k5 9", r"line 3 of .*pairs.txt: expected what .*labels.txt say \(4 and 9\), got 1;"),
    ],
)
def test_files_that_do_not_fit(
    tmp_path: Path, config: PairsConfig, name: str, old: str, new: str, message: str
) -> None:
    text = (tmp_path / name).read_text()
    assert old in text
    (tmp_path / name).write_text(text.replace(old, new))
    with pytest.raises(UserError, match=message) as caught:
        VerificationSet(config, 0, tmp_path, 32)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("k0 5\nk1 5\n", "at least 2 people, one of them with 2 pictures, got 1 people with at most 2"),
        ("k0 5\nk1 6\n", "at least 2 people, one of them with 2 pictures, got 2 people with at most 1"),
    ],
)
def test_too_few_people(tmp_path: Path, config: PairsConfig, text: str, message: str) -> None:
    (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(UserError, match=f"labels.txt: all pairs need {message}"):
        VerificationSet(replace(config, pairs=()), 0, tmp_path, 32)


def test_several_sets(tmp_path: Path, config: PairsConfig) -> None:
    (tmp_path / "hard.txt").write_text("k3 k4 1\nk3 k5 0\nk9 k10 1\nk9 k5 0")
    two = replace(config, lmdb=("faces.lmdb",) * 2, pairs=("pairs.txt", "hard.txt"), labels=(), num_folds=2)
    first, second = verification_sets(two, tmp_path, 32, 2**20)
    assert (first.name, second.name) == ("pairs", "hard")
    assert second.keys == ("k3", "k4", "k5", "k9", "k10")


# configuration


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lmdb": ("a", "b"), "pairs": ("x",)}, r"pairs must be empty or name one file per lmdb \(2\), got \('x',\)"),
        ({"lmdb": ("a",), "labels": ("x", "y")}, r"labels must be empty or name one file per lmdb \(1\)"),
        ({"lmdb": ("a/f", "b/f"), "pairs": ("x/p.txt", "y/p.txt")}, "file names of several sets must differ"),
        ({"lmdb": "faces.lmdb"}, "lmdb must be a tuple of paths, got 'faces.lmdb'"),
        ({"max_per_identity": 1}, "max_per_identity must be 0 .all. or at least 2, got 1"),
        ({"max_per_identity": -2}, "max_per_identity must be"),
        ({"max_impostors": -1}, "max_impostors must be >= 0, got -1"),
        ({"folds": (0, 10)}, "folds must be distinct and in 0..9"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PairsConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, ()),
        ({"lmdb": ("x/lfw.lmdb",), "pairs": ("p.txt",)}, ("lfw",)),
        ({"lmdb": ("x/lfw.lmdb", "agedb")}, ("lfw", "agedb")),
        ({"lmdb": ("lfw", "lfw"), "pairs": ("p/easy.txt", "p/hard.txt")}, ("easy", "hard")),
        ({"lmdb": ("lfw", "lfw"), "labels": ("few.txt", "all.txt")}, ("few", "all")),
    ],
)
def test_names_of_sets(settings: dict[str, tuple[str, ...]], names: tuple[str, ...]) -> None:
    assert PairsConfig(**settings).names == names  # type: ignore[arg-type]
