"""When a trainer tells of its progress."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from lfs import trainable
from lfs.trainable import Progress, phase


def sent_at(number: int, progress_s: float, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Times of the messages of one candidate of 60 steps, one a second."""
    clock, sent = [100.0], []

    def remote(label: str, done: int, total: int, images_per_s: float) -> None:
        assert (label, total, images_per_s) == ("t", 60, pytest.approx(32))
        sent.append(clock[0] - 100)

    controller: Any = SimpleNamespace(progress=SimpleNamespace(remote=remote))
    network = SimpleNamespace(config=SimpleNamespace(batch_size=32))
    monkeypatch.setattr(trainable.time, "monotonic", lambda: clock[0])
    progress = Progress(SimpleNamespace(controller=controller, label="t", number=number, trainer=network), progress_s)  # type: ignore[arg-type]
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
