"""`lfs.cluster start`: one command for the first try of a run and for those after it."""

from pathlib import Path

import pytest

from lfs import search
from lfs.cluster import main
from lfs.config import SearchConfig
from lfs.run_store import RunStore
from search_space.errors import UserError


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What `lfs.search` was started with."""
    calls: list[list[str]] = []
    monkeypatch.setattr(search, "main", lambda argv: calls.append(list(argv)) or 7)
    return calls


def test_a_run_that_is_not_there_is_started_and_one_that_is_there_resumed(
    given: list[list[str]], tmp_path: Path
) -> None:
    arguments = ["--storage", f"{tmp_path}/", "--name", "run", "--num-workers", "3", "--config", "builtin", "--seed=4"]
    assert main(["start", *arguments]) == 7
    RunStore(str(tmp_path / "run")).create(SearchConfig(name="run"))
    assert main(["start", *arguments, "--address", "host:1"]) == 7
    resumed = ["--resume", f"{tmp_path}/run", "--num-workers", "3", "--address", "host:1"]
    assert given == [arguments, resumed]


@pytest.mark.parametrize("arguments", [["--name", "run"], ["--storage", "runs"]])
def test_it_needs_to_know_which_run(given: list[list[str]], arguments: list[str]) -> None:
    with pytest.raises(UserError, match="start needs --name and --storage"):
        main(["start", *arguments])
    assert not given
