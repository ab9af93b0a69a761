"""What Tune's loggers write of the rows of candidates: files that stay in bounds, and TensorBoard as it reads them."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback, TBXLoggerCallback

from lfs import tune_loggers
from lfs.config import SearchConfig
from lfs.options import leaves
from lfs.tune_loggers import (
    DESCRIBING,
    CandidatesCSV,
    CandidatesJson,
    CandidatesTensorBoard,
    Scalars,
    described,
    row_of,
    spelled,
)
from search_space.config import SpaceConfig
from tests.lfs.fakes import config
from tests.lfs.tensorboard_reader import hparam_rows, scalars


class FakeTrial:
    """A trial as a logger sees it."""

    def __init__(self, folder: Path, number: int) -> None:
        self.trial_id, self.local_path = f"id{number}", str(folder / f"trainer-{number:03d}")
        self.config = {"trainer": number, "start": 1, "controller": "controller/x", **described(config())}
        self.evaluated_params = self.config

    def init_local_path(self) -> None:
        Path(self.local_path).mkdir(parents=True, exist_ok=True)


def result(place: int, **values: Any) -> dict[str, Any]:
    """A result as it comes to a logger, with some of what Tune adds."""
    row = {"generation": 0, "candidate": place - 1, "timesteps_total": place, "trainer": "trainer-000", "reward": 0.5}
    row |= {"tar@far=0.01": 0.25, "diverged": False, "reason": "", "policy_mean/margin": 0.2, "images_per_s": 9.0}
    tunes = {"training_iteration": 1, "pid": 7, "time_total_s": 1.0, "config": {"trainer": 0}, "done": False}
    return row | values | tunes | {"leaves": False, "hostname": "h", "experiment_tag": "1", "trial_id": "x"}


def test_a_row_is_without_what_tune_knows_of_its_trials() -> None:
    assert set(row_of(result(1))) == {
        "generation", "candidate", "timesteps_total", "trainer", "reward", "tar@far=0.01", "diverged", "reason",
        "policy_mean/margin", "images_per_s",
    }  # fmt: skip


def test_names_are_spelled_alike_where_not_all_letters_are_allowed() -> None:
    assert spelled("all:tar@far=1e-05") == "all_tar_far_1e-05"
    assert spelled("policy_mean/t_slopes_0") == "policy_mean/t_slopes_0"


def test_a_trial_says_which_search_it_belongs_to() -> None:
    settings = {name for name, _, _ in leaves(SearchConfig)}
    assert set(DESCRIBING) <= settings
    found = described(config(name="faces", space=SpaceConfig(name="local")))
    assert found["name"] == "faces"
    assert found["space.name"] == "local"
    assert (found["seed"], found["trainer.lr"], found["population_size"]) == (3, config().trainer.lr, 4)
    assert "loss.name" not in found


@pytest.mark.parametrize(
    ("of_tune", "ours"),
    [(CSVLoggerCallback, CandidatesCSV), (JsonLoggerCallback, CandidatesJson), (Scalars, CandidatesTensorBoard)],
)
def test_the_files_of_a_trainer_have_candidates_alone_and_not_without_end(
    of_tune: type, ours: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(tune_loggers, "MAX_RESULTS", 2)
    monkeypatch.setattr(
        of_tune, "log_trial_result", lambda self, iteration, trial, result: rows.append((trial.trial_id, result))
    )
    logger, trials = ours(), [SimpleNamespace(trial_id=name) for name in "ab"]
    for trial in trials:
        last = {"candidate": None, "done": True}
        for row in ({"leaves": True, "done": False}, *({"candidate": n} for n in range(3)), last):
            logger.log_trial_result(1, trial, row)
    assert rows == [(trial.trial_id, {"candidate": n}) for trial in trials for n in range(2)]


def test_tune_adds_no_logger_of_its_own_beside_these() -> None:
    """It does for each kind of file that none of the callbacks is for."""
    assert issubclass(CandidatesCSV, CSVLoggerCallback)
    assert issubclass(CandidatesJson, JsonLoggerCallback)
    assert issubclass(CandidatesTensorBoard, TBXLoggerCallback)


def test_a_first_row_without_outcome_costs_no_column(tmp_path: Path) -> None:
    failed = result(1, reward=None, reason="OSError: gone")
    trial = FakeTrial(tmp_path, 0)
    for logger in (CandidatesCSV(), CandidatesJson()):
        logger._restore_from_remote = lambda *_: None
        for row in (failed, result(2)):
            logger.log_trial_result(1, trial, row)
        logger.log_trial_end(trial)
    with Path(trial.local_path, "progress.csv").open() as file:
        first, second = csv.DictReader(file)
    assert (first["reward"], first["reason"], second["reward"]) == ("", "OSError: gone", "0.5")
    stored = [json.loads(line) for line in Path(trial.local_path, "result.json").read_text().splitlines()]
    assert [row["reward"] for row in stored] == [None, 0.5]


def test_tensorboard_shows_scalars_over_the_places_in_the_search(tmp_path: Path) -> None:
    logger, trial = CandidatesTensorBoard(), FakeTrial(tmp_path, 0)
    diverged = result(4, reward=None, diverged=True, reason="loss is nan", **{"tar@far=0.01": None})
    for row in (result(1), result(3, reward=0.7), diverged, result(2, reward=0.6)):
        logger.log_trial_result(1, trial, row)
    logger.log_trial_end(trial)
    found = scalars(tmp_path / "trainer-000")
    assert set(found) == {f"ray/tune/{spelled(name)}" for name in row_of(result(1))} - {
        "ray/tune/trainer", "ray/tune/reason",
    }  # fmt: skip
    assert found["ray/tune/reward"] == [(1, 0.5), (3, pytest.approx(0.7)), (2, pytest.approx(0.6))]
    assert found["ray/tune/tar_far_0.01"] == [(1, 0.25), (3, 0.25), (2, 0.25)]
    assert found["ray/tune/diverged"] == [(1, 0.0), (3, 0.0), (4, 1.0), (2, 0.0)]


def test_tensorboard_has_a_row_of_hyperparameters_for_each_trainer_from_its_first_candidate_on(tmp_path: Path) -> None:
    logger, trials = CandidatesTensorBoard(), [FakeTrial(tmp_path, number) for number in range(2)]
    for trial in trials:
        logger.log_trial_result(1, trial, result(1, reward=None, reason="failed"))
    logger.log_trial_result(1, trials[1], result(2, reward=0.75))
    for trial in trials:
        logger._trial_writer[trial].close()  # as what is in the file when the driver is killed
    rows = hparam_rows(tmp_path)
    assert "ray/tune/reward" not in rows["trainer-000"]["metrics"]
    assert rows["trainer-001"]["metrics"]["ray/tune/reward"] == 0.75


def test_the_row_stays_one_when_a_trainer_starts_again(tmp_path: Path) -> None:
    logger, trials = CandidatesTensorBoard(), [FakeTrial(tmp_path, number) for number in range(2)]
    for reward in (0.25, 0.5):
        for trial in trials:
            logger.log_trial_start(trial)
            logger.log_trial_result(1, trial, result(1 + 4 * int(reward > 0.3), reward=reward))
    for trial in trials:
        logger.log_trial_end(trial)
    rows = hparam_rows(tmp_path)
    assert set(rows) == {"trainer-000", "trainer-001"}
    first, second = (rows[f"trainer-{number:03d}"] for number in range(2))
    assert (first["hparams"]["trainer"], second["hparams"]["trainer"]) == (0, 1)
    for name, value in described(config()).items():
        assert first["hparams"][name] == value
    assert "controller" not in first["hparams"]
    assert first["metrics"] == {"ray/tune/reward": 0.5, "ray/tune/images_per_s": 9.0}
