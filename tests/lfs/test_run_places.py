"""Where runs are: paths, URIs, names and links, and that none of them leads out of its root."""

import json
import shutil
from pathlib import Path

import pytest

from lfs import results
from lfs.commands import FAILED, run_command
from lfs.driver import old_run
from lfs.folder import StorageError
from lfs.locations import under
from lfs.messages import GenerationRecord
from lfs.results_tables import runs_table
from lfs.run_store import RunStore, find_runs
from lfs.view import View
from search_space.errors import UserError
from tests.lfs.fakes import WEIGHTS, config


@pytest.mark.parametrize("name", ["generations", "generations/000003", "events", "config.yaml"])
def test_nothing_is_written_through_a_link_out_of_the_run(
    store: RunStore, records: list[GenerationRecord], tmp_path: Path, name: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("mine")
    link = Path(store.path) / name
    if link.is_dir():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.symlink_to(outside / "mine" if name == "config.yaml" else outside)
    if name == "config.yaml":
        store.write(b"new", name)  # takes the link's place
        assert not link.is_symlink()
    else:
        with pytest.raises(StorageError, match=r"a symbolic link leads out of .*runs/one"):
            store.record_event("start") if name == "events" else store.commit(records[3], WEIGHTS)
    assert [(p.name, p.read_text()) for p in outside.iterdir()] == [("mine", "mine")]


@pytest.mark.parametrize("name", ["tune", "driver.log", ".lock"])
def test_a_run_that_would_have_others_write_out_of_it_is_refused(store: RunStore, tmp_path: Path, name: str) -> None:
    store.refuse_links()
    (Path(store.path) / name).symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match=rf"runs/one/{name} is a symbolic link out of its run"):
        old_run(store, {}, View())


def test_a_link_within_the_run_is_followed(store: RunStore, records: list[GenerationRecord]) -> None:
    folder = Path(store.path)
    (folder / "generations").rename(folder / "elsewhere")
    (folder / "generations").symlink_to(folder / "elsewhere")
    store.commit(records[3], WEIGHTS)
    assert store.committed() == [0, 1, 2, 3]


def test_a_storage_path_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written: .*; choose another --storage"):
        RunStore(str(tmp_path / "file" / "run")).create(config())
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is no run: it has no config.yaml"),
        ("[", "config.yaml: not a run's configuration"),
        ("", "config.yaml: not a run's configuration: expected `format` and `config`"),
        (
            "format: 99\nconfig: {}\n",
            "config.yaml: format 99; this version reads format 2: it was written by a newer version",
        ),
        ("format: 1\nconfig: {}\n", "format 1; this version reads format 2: browse it with"),
        ("format: 2\nconfig: {seed: x}\n", "config.yaml: seed must be a whole number, got 'x'"),
    ],
)
def test_a_path_that_is_no_run(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        RunStore(str(tmp_path)).load_config()


def test_runs_are_found_under_their_root_and_nothing_else(store: RunStore, tmp_path: Path) -> None:
    (tmp_path / "runs" / "other").mkdir()
    assert [s.name for s in find_runs(str(tmp_path / "runs"))] == ["one"]
    with pytest.raises(UserError, match="no such folder"):
        list(find_runs(str(tmp_path / "nowhere")))


def test_storage_by_uri_is_the_same_store(store: RunStore, records: list[GenerationRecord]) -> None:
    by_uri = RunStore(f"file://{store.path}")
    assert by_uri.committed() == [0, 1, 2]
    assert json.dumps(by_uri.summaries()) == json.dumps(store.summaries())
    by_uri.commit(records[3], WEIGHTS)
    assert store.committed() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "uri",
    [
        "s3://KEYID:hunter2@bucket/runs",
        "s3://bucket/runs?access_key=hunter2",
        "s3://bucket/runs?region=eu&secret_key=hunter2",
        "abfs://container@account.dfs.core.windows.net/runs?account_key=hunter2",
        "abfs://container/runs?sas_token=hunter2",
        "s3://bucket/runs?session_token=hunter2",
        "hdfs://user:hunter2@host:8020/runs",
    ],
)
def test_a_uri_with_a_secret_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(UserError, match=r"must not hold .*; give it by the environment") as caught:
        RunStore(uri)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31m", "a/b", "..", "a\0"])
def test_a_name_that_is_no_plain_folder_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="name must be a plain folder name"):
        config(name=name)


@pytest.mark.parametrize("uri", ["nonsense://x/y", "s3:///"])
def test_a_uri_that_is_none_is_one_line(uri: str) -> None:
    with pytest.raises(UserError, match="not a usable location"):
        RunStore(uri)


def test_a_place_below_a_uri_keeps_its_options_at_the_end() -> None:
    assert under("s3://bucket/runs?region=eu-west-1", "a", "b") == "s3://bucket/runs/a/b?region=eu-west-1"
    assert under("gs://bucket/runs/", "a") == "gs://bucket/runs/a"
    assert under("runs/", "a") == "runs/a"
    assert under("/odd?name", "a") == "/odd?name/a"


def test_nothing_is_written_or_deleted_through_a_link_to_a_folder_that_the_run_is_in(
    store: RunStore, records: list[GenerationRecord], tmp_path: Path
) -> None:
    for name in ("state.json", "candidates.parquet", "winner.safetensors", "x.tmp"):
        (tmp_path / name).write_text("mine")
    there = sorted(path.name for path in tmp_path.iterdir())
    generations = Path(store.path) / "generations"
    (generations / "000003").symlink_to("../../..")
    with pytest.raises(StorageError, match=r"a symbolic link leads out of .*runs/one"):
        store.commit(records[3], WEIGHTS)
    (generations / "000003").unlink()
    shutil.rmtree(generations / "000000")
    (generations / "000000").symlink_to("../../..")
    store.prune(2, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == there
    assert {path.read_text() for path in tmp_path.iterdir() if path.is_file()} == {"mine"}


def test_a_run_is_made_in_folders_that_are_not_there_yet_also_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for uri in (f"{tmp_path}/link/a/run", f"file://{tmp_path}/link/b/run"):
        store = RunStore(uri)
        store.create(config())
        store.remove()
    assert sorted(path.name for path in (tmp_path / "real").iterdir()) == ["a", "b"]


@pytest.mark.parametrize("name", ["%2e%2e%2fesc", "a?b", "a#b"])
def test_a_name_that_means_something_else_in_a_uri_stays_below_its_root(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"name must be a plain folder name, without any of / .* % \? #"):
        config(name=name)
    for root in (f"file://{tmp_path}/root", f"{tmp_path}/root"):
        assert RunStore(under(root, name)).path == f"{tmp_path}/root/{name}"
        assert RunStore(under(root, name)).name == name


@pytest.mark.parametrize("name", ["", ".", "..", "../esc", "a/b"])
def test_what_is_no_name_leads_nowhere(name: str) -> None:
    for root in ("s3://bucket/runs", "runs"):
        with pytest.raises(UserError, match=f"what is in {root} must have a plain name, got '{name}'"):
            under(root, "cells", name)


def test_a_name_with_spaces_and_letters_of_its_own_is_one_on_every_storage(tmp_path: Path) -> None:
    store = RunStore(under(f"file://{tmp_path}", "Gesichter früh am Tag"))
    store.create(config())
    assert [found.name for found in find_runs(f"file://{tmp_path}")] == ["Gesichter früh am Tag"]
    assert [found.name for found in find_runs(str(tmp_path))] == ["Gesichter früh am Tag"]


def test_a_link_to_itself_is_no_run_and_hides_none(
    store: RunStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs" / "a").symlink_to("a")
    assert [s.name for s in find_runs(str(tmp_path / "runs"))] == ["one"]
    assert runs_table(str(tmp_path / "runs"))["run"].tolist() == ["one"]
    assert run_command(results.main, [str(tmp_path / "runs" / "a")]) == FAILED
    assert "Too many levels of symbolic links" in capsys.readouterr().err
    (Path(store.path) / "loop").symlink_to("loop")
    store.refuse_links()
