"""Candidates that diverge in a trainer, and bad input that it refuses."""

import math
import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from search_space.errors import UserError
from tests.trainers.small_trainer import CONFIG, REWARD, candidate, data_config, digest, make_trainer
from trainers.config import PairsConfig
from trainers.trainer import CandidateTrainer

# Divergence


@dataclass
class FailingLoss:
    """Not finite from call `step` on, counted from 1."""

    step: int
    value: float
    calls: int = 0
    normalise_embedding = normalise_weight = True
    needs_context = False

    def initial_state(self) -> dict[str, torch.Tensor]:
        return {}

    def __call__(self, cosines: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        loss = torch.nn.functional.cross_entropy(cosines, target)
        return loss * self.value if self.calls >= self.step else loss


@pytest.mark.parametrize(("value", "name"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")])
def test_loss_that_is_not_finite_ends_the_candidate_at_once(trainer, value, name):
    loss = FailingLoss(step=3, value=value)
    result = trainer.run(replace(candidate(index=2), loss=loss))
    assert result.diverged
    assert result.reason == f"loss is {name} at step 3 of the generation"
    assert loss.calls == 3
    assert math.isnan(result.reward)
    assert math.isnan(result.reward_se)
    assert np.isnan(result.replicates).all()
    assert result.replicates.shape == (10,)
    assert result.weights == {}
    assert (result.generation, result.index, result.num_images) == (0, 2, 3 * CONFIG.batch_size)


@pytest.mark.parametrize(
    ("steps", "lr", "reason"),
    [
        (4, 1e30, r"loss is nan at step 2 of the generation"),
        (1, 1e30, r"embeddings are not finite after the generation"),
        (1, 1e45, r"\S+ is not finite after the generation"),
    ],
)
def test_huge_learning_rate_is_divergence_not_an_exception(faces, steps, lr, reason):
    trainer = make_trainer(faces, generation_length=steps, lr=lr, lr_warmup_steps=0)
    result = trainer.run(candidate())
    assert result.diverged
    assert re.fullmatch(reason, result.reason)
    assert result.weights == {}


@dataclass
class ExplodingLoss(FailingLoss):
    """Finite, but its gradient is not, from call `step` on."""

    def __call__(self, cosines: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        loss = torch.nn.functional.cross_entropy(cosines, target)
        return loss + (cosines - cosines.detach()).sum().abs().sqrt() if self.calls >= self.step else loss


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (3, "loss is nan at step 4 of the generation"),
        (CONFIG.generation_length, r"\S+ is not finite after the generation"),
    ],
)
def test_a_gradient_that_explodes_is_divergence(trainer, step, reason):
    loss = ExplodingLoss(step=int(step), value=0.0)
    result = trainer.run(replace(candidate(), loss=loss))
    assert result.diverged
    assert re.fullmatch(reason, result.reason)
    assert loss.calls <= step + 1


def test_a_reward_that_is_not_finite_is_divergence(trainer, monkeypatch):
    sets = trainer._validations["reward"]
    scores = sets.named_scores

    def broken(*arguments):
        return {name: replace(score, value=math.nan) for name, score in scores(*arguments).items()}

    monkeypatch.setattr(sets, "named_scores", broken)
    result = trainer.run(candidate())
    assert (result.diverged, result.reason, result.weights) == (True, "reward is nan after the generation", {})


def test_a_diverged_candidate_leaves_no_trace(trainer):
    before = digest(trainer.run(candidate()))
    trainer.run(replace(candidate(), loss=FailingLoss(step=2, value=math.nan)))
    assert digest(trainer.run(candidate())) == before


# Bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": (), "train_list": ()}, "a trainer needs training pictures, got an empty `train`"),
        ({"reward": PairsConfig()}, r"reward sets need LMDBs .*, got \(\), \(\) and \(\)"),
    ],
)
def test_missing_data_is_refused_at_once(faces, changes, message):
    with pytest.raises(UserError, match=message):
        CandidateTrainer(CONFIG, replace(data_config(faces), **changes), REWARD, seed=0)


def test_missing_test_pairs_are_refused_when_needed(faces):
    data = replace(data_config(faces), test=PairsConfig())
    trainer = CandidateTrainer(CONFIG, data, REWARD, seed=0, device="cpu")
    with pytest.raises(UserError, match="test sets need LMDBs"):
        trainer.test(trainer.initial_weights())


def test_weights_of_another_model_are_refused(trainer, faces):
    wider = make_trainer(faces, embedding_dim=9).initial_weights()
    with pytest.raises(
        UserError, match=r"weights must have `\S+` of shape \[.*8.*\], got \[.*9.*\]: they are of another"
    ):
        trainer.run(candidate(), wider)
    with pytest.raises(UserError, match=r"weights must have `\S+` of shape .*, got none"):
        trainer.test({})


def test_weights_of_another_type_are_refused(trainer):
    weights = trainer.initial_weights()
    for other in (np.complex64, np.float64, np.int8):
        changed = {name: array.astype(other) if array.dtype.kind == "f" else array for name, array in weights.items()}
        with pytest.raises(UserError, match=r"weights must have `\S+` of type float32, got"):
            trainer.run(candidate(), changed)


def test_weights_that_are_not_finite_are_not_tested(trainer):
    broken = {
        name: np.full_like(array, np.nan) if array.dtype.kind == "f" else array
        for name, array in trainer.initial_weights().items()
    }
    with pytest.raises(UserError, match="weights to test must give finite embeddings"):
        trainer.test(broken)


@pytest.mark.parametrize("device", ["cuda", "gpu"])
def test_device_that_is_not_there_is_refused(faces, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=f"device .*{device}"):
        CandidateTrainer(CONFIG, data_config(faces), REWARD, seed=0, device=device)
