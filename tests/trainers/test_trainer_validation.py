"""Rewards, tests and metrics of a trainer, against plain loops over pictures and pairs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from search_space.errors import UserError
from tests.trainers.small_trainer import CONFIG, REWARD, SEED, SIZE, candidate, data_config, digest, make_trainer
from trainers.backbones import build_backbone
from trainers.candidate import Weights
from trainers.data.verification_set import VerificationSet
from trainers.metrics import Metric
from trainers.trainer import CandidateTrainer
from trainers.verification import AllPairsMetrics, evaluate_metric, verification_report


def plain_scores(weights: Weights, one: VerificationSet, *, flip: bool) -> list[float]:
    """Cosines of pictures embedded one by one."""
    backbone = build_backbone("small", CONFIG.embedding_dim, SIZE)
    prefix = "backbone."
    state = {name.removeprefix(prefix): torch.tensor(w) for name, w in weights.items() if name.startswith(prefix)}
    backbone.load_state_dict(state)
    backbone.eval()

    def embed(image: torch.Tensor) -> torch.Tensor:
        picture = ((image.float() - 127.5) / 128).permute(2, 0, 1)[None]
        mirrored = picture[:, :, :, torch.arange(SIZE - 1, -1, -1)]
        return (backbone(picture) + backbone(mirrored) if flip else backbone(picture))[0].detach().double()

    vectors = [embed(image) for batch in one.images(1) for image in batch]
    return [
        float(vectors[i] @ vectors[j] / vectors[i].norm() / vectors[j].norm())
        for i, j in zip(one.listed.left.tolist(), one.listed.right.tolist(), strict=True)
    ]


@pytest.mark.parametrize("flip", [False, True])
def test_reward_and_test_equal_a_picture_by_picture_evaluation(faces, flip):
    trainer = make_trainer(faces, replace(REWARD, flip_average=flip))
    result = trainer.run(candidate())
    config = data_config(faces)
    one = VerificationSet(config.reward, 0, config.root, SIZE)
    pairs = one.listed
    scores = plain_scores(result.weights, one, flip=flip)

    expected = evaluate_metric("auc", scores, pairs.same, pairs.fold, 10)
    assert result.reward == pytest.approx(expected.value, abs=1e-6)
    assert result.reward_se == pytest.approx(expected.standard_error, abs=1e-6)
    np.testing.assert_allclose(result.replicates, expected.replicates, atol=1e-6)
    report = verification_report(scores, pairs.same, pairs.fold, REWARD.test_metrics, 10)
    assert trainer.test(result.weights) == pytest.approx(report, abs=1e-4)
    assert {name: result.metrics[name] for name in report} == pytest.approx(report, abs=1e-4)


def test_a_reward_of_several_metrics_is_their_mean_and_records_each(faces):
    both = make_trainer(faces, replace(REWARD, metric="auc+tar@far=0.1"))
    result = both.run(candidate())
    assert set(both.metric_names) == set(result.metrics)
    parts = [make_trainer(faces, replace(REWARD, metric=name)).run(candidate()) for name in ("auc", "tar@far=0.1")]
    assert result.reward == np.mean([part.reward for part in parts])
    np.testing.assert_allclose(result.replicates, np.mean([part.replicates for part in parts], axis=0), atol=1e-15)
    assert result.reward_se == pytest.approx(np.std(result.replicates, ddof=1))
    for name, part in zip(("auc", "tar@far=0.1"), parts, strict=True):
        assert result.metrics[name] == part.reward
        assert result.metrics[f"{name}_se"] == part.metrics[f"{name}_se"]
    assert both.validate(result.weights, ["auc+tar@far=0.1"])["auc+tar@far=0.1"].value == result.reward


def test_testing_leaves_no_trace(trainer):
    first = trainer.run(candidate())
    report = trainer.test(first.weights)
    trainer.run(candidate(0.4))
    assert trainer.test(first.weights) == report
    assert digest(trainer.run(candidate())) == digest(first)


def write_labels(folder: Path) -> None:
    (folder / "labels.txt").write_text("".join(f"{person}/{i} {person}\n" for person in range(10) for i in range(6)))


def labelled_trainer(folder: Path, metric: str) -> CandidateTrainer:
    write_labels(folder)
    data = data_config(folder)
    reward = replace(data.reward, labels=("labels.txt",), max_per_identity=3)
    data = replace(data, reward=reward, test=replace(reward, max_per_identity=0))
    return CandidateTrainer(CONFIG, data, replace(REWARD, metric=metric, test_metrics=()), seed=SEED, device="cpu")


def test_reward_on_all_pairs(faces):
    trainer = labelled_trainer(faces, "all:tar@far=0.01")
    result = trainer.run(candidate())
    [one] = trainer._validation("reward").sets
    units = trainer._validation("reward").embed(trainer._embedding, [Metric.parse("all:auc")])[0][one.labelled.rows]
    [expected] = AllPairsMetrics(np.repeat(np.arange(10), 3), 10).evaluate(units, [Metric.parse("all:tar@far=0.01")])
    assert one.labelled.labels.tolist() == np.repeat(np.arange(10), 3).tolist()
    assert result.reward == expected.value
    np.testing.assert_array_equal(result.replicates, expected.replicates)
    assert result.metrics["all:tar@far=0.01"] == result.reward
    assert {"accuracy", "auc", "d_prime", "tar@far=0.001"} < set(result.metrics) == set(trainer.metric_names)
    assert digest(trainer.run(candidate())) == digest(result)


def test_any_metrics_of_given_weights(faces):
    trainer = labelled_trainer(faces, "all:auc")
    result = trainer.run(candidate())
    scores = trainer.validate(result.weights, ["all:auc", "auc", "all:tar@far=1e-2", "all:accuracy"])
    assert list(scores) == ["all:auc", "auc", "all:tar@far=1e-2", "all:accuracy"]
    assert scores["all:auc"].value == pytest.approx(result.reward, abs=1e-6)
    assert scores["auc"].value == pytest.approx(result.metrics["auc"], abs=1e-6)
    assert len({score.value for score in scores.values()}) == 4
    report = trainer.test(result.weights)
    tested = trainer.validate(result.weights, ["all:auc"], which="test")["all:auc"]
    assert (tested.value, tested.standard_error) == pytest.approx((report["all:auc"], report["all:auc_se"]), abs=1e-6)
    assert tested.value != pytest.approx(scores["all:auc"].value, abs=1e-6), "the test sets have twice the pictures"
    assert {"accuracy", "all:d_prime", "all:tar@far=0.001_se"} < set(report)
    assert "all:tar@far=0.0001" not in report, "1,620 impostor pairs are too few for it"
    broken = {n: w * np.float32(np.nan) if w.dtype.kind == "f" else w for n, w in result.weights.items()}
    with pytest.raises(UserError, match="weights to test must give finite embeddings"):
        trainer.validate(broken, ["auc"])
