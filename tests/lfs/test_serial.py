"""A run in one process: the same bits whether it is stopped, resumed, started from another run or replayed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lfs.board import begins_at, pinned, started
from lfs.config import SearchConfig
from lfs.options import build
from lfs.run_store import RunStore, start_of
from lfs.serial import SerialRun
from search_space.config import LossConfig
from search_space.errors import UserError
from trainers.config import TrainerConfig

Make = Callable[..., RunStore]


def quiet(_: dict[str, Any]) -> None:
    """Shows nothing."""


@pytest.fixture
def make(recipe_file: Callable[..., str], tmp_path: Path) -> Make:
    """Makes run directories of the small recipe, with changes."""

    def made(name: str, **changes: Any) -> RunStore:
        config = build(SearchConfig, recipe_file(generations=3, population_size=2), {})
        trainer = replace(config.trainer, generation_length=12)
        config = replace(config, trainer=trainer, storage=str(tmp_path), name=name)
        store = RunStore(str(tmp_path / name))
        store.create(replace(config, **changes))
        return store

    return made


def fixed(name: str, **parameters: float) -> dict[str, Any]:
    """Settings of a training with one loss."""
    return {"mode": "fixed", "loss": LossConfig(name=name, **parameters)}


def weights_of(store: RunStore) -> dict[str, Any]:
    return store.load_weights(store.committed()[-1])


def assert_same(a: RunStore, b: RunStore) -> None:
    assert a.committed() == b.committed()
    ours, theirs = weights_of(a), weights_of(b)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert a.load_result() == b.load_result()


@pytest.mark.parametrize("changes", [{"mode": "search"}, {"mode": "random"}, fixed("curricular")], ids=str)
def test_stopped_and_resumed_is_the_same_as_left_alone(make: Make, changes: dict[str, Any]) -> None:
    alone, stopped = make("alone", **changes), make("stopped", **changes)
    status = SerialRun(alone).run(quiet)
    assert status["finished"]
    first = SerialRun(stopped)
    first.stop_asked.set()
    assert first.run(quiet)["generation"] == 1
    assert stopped.load_result() is None
    SerialRun(stopped).run(quiet)
    assert_same(alone, stopped)


def test_the_state_of_a_loss_is_stored_and_inherited(make: Make) -> None:
    store = make("run", **fixed("curricular"))
    SerialRun(store).run(quiet)
    states = [store.load_weights(g)["loss.t"] for g in store.committed()]
    assert len(set(map(float, states))) == 3


def test_a_replayed_search_gives_the_winner_again(make: Make) -> None:
    search = make("search")
    SerialRun(search).run(quiet)
    losses = [summary["winner_loss"] for summary in search.summaries()]
    assert len({str(loss) for loss in losses}) > 1
    replay = make("replay", mode="fixed", schedule=tuple(losses))
    SerialRun(replay).run(quiet)
    ours, theirs = weights_of(replay), weights_of(search)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    assert (replay.load_result() or {})["test"] == (search.load_result() or {})["test"]
    assert (replay.load_result() or {})["num_images"] < (search.load_result() or {})["num_images"]


def test_the_last_loss_of_a_schedule_goes_on_to_the_end(make: Make) -> None:
    am = {"loss": "am", "scale": 32.0, "margin": 0.2}
    run = make("run", mode="fixed", schedule=(am,))
    SerialRun(run).run(quiet)
    plain = make("plain", **fixed("am", margin=0.2))
    SerialRun(plain).run(quiet)
    assert_same(run, plain)


def test_another_order_starts_from_the_same_weights_and_ends_elsewhere(make: Make) -> None:
    orders = [make(f"order{order}", order=order, **fixed("am", margin=0.1)) for order in (0, 1, 1)[:2]]
    for store in orders:
        SerialRun(store).run(quiet)
    a, b = map(weights_of, orders)
    assert any(not np.array_equal(a[name], b[name]) for name in a)
    first = [SerialRun(store).trainer.initial_weights() for store in orders]
    assert all(np.array_equal(first[0][name], first[1][name]) for name in first[0])


def test_a_run_goes_on_from_another_one(make: Make) -> None:
    whole = make("whole", **fixed("am", margin=0.2))
    SerialRun(whole).run(quiet)
    rest = make("rest", start=f"{whole.uri}@1", **fixed("am", margin=0.2))
    SerialRun(rest).run(quiet)
    assert rest.committed() == [1, 2]
    a, b = weights_of(whole), weights_of(rest)
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_where_a_run_may_start(make: Make) -> None:
    source = make("source", **fixed("am"))
    config = replace(source.load_config(), start=source.uri)
    with pytest.raises(UserError, match=r"start must be a run and one of its generations \(it has none\)"):
        started(config)
    SerialRun(source).run(quiet)
    with pytest.raises(UserError, match=r"it has 1\.\.3\), got '.*@4'"):
        started(replace(config, start=f"{source.uri}@4"))
    with pytest.raises(UserError, match="generations must be more than the 3 that start has behind it, got 3"):
        started(config)
    with pytest.raises(UserError, match="is no run"):
        started(replace(config, start=f"{source.uri}-not"))
    state, _ = started(replace(config, start=f"{source.uri}@2"))
    assert state.generation == 2


def test_generations_of_other_lengths_are_converted() -> None:
    four, two = TrainerConfig(generation_length=4), TrainerConfig(generation_length=2)
    assert begins_at(3, four, two) == 6
    assert begins_at(4, two, four) == 2
    with pytest.raises(UserError, match="generation_length must divide the 3 x 2 epochs"):
        begins_at(3, two, four)
    with pytest.raises(UserError, match="got 4 steps"):
        begins_at(3, two, replace(four, generation_unit="steps"))


def test_a_start_is_a_run_with_or_without_a_generation(tmp_path: Path) -> None:
    assert start_of(f"{tmp_path}/a@3")[1] == 3
    RunStore(f"{tmp_path}/a@4").write(b"", "config.yaml")
    assert start_of(f"{tmp_path}/a@4")[1] is None, "a run of that very name"
    store, number = start_of(f"{tmp_path}/a@b")
    assert (store.name, number) == ("a@b", None)


def test_a_start_is_pinned_to_the_generation_that_is_there(make: Make) -> None:
    source = make("source", **fixed("am"))
    run = SerialRun(source)
    run.generation()
    text = pinned(source.uri)
    assert text == f"{source.uri}@1"
    run.generation()
    assert pinned(text) == text
    with pytest.raises(UserError, match="got '.*@0'"):
        started(replace(source.load_config(), start=f"{source.uri}@0"))


def test_a_stop_is_after_the_generation_in_which_it_is_asked_for(make: Make) -> None:
    run = SerialRun(make("run", **fixed("am")))

    def ask(status: dict[str, Any]) -> None:
        if status["generation"] == 1 and status["candidates"][0]["done"]:
            run.stop_asked.set()

    assert run.run(ask)["generation"] == 2
