"""Looking at a set: what is counted, what is bad and what is doubtful, and the contact sheet."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from search_space.errors import UserError
from tests.trainers.data_files import encode, smooth_picture
from trainers.data import examine, lmdb_source
from trainers.data.contact_sheet import contact_sheet
from trainers.data.datum import encode_datum
from trainers.data.examine import RAW, SetFacts, Shape, examine_set
from trainers.data.lmdb_source import write_lmdb

GOOD = encode(smooth_picture(1, 64))
MIDDLE = len(GOOD) // 2 + 100


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A set with one of everything, and its list."""
    garbled = GOOD[:MIDDLE] + b"\xff\x13" * 5 + GOOD[MIDDLE + 10 :]
    items = {
        "a/1": encode_datum(GOOD), "a/2": encode_datum(encode(smooth_picture(2, 64))),
        "a/3": encode_datum(encode(smooth_picture(3, 40)[:30], ".png")),
        "b/1": encode_datum(encode(smooth_picture(4, 64, 1))),
        "b/2": encode_datum(bytes(12), encoded=False, shape=(3, 2, 2)),
        "c/cut": encode_datum(GOOD[:MIDDLE]), "c/garbled": encode_datum(garbled), "c/none": encode_datum(b"x" * 100),
        "c/other": b"\xff" * 9, "unlisted": encode_datum(GOOD),
    }  # fmt: skip
    write_lmdb(tmp_path / "faces.lmdb", items.items())
    lines = [f"{key} {'abc'.index(key[0]) * 2}\n" for key in items if key != "unlisted"]
    (tmp_path / "labels.txt").write_text("".join(lines) + "a/1 0\na/lost 0\n")
    return tmp_path / "faces.lmdb", tmp_path / "labels.txt"


def test_the_pages_of_an_lmdb_are_checked_once(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[Path] = []
    monkeypatch.setattr(lmdb_source, "check_structure", checked.append)
    monkeypatch.setattr(examine, "CHUNK", 3)
    examine_set(*files, workers=1)
    assert checked == [files[0]]


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_found(workers: int, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine, "CHUNK", 3)
    seen: list[tuple[int, int]] = []
    facts = examine_set(*files, workers=workers, progress=lambda *at: seen.append(at))
    assert seen == [(3, 10), (6, 10), (9, 10), (10, 10)]
    assert facts.num_records == 10
    garbled = {Shape("JPEG", 64, 64, False): 4}
    assert facts.shapes == {
        **garbled, Shape("JPEG", 64, 64, True): 1, Shape("PNG", 40, 30, False): 1, Shape(RAW, 2, 2, False): 1,
    }  # fmt: skip
    assert [line.split(":")[0] for line in facts.bad] == ["key 'c/cut'", "key 'c/none'", "key 'c/other'"]
    assert len(facts.doubtful) == 1
    assert facts.doubtful[0].startswith("key 'c/garbled': Corrupt JPEG data")
    assert (facts.num_listed, facts.missing, facts.num_unlisted, facts.num_repeated) == (11, ("a/lost",), 1, 1)
    assert facts.per_identity.tolist() == [5, 2, 4]
    assert facts.num_gaps == 2
    assert facts.to_dict()["num_bad"] == 3


def test_without_a_list(files: tuple[Path, Path]) -> None:
    facts = examine_set(files[0], workers=1)
    assert facts.num_listed is None
    assert facts.histogram() == [(low, high, 0) for low, high, _ in facts.histogram()]


def test_histogram_by_hand() -> None:
    counts = np.array([1, 1, 2, 3, 4, 9, 10, 999, 1000, 5000])
    facts = SetFacts(num_records=0, shapes={}, sizes=counts, bad=(), doubtful=(), per_identity=counts)
    assert [(low, high, n) for low, high, n in facts.histogram() if n] == [
        (1, 1, 2), (2, 2, 1), (3, 4, 2), (5, 9, 1), (10, 19, 1), (500, 999, 1), (1000, None, 2),
    ]  # fmt: skip


def test_an_lmdb_without_records(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "l", [])
    with pytest.raises(UserError, match="expected pictures, got an LMDB without records"):
        examine_set(tmp_path / "l", workers=1)


def test_the_sheet(files: tuple[Path, Path], tmp_path: Path) -> None:
    sheet = contact_sheet(*files, rows=3, columns=4, side=32, seed=1)
    assert sheet.shape == (3 * (32 + 14) + 2, 4 * (32 + 2) + 2, 3)
    assert np.array_equal(sheet, contact_sheet(*files, rows=3, columns=4, side=32, seed=1))
    others = [contact_sheet(*files, rows=1, columns=2, side=32, seed=seed) for seed in range(5)]
    assert any(not np.array_equal(others[0], other) for other in others[1:])
    field = contact_sheet(files[0], None, rows=1, columns=10, side=64)
    first = field[14 : 14 + 64, 2 : 2 + 64]
    assert np.array_equal(first, cv2.imdecode(np.frombuffer(GOOD, np.uint8), cv2.IMREAD_COLOR))  # a/1, as all are shown
    with pytest.raises(UserError, match="rows of a contact sheet must be 1 to 1024, got 0"):
        contact_sheet(*files, rows=0)
