"""When a trainer tells of its progress."""

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import GetTimeoutError

from lfs import trainable
from lfs.messages import Lease
from lfs.trainable import Progress, UnwantedError, phase


def trainer(remote: Callable[..., Any], *, number: int = 0, ranks: int = 1) -> Any:
    """A trainer whose messages of progress go to `remote`."""
    return SimpleNamespace(
        controller=SimpleNamespace(progress=SimpleNamespace(remote=remote)), label="t", number=number,
        trainer=SimpleNamespace(config=SimpleNamespace(batch_size=32)), team=SimpleNamespace(size=ranks),
    )  # fmt: skip


def sent_at(number: int, progress_s: float, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Times of the messages of one candidate of 60 steps, one a second."""
    clock, sent = [100.0], []

    def remote(label: str, generation: int, index: int, done: int, total: int, images_per_s: float) -> None:
        assert (label, generation, index, total, images_per_s) == ("t", 7, 3, 60, pytest.approx(32))
        sent.append(clock[0] - 100)

    monkeypatch.setattr(trainable.time, "monotonic", lambda: clock[0])
    progress = Progress(
        trainer(remote, number=number), Lease(kind="train", generation=7, index=3, progress_s=progress_s)
    )
    for step in range(1, 61):
        clock[0] += 1
        progress(step, 60)
    return sent


def test_messages_come_as_often_as_the_lease_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sent_at(0, 2.0, monkeypatch) == list(range(2, 61, 2))
    assert sent_at(0, 25.0, monkeypatch) == [25, 50]


def test_messages_of_many_trainers_come_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    first = [sent_at(number, 10.0, monkeypatch)[0] for number in range(100)]
    assert all(9 <= first.count(second) <= 11 for second in range(1, 11))
    phases = sorted(phase(number) for number in range(1000))
    assert max(b - a for a, b in itertools.pairwise(phases)) < 0.003


@pytest.mark.parametrize(("ranks", "answer", "gives_up"), [(1, False, True), (1, True, False), (2, False, False)])
def test_a_candidate_that_nobody_wants_any_more_is_given_up_by_a_trainer_of_one_rank(
    ranks: int, answer: bool, gives_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def get(reference: Any, timeout: float) -> Any:
        assert timeout == 0
        return reference

    monkeypatch.setattr(trainable.ray, "get", get)
    progress = Progress(trainer(lambda *_: answer, ranks=ranks), Lease(kind="train", progress_s=0.0))
    progress(1, 60)
    if gives_up:
        with pytest.raises(UnwantedError):
            progress(2, 60)
    else:
        progress(2, 60)


def test_without_an_answer_a_candidate_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(reference: Any, timeout: float) -> Any:
        raise GetTimeoutError

    monkeypatch.setattr(trainable.ray, "get", get)
    progress = Progress(trainer(lambda *_: None), Lease(kind="train", progress_s=0.0))
    progress.answer = object()
    progress(1, 60)
