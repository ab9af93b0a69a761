"""Products in chunks and shards of classes against the dense form, for every loss."""

import threading
from collections import Counter

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn import functional

from search_space.am_lfs import AMLFS
from search_space.class_products import ONE_SHARD, ClassProducts, Shards
from search_space.loss import LossContext
from search_space.margins import AM, LOSSES, Softmax, VSoftmax
from search_space.modulation import log_odds, modulated_cross_entropy, target_and_rest, target_products
from search_space.spaces import LossParameters
from search_space.unified import Unified
from tests.search_space.slow_losses import VARIANTS, label

BATCH, CLASSES, DIM = 9, 23, 5
TARGET = torch.tensor([0, 4, 5, 5, 13, 13, 13, 22, 14])
SHARDS = ((23,), (9, 14), (3, 0, 12, 8), (1, 2, 2, 9, 9))
"""Rows of each shard. In the last, the third holds class 4 alone; in (3, 0, 12, 8), one has no class; and ..."""
NO_TARGET = (4, 2, 6, 11)
"""... here, the second and third hold 4 and 5, and 6 to 11: the third has no target."""
MORE = [
    LossParameters(scale=8, shift=(2.5,)),
    LossParameters(scale=8, shift=(0.5, 1.0, 2.0, 0.0, 3.0)),
    Unified(scale=8, m_arc=0.2, m_cos=0.1, t_hard=0.3, t_easy=-0.1, curriculum=0.7, gamma=1.5, momentum=0.4),
    Unified(scale=8, m_cos=0.1, t_hard=0.3, adaptive=False),
    Unified(scale=8),
    AMLFS(scale=8, t_slopes=(0.5, 1.2, 0.9), tau_slopes=(1.3, 0.7)),
]
ALL = [*VARIANTS, *MORE]


class Threads:
    """Shards of one process, one thread each; what they call is counted."""

    def __init__(self, num):
        self._barrier = threading.Barrier(num, timeout=60)
        self._slots = [None] * num
        self.calls = Counter()

    def member(self, index):
        return _Thread(self, index)

    def reduce_(self, index, tensor, reduce):
        self.calls[reduce.__name__] += 1
        self._slots[index] = tensor.clone()
        self._barrier.wait()
        result = reduce(torch.stack(self._slots))
        self._barrier.wait()
        tensor.copy_(result)

    def run(self, work):
        """Results of `work(index)` of every shard."""
        results = [None] * len(self._slots)

        def call(index):
            try:
                results[index] = work(index)
            except BaseException as error:
                results[index] = error
                self._barrier.abort()

        threads = [threading.Thread(target=call, args=(index,)) for index in range(len(results))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results


class _Thread(Shards):
    def __init__(self, together, index):
        self._together, self._index = together, index

    def sum_(self, tensor):
        self._together.reduce_(self._index, tensor, total)

    def max_(self, tensor):
        self._together.reduce_(self._index, tensor, highest)


def total(stack):
    return stack.sum(0)


def highest(stack):
    return stack.amax(0)


class Gloo(Shards):
    """Shards in processes of their own."""

    def __init__(self, group):
        self._group = group

    def sum_(self, tensor):
        dist.all_reduce(tensor, group=self._group)

    def max_(self, tensor):
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._group)


def made(dtype=torch.float64, seed=0):
    """Embeddings near and far from their classes; weights of several lengths."""
    generator = np.random.default_rng(seed)
    weight = generator.standard_normal((CLASSES, DIM)) * generator.uniform(0.3, 2, (CLASSES, 1))
    pull = np.linspace(-3, 2, BATCH)[:, None]
    embeddings = 0.7 * generator.standard_normal((BATCH, DIM)) + pull * weight[TARGET.numpy()] / 2
    return torch.from_numpy(embeddings).to(dtype), torch.from_numpy(weight).to(dtype)


def outcome(loss, embeddings, weight, products_of, norms_of):
    """Losses [batch], gradients of embeddings and weight, and the state after it.

    Args:
        products_of: (embeddings, weight) -> the first argument of the loss.
        norms_of: (products, weight) -> lengths of the targets' weights.
    """
    x, w = embeddings.clone().requires_grad_(), weight.clone().requires_grad_()
    norms = x.norm(dim=1)
    products = products_of(functional.normalize(x) if loss.normalise_embedding else x, w)
    state = {name: value.to(x.dtype) for name, value in loss.initial_state().items()}
    context = LossContext(norms=norms, target_norms=norms_of(products, w), step=7, seed=5, state=state)
    values = loss.per_sample(products, TARGET, context)
    (values * torch.linspace(0.5, 2, BATCH, dtype=x.dtype)).sum().backward()
    return {"values": values.detach(), "embeddings": x.grad, "weight": w.grad, **state}


def dense(loss, embeddings, weight):
    def products_of(x, w):
        return x @ (functional.normalize(w) if loss.normalise_weight else w).T

    return outcome(loss, embeddings, weight, products_of, lambda _, w: w.norm(dim=1)[TARGET])


def of_shard(loss, embeddings, weight, sizes, index, shards, chunk, numbered=False):
    """What one shard sees."""
    first = sum(sizes[:index])
    rows = slice(first, first + sizes[index])
    classes = torch.arange(CLASSES)[rows] if numbered else None

    def products_of(x, w):
        return ClassProducts(
            embeddings=x, weight=w, normalise_weight=loss.normalise_weight, num_classes=CLASSES,
            first=0 if numbered else first, classes=classes, chunk=chunk, shards=shards,
        )  # fmt: skip

    return outcome(loss, embeddings, weight[rows], products_of, lambda p, _: p.target_norms(TARGET))


def assert_same(found, expected, rows=slice(None), rtol=1e-10, atol=1e-11):
    expected = {**expected, "weight": expected["weight"][rows]}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


def test_all_losses_are_here():
    assert {loss.name for loss in ALL} == {*LOSSES, LossParameters.name, Unified.name, AMLFS.name}


@pytest.mark.parametrize("loss", ALL, ids=label)
@pytest.mark.parametrize("chunk", [1, 4, 23, 1000])
def test_chunks_equal_the_dense_form(loss, chunk):
    embeddings, weight = made()
    found = of_shard(loss, embeddings, weight, (CLASSES,), 0, ONE_SHARD, chunk)
    assert_same(found, dense(loss, embeddings, weight))


@pytest.mark.parametrize("loss", ALL, ids=label)
def test_float32_stays_within_its_rounding(loss):
    embeddings, weight = made()
    exact = dense(loss, embeddings, weight)
    found = of_shard(loss, embeddings.float(), weight.float(), (CLASSES,), 0, ONE_SHARD, 4)
    found = {name: value.double() for name, value in found.items()}
    assert_same(found, exact, rtol=2e-5, atol=2e-5 * exact["embeddings"].abs().max().item())


@pytest.mark.parametrize("loss", ALL, ids=label)
@pytest.mark.parametrize("sizes", [*SHARDS, NO_TARGET], ids=str)
def test_shards_equal_the_dense_form(loss, sizes):
    embeddings, weight = made()
    expected = dense(loss, embeddings, weight)
    together = Threads(len(sizes))
    found = together.run(
        lambda i: of_shard(loss, embeddings, weight, sizes, i, together.member(i), 4, numbered=bool(i % 2))
    )
    for index, (result, size) in enumerate(zip(found, sizes, strict=True)):
        assert_same(result, expected, slice(sum(sizes[:index]), sum(sizes[:index]) + size))
        for name in {*result} - {"weight"}:
            assert torch.equal(result[name], found[0][name]), name


def gloo_rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=3)
    embeddings, weight = made()
    for sizes in ((9, 14), (4, 8, 11)):
        group = dist.new_group(list(range(len(sizes))))
        if rank >= len(sizes):
            continue
        first = sum(sizes[:rank])
        for loss in {loss.name: loss for loss in ALL}.values():
            found = of_shard(loss, embeddings, weight, sizes, rank, Gloo(group), 4)
            assert_same(found, dense(loss, embeddings, weight), slice(first, first + sizes[rank]))
    dist.destroy_process_group()


def test_two_and_three_processes_equal_the_dense_form(tmp_path):
    mp.spawn(gloo_rank, (str(tmp_path),), nprocs=3)


def whole(embeddings, weight, **changes):
    given = {"embeddings": embeddings, "weight": weight, "num_classes": len(weight), "chunk": 4, **changes}
    return ClassProducts(**given)


def test_a_sample_of_the_classes_is_a_head_of_those_classes():
    embeddings, weight = made()
    classes = torch.tensor([0, 2, 4, 5, 9, 13, 14, 20, 22])
    sample = whole(embeddings, weight[classes], classes=classes, num_classes=CLASSES)
    alone = whole(embeddings, weight[classes])
    for found, expected in zip(
        target_and_rest(sample, TARGET, scale=8.0),
        target_and_rest(alone, torch.searchsorted(classes, TARGET), scale=8.0),
        strict=True,
    ):
        assert torch.equal(found, expected)
    assert sample.shape == (BATCH, CLASSES)


def test_backward_runs_again_with_the_same_bits_and_sees_the_state_of_its_forward():
    embeddings, weight = made()
    embeddings.requires_grad_()
    loss = Unified(scale=8, t_hard=0.3, curriculum=0.7, momentum=0.4)
    state = {"t": torch.tensor(0.2, dtype=torch.float64)}
    context = LossContext(norms=torch.ones(BATCH), target_norms=torch.ones(BATCH), state=state)
    value = loss(whole(embeddings, weight), TARGET, context)
    [first] = torch.autograd.grad(value, embeddings, retain_graph=True)
    state["t"].fill_(-5)
    [again] = torch.autograd.grad(value, embeddings)
    assert torch.equal(first, again)


def test_a_weight_without_length_gets_the_gradient_of_normalize():
    embeddings, weight = made()
    weight[6], weight[7] = 0, weight[7] * 1e-14
    loss = AM(scale=8)
    found = of_shard(loss, embeddings, weight, (CLASSES,), 0, ONE_SHARD, 4)
    assert found["weight"][6].abs().max() > 1e9
    assert_same(found, dense(loss, embeddings, weight))


@pytest.mark.parametrize("scale", [64.0, 350.0])
def test_large_scales_neither_overflow_nor_lose_small_losses(scale):
    _, weight = made()
    for sign in (1, -1):  # every sample at its class, and opposite of it
        x = sign * functional.normalize(weight[TARGET])
        loss = AM(scale=scale, margin=0.0)
        found = of_shard(loss, x.float(), weight.float(), (CLASSES,), 0, ONE_SHARD, 4)
        expected = dense(loss, x, weight)
        torch.testing.assert_close(found["values"].double(), expected["values"], rtol=1e-4, atol=1e-37)
        assert found["weight"].isfinite().all()


def test_nan_comes_through():
    embeddings, weight = made()
    weight[21] = torch.nan
    assert AM(scale=8).per_sample(whole(embeddings, weight), TARGET).isnan().all()


def test_only_what_is_asked_for_has_a_gradient():
    embeddings, weight = made()
    AM(scale=8)(whole(embeddings.requires_grad_(), weight), TARGET).backward()
    assert embeddings.grad is not None
    assert weight.grad is None
    embeddings, weight = made()
    AM(scale=8)(whole(embeddings, weight.requires_grad_()), TARGET).backward()
    assert embeddings.grad is None
    assert weight.grad is not None


def test_autocast_changes_nothing():
    embeddings, weight = (t.float() for t in made())
    embeddings.requires_grad_()
    loss = LossParameters(scale=8, shift=(2.5,))
    [expected] = torch.autograd.grad(loss(whole(embeddings, weight), TARGET), embeddings)
    with torch.autocast("cpu", torch.bfloat16):
        [found] = torch.autograd.grad(loss(whole(embeddings, weight), TARGET), embeddings)
    assert torch.equal(found, expected)


def test_the_functional_form_takes_them_too():
    embeddings, weight = made()
    logits = embeddings @ functional.normalize(weight).T
    products = whole(embeddings, weight)
    torch.testing.assert_close(
        modulated_cross_entropy(products, TARGET, [2.5], scale=8.0),
        modulated_cross_entropy(logits, TARGET, [2.5], scale=8.0),
    )
    torch.testing.assert_close(target_products(products, TARGET), target_products(logits, TARGET))


def test_no_loss_makes_all_products():
    """A chunk is all that is ever there: nothing of [batch, classes] in forward or backward."""
    embeddings, weight = made()
    widest = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, tuple | list) else [result]:
                if isinstance(tensor, torch.Tensor) and tensor.ndim == 2 and tensor.shape[0] == BATCH:
                    widest.append(tensor.shape[1])
            return result

    for loss in ALL:
        with Watch():
            of_shard(loss, embeddings, weight, (CLASSES,), 0, ONE_SHARD, 6)
    assert max(widest) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunk": 0}, "expected a chunk of at least 1 class, got 0"),
        ({"weight": torch.zeros(23, 4, dtype=torch.float64)}, "expected embeddings .*got .*(9, 5).*(23, 4)"),
        ({"classes": torch.arange(22)}, "expected embeddings .*(22,)"),
        ({"weight": torch.zeros(23, 5)}, "both float32 or both float64, got torch.float64 and torch.float32"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    embeddings, weight = made()
    weight = changes.pop("weight", weight)
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        whole(embeddings, weight, **changes)


def test_targets_must_fit():
    with pytest.raises(ValueError, match="expected logits"):
        log_odds(whole(*made()), TARGET[:4], scale=1.0)
    embeddings, weight = made()
    with pytest.raises(ValueError, match="classes >= 2"):
        Softmax().per_sample(whole(embeddings, weight[:1]), TARGET * 0)


def test_the_length_of_a_class_gets_its_gradient_where_it_is():
    embeddings, weight = made()
    expected = dense(VSoftmax(), embeddings, weight)["weight"]
    sizes = (9, 14)
    together = Threads(2)
    found = together.run(lambda i: of_shard(VSoftmax(), embeddings, weight, sizes, i, together.member(i), 4))
    torch.testing.assert_close(torch.cat([result["weight"] for result in found]), expected)
