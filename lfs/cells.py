"""Many runs side by side: each is one Tune trial that trains a whole run, generation by generation, and can be resumed.

    driver: run_cells --creates--> ROOT/cells/NAME/config.yaml      (ordinary run directories)
            Tuner     --trial----> CellTrial(NAME): SerialRun       commits each generation to its run directory
            callback  <--results-- one per generation

A cell's state is in its run directory alone: a trial that dies is restarted by Tune and goes on after its last
committed generation; a comparison that is resumed starts only the cells that have no outcome yet.
"""

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any, ClassVar

import ray
from ray import tune

from lfs.cells_view import CellsView
from lfs.config import SEARCH_ONLY, SearchConfig
from lfs.connect import waited_for_ray
from lfs.folder import StorageError
from lfs.generation import DivergedError
from lfs.locations import under
from lfs.outcomes import OUTCOME, CellOutcome, outcome_of, scores_file
from lfs.patience import LIMIT_S
from lfs.presence import Presence
from lfs.quiet import interrupts, quiet_logs
from lfs.rank_actors import own_device
from lfs.room import alive_nodes, fit_workers, growth_of_cluster
from lfs.run_store import RunStore, session_name
from lfs.serial import SerialRun
from lfs.view import View
from search_space.errors import UserError

MAX_FAILURES = 20
"""Deaths of a cell's process after which it is given up."""


class CellTrial(tune.Trainable):
    """One run, a generation a step."""

    def setup(self, config: dict[str, Any]) -> None:
        """Take the run up where it stands."""
        self.store, self.scores = RunStore(config["which"]["run"]), config["scores"]
        self.root, self.session = RunStore(config["root"]), config["session"]
        self.trouble, self.run_ = "", None
        threads = int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))
        if self.root.exists(self.session, STOP):
            return
        try:
            self.run_ = SerialRun(self.store, device=own_device(), num_threads=threads)
        except UserError as error:  # trying again would not help
            self.trouble = str(error)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take up another cell in the same process: Tune asks when one has ended."""
        self.run_ = None  # before the next one takes as much memory
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train one generation of the run, or test its final model."""
        if self.run_ is None or self.root.exists(self.session, STOP):
            return {"trouble": self.trouble, tune.result.DONE: True}
        try:
            return self._advance(self.run_)
        except UserError as error:  # trying again would not help
            return {"trouble": str(error), tune.result.DONE: True}
        except StorageError as error:  # it has been tried several times already
            return {"trouble": f"storage {error}", tune.result.DONE: True}

    def _advance(self, run: SerialRun) -> dict[str, Any]:
        search = run.search
        try:
            record = None if search.over else run.generation()
        except DivergedError as error:
            return self._finish(diverged=True, reason=str(error))
        if search.error:  # hardly any draw of the policy is a usable loss
            return self._finish(diverged=True, reason=search.error)
        if record is None or search.over:
            return self._finish()
        summary = record.summary
        return {
            "generation": record.generation, "reward": summary["best_reward"], "reward_se": summary["best_reward_se"],
            "num_images": record.state.num_images, "images_per_s": summary["images_per_s"], **summary[
                "winner_parameters"], tune.result.DONE: False,
        }  # fmt: skip

    def _finish(self, diverged: bool = False, reason: str = "") -> dict[str, Any]:
        assert self.run_ is not None
        summaries, search = self.run_.board.summaries, self.run_.search
        self._score(self.run_)
        reward = float("nan") if diverged else summaries[-1]["best_reward"]
        test = {} if diverged else search.test_metrics or {}
        outcome = CellOutcome(
            reward=reward, test=test, num_images=search.state.num_images, diverged=diverged, reason=reason
        )
        self.store.write(json.dumps(asdict(outcome)).encode(), OUTCOME)
        return {"reward": reward, **{f"test/{k}": v for k, v in test.items()}, tune.result.DONE: True}

    def _score(self, run: SerialRun) -> None:
        """Measure the models of the generations that are asked for, where that was not done before."""
        for generation in self.scores["generations"] if self.scores else ():
            file = scores_file(generation)
            if generation in self.store.committed() and not self.store.exists(file):
                weights = self.store.load_weights(generation)
                scores = run.trainer.validate(weights, self.scores["metrics"])
                values = {m: {"value": s.value, "replicates": s.replicates.tolist()} for m, s in scores.items()}
                self.store.write(json.dumps(values).encode(), file)

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Nothing to save: see the module."""
        return {}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Nothing to load."""


class Listener(tune.Callback):
    """Passes what trials report on to the view, in the driver. It is pickled, so it holds a key alone."""

    views: ClassVar[dict[str, CellsView]] = {}

    def __init__(self, key: str) -> None:
        self.key = key

    @property
    def view(self) -> CellsView:
        """The view of the session."""
        return self.views[self.key]

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.view.started(trial.config["which"]["cell"])

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        self.view.result(trial.config["which"]["cell"], result)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.view.failed(trial.config["which"]["cell"])


def prepare(root: RunStore, cells: Mapping[str, SearchConfig]) -> dict[str, RunStore]:
    """Run directories of all cells, made where they are missing.

    Raises:
        UserError: one is there that was made with other settings.
    """
    stores = {}
    for name, config in cells.items():
        stores[name] = store = RunStore(under(root.uri, "cells", name))
        wanted = replace(config, name=name, storage=under(root.uri, "cells"))
        if not store.exists("config.yaml"):
            store.create(wanted)
            continue
        there, here = asdict(store.load_config()), asdict(wanted)
        differing = [key for key in here if key not in MACHINE and here[key] != there[key]]
        if differing:
            raise UserError(f"{store.uri} was made with other settings ({', '.join(differing)}); remove it to redo it")
    return stores


MACHINE = (
    *SEARCH_ONLY, "storage", "keep_generations", "num_workers", "cpus_per_worker", "gpus_per_worker", "address",
    "dashboard",
)  # fmt: skip
"""Settings that say where a cell is trained and kept, not what."""


def train_cells(
    root: RunStore,
    config: SearchConfig,
    cells: Mapping[str, SearchConfig],
    view: View,
    scores: Mapping[str, Any] | None = None,
    *,
    behind: int = 0,
    new: bool = False,
    resume: str = "",
) -> bool:
    """Train every cell that has no outcome yet, or lacks scores.

    Args:
        root: folder of the comparison; Tune's experiment goes into it.
        config: workers, resources and the cluster's address.
        scores: `metrics` to measure on the reward sets after each of `generations`, besides the reward.
        behind: generations that were trained before the cells begin.
        new: the folder was just made, and goes again if nothing can start.
        resume: the command that goes on after a stop.
    Returns:
        Whether all have come to an outcome.
    Raises:
        UserError: no Ray, no room for a single trial, cells of other settings, or another process trains them.
    """
    stores = prepare(root, cells)
    todo = {name: store for name, store in stores.items() if not complete(store, scores)}
    if not todo:
        return True
    done = {name: max(store.committed(), default=behind - 1) + 1 for name, store in todo.items()}
    shown = CellsView(view, {name: cells[name] for name in todo}, done, len(cells) - len(todo))
    try:
        with Presence(root, say=view.say) as presence, waited_for_ray(config, view), quiet_logs(root):
            nodes = [node["Resources"] for node in alive_nodes()]
            room = fit_workers(config, nodes, growth_of_cluster(config, nodes))
            shown.begin(room.now)
            try:
                run_trials(root, config, room.gpus, todo, shown, scores, presence, resume)
            finally:
                shown.end()
    except UserError:
        if new and not root.exists(session_name(1)):
            root.remove()
        raise
    return all(complete(store, scores) for store in todo.values())


def complete(store: RunStore, scores: Mapping[str, Any] | None) -> bool:
    """Whether a cell has its outcome, and all scores unless it diverged."""
    outcome = outcome_of(store)
    wanted = scores["generations"] if scores else ()
    return outcome is not None and (outcome.diverged or all(store.exists(scores_file(g)) for g in wanted))


def run_trials(
    root: RunStore,
    config: SearchConfig,
    gpus: float,
    todo: Mapping[str, RunStore],
    view: CellsView,
    scores: Mapping[str, Any] | None,
    presence: Presence,
    resume: str,
) -> None:
    """Cells as Tune trials in their order, as many at a time as `num_workers` and the cluster allow; they stop when
    another driver takes the folder over.
    """
    name = root.next_session()
    resources = {"cpu": config.cpus_per_worker} | ({"gpu": gpus} if gpus else {})
    cells = [{"cell": cell, "run": store.uri} for cell, store in todo.items()]
    run_config = tune.RunConfig(
        name=name, storage_path=root.uri, verbose=0, log_to_file=True, callbacks=[Listener(root.uri)],
        failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        sync_config=tune.SyncConfig(sync_timeout=int(LIMIT_S)),
    )  # fmt: skip
    settings = tune.TuneConfig(
        max_concurrent_trials=config.num_workers, reuse_actors=True,
        trial_dirname_creator=lambda t: str(t.config["which"]["cell"]),
    )  # fmt: skip
    space = {"which": tune.grid_search(cells), "scores": scores, "root": root.uri, "session": name}
    Listener.views[root.uri] = view
    try:
        with stopping(root, name, view.view, resume) as asked:

            def lost(line: str) -> None:
                view.view.warn(line)
                asked.set()

            presence.on_lost(lost)
            trainable = tune.with_resources(CellTrial, resources)
            tune.Tuner(trainable, param_space=space, run_config=run_config, tune_config=settings).fit()
    except (OSError, tune.TuneError) as error:
        raise UserError(f"Ray Tune stopped: {' '.join(str(error).split())}; results so far are kept") from None
    finally:
        del Listener.views[root.uri]


STOP = "stop"
"""A file in the folder of a Tune session that tells its trials to end after their running generation: theirs alone,
since another driver may have taken the comparison over."""


@contextlib.contextmanager
def stopping(root: RunStore, session: str, view: View, resume: str) -> Iterator[threading.Event]:
    """Ctrl-C once, or the event, tells all trials of a session to stop, wherever they run; twice stops now."""
    asked, over = threading.Event(), threading.Event()

    def watch() -> None:
        asked.wait()
        if not over.is_set():
            root.write(b"", session, STOP)

    root.delete(session, STOP)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        told = partial(view.stopping, "the running generations", resume), partial(view.stopping_now, resume)
        with interrupts(asked, *told):
            yield asked
    finally:
        over.set()
        asked.set()
        watcher.join()
        root.delete(session, STOP)
