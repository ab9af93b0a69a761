"""What every rank of a trainer does in a process of its own, and the trainers and candidates that it does it with."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from search_space.config import LossConfig
from search_space.errors import UserError
from search_space.margins import make_loss
from tests.trainers.small_trainer import CONFIG, REWARD, SEED, data_config
from trainers.candidate import Candidate, CandidateResult
from trainers.checkpoint import to_bytes
from trainers.config import TrainerConfig
from trainers.data.sets import TrainingSet
from trainers.model import copies
from trainers.ranks import Ranks
from trainers.sync_batchnorm import CpuSyncBatchNorm, synchronised
from trainers.trainer import CandidateTrainer

BATCH = 12
SAME = replace(CONFIG, batch_size=BATCH, sync_batchnorm=True, milestones=(), lr=0.01)
LOSSES = ("am", "arc", "curricular", "magface", "v_softmax")


def make(folder: Path, ranks: Ranks | None = None, config: TrainerConfig = SAME, **changes: Any) -> CandidateTrainer:
    config = replace(config, **changes)
    return CandidateTrainer(config, data_config(folder), REWARD, seed=SEED, device="cpu", ranks=ranks)


def of_loss(name: str, generation: int = 0) -> Candidate:
    return Candidate(generation=generation, index=0, loss=make_loss(LossConfig(name=name), scale=16.0))


def two_generations(trainer: CandidateTrainer, name: str) -> tuple[CandidateResult, CandidateResult]:
    """The second from the first, whose weights rank 0 gives to the others."""
    first = trainer.run(of_loss(name))
    return first, trainer.run(of_loss(name, generation=1), trainer.ranks.broadcast_object(first.weights))


def bits(result: CandidateResult) -> bytes:
    return to_bytes(result.weights, {"reward": result.reward, "metrics": result.metrics})


def batch_norm_case() -> tuple[torch.Tensor, torch.nn.BatchNorm2d]:
    generator = torch.Generator().manual_seed(0)
    x = 3 + 2 * torch.randn(6, 4, 3, 3, generator=generator)
    norm = torch.nn.BatchNorm2d(4, momentum=0.2)
    with torch.no_grad():
        norm.weight.copy_(torch.arange(1.0, 5.0))
    return x, norm


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
