"""Partial FC: which classes take part in a step, and that the others stay as they are."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from search_space.config import LossConfig
from search_space.loss import LossContext
from search_space.margins import AM, LOSSES, make_loss
from trainers.class_sampler import ClassSampler, sampled_rows
from trainers.heads import CosineHead

LR, MOMENTUM, DECAY = 0.1, 0.9, 5e-2


@given(
    num_rows=st.integers(0, 200),
    rate=st.floats(0.001, 1),
    chosen=st.sets(st.integers(0, 199)),
    seed=st.integers(0, 2**63),
    step=st.integers(0, 10**7),
)
def test_positives_are_in_and_the_count_is_right(num_rows, rate, chosen, seed, step):
    positives = np.array(sorted(row for row in chosen if row < num_rows), dtype=np.int64)
    rows = sampled_rows(positives, num_rows, rate, seed=seed, step=step, rank=0)
    assert len(rows) == max(len(positives), min(num_rows, max(2, round(rate * num_rows))))
    assert (np.diff(rows) > 0).all()
    assert rows.dtype == np.int64
    assert set(positives) <= set(rows) <= set(range(num_rows))


def test_the_sample_hangs_on_seed_step_and_shard_alone():
    def draw(seed=1, step=2, rank=3):
        return sampled_rows(np.array([4, 50]), 1000, 0.1, seed=seed, step=step, rank=rank).tolist()

    np.random.seed(0)
    torch.manual_seed(0)
    first = draw()
    assert draw() == first
    assert all(draw(**{key: 9}) != first for key in ("seed", "step", "rank"))


def test_the_sample_is_the_same_everywhere_for_ever():
    rows = sampled_rows(np.array([3]), 1000, 0.005, seed=1, step=2, rank=3)
    assert rows.tolist() == [3, 127, 301, 384, 476]


def test_every_negative_is_drawn_about_equally_often():
    positives, num_rows, draws = np.array([0, 1, 7, 19, 30]), 31, 4000
    counts = np.zeros(num_rows)
    for step in range(draws):
        counts[sampled_rows(positives, num_rows, 0.5, seed=0, step=step, rank=0)] += 1
    assert (counts[positives] == draws).all()
    negatives = np.delete(counts, positives)
    expected = draws * (16 - 5) / (31 - 5)  # round(15.5) is 16
    spread = np.sqrt(draws * (11 / 26) * (15 / 26))
    assert np.abs(negatives - expected).max() < 4 * spread
    assert 0.4 < negatives.std() / spread < 1.7  # random it is, not a round robin


def made(rate, *, momentum=MOMENTUM, num_classes=40, **shard):
    """A head, its optimizer with momentum from an earlier life, and the sampler."""
    head = CosineHead(6, num_classes, seed=1, **shard)
    optimizer = torch.optim.SGD(
        [{"params": [head.weight], "weight_decay": DECAY}], lr=LR, momentum=momentum, fused=True
    )
    if momentum:
        buffer = torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(2)) * 0.01
        optimizer.state[head.weight]["momentum_buffer"] = buffer
    sampler = ClassSampler(head.weight, optimizer, rate=rate, first=head.classes.start, rank=shard.get("rank", 0))
    return head, optimizer, sampler


def slow_step(loss, weight, buffer, rows, embeddings, target, momentum, lr):
    """Plain SGD on the classes `rows` alone, in float64; changes both in place."""
    w = weight[rows].double().requires_grad_()
    x = embeddings.double()
    left = functional.normalize(x) if loss.normalise_embedding else x
    right = functional.normalize(w) if loss.normalise_weight else w
    own = torch.searchsorted(rows, target)
    state = {name: value.double() for name, value in loss.initial_state().items()}
    context = LossContext(norms=x.norm(dim=1), target_norms=w.norm(dim=1)[own], state=state)
    value = loss(left @ right.T, own, context)
    [gradient] = torch.autograd.grad(value, w)
    for i, row in enumerate(rows.tolist()):
        buffer[row] = momentum * buffer[row] + gradient[i] + DECAY * weight[row]
        weight[row] = weight[row] - lr * buffer[row]
    return value.detach()


@pytest.mark.parametrize("momentum", [MOMENTUM, 0.0])
@pytest.mark.parametrize("name", sorted({*LOSSES} - {"adacos"}))  # whose scale hangs on all classes, sampled or not
def test_sampled_rows_move_as_those_of_a_head_of_their_own(name, momentum):
    loss = make_loss(LossConfig(name=name), scale=8.0)
    head, optimizer, sampler = made(0.3, momentum=momentum)
    buffer = optimizer.state[head.weight].get("momentum_buffer", torch.zeros_like(head.weight))
    slow_weight, slow_buffer = head.weight.detach().double(), buffer.double()
    generator = torch.Generator().manual_seed(3)
    ever = torch.zeros(40, dtype=torch.bool)
    before = head.weight.detach().clone(), buffer.clone()
    for step in range(3):
        embeddings, target = torch.randn(8, 6, generator=generator), torch.randint(0, 20, (8,), generator=generator)
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = LR / (1 + step)
        sample = sampler.take(target, step, 5)
        left, right = loss.normalise_embedding, loss.normalise_weight
        products = head.products(embeddings, normalise_embedding=left, normalise_weight=right, chunk=5, sample=sample)
        target_norms = products.target_norms(target)
        context = LossContext(norms=embeddings.norm(dim=1), target_norms=target_norms, state=loss.initial_state())
        value = loss(products, target, context)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        sampler.give_back()
        rows = sample.classes
        assert len(rows) == 12
        ever[rows] = True
        expected = slow_step(loss, slow_weight, slow_buffer, rows, embeddings, target, momentum, LR / (1 + step))
        torch.testing.assert_close(value.detach().double(), expected, rtol=1e-4, atol=1e-5)
    assert 12 < ever.sum() < 40
    torch.testing.assert_close(head.weight.detach().double(), slow_weight, rtol=1e-3, atol=1e-5)
    assert torch.equal(head.weight.detach()[~ever], before[0][~ever])
    assert not (head.weight.detach()[ever] == before[0][ever]).all(1).any()
    if momentum:
        torch.testing.assert_close(buffer.double(), slow_buffer, rtol=1e-3, atol=1e-4)
        assert torch.equal(buffer[~ever], before[1][~ever])
    assert head.weight.grad is None
    assert all(parameter is head.weight for parameter in optimizer.state)  # nothing is left of the samples


def test_a_shard_takes_its_own_positives_and_numbers_them_as_the_whole():
    target = torch.tensor([0, 12, 13, 14, 26, 39])
    whole = CosineHead(6, 40, seed=1).weight
    for rank, own in enumerate(([0, 12], [13, 14], [26, 39])):
        head, _, sampler = made(0.2, rank=rank, size=3)
        sample = sampler.take(target, 0, 5)
        assert set(own) <= set(sample.classes.tolist())
        assert len(sample.classes) == 3
        assert head.classes.start <= sample.classes.min()
        assert sample.classes.max() < head.classes.stop
        assert torch.equal(sample.weight, whole[sample.classes])


def test_a_shard_without_a_target_takes_others():
    _, _, sampler = made(0.25, rank=1, size=2)
    assert len(sampler.take(torch.tensor([0, 1]), 0, 5).classes) == 5


def test_one_class_in_the_batch_still_has_one_to_be_told_from():
    _, _, sampler = made(0.001)
    assert len(sampler.take(torch.tensor([7, 7]), 0, 5).classes) == 2


def test_a_step_that_the_optimizer_leaves_out_changes_nothing():
    head, optimizer, sampler = made(0.3)
    before = head.weight.detach().clone(), optimizer.state[head.weight]["momentum_buffer"].clone()
    sampler.take(torch.tensor([3]), 0, 5)
    sampler.give_back()
    assert torch.equal(head.weight, before[0])
    assert torch.equal(optimizer.state[head.weight]["momentum_buffer"], before[1])


def test_a_skipped_step_of_the_scaler_changes_nothing():
    head, optimizer, sampler = made(0.3)
    before = head.weight.detach().clone()
    target = torch.tensor([3, 8])
    sample = sampler.take(target, 0, 5)
    scaler = torch.amp.GradScaler("cpu")
    value = AM()(head.products(torch.full((2, 6), torch.inf), normalise_embedding=False, sample=sample), target)
    scaler.scale(value).backward()
    scaler.step(optimizer)
    sampler.give_back()
    assert torch.equal(head.weight, before)
