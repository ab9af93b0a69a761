"""The trainers of a search as Tune trials: as many as the controller wants, restarted when they die."""

import contextlib
from collections.abc import Mapping
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from lfs.config import SearchConfig
from lfs.patience import LIMIT_S
from lfs.room import rank_needs
from lfs.run_store import RunStore
from lfs.trainable import Trainer, trainer_label
from lfs.tune_loggers import CandidatesCSV, CandidatesJson, CandidatesTensorBoard, described
from lfs.tune_row import LEAVES
from lfs.watch import Watch


class Crew(Searcher):
    """Where Tune asks for the next trial: there is one as long as the controller wants more trainers than there are.

    One that dies is restarted by Tune under its own number. Numbers of trainers that gave up are given anew.

    Tune pickles its searchers, so this one holds the controller's name alone; what is behind it stays in the driver.

    Args:
        facts: what every trial says of the search in its configuration.
    """

    def __init__(self, controller: str, facts: Mapping[str, Any] = {}) -> None:
        super().__init__()
        self.controller, self.facts = controller, dict(facts)
        self._numbers: dict[str, int] = {}
        self._started: dict[int, int] = {}
        self._wait_for = 0

    def suggest(self, trial_id: str) -> Any:
        """The configuration of one more trainer, None for not now, or that no more will come."""
        watch = Watch.live.get(self.controller)
        if watch is None or watch.over.is_set():
            return Searcher.FINISHED
        if len(self._numbers) >= watch.wanted or watch.looks < self._wait_for:
            return None
        number = next(n for n in range(len(self._numbers) + 1) if n not in self._numbers.values())
        self._numbers[trial_id] = number
        start = self._started[number] = self._started.get(number, 0) + 1
        return {"trainer": number, "start": start, "controller": self.controller, **self.facts}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trainer ended and is not restarted. Why, the driver knows only once it has looked again."""
        self._numbers.pop(trial_id, None)
        if watch := Watch.live.get(self.controller):
            self._wait_for = watch.looks + 2

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: a resumed search begins a new experiment."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class Shifts(FIFOScheduler):
    """Pauses a trial whose trainer leaves, which frees what it holds, and resumes it when it is wanted again.

    A trial that ended instead would be the last one in a search that is paused, and Tune waits for the next trial of a
    searcher without attending to anything else.
    """

    def __init__(self, controller: str) -> None:
        super().__init__()
        self.controller = controller

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """A trainer says with its last result whether it leaves."""
        forget_results(tune_controller)
        if not result.get(LEAVES):
            return str(TrialScheduler.CONTINUE)
        tune_controller.pause_trial(trial, should_checkpoint=False)
        return str(TrialScheduler.NOOP)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The first trial that waits for its start, or one that left, if it is wanted again."""
        trials = tune_controller.get_trials()
        starting, paused = ([t for t in trials if t.status == status] for status in (Trial.PENDING, Trial.PAUSED))
        if starting or not paused:
            return starting[0] if starting else None
        watch = Watch.live.get(self.controller)
        at_work = sum(trial.status == Trial.RUNNING for trial in trials)
        return paused[0] if watch is not None and at_work < watch.wanted else None


def forget_results(tune_controller: Any) -> None:
    """Let go of results that Tune has dealt with: it keeps a reference to each until the trial ends, and with it the
    result, which in a search of days is all of them. There is no setting for it."""
    with contextlib.suppress(AttributeError):  # another version of Ray, which may do without
        manager = tune_controller._actor_manager
        awaited = manager._actor_task_events.get_futures()
        for futures in manager._tracked_actors_to_task_futures.values():
            futures &= awaited


class WhenOver(tune.Stopper):
    """Ends every trial of a search when it is over, also those that never found room."""

    def __init__(self, controller: str) -> None:
        self.controller = controller

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """A single trial ends by its own `done`."""
        return False

    def stop_all(self) -> bool:
        """Whether the search is over."""
        return self.controller in Watch.live and Watch.live[self.controller].over.is_set()


class Deaths(tune.Callback):
    """Tells the controller why a trainer's process died: of one that never came to ask for work, only Tune knows."""

    def __init__(self, controller: str) -> None:
        self.controller = controller

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process died; Tune starts it again."""
        watch = Watch.live.get(self.controller)
        if watch is not None:
            watch.controller.died.remote(trainer_label(trial.config), _reason(trial))


def _reason(trial: Any) -> str:
    """The last line of what Tune knows of a trial's end."""
    lines = [line.strip() for line in str(trial.get_error() or "").splitlines() if line.strip()]
    return lines[-1] if lines else "its process died"


def trial_folder(config: dict[str, Any]) -> str:
    """Folder of a trial: its trainer's name, with a number when a trainer of that name was there before."""
    return trainer_label(config) + (f"-{config['start']}" if config["start"] > 1 else "")


def tune_trials(store: RunStore, config: SearchConfig, gpus: float, controller: str) -> None:
    """Run trainers until the search is over."""
    resources: Any = {"cpu": config.cpus_per_worker} | ({"gpu": gpus} if gpus else {})
    if config.num_ranks > 1:
        bundle = {name: need for name, need in rank_needs(config, gpus).items() if need}
        resources = tune.PlacementGroupFactory([bundle] * config.num_ranks, strategy="PACK")
    optional: list[Any] = []
    if config.loggers:
        from lfs.optional_loggers import asides

        optional = asides(config, controller)
    run_config = tune.RunConfig(
        name=store.next_session(), storage_path=store.uri, verbose=0, stop=WhenOver(controller), log_to_file=True,
        failure_config=tune.FailureConfig(max_failures=-1),
        callbacks=[Deaths(controller), CandidatesCSV(), CandidatesJson(), CandidatesTensorBoard(), *optional],
        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        # What trainers print, from wherever they run. Storage that hangs ends Tune as it does everything else.
        sync_config=tune.SyncConfig(sync_artifacts=True, sync_timeout=int(LIMIT_S)),
    )  # fmt: skip
    settings = tune.TuneConfig(
        search_alg=Crew(controller, described(config)), scheduler=Shifts(controller), num_samples=-1,
        trial_name_creator=lambda t: trial_folder(t.config), trial_dirname_creator=lambda t: trial_folder(t.config),
    )  # fmt: skip
    tune.Tuner(tune.with_resources(Trainer, resources), run_config=run_config, tune_config=settings).fit()
