"""A trainer's head in chunks and of sampled classes, against the plain one."""

import numpy as np
import pytest

from search_space.config import LossConfig
from search_space.errors import UserError
from search_space.margins import make_loss
from tests.trainers.small_trainer import candidate, digest, make_trainer
from trainers.candidate import Candidate, Weights
from trainers.config import TrainerConfig


def assert_close(a: Weights, b: Weights) -> None:
    assert a.keys() == b.keys()
    for name, array in a.items():
        np.testing.assert_allclose(array, b[name], rtol=2e-3, atol=2e-4, err_msg=name)


@pytest.mark.parametrize("name", ["am", "v_softmax", "curricular"])
@pytest.mark.parametrize("changes", [{"head_chunk": 3}, {"head_chunk": 100}, {"sample_rate": 0.99}])
def test_a_head_in_chunks_or_of_all_sampled_trains_as_the_plain_one(faces, trainer, name, changes):
    loss = make_loss(LossConfig(name=name), scale=8.0)
    base = trainer.run(candidate()).weights
    given = Candidate(generation=1, index=0, loss=loss)
    plain, other = trainer.run(given, base), make_trainer(faces, **changes).run(given, base)
    assert_close(other.weights, plain.weights)
    assert other.metrics["train_loss"] == pytest.approx(plain.metrics["train_loss"], rel=1e-4)


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_only_sampled_classes_move(faces, momentum):
    trainer = make_trainer(faces, sample_rate=0.3, batch_size=2, generation_length=2, momentum=momentum)
    base = trainer.run(candidate()).weights
    result = trainer.run(candidate(generation=1), base)
    names = ["head.weight"] + ["momentum.head.weight"] * bool(momentum)
    moved = [(result.weights[name] != base[name]).any(1) for name in names]
    assert 2 <= moved[0].sum() <= 6  # of 10
    assert all((rows == moved[0]).all() for rows in moved)


def test_sampling_depends_on_nothing_else(faces):
    trainer = make_trainer(faces, sample_rate=0.3, batch_size=2, head_chunk=2)
    first = [digest(trainer.run(candidate(margin))) for margin in (0.0, 0.3)]
    assert digest(make_trainer(faces, sample_rate=0.3, batch_size=2, head_chunk=2).run(candidate(0.3))) == first[1]
    assert digest(make_trainer(faces, sample_rate=0.5, batch_size=2, head_chunk=2).run(candidate(0.3))) != first[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_chunk": -1}, "head_chunk must be >= 0"),
        ({"sample_rate": 0.0}, r"sample_rate must be in \(0, 1\], got 0.0"),
        ({"sample_rate": 1.1}, r"sample_rate must be in \(0, 1\], got 1.1"),
    ],
)
def test_large_head_settings_are_checked(changes, message):
    with pytest.raises(UserError, match=message):
        TrainerConfig(**changes)
