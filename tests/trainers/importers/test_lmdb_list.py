"""An LMDB and its list as a source: whom the labels stand for, and both dialects of values."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from search_space.errors import UserError
from tests.trainers.data_files import smooth_picture
from tests.trainers.importers.sources import jpeg, pictures_of
from trainers.data import lmdb_source
from trainers.data.datum import encode_datum
from trainers.data.importers.lmdb_list import LmdbListSource
from trainers.data.importers.source import Batch, no_progress
from trainers.data.lmdb_source import write_lmdb


def make(folder: Path, lines: str, identities: str = "") -> LmdbListSource:
    """A set of the keys in `lines`, `key label` each."""
    keys = [line.split()[0] for line in lines.splitlines()]
    write_lmdb(folder / "old.lmdb", ((key, encode_datum(jpeg(n))) for n, key in enumerate(dict.fromkeys(keys))))
    (folder / "old.txt").write_text(lines)
    if identities:
        (folder / "identities.txt").write_text(identities)
    return LmdbListSource(folder / "old.lmdb", folder / "old.txt")


@pytest.mark.parametrize(
    ("lines", "identities", "expected"),
    [
        ("b/1 0\nb/2 0\na/1 1\n", "", {"b/1": "b", "b/2": "b", "a/1": "a"}),
        ("x/1 0\nx/2 1\n", "", {"x/1": "0", "x/2": "1"}),  # one folder for two labels
        ("x/1 0\ny/2 0\nz/1 1\n", "", {"x/1": "0", "y/2": "0", "z/1": "1"}),  # two folders for a label
        ("1.jpg 3\n2.jpg 8\n", "", {"1.jpg": "3", "2.jpg": "8"}),
        ("b/1 0\na/1 1\n", "0 Eva\n1 Max\n", {"b/1": "Eva", "a/1": "Max"}),
    ],
)
def test_identities(lines: str, identities: str, expected: dict[str, str], tmp_path: Path) -> None:
    found = pictures_of(make(tmp_path, lines, identities))
    assert {key: identity for key, (identity, _) in found.items()} == expected
    assert [data for _, data in found.values()] == [jpeg(n) for n in range(len(expected))]


def test_pixels_and_the_one_field_dialect(tmp_path: Path) -> None:
    pixels = smooth_picture(5).transpose(2, 0, 1).tobytes()
    bare = b"\x0a" + bytes([len(jpeg(1)) & 127 | 128, len(jpeg(1)) >> 7]) + jpeg(1)
    write_lmdb(tmp_path / "l", [("a/1", encode_datum(pixels, encoded=False, shape=(3, 32, 32))), ("a/2", bare)])
    (tmp_path / "list").write_text("a/1 0\na/2 0\n")
    found = pictures_of(LmdbListSource(tmp_path / "l", tmp_path / "list"))
    decoded = cv2.imdecode(np.frombuffer(found["a/1"][1], np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(decoded, smooth_picture(5))
    assert found["a/2"][1] == jpeg(1)


def test_the_pages_of_an_lmdb_are_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make(tmp_path, "a/1 0\na/2 0\nb/1 1\n")
    checked: list[Path] = []
    monkeypatch.setattr(lmdb_source, "check_structure", checked.append)
    found = source.scan(no_progress)
    for row in range(3):
        [data] = source.read(Batch([found.keys[row]], found.places[[row]], [""]))
        assert isinstance(data, bytes)
    assert checked == [tmp_path / "old.lmdb"]


def test_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="keys of their own, got 'a/1' for picture 1 and picture 2"):
        make(tmp_path, "a/1 0\na/1 0\n").scan(no_progress)
    with pytest.raises(UserError, match="expected a name for label 1, got 1 identities"):
        make(tmp_path, "a/1 0\nb/1 1\n", "0 Eva\n").scan(no_progress)
    with pytest.raises(UserError, match="expected a list of the LMDB's pictures"):
        LmdbListSource(tmp_path / "old.lmdb")
    (tmp_path / "identities.txt").unlink()
    source = make(tmp_path, "a/1 0\n")
    (tmp_path / "old.txt").write_text("a/1 0\na/9 0\n")
    from trainers.data.importers.plan import Choice, plan_import

    batch = plan_import(source.scan(no_progress), Choice()).batch(0)
    assert "key 'a/9' is not in this LMDB" in str(list(source.read(batch))[1])
