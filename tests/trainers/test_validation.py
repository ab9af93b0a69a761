"""Metrics of sets, given what a model makes of their pictures: a fake one that reads the number of each off a pixel."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from search_space.errors import UserError
from tests.trainers.data_files import write_pictures
from trainers.config import DataConfig, PairsConfig, RewardConfig
from trainers.metrics import Metric, possible_metrics
from trainers.validation import EmbeddingsNotFiniteError, Validation
from trainers.verification import AllPairsMetrics, Score, cosine_scores, evaluate_metric, verification_report

SIDE = 16
PEOPLE, PICTURES = 10, 4
LABELS = np.repeat(np.arange(PEOPLE), PICTURES)
CONFIG = RewardConfig(metric="all:auc", num_bootstrap=12)


def make(folder: Path, name: str, seed: int) -> None:
    """A set whose picture i is of the plain colour (i, seed, 0): LMDB, 20 pairs in 2 folds, labels."""
    rng = np.random.default_rng(seed)
    colours = {f"{i}": np.full((SIDE, SIDE, 3), (i, seed, 0), np.uint8) for i in range(len(LABELS))}
    write_pictures(folder / f"{name}.lmdb", colours, extension=".png")
    people = rng.integers(0, PEOPLE, 20)
    pairs = [f"{4 * a + i % 2} {4 * ((a + i % 2) % PEOPLE) + 2 + i % 2} {1 - i % 2}\n" for i, a in enumerate(people)]
    (folder / f"{name}_pairs.txt").write_text("".join(pairs))
    (folder / f"{name}_labels.txt").write_text("".join(f"{i} {label}\n" for i, label in enumerate(LABELS)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sets")
    make(made, "easy", 1)
    make(made, "hard", 2)
    return made


def data(folder: Path, *names: str, **changes: object) -> DataConfig:
    sets = PairsConfig(
        lmdb=tuple(f"{n}.lmdb" for n in names),
        pairs=tuple(f"{n}_pairs.txt" for n in names),
        labels=tuple(f"{n}_labels.txt" for n in names),
        num_folds=2,
    )
    return DataConfig(root=str(folder), input_size=SIDE, reward=replace(sets, **changes), test=sets)  # type: ignore[arg-type]


def vectors(seed: int) -> np.ndarray:
    """[pictures, 5] what the fake model makes of each picture of a set."""
    rng = np.random.default_rng(100 + seed)
    return (rng.normal(size=(PEOPLE, 5))[LABELS] + 0.3 * seed * rng.normal(size=(len(LABELS), 5))).astype(np.float32)


class FakeModel:
    """Counts what it is shown."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        numbers = [(int(image[0, 0, 1]), int(image[0, 0, 0])) for image in images]
        self.seen += numbers
        return torch.stack([torch.from_numpy(vectors(seed)[i]) for seed, i in numbers])


def measured(sets: Validation, *names: str) -> dict[str, Score]:
    return sets.named_scores(sets.embed(FakeModel(), sets.metrics(names)), names)


def test_metrics_are_those_of_the_verification_package(folder: Path) -> None:
    sets = Validation("reward", data(folder, "easy"), CONFIG)
    [one] = sets.sets
    names = ("all:tar@far=0.05", "auc", "all:d_prime", "accuracy", "tar@far=1e-1", "all:auc", "d_prime")
    found = measured(sets, *names)
    listed = one.listed
    assert listed is not None
    order = [int(key) for key in one.keys]
    cosines = cosine_scores(vectors(1)[order], listed.left, listed.right)
    for name in names:
        if name.startswith("all:"):
            [expected] = AllPairsMetrics(LABELS, 12).evaluate(vectors(1), [Metric.parse(name)])
        else:
            expected = evaluate_metric(name, cosines, listed.same, listed.fold, 12)
        assert found[name].value == expected.value, name
        np.testing.assert_array_equal(found[name].replicates, expected.replicates)


def test_several_metrics_are_averaged(folder: Path) -> None:
    sets = Validation("reward", data(folder, "easy"), replace(CONFIG, metric="all:tar@far=0.05+all:auc"))
    found = measured(sets, "all:tar@far=0.05+all:auc", "all:auc", "all:tar@far=0.05")
    mean, *parts = found.values()
    assert mean.value == np.mean([part.value for part in parts])
    replicates = np.mean([part.replicates for part in parts], axis=0)
    np.testing.assert_allclose(mean.replicates, replicates, atol=1e-15)
    assert mean.standard_error == pytest.approx(np.std(replicates, ddof=1))
    with pytest.raises(UserError, match="the metrics in metric must be distinct"):
        RewardConfig(metric="accuracy+auc+accuracy")
    with pytest.raises(UserError, match="metric must be `accuracy`"):
        RewardConfig(metric="accuracy+")
    with pytest.raises(UserError, match="must be all on listed pairs or all on `all:` pairs, got 'auc\\+all:auc'"):
        RewardConfig(metric="auc+all:auc")
    with pytest.raises(UserError, match="metric all:accuracy on the reward sets needs label lists"):
        Validation("reward", data(folder, "easy", labels=()), replace(CONFIG, metric="all:accuracy+all:auc"))


def test_only_the_pictures_that_are_needed_are_embedded_each_once(folder: Path) -> None:
    sets = Validation("reward", data(folder, "easy"), CONFIG)
    named = {int(w) for line in (folder / "easy_pairs.txt").read_text().splitlines() for w in line.split()[:2]}
    assert len(named) < len(LABELS)
    for names, expected in ((["auc"], named), (["auc", "all:auc"], set(range(40))), (["all:auc"], set(range(40)))):
        model = FakeModel()
        sets.embed(model, sets.metrics(names))
        assert sorted(i for _, i in model.seen) == sorted(expected)


def test_several_sets_are_averaged_and_reported_each(folder: Path) -> None:
    both = Validation("test", data(folder, "easy", "hard"), CONFIG)
    each = [Validation("test", data(folder, name), CONFIG) for name in ("easy", "hard")]
    names = ("all:tar@far=0.05", "auc")
    mean, parts = measured(both, *names), [measured(one, *names) for one in each]
    for name in names:
        assert mean[name].value == (parts[0][name].value + parts[1][name].value) / 2
        replicates = (parts[0][name].replicates + parts[1][name].replicates) / 2
        np.testing.assert_allclose(mean[name].replicates, replicates, atol=1e-15)
        assert mean[name].standard_error == pytest.approx(np.std(replicates, ddof=1))
        assert parts[0][name].value != parts[1][name].value

    metrics = both.metrics(("accuracy", *names))
    report = both.report(both.embed(FakeModel(), metrics), metrics)
    alone = [one.report(one.embed(FakeModel(), metrics), metrics) for one in each]
    assert {k.removeprefix("easy/"): v for k, v in report.items() if k.startswith("easy/")} == alone[0]
    assert {k.removeprefix("hard/"): v for k, v in report.items() if k.startswith("hard/")} == alone[1]
    assert set(alone[0]) - set(report) == {"threshold"}
    assert set(both.report_names(metrics)) == set(report)
    assert report["accuracy"] == (alone[0]["accuracy"] + alone[1]["accuracy"]) / 2
    errors = [part["all:tar@far=0.05_se"] for part in alone]
    assert report["all:tar@far=0.05_se"] == pytest.approx(np.hypot(*errors) / 2)


def test_report_of_one_set(folder: Path) -> None:
    sets = Validation(
        "test", data(folder, "easy"), replace(CONFIG, test_metrics=("tar@far=1e-1", "accuracy", "all:auc"))
    )
    report = sets.report(sets.embed(FakeModel(), sets.test_metrics), sets.test_metrics)
    assert list(report) == [
        "tar@far=0.1", "tar@far=0.1_se", "accuracy", "accuracy_se", "threshold", "all:auc", "all:auc_se"
    ]  # fmt: skip
    assert set(sets.report_names(sets.test_metrics)) == set(report)
    [one] = sets.sets
    assert one.listed is not None
    cosines = cosine_scores(vectors(1)[[int(k) for k in one.keys]], one.listed.left, one.listed.right)
    expected = verification_report(cosines, one.listed.same, one.listed.fold, ("tar@far=0.1", "accuracy"), 12)
    assert {k: v for k, v in report.items() if not k.startswith("all:")} == expected


def test_what_is_measured_when_nobody_says(folder: Path) -> None:
    sets = Validation("test", data(folder, "easy"), CONFIG)  # 720 impostor pairs: too few for FARs of 1e-3 and below
    usual = ["accuracy", "auc", "d_prime", "tar@far=0.1", "tar@far=0.01", "tar@far=0.001", "all:auc", "all:d_prime"]
    assert list(map(str, sets.test_metrics)) == usual
    listed_only = replace(sets.config, labels=())
    assert possible_metrics(listed_only) == tuple(n for n in possible_metrics(sets.config) if not n.startswith("all:"))
    reward = Validation("reward", data(folder, "easy"), CONFIG)
    assert list(map(str, reward.recorded_metrics)) == usual[:6]
    reward = Validation("reward", data(folder, "easy"), replace(CONFIG, record=("all:d_prime",)))
    assert list(map(str, reward.recorded_metrics)) == ["all:d_prime"]


def test_metrics_that_the_data_cannot_give_are_refused_at_once(folder: Path) -> None:
    with pytest.raises(
        UserError, match="metric all:auc on the reward sets needs label lists, got none: name .*reward.labels"
    ):
        Validation("reward", data(folder, "easy", labels=()), CONFIG)
    with pytest.raises(
        UserError, match="metric auc on the reward sets needs pairs files, got none: name them in data.re"
    ):
        Validation("reward", data(folder, "easy", pairs=()), replace(CONFIG, metric="auc"))
    with pytest.raises(UserError, match="metric accuracy on the reward sets needs pairs files"):
        Validation("reward", data(folder, "easy", pairs=()), replace(CONFIG, record=("accuracy",)))
    low = (
        "metric all:tar@far=0.001 needs at least 1,000 impostor pairs in every set, got 720: take a higher far or more"
    )
    with pytest.raises(UserError, match=low):
        Validation("reward", data(folder, "easy"), replace(CONFIG, metric="all:tar@far=1e-3"))
    sets = Validation("reward", data(folder, "easy", pairs=()), CONFIG)
    with pytest.raises(UserError, match=low):
        sets.metrics(["all:tar@far=1e-3"])
    with pytest.raises(UserError, match="needs pairs files"):
        sets.metrics(["d_prime"])
    assert sets.recorded_metrics == []


def test_embeddings_that_are_not_finite(folder: Path) -> None:
    sets = Validation("reward", data(folder, "easy"), CONFIG)
    with pytest.raises(EmbeddingsNotFiniteError):
        sets.embed(lambda images: torch.full((len(images), 3), torch.nan), sets.metrics(["auc"]))
