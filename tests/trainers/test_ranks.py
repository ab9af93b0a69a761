"""Trainers of two and three real processes, against one process with the whole batch and against plain loops."""

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from search_space.config import LossConfig
from search_space.errors import UserError
from search_space.margins import make_loss
from tests.trainers.rank_processes import run_in_ranks
from tests.trainers.test_trainer import CONFIG, REWARD, SEED, data_config, make_faces
from trainers.backbones import build_backbone
from trainers.candidate import Candidate, CandidateResult, Weights
from trainers.checkpoint import to_bytes
from trainers.class_sampler import sampled_rows
from trainers.config import TrainerConfig
from trainers.data.sets import TrainingSet
from trainers.heads import CosineHead, shard_slice
from trainers.model import copies
from trainers.ranks import Ranks
from trainers.sync_batchnorm import CpuSyncBatchNorm, synchronised
from trainers.trainer import CandidateTrainer

BATCH = 12
SAME = replace(CONFIG, batch_size=BATCH, sync_batchnorm=True, milestones=(), lr=0.01)
LOSSES = ("am", "arc", "curricular", "magface", "v_softmax")
TOLERANCE = 1e-4
"""Largest difference of a tensor's elements, relative to its largest: four steps of float32 sums in another order."""


def make(folder: Path, ranks: Ranks | None = None, config: TrainerConfig = SAME, **changes: Any) -> CandidateTrainer:
    config = replace(config, **changes)
    return CandidateTrainer(config, data_config(folder), REWARD, seed=SEED, device="cpu", ranks=ranks)


def of_loss(name: str, generation: int = 0) -> Candidate:
    return Candidate(generation=generation, index=0, loss=make_loss(LossConfig(name=name), scale=16.0))


def two_generations(trainer: CandidateTrainer, name: str) -> tuple[CandidateResult, CandidateResult]:
    """The second from the first, whose weights rank 0 gives to the others."""
    first = trainer.run(of_loss(name))
    return first, trainer.run(of_loss(name, generation=1), trainer.ranks.broadcast_object(first.weights))


def assert_close(got: Weights, expected: Mapping[str, Any], tolerance: float = TOLERANCE) -> None:
    assert got.keys() >= expected.keys()
    for name, array in expected.items():
        largest = max(np.abs(array).max(), 0.01)  # what has no gradient but rounding, a bias before batch norm, is 0
        np.testing.assert_allclose(got[name], array, rtol=0, atol=tolerance * largest, err_msg=name)


def bits(result: CandidateResult) -> bytes:
    return to_bytes(result.weights, {"reward": result.reward, "metrics": result.metrics})


# What every rank does, in this order


def operations(ranks: Ranks, folder: Path) -> dict[str, Any]:
    summed, largest, mean = (torch.tensor([ranks.rank + 1.0, -ranks.rank]) for _ in range(3))
    ranks.sum_(summed)
    ranks.max_(largest)
    ranks.mean_(mean)
    part = np.full((ranks.rank, 2), ranks.rank, np.float32)
    return {
        "sum": summed.tolist(), "max": largest.tolist(), "mean": mean.tolist(), "stack": ranks.stack(part).tolist(),
        "objects": ranks.gather_objects({"rank": ranks.rank}),
        "broadcast": ranks.broadcast_object(("from", ranks.rank)),
    }  # fmt: skip


def gathered_gradient(ranks: Ranks, folder: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows = (torch.arange(4.0).view(2, 2) + 10 * ranks.rank).requires_grad_()
    everyone = ranks.gather(rows)
    weight = torch.arange(1.0, 1 + everyone.numel()).view_as(everyone)
    (everyone.square() * weight).sum().backward()
    assert rows.grad is not None
    return rows.detach(), everyone.detach(), rows.grad


def batch_norm(ranks: Ranks, folder: Path) -> tuple[torch.Tensor, ...]:
    x, norm = batch_norm_case()
    [layer] = synchronised(torch.nn.Sequential(norm), ranks, torch.device("cpu"))
    assert isinstance(layer, CpuSyncBatchNorm)
    mine = x[ranks.share(len(x))].clone().requires_grad_()
    y = layer(mine)
    (y.sin() * torch.arange(1.0, 1 + x.numel()).view_as(x)[ranks.share(len(x))]).sum().backward()
    assert mine.grad is not None
    assert layer.weight.grad is not None
    layer.eval()
    return y.detach(), mine.grad, layer.weight.grad, layer.running_mean, layer.running_var, layer(x).detach()


def refused_in_rank_1(ranks: Ranks, folder: Path) -> None:
    def make_it() -> None:
        if ranks.rank == 1:
            raise UserError("nothing here")

    ranks.agreed(make_it)


def odd_batch(ranks: Ranks, folder: Path) -> None:
    make(folder, ranks, batch_size=13)


def refused_data(ranks: Ranks, folder: Path) -> None:
    data = data_config(folder)
    if ranks.rank == 1:
        data = replace(data, train_list=("elsewhere.txt",))
    CandidateTrainer(SAME, data, REWARD, seed=SEED, device="cpu", ranks=ranks)


def like_one_process(ranks: Ranks, folder: Path) -> dict[str, tuple[CandidateResult, CandidateResult]]:
    trainer = make(folder, ranks)
    return {name: two_generations(trainer, name) for name in LOSSES}


def averaged(ranks: Ranks, folder: Path) -> tuple[CandidateResult, CandidateResult]:
    return two_generations(make(folder, ranks, average=0.5), "am")


def scores_of_weights(ranks: Ranks, folder: Path) -> tuple[dict[str, float], float]:
    trainer = make(folder, ranks, average=0.5)
    base = ranks.broadcast_object(trainer.run(of_loss("am")).weights)
    return trainer.test(base), trainer.validate(base, ["auc"])["auc"].value


def history(ranks: Ranks, folder: Path) -> list[bytes]:
    """The same candidate first, after another one, after a test, and in a fresh trainer."""
    trainer = make(folder, ranks, sync_batchnorm=False)
    first = trainer.run(of_loss("am"))
    trainer.run(of_loss("curricular"))
    trainer.test(ranks.broadcast_object(first.weights))
    again = trainer.run(of_loss("am"))
    fresh = make(folder, ranks, sync_batchnorm=False).run(of_loss("am"))
    return [bits(result) for result in (first, again, fresh)]


def own_statistics(ranks: Ranks, folder: Path) -> tuple[CandidateResult, bytes]:
    trainer = make(folder, ranks, sync_batchnorm=False, average=0.5)
    result = trainer.run(of_loss("am"))
    return result, to_bytes({name: t.numpy() for name, t in trainer._model.backbone().items()}, {})


def reduced_precision(ranks: Ranks, folder: Path) -> list[CandidateResult]:
    return [make(folder, ranks, amp=amp, generation_length=2).run(of_loss("am")) for amp in ("bf16", "fp16")]


def overflow_in_rank_1(ranks: Ranks, folder: Path) -> tuple[list[bool], list[bytes]]:
    """Steps in float16, in the second of which rank 1's part of the head has an infinite gradient, then all parts."""
    model = make(folder, ranks, amp="fp16")._model
    model.train()
    images, target = TrainingSet.from_config(data_config(folder)).batch_at(0, BATCH, SEED)
    infinite = [False, ranks.rank == 1, True, False]
    calls = iter(infinite)
    model._head.weight.register_hook(lambda gradient: gradient * math.inf if next(calls) else gradient)
    snapshots = [to_bytes(copies(dict(model._model["backbone"].named_parameters())), {})]
    for _ in infinite:
        part = images[ranks.share(BATCH)]
        model.step(part, target, of_loss("am").loss, state={}, step=0, seed=SEED, rate=0.01)
        snapshots.append(to_bytes(copies(dict(model._model["backbone"].named_parameters())), {}))
    return [a != b for a, b in pairwise(snapshots)], snapshots


def sampled(ranks: Ranks, folder: Path) -> list[CandidateResult]:
    """Two classes of each shard and those of the batch, twice the same."""
    return [make(folder, ranks, sample_rate=0.3).run(of_loss(name)) for name in ("am", "am", "curricular")] + [
        make(folder, ranks, sample_rate=0.3, generation_length=1, batch_size=6).run(of_loss("am"))
    ]


def diverging(ranks: Ranks, folder: Path) -> list[str]:
    cases = [(4, 1e30), (1, 1e30), (1, 1e45)]
    runs = [make(folder, ranks, generation_length=n, lr=lr, lr_warmup_steps=0).run(of_loss("am")) for n, lr in cases]
    assert all(run.diverged and not run.weights for run in runs)
    return [f"{run.reason}, {run.num_images} images" for run in runs]


def told_progress(ranks: Ranks, folder: Path) -> list[tuple[int, int]]:
    told: list[tuple[int, int]] = []
    make(folder, ranks).run(of_loss("am"), progress=lambda done, steps: told.append((done, steps)))
    return told


WORK = (
    operations, gathered_gradient, batch_norm, refused_in_rank_1, odd_batch, refused_data, like_one_process, averaged,
    scores_of_weights, history, own_statistics, reduced_precision, overflow_in_rank_1, sampled, diverging,
    told_progress,
)  # fmt: skip


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    make_faces(folder)
    return folder


@pytest.fixture(scope="module", params=[2, 3])
def found(request: pytest.FixtureRequest, faces: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All of the above in so many processes."""
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


def batch_norm_case() -> tuple[torch.Tensor, torch.nn.BatchNorm2d]:
    generator = torch.Generator().manual_seed(0)
    x = 3 + 2 * torch.randn(6, 4, 3, 3, generator=generator)
    norm = torch.nn.BatchNorm2d(4, momentum=0.2)
    with torch.no_grad():
        norm.weight.copy_(torch.arange(1.0, 5.0))
    return x, norm


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
    assert_close(result.weights, weights | averages, tolerance=1e-3)  # the last layers normalise over 4 pictures alone


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
        here = shard_slice(len(initial), rank, found["size"])
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
