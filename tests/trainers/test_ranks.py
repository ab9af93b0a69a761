"""Trainers of two and three real processes, against one process with the whole batch and against plain loops."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from search_space.errors import UserError
from tests.trainers.rank_processes import run_in_ranks
from tests.trainers.rank_stories import BATCH, LOSSES, SAME, WORK, batch_norm_case, bits, make, of_loss
from tests.trainers.small_trainer import SEED, data_config
from trainers.backbones import build_backbone
from trainers.candidate import CandidateResult, Weights
from trainers.class_sampler import sampled_rows
from trainers.data.sets import TrainingSet
from trainers.heads import CosineHead
from trainers.ranks import contiguous_part
from trainers.trainer import CandidateTrainer

TOLERANCE = 2e-4
"""Length of a tensor's difference, relative to its own: four steps of float32 sums in another order."""
OF_MOMENTUM = 0.1
"""The same of gradients: which sums round to the other side of a kink of the network depends on the CPU."""
SHORT = 0.2
"""Shorter tensors count as of this length: a bias before batch norm has no gradient but rounding."""


def assert_close(got: Weights, expected: Mapping[str, Any], tolerance: float = TOLERANCE) -> None:
    assert got.keys() >= expected.keys()
    for name, array in expected.items():
        is_momentum = name.startswith("momentum.")
        length = float(np.linalg.norm(array))
        most = OF_MOMENTUM * length + TOLERANCE if is_momentum else tolerance * max(length, SHORT)
        difference = float(np.linalg.norm(np.asarray(got[name], np.float64) - array))
        assert difference <= most, f"{name}: differs by {difference:.1e} of {length:.1e}"


@pytest.fixture(scope="module", params=[2, 3])
def found(request: pytest.FixtureRequest, faces: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What all ranks do, in so many processes."""
    return run_in_ranks(request.param, WORK, faces, tmp_path_factory.mktemp("out")) | {"size": request.param}


def value(found: dict[str, Any], name: str, rank: int = 0) -> Any:
    """What a rank returned."""
    if isinstance(found[name][rank], Exception):
        raise found[name][rank]
    return found[name][rank]


# Operations


def test_operations(found: dict[str, Any]) -> None:
    size = found["size"]
    for rank in range(size):
        got = value(found, "operations", rank)
        assert got["sum"] == [size * (size + 1) / 2, -size * (size - 1) / 2]
        assert got["max"] == [size, 0]
        assert got["mean"] == pytest.approx([(size + 1) / 2, -(size - 1) / 2])
        assert got["objects"] == [{"rank": r} for r in range(size)]
        assert got["broadcast"] == ("from", 0)
        assert got["stack"] == ([[r, r] for r in range(size) for _ in range(r)] if rank == 0 else [])


def test_a_gathered_row_gets_its_own_gradient_times_the_ranks(found: dict[str, Any]) -> None:
    size = found["size"]
    got = [value(found, "gathered_gradient", rank) for rank in range(size)]
    everyone = torch.cat([rows for rows, _, _ in got])
    whole = 2 * everyone * torch.arange(1.0, 1 + everyone.numel()).view_as(everyone)
    for rank, (_, gathered, gradient) in enumerate(got):
        assert torch.equal(gathered, everyone)
        assert torch.equal(gradient, size * whole[2 * rank : 2 * rank + 2])


def test_synchronised_batch_norm_is_batch_norm_of_the_whole_batch(found: dict[str, Any]) -> None:
    x, norm = batch_norm_case()
    x.requires_grad_()
    y = norm(x)
    (y.sin() * torch.arange(1.0, 1 + x.numel()).view_as(x)).sum().backward()
    got = [value(found, "batch_norm", rank) for rank in range(found["size"])]
    torch.testing.assert_close(torch.cat([one[0] for one in got]), y.detach())
    torch.testing.assert_close(torch.cat([one[1] for one in got]), x.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sum(one[2] for one in got), norm.weight.grad, rtol=1e-4, atol=1e-4)
    norm.eval()
    for one in got:
        torch.testing.assert_close(one[3], norm.running_mean)
        torch.testing.assert_close(one[4], norm.running_var)
        torch.testing.assert_close(one[5], norm(x).detach())


# Refusals reach every rank


def test_what_one_rank_refuses_all_refuse(found: dict[str, Any]) -> None:
    for rank in range(found["size"]):
        with pytest.raises(UserError, match="^nothing here$"):
            value(found, "refused_in_rank_1", rank)
        with pytest.raises(UserError, match="elsewhere.txt"):
            value(found, "refused_data", rank)


def test_a_batch_that_cannot_be_divided_is_refused(found: dict[str, Any]) -> None:
    law = f"batch_size must be divisible by the ranks of a trainer, {found['size']}, to 2 pictures or more each, got 13"
    with pytest.raises(UserError, match=law):
        value(found, "odd_batch")


# Against one process


def assert_same_training(trainer: CandidateTrainer, name: str, got: tuple[CandidateResult, CandidateResult]) -> None:
    """Two generations against those of one process, the second from the same weights as there."""
    base = None
    for generation, result in enumerate(got):
        expected = trainer.run(of_loss(name, generation), base)
        assert result.weights.keys() == expected.weights.keys()
        assert_close(result.weights, expected.weights)
        assert result.metrics["train_loss"] == pytest.approx(expected.metrics["train_loss"], rel=1e-5)
        assert result.reward == pytest.approx(expected.reward, abs=0.01)
        assert result.num_images == expected.num_images
        base = result.weights


@pytest.mark.parametrize("name", LOSSES)
def test_ranks_train_what_one_process_trains_with_the_whole_batch(
    found: dict[str, Any], faces: Path, name: str
) -> None:
    assert_same_training(make(faces), name, value(found, "like_one_process")[name])


def test_every_rank_has_the_result_but_rank_0_alone_its_weights(found: dict[str, Any]) -> None:
    first, *others = (value(found, "like_one_process", rank)["am"][1] for rank in range(found["size"]))
    assert first.weights
    for other in others:
        assert other.weights == {}
        assert (other.reward, other.metrics) == (first.reward, first.metrics)


def test_averaged_weights_are_those_of_one_process(found: dict[str, Any], faces: Path) -> None:
    got = value(found, "averaged")
    assert any(key.startswith("average.") for key in got[1].weights)
    assert_same_training(make(faces, average=0.5), "am", got)


def test_tests_and_validations_are_those_of_one_process(found: dict[str, Any], faces: Path) -> None:
    trainer = make(faces, average=0.5)
    weights = trainer.run(of_loss("am")).weights
    for rank in range(found["size"]):
        report, auc = value(found, "scores_of_weights", rank)
        assert report == pytest.approx(trainer.test(weights), abs=0.03)
        assert auc == pytest.approx(trainer.validate(weights, ["auc"])["auc"].value, abs=0.01)


# What a result depends on


def test_history_and_process_do_not_matter(found: dict[str, Any]) -> None:
    first, again, fresh = value(found, "history")
    assert first == again == fresh


# Each rank with its own statistics, against a plain loop over ranks in one process


def plain_training(folder: Path, size: int) -> tuple[Weights, Weights]:
    """Parameters after a generation, and the mean over its second half with the statistics of the ranks."""
    training = TrainingSet([folder / "train.lmdb"], [folder / "train.txt"], 16)
    backbone, head = build_backbone("small", 8, 16, SEED), CosineHead(8, training.num_classes, SEED)
    named = {f"backbone.{n}": p for n, p in backbone.named_parameters()} | {"head.weight": head.weight}
    statistics = [{n: b.clone() for n, b in backbone.named_buffers()} for _ in range(size)]
    momentum = {n: torch.zeros_like(p) for n, p in named.items()}
    later: list[dict[str, torch.Tensor]] = []
    for step in range(4):
        images, target = training.batch_at(step, BATCH, SEED)
        parts = []
        for rank, pictures in enumerate(((images.permute(0, 3, 1, 2).float() - 127.5) / 128).chunk(size)):
            own = {n: b.clone() for n, b in statistics[rank].items()}
            parts.append(torch.func.functional_call(backbone, own, (pictures,)))
            statistics[rank] = own
        gradients = torch.autograd.grad(of_loss("am").loss(head(torch.cat(parts)), target), list(named.values()))
        with torch.no_grad():
            for (name, p), gradient in zip(named.items(), gradients, strict=True):
                momentum[name] = 0.9 * momentum[name] + gradient + (5e-4 * p if p.ndim > 1 else 0)
                p -= SAME.lr * min(1.0, (step + 1) / 2) * momentum[name]
        mean = {f"backbone.{n}": torch.stack([s[n].double() for s in statistics]).mean(0) for n in statistics[0]}
        now = {name: p.detach().clone().double() for name, p in named.items()} | mean
        later = [*later, now] if step >= 2 else []
    averages = {name: torch.stack([one[name] for one in later]).mean(0).numpy() for name in now}
    return {name: tensor.numpy() for name, tensor in now.items()}, averages


def test_without_synchronisation_each_rank_normalises_its_own_rows(found: dict[str, Any], faces: Path) -> None:
    result, _ = value(found, "own_statistics")
    weights, averages = plain_training(faces, found["size"])
    averages = {f"average.{n}": a for n, a in averages.items() if f"average.{n}" in result.weights}
    assert_close(result.weights, weights | averages, tolerance=3e-3)  # the last layers normalise over 4 pictures alone


def test_all_ranks_end_with_the_same_bits(found: dict[str, Any]) -> None:
    assert len({value(found, "own_statistics", rank)[1] for rank in range(found["size"])}) == 1


def test_reduced_precision_is_close_to_one_process(found: dict[str, Any], faces: Path) -> None:
    for got, amp in zip(value(found, "reduced_precision"), ("bf16", "fp16"), strict=True):
        expected = make(faces, amp=amp, generation_length=2).run(of_loss("am"))
        assert got.metrics["train_loss"] == pytest.approx(expected.metrics["train_loss"], rel=0.01)


def test_a_gradient_that_overflows_in_one_shard_of_the_head_is_left_out_in_all_ranks(found: dict[str, Any]) -> None:
    for rank in range(found["size"]):
        moved, backbone = value(found, "overflow_in_rank_1", rank)
        assert moved == [True, False, False, True]
        assert backbone == value(found, "overflow_in_rank_1")[1]


# Sampled heads, divergence, progress


def test_a_sampled_head_trains_and_repeats_itself(found: dict[str, Any], faces: Path) -> None:
    first, again, curricular, one_step = value(found, "sampled")
    assert bits(first) == bits(again)
    assert "loss.t" in curricular.weights
    initial = make(faces).initial_weights()["head.weight"]
    target = np.unique(TrainingSet.from_config(data_config(faces)).batch_at(0, 6, SEED)[1].numpy())
    expected: set[int] = set()
    for rank in range(found["size"]):
        here = contiguous_part(len(initial), rank, found["size"])
        own = target[(target >= here.start) & (target < here.stop)] - here.start
        rows = sampled_rows(own, here.stop - here.start, 0.3, seed=SEED, step=0, rank=rank)
        expected |= set((rows + here.start).tolist())
    moved = np.flatnonzero((one_step.weights["head.weight"] != initial).any(1))
    assert set(moved.tolist()) == expected < set(range(len(initial)))


def test_all_ranks_diverge_in_the_same_step(found: dict[str, Any]) -> None:
    reasons = value(found, "diverging")
    assert reasons[0] == f"loss is nan at step 2 of the generation, {2 * BATCH} images"
    assert reasons[1].startswith("embeddings are not finite")
    assert "is not finite after the generation" in reasons[2]
    assert all(value(found, "diverging", rank) == reasons for rank in range(found["size"]))


def test_rank_0_tells_the_progress(found: dict[str, Any]) -> None:
    assert value(found, "told_progress") == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert value(found, "told_progress", 1) == []
