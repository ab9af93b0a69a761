"""insightface's RecordIO, made byte by byte: both layouts, records in parts, and everything that can be cut off."""

import struct
from pathlib import Path

import numpy as np
import pytest

from search_space.errors import UserError
from tests.trainers.importers.sources import MAGIC, header, jpeg, pictures_of, record, with_header, write_records
from trainers.data.importers.record_file import read_heads, read_record
from trainers.data.importers.recordio import RecordSource
from trainers.data.importers.source import no_progress

PICTURES = [(0, jpeg(1)), (0, jpeg(2)), (7, jpeg(3)), (12, jpeg(4)), (12, jpeg(5)), (12, jpeg(6))]


def scan(path: Path) -> object:
    """The catalogue of a `.rec`."""
    return RecordSource(path).scan(no_progress)


def test_the_layout_with_a_header(tmp_path: Path) -> None:
    rec = write_records(tmp_path, with_header(PICTURES), "3,112,112\n")
    expected = {f"{label}/{n:09d}": (str(label), data) for n, (label, data) in enumerate(PICTURES, 1)}
    assert pictures_of(RecordSource(rec)) == expected
    catalogue = RecordSource(tmp_path).scan(no_progress)
    assert catalogue.ignored == {"records that describe the set": 4}
    assert catalogue.notes == ()


def test_the_plain_layout_and_labels_in_arrays(tmp_path: Path) -> None:
    labels = [float(label) if n % 2 else [float(label), 1.0] for n, (label, _) in enumerate(PICTURES)]
    records = [(n, record(header(labels[n]) + data)) for n, (_, data) in enumerate(PICTURES)]
    found = pictures_of(RecordSource(write_records(tmp_path, records)))
    assert found == {f"{label}/{n:09d}": (str(label), data) for n, (label, data) in enumerate(PICTURES)}


def test_a_header_with_numbers_that_a_float_rounds(tmp_path: Path) -> None:
    """Above 2^24 it does not say exactly where the pictures end: those records are pictures that have one."""
    end = 2**24 + 1  # a float32 says 2^24
    records = [
        (0, record(header([float(end), float(end + 3)]))),
        *((end - 3 + n, record(header(float(label)) + data)) for n, (label, data) in enumerate(PICTURES[:3])),
        (end, record(header([float(end - 3), float(end)]))),
    ]
    found = pictures_of(RecordSource(write_records(tmp_path, records)))
    assert found == {f"{label}/{end - 3 + n:09d}": (str(label), data) for n, (label, data) in enumerate(PICTURES[:3])}


def test_an_index_in_another_order(tmp_path: Path) -> None:
    rec = write_records(tmp_path, with_header(PICTURES))
    lines = (tmp_path / "train.idx").read_text().splitlines()
    before = pictures_of(RecordSource(rec))
    (tmp_path / "train.idx").write_text("\n".join(lines[::-1]))
    assert pictures_of(RecordSource(rec)) == before


def test_a_record_in_parts(tmp_path: Path) -> None:
    """Data with the magic number in it is written in parts, without it."""
    picture = b"begin-12" + MAGIC + b"middle-1" + MAGIC + b"end"
    data = header(3.0) + picture
    parts = data.split(MAGIC)
    assert len(parts) == 3
    framed = b"".join(record(part, flag) for part, flag in zip(parts, (1, 2, 3), strict=True))
    rec = write_records(tmp_path, [(0, record(header(3.0) + b"plain")), (1, framed), (2, record(header(4.0) + b"x"))])
    found = pictures_of(RecordSource(rec))
    assert [data for _, data in found.values()] == [b"plain", picture, b"x"]


def test_heads_are_those_of_the_slow_way(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    records = []
    for number in range(300):
        labels = [float(x) for x in rng.integers(0, 1000, rng.integers(0, 4))]
        records.append((number, record(header(labels or 5.0) + rng.bytes(int(rng.integers(0, 50))))))
    rec = write_records(tmp_path, records)
    offsets = np.cumsum([0] + [len(framed) for _, framed in records[:-1]])
    with open(rec, "rb") as file:
        size = rec.stat().st_size
        heads, wrong = read_heads(file.fileno(), np.fromfile(rec, np.uint8), offsets)
        slow = [read_record(file.fileno(), int(offset), size) for offset in offsets]
    assert not wrong
    assert heads.labels.tolist() == [one.labels[0] for one in slow]
    assert heads.num_labels.tolist() == [one.num_labels for one in slow]
    assert heads.num_bytes.tolist() == [len(one.picture) for one in slow]
    assert heads.ends.tolist() == [one.end for one in slow]


def test_property_that_says_something_else(tmp_path: Path) -> None:
    rec = write_records(tmp_path, with_header(PICTURES), "4,112,112")
    assert RecordSource(rec).scan(no_progress).notes == (f"{tmp_path}/property says 4 identities, the pictures have 3",)
    (tmp_path / "property").write_text("many")
    with pytest.raises(UserError, match="property: expected `classes,height,width`, got 'many'"):
        scan(rec)


def test_every_cut_of_the_rec_is_noticed(tmp_path: Path) -> None:
    rec = write_records(tmp_path, with_header(PICTURES[:2]))
    data = rec.read_bytes()
    for size in range(len(data)):
        rec.write_bytes(data[:size])
        with pytest.raises(UserError, match=r"cut off|an empty file") as caught:
            scan(rec)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", ["header", "plain"])
def test_every_cut_of_the_idx_is_noticed(layout: str, tmp_path: Path) -> None:
    records = with_header(PICTURES)
    if layout == "plain":
        records = [(n, record(header(float(label)) + data)) for n, (label, data) in enumerate(PICTURES)]
    rec = write_records(tmp_path, records)
    idx = tmp_path / "train.idx"
    text = idx.read_text()
    for size in range(len(text) - 1):  # the last newline may lack
        idx.write_text(text[:size])
        with pytest.raises(UserError, match=r"train\.(idx|rec)") as caught:
            scan(rec)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("", "expected lines of `number<TAB>offset`, got an empty file"),
        ("0\t0\nx\t8\n", "line 2 of .*train.idx: expected `number<TAB>offset`, got 'x.t8'"),
        ("0\t-8\n", "line 1 of"),
        ("0\t0 0\n", "line 1 of"),
        ("0\t0\n0\t0\n", "expected each record once, got record 0 twice"),
        ("0\t4\n", "record 0 of train.idx: expected a record at byte 4, got 0x0000"),
        ("0\t900000000000000000\n", "cut off"),
    ],
)
def test_an_index_that_is_wrong(index: str, message: str, tmp_path: Path) -> None:
    rec = write_records(tmp_path, [(0, record(header(1.0) + b"picture"))])
    (tmp_path / "train.idx").write_text(index)
    with pytest.raises(UserError, match=message):
        scan(rec)


@pytest.mark.parametrize(
    ("framed", "message"),
    [
        (record(b"short"), "expected a header of 24 bytes, got a record of 5"),
        (record(struct.pack("<IfQQ", 2**32 - 1, 0, 0, 0)), "expected a record with room for its labels"),
        (record(header(-1.0) + b"x"), "record 0: expected an integer label >= 0, got -1.0"),
        (record(header(0.5) + b"x"), "got 0.5"),
        (record(header(float("nan")) + b"x"), "got nan"),
        (record(header(float("inf")) + b"x"), "got inf"),
        (record(header(3e9) + b"x"), "got 3000000000"),
        (record(header(1.0), 2), "expected the start of a record at byte 0, got flag 2"),
        (record(header(1.0), 1) + record(b"x"), "expected the next part of a record"),
        (MAGIC + struct.pack("<I", 2**29 - 1) + header(1.0), "at most 67,108,864 bytes, got a record that claims"),
    ],
)
def test_records_that_are_wrong(framed: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        scan(write_records(tmp_path, [(0, framed)]))


@pytest.mark.parametrize("layout", ["header", "plain"])
def test_every_line_that_is_lost_is_noticed(layout: str, tmp_path: Path) -> None:
    records = with_header(PICTURES)
    if layout == "plain":
        records = [(n, record(header(float(label)) + data)) for n, (label, data) in enumerate(PICTURES)]
    rec = write_records(tmp_path, records)
    lines = (tmp_path / "train.idx").read_text().splitlines()
    for lost in range(len(lines)):
        (tmp_path / "train.idx").write_text("\n".join(lines[:lost] + lines[lost + 1 :]))
        with pytest.raises(UserError, match=r"one record behind the other up to .*: lines are lost") as caught:
            scan(rec)
        assert "\n" not in str(caught.value)
    (tmp_path / "train.idx").write_text("\n".join([*lines, "99\t" + lines[2].split()[1]]))
    with pytest.raises(UserError, match="expected one record behind the other, got one at byte .* inside another"):
        scan(rec)


def test_a_header_that_promises_more(tmp_path: Path) -> None:
    rec = write_records(tmp_path, [(0, record(header([5.0, 6.0]))), (1, record(header(0.0) + b"x"))])
    with pytest.raises(UserError, match=r"expected 4 pictures \(record 0 says 1 to 4\), got 1"):
        scan(rec)
    write_records(tmp_path, [(0, record(header([5.0, 2.0]))), (1, record(header(0.0) + b"x"))])
    with pytest.raises(UserError, match=r"record 0: expected where pictures and identities end, got 5.0 and 2.0"):
        scan(rec)


def test_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected one .rec file in this folder, got 0"):
        RecordSource(tmp_path)
    write_records(tmp_path, with_header(PICTURES))
    (tmp_path / "train.idx").unlink()
    with pytest.raises(UserError, match=r"train.idx: expected a readable file, got: No such file"):
        scan(tmp_path)
