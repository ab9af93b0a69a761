"""The command `lfs.data`: sources by what they look like, what is printed, and one line for each mistake."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from lfs.commands import run_command
from lfs.data import main, parser
from lfs.data_import import source_of
from lfs.progress import WorkProgress
from search_space.errors import UserError
from tests.trainers.importers.sources import jpeg, with_header, write_folder, write_records, write_tar

PICTURES = [(n // 3, jpeg(n)) for n in range(6)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a set in every form, as the current one."""
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "folder", {f"{label}/{n}.jpg": data for n, (label, data) in enumerate(PICTURES)})
    write_records(tmp_path / "rec", with_header(PICTURES))
    (tmp_path / "pq").mkdir()
    columns = {"image": [data for _, data in PICTURES], "label": [label for label, _ in PICTURES]}
    pq.write_table(pa.table(columns), tmp_path / "pq/0.parquet")
    (tmp_path / "wds").mkdir()
    members = []
    for number, (label, data) in enumerate(PICTURES):
        members += [(f"{number}.jpg", data), (f"{number}.cls", b"%d" % label)]
    write_tar(tmp_path / "wds/0.tar", members)
    return tmp_path


def imported(*arguments: str) -> int:
    """An import in this process."""
    return main(["import", *arguments, "--size", "32", "--workers", "1"])


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("folder", "FolderSource"), ("rec", "RecordSource"), ("rec/train.rec", "RecordSource"), ("pq", "TableSource"),
        ("pq/0.parquet", "TableSource"), ("wds", "WebDatasetSource"), ("wds/0.tar", "WebDatasetSource"),
    ],
)  # fmt: skip
def test_every_form_gives_the_same_set(source: str, kind: str, place: Path) -> None:
    assert type(source_of(parser().parse_args(["import", source, "out"]))).__name__ == kind
    assert imported(source, "out") == 0
    assert (place / "out/identities.txt").read_text() == "0 0\n1 1\n"
    report = json.loads((place / "out/import.json").read_text())
    assert (report["num_pictures"], report["num_copied"]) == (6, 6)
    assert imported("out", "again") == 0
    for name in ("faces.lmdb", "labels.txt", "identities.txt"):
        assert (place / "out" / name).read_bytes() == (place / "again" / name).read_bytes()


def test_what_is_printed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(place / "folder", {"1/9.jpg": b"none", "1/notes.txt": b"", "0/wide.jpg": jpeg(9, 40)})
    (place / "keep").write_text("0\n1\n5")
    assert imported("folder", "out", "--identities", "keep", "--skip-bad") == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "6 copied unchanged, 1 decoded and encoded",
        "1 were bad and are left out: out/skipped.txt",
        "1 left aside: files of other kinds",
        "1 identities that were named are not in the source: 5",
        "",
        "train with   --data.train out/faces.lmdb --data.train-list out/labels.txt",
    ]
    assert imported("folder", "out", "--identities", "keep", "--skip-bad") == 0
    assert capsys.readouterr().out.startswith("out was there already, made by the same import:\n7 pictures of 2")
    assert main(["inspect", "out", "--sheet", "sheet.png", "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    assert "7 pictures of 2 identities, 3 to 4 of each, 3.5 on average" in printed
    assert "           7  32 x 32 JPEG" in printed
    assert (place / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert main(["verify", "out", "--json", "--workers", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["num_records"] == 7
    assert main(["overlap", "out", "keep", "--out", "shared.txt"]) == 0
    assert capsys.readouterr().out == "out: 2 identities\nkeep: 3 identities\n2 in both: 0, 1\n"
    assert (place / "shared.txt").read_text() == "0\n1\n"
    assert main(["overlap", "out", "keep", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"left": 2, "right": 3, "shared": ["0", "1"]}


def test_who_is_in_both_by_lists(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imported("folder", "out")
    imported("folder", "part", "--identities", "out/identities.txt")
    (place / "others").write_text("7\n8\n")
    capsys.readouterr()
    assert main(["overlap", "out", "part/labels.txt"]) == 0
    assert capsys.readouterr().out == "out: 2 identities\npart/labels.txt: 2 identities\n2 in both: 0, 1\n"
    assert main(["overlap", "out", "others", "--out", "shared.txt"]) == 0
    assert imported("folder", "all", "--exclude-identities", "shared.txt") == 0
    assert (place / "all/labels.txt").read_bytes() == (place / "out/labels.txt").read_bytes()
    with pytest.raises(UserError, match=r"shared.txt: expected the identities to keep, one per line, got an empty"):
        imported("folder", "none", "--identities", "shared.txt")


def test_results_replace_no_source(place: Path) -> None:
    imported("folder", "out")
    (place / "list").symlink_to("out/identities.txt")
    before = {path: path.read_bytes() for path in (place / "out").iterdir()}
    for arguments in (
        ["inspect", "out", "--sheet", "out/faces.lmdb"], ["inspect", "out", "--sheet", "out/../out/labels.txt"],
        ["inspect", "out/faces.lmdb", "--sheet", "out/faces.lmdb"], ["overlap", "out", "list", "--out", "list"],
        ["overlap", "folder", "out", "--out", "out/identities.txt"], ["pairs", "out", "out/labels.txt"],
        ["pairs", "out", "list", "--apart-from", "list"],
        ["pairs", "out", "out/faces.lmdb"], ["overlap", "out", "folder", "--out", "out/labels.txt"],
    ):  # fmt: skip
        with pytest.raises(UserError, match="the result would replace what it is made of"):
            main(arguments)
    assert before == {path: path.read_bytes() for path in before}
    assert main(["inspect", "out", "--sheet", "new/sheet.png", "--workers", "1"]) == 0
    assert (place / "new/sheet.png").read_bytes().startswith(b"\x89PNG")


def test_an_imported_set_is_taken_by_its_folder(place: Path) -> None:
    imported("folder", "out")
    flags = ["--folds", "1", "--pairs-per-fold", "2"]
    for source in ("out", "out/labels.txt"):
        assert main(["pairs", source, f"{source}.pairs", *flags]) == 0
    assert (place / "out.pairs").read_bytes() == (place / "out/labels.txt.pairs").read_bytes()


def test_the_target_comes_last_wherever_the_flags_are(place: Path) -> None:
    for order in (
        ["a.tar", "b.tar", "--skip-bad", "new"], ["--skip-bad", "a.tar", "b.tar", "new"],
        ["a.tar", "--skip-bad", "b.tar", "new"], ["a.tar", "b.tar", "new", "--skip-bad"],
    ):  # fmt: skip
        options = parser().parse_args(["import", *order])
        assert (options.source, options.target, options.skip_bad) == (["a.tar", "b.tar"], "new", True)


def test_verify_fails_where_something_is_wrong(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imported("folder", "out")
    (place / "out/labels.txt").write_text("0/0.jpg 0\n0/lost.jpg 0\n")
    capsys.readouterr()
    assert main(["verify", "out", "--workers", "1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "missing: key '0/lost.jpg'"
    assert lines[1].startswith("6 records, 0 bad, 0 doubtful, 1 of the list missing; ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import", "nothing", "out"], "nothing: no such file or folder"),
        (["import", "folder", "rec", "out"], "expected one SOURCE for a folder, got 2: folder, rec"),
        (["import", "folder", "out", "--from", "lmdb"], "folder: expected a list of the LMDB's pictures (--list FILE)"),
        (["import", "folder", "out", "--from", "parquet"], "folder: expected *.parquet in this folder, got none"),
        (["import", "rec", "out", "--from", "recordio", "--list", "x"], "--list goes with an LMDB, got rec"),
        (["import", "folder", "out", "--size", "0"], "size must be 1 to 4096 pixels, got 0"),
        (["import", "folder", "folder"], "folder: expected a new folder, got one with files in it"),
        (["import", "rec/train.idx", "out"], "expected a folder, .rec, .lmdb, .parquet or .tar, got another file"),
        (["import", "folder", "out", "--identities", "nothing"], "nothing: expected a list of identities"),
        (["verify", "nothing"], "nothing: no such LMDB"),
        (["inspect", "folder"], "folder: expected an LMDB, got a folder without data.mdb"),
        (["inspect", "folder", "--seed", "-1"], "--seed must be at least 0, got -1"),
        (["overlap", "folder", "nothing"], "nothing: expected a list of identities, got: No such file"),
    ],
)
def test_mistakes(arguments: list[str], message: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(main, arguments) == 1
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert not (place / "out").exists()


@pytest.mark.parametrize("arguments", [["import", "x"], ["verify", "x", "--workers", "0"], ["inspekt", "x"], []])
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_lines_of_progress_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    with WorkProgress(clock=lambda: now) as progress:
        for seconds, done in ((0.0, 100), (4.0, 140), (11.0, 210), (15.0, 250), (22.0, 320)):
            now = seconds
            progress.update("importing", done, 1000)
        progress.update("writing", 5, 10)
    assert capsys.readouterr().err.splitlines() == [
        "importing: 210 of 1,000 pictures, 10/s, 0:01:19 left",
        "importing: 320 of 1,000 pictures, 10/s, 0:01:08 left",
    ]


@pytest.mark.parametrize("source", ["folder", "rec", "pq", "wds"])
def test_pictures_are_what_is_counted_while_a_source_is_read(source: str, place: Path) -> None:
    seen: list[tuple[int, int]] = []
    source_of(parser().parse_args(["import", source, "out"])).scan(lambda *at: seen.append(at))
    assert seen[-1][0] == (9 if source == "rec" else 6)  # with the records that describe the set


def test_progress_with_a_total_that_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    console = Console(force_terminal=True, width=100, record=True, file=None)
    with WorkProgress(clock=lambda: now) as lines, WorkProgress(console=console, clock=lambda: now) as bar:
        for now in (0.0, 20.0):
            for progress in (lines, bar):
                progress.update("reading the source", int(100 * now), 0)
    assert capsys.readouterr().err == "reading the source: 2,000 pictures, 100/s\n"
    assert "2,000 pictures, 100/s" in console.export_text()


def test_a_bar_on_a_terminal() -> None:
    now = 0.0
    console = Console(force_terminal=True, width=100, record=True, file=None)
    with WorkProgress(console=console, clock=lambda: now) as progress:
        progress.update("importing", 0, 1000)
        now = 2.0
        progress.update("importing", 500, 1000)
    assert "500 of 1,000 pictures, 250/s, 0:00:02 left" in console.export_text()
