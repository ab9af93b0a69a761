"""What one result costs Ray Tune's driver, with the settings and the table columns of a search.

    python -m benchmarks.tune_driver [--trials 4 16] [--results 300]

Trials that do nothing but return a candidate's row, on a Ray of its own. The figure is CPU seconds of the driver's
process per result, all threads: its inverse is the most results per second that one driver can take. Its loggers write
a line of CSV, JSON and, where it is installed, TensorBoard for every result, as in a search.
"""

import argparse
import json
import os
import tempfile
import time
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ray
from ray import tune

METRICS = ("accuracy", "auc", "tar_at_far_1e-3", "eer", "train_loss")
PARAMETERS = ("m_arc", "m_cos", "t_hard", "t_easy", "curriculum", "gamma", "scale")


class Idle(tune.Trainable):
    """Returns rows as wide as a candidate's, at once."""

    def setup(self, config: dict[str, Any]) -> None:
        """Nothing to load."""
        self.results = config["results"]

    def step(self) -> dict[str, Any]:
        """One candidate."""
        times = dict.fromkeys(("images_per_s", "train_s", "validate_s", "overhead_s"), 1.5)
        row = {"generation": self.iteration, "candidate": 0, "reward": 0.5, "reward_se": 0.01, "diverged": False}
        values = dict.fromkeys((*PARAMETERS, *METRICS), 0.25)
        return row | values | times | {tune.result.DONE: self.iteration + 1 >= self.results}


class Clock(tune.Callback):
    """When the driver took each result, on the clock and in its own CPU seconds."""

    def __init__(self) -> None:
        self.results: list[tuple[float, float]] = []
        self.trials: set[str] = set()
        self.all_from = 0
        """Results before every trial had sent one: while trials still start, the driver does other things too."""

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        """Note one."""
        self.results.append((time.perf_counter(), time.process_time()))
        if trial.trial_id not in self.trials:
            self.trials.add(trial.trial_id)
            self.all_from = len(self.results)


def measure(num_trials: int, num_results: int) -> dict[str, float]:
    """Some trials with some results each."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        run_config = tune.RunConfig(
            name="tune", storage_path=folder, verbose=0, log_to_file=True, callbacks=[clock],
            failure_config=tune.FailureConfig(max_failures=-1),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        )  # fmt: skip
        space = {"trainer": tune.grid_search(list(range(num_trials))), "results": num_results}
        tune.Tuner(tune.with_resources(Idle, {"cpu": 1}), param_space=space, run_config=run_config).fit()
    (wall, cpu), (wall_end, cpu_end) = clock.results[clock.all_from - 1], clock.results[-1]
    n = len(clock.results) - clock.all_from
    return {"trials": num_trials, "n": n, "cpu_s": (cpu_end - cpu) / n, "results_per_s": n / (wall_end - wall)}


def main() -> None:
    """Measure, print, and write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--results", type=int, default=300, help="of each trial")
    parser.add_argument("--out", type=Path, help="folder for the result as JSON")
    options = parser.parse_args()
    about = {"date": f"{date.today()}", "cores": os.cpu_count(), "load_before": os.getloadavg()[0]}
    about |= {"ray": ray.__version__, "tensorboard": find_spec("tensorboardX") is not None}
    ray.init("local", num_cpus=max(options.trials), include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        runs = [measure(trials, options.results) for trials in options.trials]
    finally:
        ray.shutdown()
    for found in runs:
        print("  ".join(f"{name} {value:.4g}" for name, value in found.items()), flush=True)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "tune.json").write_text(json.dumps(about | {"runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
