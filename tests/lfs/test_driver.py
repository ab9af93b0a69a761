"""What the driver decides before Ray is asked for anything."""

from pathlib import Path

import pytest

from lfs.config import SearchConfig
from lfs.driver import absolute, fit_workers, joins
from search_space.errors import UserError
from trainers.config import DataConfig, PairsConfig


@pytest.mark.parametrize(
    ("resources", "config", "expected"),
    [
        ({"CPU": 2.0}, {"num_workers": 8}, (0.0, 2)),
        ({"CPU": 64.0}, {"num_workers": 8}, (0.0, 8)),
        ({"CPU": 64.0, "GPU": 4.0}, {"num_workers": 8}, (1.0, 4)),
        ({"CPU": 64.0, "GPU": 4.0}, {"num_workers": 8, "gpus_per_worker": 0.5}, (0.5, 8)),
        ({"CPU": 64.0, "GPU": 4.0}, {"num_workers": 8, "gpus_per_worker": 0}, (0.0, 8)),
        ({"CPU": 3.0, "GPU": 4.0}, {"num_workers": 8, "cpus_per_worker": 0.1}, (1.0, 4)),
        ({"CPU": 0.3}, {"num_workers": 8, "cpus_per_worker": 0.1}, (0.0, 3)),
    ],
)
def test_trainers_that_fit(resources: dict[str, float], config: dict[str, float], expected: tuple[float, int]) -> None:
    assert fit_workers(SearchConfig(**config), resources) == expected  # type: ignore[arg-type]


def test_a_resource_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="a trainer needs 0.5 GPU, the cluster has 0; see --gpus-per-worker"):
        fit_workers(SearchConfig(gpus_per_worker=0.5), {"CPU": 8.0})


def test_paths_start_at_the_root_unless_they_are_absolute(tmp_path: Path) -> None:
    pairs = PairsConfig(lmdb=("lfw/lfw.lmdb",), pairs=("/elsewhere/pairs.txt",), labels=("lfw/labels.txt",))
    data = absolute(DataConfig(root=str(tmp_path), train=("a",), train_list=("b",), reward=pairs))
    assert (data.root, data.train, data.train_list) == ("", (f"{tmp_path}/a",), (f"{tmp_path}/b",))
    assert (data.reward.lmdb, data.reward.pairs) == ((f"{tmp_path}/lfw/lfw.lmdb",), ("/elsewhere/pairs.txt",))
    assert data.reward.labels == (f"{tmp_path}/lfw/labels.txt",)
    assert data.test == PairsConfig()


def test_a_cluster_is_joined_when_named_by_flag_or_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert joins(SearchConfig()) == ""
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert joins(SearchConfig()) == "head:6379"
    assert joins(SearchConfig(address="other:6379")) == "other:6379"
