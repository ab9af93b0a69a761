"""A trainer: what its results depend on, what is inherited, plain SGD, and what its caller sees."""

import inspect
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from search_space.config import LossConfig  # noqa: F401 - for the example
from search_space.loss import Loss
from search_space.margins import make_loss  # noqa: F401 - for the example
from search_space.spaces import LossParameters
from tests.trainers.small_trainer import (
    CONFIG,
    REWARD,
    SEED,
    SIZE,
    candidate,
    data_config,
    digest,
    make_trainer,
    same_bits,
)
from trainers.backbones import build_backbone
from trainers.candidate import Candidate, Weights  # noqa: F401 - for the example
from trainers.checkpoint import from_bytes, to_bytes
from trainers.config import DataConfig, PairsConfig, RewardConfig, TrainerConfig  # noqa: F401 - for the example
from trainers.data.sets import TrainingSet
from trainers.heads import CosineHead
from trainers.schedule import learning_rate
from trainers.trainer import CandidateTrainer

REPOSITORY = Path(__file__).parents[2]


# What a result depends on


def test_order_and_history_do_not_matter(trainer, faces):
    first = [digest(trainer.run(candidate(margin))) for margin in (0.0, 0.3)]
    again = [digest(trainer.run(candidate(margin))) for margin in (0.3, 0.0)][::-1]
    fresh = digest(make_trainer(faces).run(candidate(0.3)))
    assert first == again
    assert first[1] == fresh
    assert first[0] != first[1]


def test_index_does_not_matter(trainer):
    assert digest(trainer.run(candidate(index=5))) == digest(trainer.run(candidate(index=0)))


def test_seed_and_generation_do_matter(trainer, faces):
    other_seed = CandidateTrainer(CONFIG, data_config(faces), REWARD, seed=SEED + 1, device="cpu")
    base = trainer.initial_weights()
    results = [trainer.run(candidate(), base), trainer.run(candidate(generation=1), base)]
    results += [other_seed.run(candidate(), base), other_seed.run(candidate())]
    assert len({digest(result) for result in results}) == 4


def test_another_process_gives_the_same_bits(trainer, faces):
    script = f"""
        import tests.trainers.small_trainer as t
        from pathlib import Path
        print(t.digest(t.make_trainer(Path({str(faces)!r})).run(t.candidate())))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == digest(trainer.run(candidate()))


def test_global_random_state_is_neither_read_nor_moved(trainer):
    torch.manual_seed(1)
    first = digest(trainer.run(candidate()))
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert digest(trainer.run(candidate())) == first
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


# Inheritance


def test_no_base_means_the_initial_weights(trainer):
    assert digest(trainer.run(candidate())) == digest(trainer.run(candidate(), trainer.initial_weights()))


@pytest.mark.filterwarnings("error")
def test_a_fresh_trainer_continues_from_weights_that_travelled(trainer, faces):
    base = trainer.run(candidate()).weights
    travelled, _ = from_bytes(to_bytes(base, {}))
    for array in travelled.values():
        array.setflags(write=False)
    there = make_trainer(faces).run(candidate(generation=1), travelled)
    assert digest(there) == digest(trainer.run(candidate(generation=1), base))


def test_two_generations_are_one_of_twice_the_length(trainer, faces):
    half = trainer.run(candidate())
    whole = make_trainer(faces, generation_length=8).run(candidate())
    assert same_bits(trainer.run(candidate(generation=1), half.weights).weights, whole.weights)


def test_momentum_is_inherited_only_if_configured(trainer, faces):
    forgetful = make_trainer(faces, inherit_momentum=False)
    kept, dropped = trainer.run(candidate()).weights, forgetful.run(candidate()).weights
    assert {name for name in kept if name.startswith("momentum.")} == kept.keys() - dropped.keys() != set()
    assert all(np.array_equal(kept[name], dropped[name]) for name in dropped)

    with_momentum = trainer.run(candidate(generation=1), kept).weights
    without = trainer.run(candidate(generation=1), dropped).weights
    assert not np.array_equal(with_momentum["head.weight"], without["head.weight"])
    ignored = forgetful.run(candidate(generation=1), kept).weights
    assert np.array_equal(ignored["head.weight"], without["head.weight"])


def test_weights_are_the_callers_own(trainer):
    base = trainer.initial_weights()
    before = to_bytes(base, {})
    first = trainer.run(candidate(), base)
    kept = to_bytes(first.weights, {})
    trainer.run(candidate(0.4), first.weights)
    assert to_bytes(base, {}) == before
    assert to_bytes(first.weights, {}) == kept
    assert all(array.flags.owndata and array.flags.c_contiguous for array in first.weights.values())


# Training, against plain loops


def plain_training(folder: Path, loss_of: LossParameters, steps: int) -> Weights:
    """SGD as textbooks write it, one tensor at a time."""
    training = TrainingSet([folder / "train.lmdb"], [folder / "train.txt"], SIZE)
    backbone = build_backbone("small", CONFIG.embedding_dim, SIZE, SEED)
    head = CosineHead(CONFIG.embedding_dim, training.num_classes, SEED)
    named = {f"backbone.{name}": p for name, p in backbone.named_parameters()} | {"head.weight": head.weight}
    momentum = {name: torch.zeros_like(p) for name, p in named.items()}
    for step in range(steps):
        images, target = training.batch_at(step, CONFIG.batch_size, SEED)
        pictures = (images.permute(0, 3, 1, 2).float() - 127.5) / 128
        gradients = torch.autograd.grad(loss_of(head(backbone(pictures)), target), list(named.values()))
        rate = learning_rate(step, CONFIG, training.num_batches(CONFIG.batch_size))
        with torch.no_grad():
            for (name, p), gradient in zip(named.items(), gradients, strict=True):
                decay = CONFIG.weight_decay if p.ndim > 1 else 0.0
                momentum[name] = CONFIG.momentum * momentum[name] + gradient + decay * p
                p -= rate * momentum[name]
    return {name: p.detach().numpy() for name, p in named.items()}


def test_training_is_plain_sgd_on_the_schedule(trainer, faces):
    result = trainer.run(candidate())
    for name, expected in plain_training(faces, candidate().loss, CONFIG.generation_length).items():
        np.testing.assert_allclose(result.weights[name], expected, rtol=1e-3, atol=1e-5, err_msg=name)


def test_training_reduces_the_loss(faces):
    trainer = make_trainer(faces, milestones=(), generation_length=10)
    weights, losses = None, []
    for generation in range(4):
        result = trainer.run(candidate(generation=generation), weights)
        weights = result.weights
        losses.append(result.metrics["train_loss"])
    assert losses[3] < 0.7 * losses[0]
    assert result.reward > 0.9


class ConstantLoss(Loss):
    """No gradient: what moves is moved by weight decay."""

    name = "constant"

    def per_sample(self, cosines, target, context=None):
        return cosines.sum(1) * 0


def test_weight_decay_spares_batch_norm_and_biases(faces):
    trainer = make_trainer(faces, generation_length=1, lr_warmup_steps=0, weight_decay=0.5)
    base = trainer.initial_weights()
    result = trainer.run(replace(candidate(), loss=ConstantLoss()), base)
    parameters = [name for name in base if f"momentum.{name}" in result.weights]
    for name in parameters:
        factor = 1 - CONFIG.lr * 0.5 if base[name].ndim > 1 else 1.0
        np.testing.assert_allclose(result.weights[name], base[name] * np.float32(factor), rtol=1e-6, err_msg=name)
    assert {base[name].ndim for name in parameters} >= {1, 2, 4}


def test_all_candidates_of_a_generation_see_the_same_pictures(trainer, monkeypatch):
    seen: list[bytes] = []
    real = TrainingSet.batch_at

    def spy(self: TrainingSet, *args: object, **kwargs: object) -> tuple[torch.Tensor, torch.Tensor]:
        images, target = real(self, *args, **kwargs)
        seen.append(images.numpy().tobytes() + target.numpy().tobytes())
        return images, target

    monkeypatch.setattr(TrainingSet, "batch_at", spy)
    trainer.run(candidate(0.0))
    trainer.run(candidate(0.4, index=1))
    trainer.run(candidate(0.4, generation=1))
    assert len(seen) == 12
    assert seen[0:4] == seen[4:8]
    assert not set(seen[0:4]) & set(seen[8:12])


def test_without_momentum_there_are_no_buffers(faces):
    result = make_trainer(faces, momentum=0.0).run(candidate())
    assert not result.diverged
    assert not [name for name in result.weights if name.startswith("momentum.")]


def test_channels_last_changes_speed_not_results(trainer, faces):
    result = make_trainer(faces, channels_last=False).run(candidate())
    assert result.metrics["train_loss"] == pytest.approx(trainer.run(candidate()).metrics["train_loss"], rel=1e-4)


@pytest.mark.parametrize(("amp", "differs"), [("auto", False), ("off", False), ("bf16", True), ("fp16", True)])
def test_autocast_rounds_the_first_loss_a_little(faces, amp, differs):
    exact, rounded = (
        make_trainer(faces, generation_length=1, lr_warmup_steps=0, amp=name).run(candidate()) for name in ("off", amp)
    )
    assert rounded.metrics["train_loss"] == pytest.approx(exact.metrics["train_loss"], rel=0.02)
    assert same_bits(rounded.weights, exact.weights) != differs
    assert not np.array_equal(rounded.weights["head.weight"], make_trainer(faces).initial_weights()["head.weight"])


# What the caller sees


def test_progress_is_told_after_each_step(trainer):
    told: list[tuple[int, int]] = []
    trainer.run(candidate(), progress=lambda done, steps: told.append((done, steps)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_properties_and_counts(trainer):
    assert trainer.num_classes == 10
    assert trainer.generation_steps == 4
    result = trainer.run(candidate(generation=7, index=3))
    assert (result.generation, result.index, result.num_images) == (7, 3, 64)
    assert result.train_s > 0
    assert result.validate_s > 0


def test_generation_length_in_epochs(faces):
    assert make_trainer(faces, generation_length=2.0, generation_unit="epochs").generation_steps == 6


def test_torch_settings_hold_during_a_run_and_come_back(faces):
    trainer = make_trainer(faces, num_threads=2)

    def settings() -> tuple[object, ...]:
        return torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()

    before, inside = settings(), []

    def stop(done: int, steps: int) -> None:
        inside.append(settings())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.run(candidate(), progress=stop)
    assert inside == [(True, 2)]
    assert settings() == before

    relaxed: list[object] = []
    make_trainer(faces, deterministic=False).run(candidate(), progress=lambda *_: relaxed.append(settings()[0]))
    assert relaxed == [False] * 4


def test_docstring_example_runs(faces, monkeypatch, capsys):
    text = inspect.getdoc(CandidateTrainer)
    code = text.split("winner of the first:\n")[1].split("Args:")[0]
    monkeypatch.chdir(faces)
    exec(textwrap.dedent(code), vars(sys.modules[__name__]) | {})
    reward, accuracy = map(float, capsys.readouterr().out.split())
    assert 0.5 < reward <= 1
    assert 0.5 < accuracy <= 1
