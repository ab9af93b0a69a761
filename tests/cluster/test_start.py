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


def test_what_was_said_since_counts_more_than_the_first_number_of_generations(
    given: list[list[str]], tmp_path: Path
) -> None:
    store = RunStore(str(tmp_path / "run"))
    store.create(SearchConfig(name="run", generations=20))
    arguments = ["--storage", str(tmp_path), "--name", "run", "--generations", "20", "--num-workers", "3"]
    main(["start", *arguments])
    store.record_event("extend", by="me", generations=40)
    main(["start", *arguments])
    assert given == [
        ["--resume", f"{tmp_path}/run", "--num-workers", "3", "--generations", "20"],
        ["--resume", f"{tmp_path}/run", "--num-workers", "3"],
    ]


def test_a_run_on_a_storage_with_options_is_found(given: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Store:
        def __init__(self, uri: str) -> None:
            asked.append(uri)

        def exists(self, *parts: str) -> bool:
            return False

    monkeypatch.setattr("lfs.run_store.RunStore", Store)
    main(["start", "--storage", "s3://bucket/runs?region=eu-west-1", "--name", "run"])
    assert asked == ["s3://bucket/runs/run?region=eu-west-1"]


@pytest.mark.parametrize("arguments", [["--name", "run"], ["--storage", "runs"]])
def test_it_needs_to_know_which_run(given: list[list[str]], arguments: list[str]) -> None:
    with pytest.raises(UserError, match="start needs --name and --storage"):
        main(["start", *arguments])
    assert not given
