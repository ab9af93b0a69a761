"""What the driver decides before Ray is asked for anything."""

from pathlib import Path

import pytest

from lfs.config import SearchConfig
from lfs.connect import joins
from lfs.driver import absolute
from trainers.config import DataConfig, PairsConfig


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
