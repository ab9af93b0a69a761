"""Time of one forward and backward of every loss beside plain cross-entropy, in one process, on one thread.

    python -m benchmarks.loss_speed [searched | fixed]

Every row is a ratio of medians over interleaved repetitions of the same run. The baseline of a row is
`torch.nn.functional.cross_entropy` on the same tensor. `cosines` rows include the multiplication by the scale s, on
both sides; `logits` rows have it done before. `naive` is softmax -> modulate -> log -> nll, as published.

The hand-crafted losses run at their defaults on cosines, their baseline is `cross_entropy(s * cosines)`. What they want
to know about the embeddings is made once, before; its gradient is part of their time.
"""

import argparse
import platform
import random
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from search_space.config import LossConfig, SpaceConfig
from search_space.loss import Loss, LossContext
from search_space.margins import LOSSES, make_loss
from search_space.modulation import modulated_cross_entropy, probability_bin
from search_space.policy import ask
from search_space.spaces import get_space

LossFunction = Callable[[Tensor, Tensor], Tensor]

BATCH = 128
NUM_CLASSES = (10_000, 72_690)  # a round number, and the identities of MS-Celeb-1M-v1c-R
SCALE = 32.0


def naive(logits: Tensor, target: Tensor, shift: Tensor) -> Tensor:
    """Modulated softmax the obvious way."""
    p = logits.softmax(1)  # [batch, classes]
    own = p.gather(1, target[:, None])  # [batch, 1]
    a = 1 - shift.exp()[probability_bin(own.detach(), len(shift))]
    own = own / (a * own + 1 - a)
    return functional.nll_loss(p.scatter(1, target[:, None], own).log(), target)


def functional_form(logits: Tensor, target: Tensor, shift: Tensor) -> Tensor:
    """The identity in stock operations: lower the target logit, then cross-entropy."""
    own = shift[0].expand(len(target))
    if len(shift) > 1:
        with torch.no_grad():
            p = (logits.gather(1, target[:, None])[:, 0] - logits.logsumexp(1)).exp()
            own = shift[probability_bin(p, len(shift))]
    return functional.cross_entropy(logits.scatter_add(1, target[:, None], -own[:, None]), target)


def contestants(space: str, scale: float) -> dict[str, LossFunction]:
    """The losses of one row, baseline first; all see `scale * tensor`."""
    searched = get_space(SpaceConfig(name=space, scale=SCALE))
    [action] = ask(searched.initial_policy(), 1, seed=0, generation=0)
    shift = torch.tensor(searched.decode(action).shift)

    def scaled(x: Tensor) -> Tensor:
        return x if scale == 1 else scale * x

    return {
        "cross_entropy": lambda x, y: functional.cross_entropy(scaled(x), y),
        "ours": lambda x, y: modulated_cross_entropy(x, y, shift, scale=scale),
        "functional": lambda x, y: functional_form(scaled(x), y, shift),
        "naive": lambda x, y: naive(scaled(x), y, shift),
    }


def step_s(loss: LossFunction, x: Tensor, target: Tensor) -> float:
    """Seconds of one forward and backward."""
    x.grad = None
    start = time.perf_counter()
    loss(x, target).backward()  # type: ignore[no-untyped-call]
    return time.perf_counter() - start


def medians_s(losses: dict[str, LossFunction], x: Tensor, target: Tensor, repeats: int) -> dict[str, float]:
    """Median seconds of each loss; one repetition runs all of them, in an order of its own, as each finds the memory
    that the one before has freed; after two that are not counted."""
    times: dict[str, list[float]] = {name: [] for name in losses}
    for repeat in range(repeats + 2):
        for name, loss in random.Random(repeat).sample(list(losses.items()), len(losses)):
            seconds = step_s(loss, x, target)
            if repeat >= 2:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def fixed_contestants() -> dict[str, LossFunction]:
    """The baseline, every hand-crafted loss, and the first losses of two spaces; all see cosines."""

    def bound(loss: Loss) -> LossFunction:
        norms, target_norms = torch.full((BATCH,), 20.0), torch.full((BATCH,), 2.0)
        context = LossContext(norms=norms.requires_grad_(), target_norms=target_norms.requires_grad_())
        context.state = loss.initial_state()
        return lambda x, y: loss(x, y, context)

    baseline = {"cross_entropy": lambda x, y: functional.cross_entropy(SCALE * x, y)}
    spaces = {name: get_space(SpaceConfig(name=name, scale=SCALE)) for name in ("am_lfs", "unified")}
    first = {name: bound(space.decode(space.initial_policy().mean)) for name, space in spaces.items()}
    return {**baseline, **{n: bound(make_loss(LossConfig(name=n), scale=SCALE)) for n in LOSSES}, **first}


def compare_fixed(seconds: float, generator: torch.Generator) -> None:
    """Print the table of the hand-crafted losses."""
    num_classes = NUM_CLASSES[0]
    cosines = torch.rand(BATCH, num_classes, generator=generator) * 2 - 1
    target = torch.randint(num_classes, (BATCH,), generator=generator)
    # Hard and easy classes beside each other; a mask costs the same wherever it holds.
    x = (0.3 * cosines).scatter_(1, target[:, None], torch.rand(BATCH, 1, generator=generator)).requires_grad_()
    losses = fixed_contestants()
    repeats = max(5, round(seconds * 4 / sum(medians_s(losses, x, target, 3).values())))
    median = medians_s(losses, x, target, repeats)
    base = median.pop("cross_entropy")
    print(f"{BATCH} x {num_classes}, hand-crafted; cross_entropy {1e3 * base:.2f} ms, {repeats} repeats")
    for name, value in median.items():
        print(f"{name:>14} {value / base:.2f}", flush=True)


def compare_searched(seconds: float, generator: torch.Generator) -> None:
    """Print the table of the searched loss."""
    print(f"{'batch x classes':>15} {'input':>8} {'form':>7} {'cross_entropy':>14} ours  functional  naive  repeats")
    for num_classes in NUM_CLASSES:
        cosines = torch.rand(BATCH, num_classes, generator=generator) * 2 - 1
        target = torch.randint(num_classes, (BATCH,), generator=generator)
        for given, scale in (("logits", 1.0), ("cosines", SCALE)):
            x = (cosines * (SCALE / scale)).requires_grad_()
            for space in ("global", "local"):
                losses = contestants(space, scale)
                repeats = max(5, round(seconds / sum(medians_s(losses, x, target, 3).values())))
                median = medians_s(losses, x, target, repeats)
                base = median["cross_entropy"]
                ours, stock, plain = (median[name] / base for name in ("ours", "functional", "naive"))
                row = f"{BATCH:>8} x {num_classes:<6} {given:>6} {space:>7} {1e3 * base:>11.2f} ms {ours:.2f}"
                print(f"{row} {stock:>9.2f} {plain:>8.2f} {repeats:>7}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="time for each row (default: %(default)s)")
    parser.add_argument("which", nargs="?", choices=("searched", "fixed"), help="losses to time (default: both)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.machine()}, 1 thread, float32, forward + backward; ratios of medians")
    for which, compare in (("searched", compare_searched), ("fixed", compare_fixed)):
        if arguments.which in (None, which):
            compare(arguments.seconds, torch.Generator().manual_seed(0))


if __name__ == "__main__":
    main()
