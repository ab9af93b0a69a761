"""Large numbers of identities: what a step of the head costs in chunks, and what a rank of a sharded head holds.

    python -m benchmarks.large_heads step [--dim 256] [--num-classes 1000000] [--chunk 8192] [--output FOLDER]
    python -m benchmarks.large_heads ranks [--dim 512] [--output FOLDER]

A step is what the trainer does with a batch of embeddings: head, loss, backward to embeddings and class weights.

`step` compares the plain form (all cosines at once) with chunks. Time: both forms in one process, in alternation, on
one thread; ratio of medians. Memory: each form in a fresh process, which makes weights and embeddings, then resets the
kernel's high-water mark, does one step, and reads it. The gradient of the class weights is needed by either form: the
peak is given with it, and without its bytes.

`ranks` tells the memory of one rank of R, each with its own batch, from the sizes of what it allocates: weights,
momentum, gradient, sampled copies, chunk buffers, gathered embeddings. Where that fits into `--limit` bytes, one rank
is run in a fresh process, optimizer step included, and its peak is given beside. It runs without the others, so its
losses mean nothing; memory and work are those of a rank, but for what a collective operation itself may need.
"""

import argparse
import datetime
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from search_space.class_products import Cosines
from search_space.config import LossConfig, SpaceConfig
from search_space.loss import Loss
from search_space.margins import LOSSES, make_loss
from search_space.spaces import get_space
from trainers.class_sampler import FEWEST_ROWS, ClassSampler, SampledClasses
from trainers.heads import CosineHead
from trainers.ranks import contiguous_part

MIB = 2**20
FLOAT_BYTES, INDEX_BYTES = 4, 8
BATCH = 128
BATCH_COPIES = 8
"""Tensors [batch, dim] at the peak: embeddings, normalised, scaled, rows of the targets, and gradients on their way."""
PRODUCTS = 2**20
"""Products of a chunk in `ranks`: the more ranks, the larger the gathered batch, and the fewer classes in a chunk."""
RANKS, RATES, IDENTITIES = (1, 8, 64), (1.0, 0.1), (10**5, 10**6, 10**7)


def loss_of(name: str) -> Loss:
    """A hand-crafted loss, or the first of the searched space `global`."""
    if name == "global":
        space = get_space(SpaceConfig(name="global", scale=32.0))
        return space.loss(space.initial_policy().mean)
    return make_loss(LossConfig(name=name), scale=32.0)


def batch_of(num_classes: int, dim: int, batch: int) -> tuple[Tensor, Tensor]:
    """Embeddings [batch, dim] with gradient, and targets."""
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(batch, dim, generator=generator).requires_grad_()
    return embeddings, torch.randint(num_classes, (batch,), generator=generator)


def step(
    head: CosineHead, loss: Loss, embeddings: Tensor, target: Tensor, chunk: int | None, sample: SampledClasses | None
) -> None:
    """One forward and backward; without a chunk the plain form."""
    embeddings.grad = head.weight.grad = None
    how = {"normalise_embedding": loss.normalise_embedding, "normalise_weight": loss.normalise_weight}
    products: Cosines
    if chunk is None:
        products = head(embeddings, **how)
    else:
        products = head.products(embeddings, **how, chunk=chunk, sample=sample)
    loss(products, target).backward()  # type: ignore[no-untyped-call]


def status_bytes(field: str) -> int:
    """VmRSS or VmHWM of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def start_watching() -> int:
    """Reset the high-water mark of this process; its resident bytes now."""
    Path("/proc/self/clear_refs").write_text("5")
    return status_bytes("VmRSS")


def warm_up(loss: Loss, chunk: int | None) -> None:
    """What the first step of a process allocates whatever its size."""
    head = CosineHead(64, 10_000)
    step(head, loss, *batch_of(10_000, 64, BATCH), chunk, None)
    torch.optim.SGD(head.parameters(), fused=True).step()


def step_memory(num_classes: int, dim: int, chunk: int | None, loss: str) -> dict[str, int]:
    """Peak of one step above what was there before it, and the gradient's part of it."""
    head = CosineHead(dim, num_classes)
    embeddings, target = batch_of(num_classes, dim, BATCH)
    warm_up(loss_of(loss), chunk)
    before = start_watching()
    step(head, loss_of(loss), embeddings, target, chunk, None)
    return {"peak_bytes": status_bytes("VmHWM") - before, "gradient_bytes": FLOAT_BYTES * num_classes * dim}


def rank_memory(num_classes: int, dim: int, ranks: int, rate: float, chunk: int) -> dict[str, int]:
    """Peak of a rank from before its head is made to the end of its second step."""
    loss = loss_of("global")
    warm_up(loss, chunk)
    before = start_watching()
    head = CosineHead(dim, num_classes, rank=0, size=ranks)
    optimizer = torch.optim.SGD([head.weight], lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)
    optimizer.state[head.weight]["momentum_buffer"] = torch.zeros_like(head.weight)
    sampler = ClassSampler(head.weight, optimizer, rate=rate) if rate < 1 else None
    embeddings, target = batch_of(num_classes, dim, BATCH * ranks)
    for number in range(2):
        sample = sampler.take(target, number, 0) if sampler else None
        step(head, loss, embeddings, target, chunk, sample)
        optimizer.step()
        if sampler:
            sampler.give_back()
    return {"peak_bytes": status_bytes("VmHWM") - before}


def rank_bytes(num_classes: int, dim: int, ranks: int, rate: float, chunk: int) -> dict[str, int]:
    """What one rank holds at its peak, by what it is for."""
    rows = max(len(range(num_classes)[contiguous_part(num_classes, rank, ranks)]) for rank in range(ranks))
    active = rows if rate == 1 else min(rows, max(round(rate * rows), FEWEST_ROWS))
    matrix, batch = FLOAT_BYTES * dim, BATCH * ranks
    return {
        "weight": rows * matrix,
        "momentum": rows * matrix,
        "gradient": active * matrix,
        "sampled weight and momentum": 0 if rate == 1 else 2 * active * matrix,
        "lengths and indices": active * (FLOAT_BYTES + (0 if rate == 1 else 2 * INDEX_BYTES)),
        "chunk": 2 * FLOAT_BYTES * batch * min(chunk, active),
        "batch": BATCH_COPIES * batch * matrix,
    }


def in_child(function: str, **arguments: Any) -> dict[str, int]:
    """What a function of this module returns in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.large_heads", "child", function, json.dumps(arguments)]
    answer: dict[str, int] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return answer


def compare_times(num_classes: int, dim: int, chunk: int, loss: str, rounds: int) -> dict[str, Any]:
    """Seconds of each form, and their ratio, over alternated rounds after one that is not counted."""
    head, given = CosineHead(dim, num_classes), loss_of(loss)
    embeddings, target = batch_of(num_classes, dim, BATCH)
    times: dict[str, list[float]] = {"plain": [], "chunked": []}
    for number in range(rounds + 1):
        forms = [("plain", None), ("chunked", chunk)]
        for name, size in forms if number % 2 else forms[::-1]:
            start = time.perf_counter()
            step(head, given, embeddings, target, size, None)
            if number:
                times[name].append(time.perf_counter() - start)
    ratios = [b / a for a, b in zip(times["plain"], times["chunked"], strict=True)]
    median = {f"{name}_s": statistics.median(values) for name, values in times.items()}
    ratio = median["chunked_s"] / median["plain_s"]
    return {**median, "ratio": ratio, "lowest_ratio": min(ratios), "highest_ratio": max(ratios), "rounds": rounds}


def compare_steps(arguments: argparse.Namespace) -> dict[str, Any]:
    """Print and return the comparison of the two forms, for each loss."""
    num_classes, dim, chunk = arguments.num_classes, arguments.dim, arguments.chunk
    print(f"{BATCH} x {num_classes:,} classes, dim {dim}, chunks of {chunk}; MiB above weights and embeddings\n")
    print(
        "| loss | time, chunked / plain | peak, plain | chunked | ratio | less the gradient, plain | chunked | ratio |"
    )
    print("|---|---|---|---|---|---|---|---|")
    results = {}
    for loss in arguments.losses:
        size = {"num_classes": num_classes, "dim": dim, "loss": loss}
        plain = in_child("step_memory", **size, chunk=None)
        chunked = in_child("step_memory", **size, chunk=chunk)
        times = in_child("compare_times", **size, chunk=chunk, rounds=arguments.rounds)
        a, b, gradient = (x / MIB for x in (plain["peak_bytes"], chunked["peak_bytes"], plain["gradient_bytes"]))
        spread = f"{times['ratio']:.2f} ({times['lowest_ratio']:.2f} to {times['highest_ratio']:.2f})"
        beside = f"{a - gradient:,.0f} | {b - gradient:,.0f} | {(b - gradient) / (a - gradient):.3f}"
        print(f"| `{loss}` | {spread} | {a:,.0f} | {b:,.0f} | {b / a:.3f} | {beside} |", flush=True)
        results[loss] = {"plain": plain, "chunked": chunked, "time": times}
    return {"num_classes": num_classes, "dim": dim, "chunk": chunk, "batch": BATCH, "losses": results}


def compare_ranks(arguments: argparse.Namespace) -> dict[str, Any]:
    """Print and return the memory of one rank: by the formula and, where it fits, measured."""
    dim, cases = arguments.dim, []
    print(f"MiB of one rank; dim {dim}, {BATCH} pictures a rank, chunks of {PRODUCTS:,} products\n")
    print("| identities | ranks | sample rate | chunk | weight + momentum | the rest | in all | measured |")
    print("|---|---|---|---|---|---|---|---|")
    for num_classes in IDENTITIES:
        for ranks in RANKS:
            for rate in RATES:
                case = {"num_classes": num_classes, "dim": dim, "ranks": ranks, "rate": rate}
                case["chunk"] = PRODUCTS // (BATCH * ranks)
                parts = rank_bytes(**case)
                whole, kept = sum(parts.values()) / MIB, (parts["weight"] + parts["momentum"]) / MIB
                found = in_child("rank_memory", **case)["peak_bytes"] if whole * MIB <= arguments.limit else None
                measured = f"{found / MIB:,.0f}" if found is not None else "-"
                row = f"| {num_classes:,} | {ranks} | {rate:g} | {case['chunk']:,} | {kept:,.0f}"
                print(f"{row} | {whole - kept:,.0f} | {whole:,.0f} | {measured} |", flush=True)
                cases.append({**case, "bytes": parts, "measured_bytes": found})
    return {"cases": cases}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    steps, ranks = commands.add_parser("step"), commands.add_parser("ranks")
    child = commands.add_parser("child")
    child.add_argument("function", choices=("step_memory", "rank_memory", "compare_times"))
    child.add_argument("arguments", type=json.loads)
    steps.add_argument("--dim", type=int, default=256)
    steps.add_argument("--num-classes", type=int, default=10**6)
    steps.add_argument("--chunk", type=int, default=8192)
    steps.add_argument("--rounds", type=int, default=5)
    names = ["global", *(name for name, cls in LOSSES.items() if not cls.needs_context)]
    steps.add_argument("--losses", nargs="+", choices=names, default=["global", "mv_am"])
    ranks.add_argument("--dim", type=int, default=512)
    ranks.add_argument("--limit", type=int, default=9 * 2**30, help="bytes that a measured rank may take")
    for command in (steps, ranks):
        command.add_argument("--output", type=Path, help="folder for the results as JSON, dated")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.command == "child":
        print(json.dumps(globals()[arguments.function](**arguments.arguments)))
        return
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    machine = f"{today}, torch {torch.__version__}, {platform.machine()}, 1 thread, float32"
    print(machine)
    result = (compare_steps if arguments.command == "step" else compare_ranks)(arguments)
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        name = f"{today}-{arguments.command}-dim{arguments.dim}.json"
        (arguments.output / name).write_text(json.dumps({"machine": machine, **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
