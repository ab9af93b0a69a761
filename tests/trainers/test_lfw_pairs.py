"""LFW's own pairs files, both layouts, and the line that is named when one is wrong."""

from pathlib import Path

import pytest

from search_space.errors import UserError
from trainers.data.lfw_pairs import DEFAULT_KEY, key_pattern, pair_lines, read_official_pairs

VIEW_2 = (
    "2\t2\nAda\t1\t4\nBo_B\t2\t3\nAda\t1\tBo_B\t12\nCy\t3\tAda\t1\nCy\t1\t2\nDi\t1\t2\nCy\t1\tDi\t1\nDi\t2\tCy\t2\n"
)
VIEW_1 = "2\nAda\t1\t4\nBo_B\t2\t3\nAda\t1\tBo_B\t12\nCy\t3\tAda\t1\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "pairs.txt"
    path.write_bytes(text.encode())
    return path


def test_folds(tmp_path: Path) -> None:
    official = read_official_pairs(write(tmp_path, VIEW_2))
    assert (official.num_folds, official.per_fold) == (2, 2)
    assert list(pair_lines(official, key_pattern(DEFAULT_KEY))) == [
        "Ada/Ada_0001.jpg Ada/Ada_0004.jpg 1", "Bo_B/Bo_B_0002.jpg Bo_B/Bo_B_0003.jpg 1",
        "Ada/Ada_0001.jpg Bo_B/Bo_B_0012.jpg 0", "Cy/Cy_0003.jpg Ada/Ada_0001.jpg 0",
        "Cy/Cy_0001.jpg Cy/Cy_0002.jpg 1", "Di/Di_0001.jpg Di/Di_0002.jpg 1",
        "Cy/Cy_0001.jpg Di/Di_0001.jpg 0", "Di/Di_0002.jpg Cy/Cy_0002.jpg 0",
    ]  # fmt: skip


def test_development_sets(tmp_path: Path) -> None:
    official = read_official_pairs(write(tmp_path, VIEW_1))
    assert (official.num_folds, official.per_fold) == (1, 2)
    assert [pair.same for pair in official.pairs] == [True, True, False, False]


def test_small_print(tmp_path: Path) -> None:
    text = "\ufeff" + VIEW_2.replace("\t", "  ").replace("\n", "\r\n\r\n")
    plain, odd = write(tmp_path, VIEW_2), tmp_path / "odd.txt"
    odd.write_bytes(text.encode())
    assert [p[:3] for p in read_official_pairs(plain).pairs] == [p[:3] for p in read_official_pairs(odd).pairs]


@pytest.mark.parametrize(
    ("pattern", "key"),
    [(DEFAULT_KEY, "Ada/Ada_0007.jpg"), ("{name}-{number}", "Ada-7"), ("{number:06d}/{name}.png", "000007/Ada.png")],
)
def test_patterns(pattern: str, key: str) -> None:
    assert key_pattern(pattern)("Ada", 7) == key


@pytest.mark.parametrize(
    "pattern",
    ["{name}", "{number}", "{name}{number}{x}", "{name}{number", "{}{}", "{name.__class__}{number}", "{name:{number}}",
     "{name}{number:999999999d}", "{name}{number:s}", "{name} {number}", "{name[0]}{number}", ""],
)  # fmt: skip
def test_bad_patterns(pattern: str) -> None:
    with pytest.raises(UserError, match="a key pattern must hold {name} and {number}"):
        key_pattern(pattern)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("2\t2\n", "", "line 1 of .*: expected `folds pairs` or `pairs`"),
        ("2\t2\n", "2 2 2\n", "line 1 of .*: expected `folds pairs`"),
        ("2\t2\n", "0 2\n", "line 1 of .*: expected whole numbers from 1, got '0 2'"),
        ("2\t2\n", "2 99999999999\n", "line 1 of .*: expected whole numbers"),
        ("2\t2\n", "2 999999999\n", "expected 3,999,999,996 pairs, as its first line says, got 8"),
        ("2\t2\n", "10\t300\n", "expected 6,000 pairs, as its first line says, got 8"),
        ("Bo_B\t2\t3\n", "", "expected 8 pairs.*got 7"),
        ("Bo_B\t2\t3\n", "Bo_B\t2\t3\nBo_B\t2\t4\n", "expected 8 pairs.*got 9"),
        ("Bo_B\t2\t3\n", "Bo_B\t2\n", "line 3 of .*: expected a genuine pair.*got 'Bo_B 2'"),
        ("Bo_B\t2\t3\n", "Bo_B\t2\t2\n", "line 3 of .*: expected a genuine pair.* of two pictures"),
        ("Bo_B\t2\t3\n", "Bo_B\t2\t-3\n", "line 3 of .*: expected whole numbers from 1"),
        ("Bo_B\t2\t3\n", "Bo_B\t2\t\u0663\n", "line 3 of .*: expected whole numbers from 1"),
        ("Bo_B\t2\t3\n", "Bo_B\t2\tAda\t3\n", "line 3 of .*: expected a genuine pair"),
        ("Cy\t3\tAda\t1\n", "Cy\t3\tCy\t1\n", "line 5 of .*: expected an impostor pair.*of two people"),
        ("Cy\t3\tAda\t1\n", "Cy\t3\t1\n", "line 5 of .*: expected an impostor pair"),
    ],
)
def test_bad_lines(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, VIEW_2.replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        read_official_pairs(path)


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"1\n\xff")
    for path in (tmp_path, tmp_path / "none", tmp_path / "latin", write(tmp_path, "")):
        with pytest.raises(UserError, match="expected"):
            read_official_pairs(path)
