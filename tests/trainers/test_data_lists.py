"""List and pairs files: what is read, and the line that is named when it cannot be."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_space.errors import UserError
from trainers.data.lists import Keys, line_of_row, read_list, read_pairs

BLANK = "\n \t\r"


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "list.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@given(names=st.lists(st.text("ab\0\u00e9\U0001f600/", max_size=20), min_size=1), data=st.data())
@settings(max_examples=200, deadline=None)
def test_order_equals_that_of_sorted_bytes(names: list[str], data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, len(names) - 1)))
    order = Keys.of(names).order(np.array(numbers, np.int64))
    assert order.tolist() == sorted(range(len(numbers)), key=lambda at: names[numbers[at]].encode())


@given(
    rows=st.lists(st.tuples(st.from_regex(r"[a-zé/_.#]{1,12}", fullmatch=True), st.sampled_from(BLANK)), min_size=1),
    data=st.data(),
)
@settings(max_examples=50, deadline=None)
def test_list_equals_the_obvious_loop(
    rows: list[tuple[str, str]], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    labels = data.draw(st.permutations([index * 12 // 7 % len(rows) for index in range(len(rows))]))
    labels = np.unique(labels, return_inverse=True)[1].tolist()
    text = "".join(f"{key} \t{label}{tail}\n" for (key, tail), label in zip(rows, labels, strict=True))
    path = write(tmp_path_factory.mktemp("lists"), text)
    keys, got = read_list(path)
    expected = [line.split() for line in text.split("\n") if line.strip()]
    assert list(keys) == [fields[0] for fields in expected]
    assert [keys[index] for index in range(len(keys))] == keys.take(np.arange(len(keys))) == list(keys)
    assert got.dtype == np.int64
    assert got.tolist() == [int(fields[1]) for fields in expected]


def test_small_print(tmp_path: Path) -> None:
    path = write(
        tmp_path, "\ufeffa 0\r\n\r\n  \nb/ü.jpg\t01\r\nc 000000000"
    )  # mark, CRLF, blank lines, no final newline
    keys, labels = read_list(path)
    assert list(keys) == ["a", "b/ü.jpg", "c"]
    assert list(keys[1:]) == ["b/ü.jpg", "c"]
    assert labels.tolist() == [0, 1, 0]
    assert [line_of_row(path, row) for row in range(3)] == [1, 4, 5]


def test_keys_of_strings_and_joined() -> None:
    keys = Keys.join([Keys.of(["a", "bé"]), Keys.of(["c"]), Keys.of(["dd", ""])])
    assert list(keys) == ["a", "bé", "c", "dd", ""]
    assert keys.take(np.array([3, 1])) == ["dd", "bé"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 0\nabc\n", "line 2 of .*list.txt: expected `lmdb_key label`, got 'abc'"),
        ("a 0\n\nb 1 2\n", "line 3 of .*list.txt: expected `lmdb_key label`, got 'b 1 2'"),
        ("a\nb 1 2\n", "line 1 of .*got 'a'"),  # four fields in two lines, as it should be, but not two each
        ("a 0\nb -1\n", "line 2 of .*an integer label >= 0, got 'b -1'"),
        ("a 0\nb 1.0\n", "line 2 of .*an integer label >= 0, got 'b 1.0'"),
        ("a 0\nb 99999999999999999999\n", "line 2 of .*an integer label"),
        (
            "a 0\nb 3\nc 1\nd 5\n",
            "line 2 of .*labels without gaps from 0, got 3 but no 2 .*number the 4 identities 0 to 3",
        ),
        ("a 1\nb 2\n", "line 1 of .*got 1 but no 0 anywhere"),
        ("", "list.txt: expected lines of `lmdb_key label`, got an empty file"),
        ("\n \n", "an empty file"),
        (b"a 0\n\xff\xfe 1\n", "line 2 of .*list.txt: expected UTF-8 text, got byte 0xff"),
    ],
)
def test_bad_lists(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_list(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_missing_and_overlong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone.txt: expected a readable text file, got: No such file"):
        read_list(tmp_path / "gone.txt")
    with pytest.raises(UserError) as caught:
        read_list(write(tmp_path, "x" * 10_000))
    assert len(str(caught.value)) < 400


def test_pairs(tmp_path: Path) -> None:
    pairs = read_pairs(write(tmp_path, "a b 1\nc d 0\n\ne f 0\ng h 1\n"), 2)
    assert list(pairs.left) == ["a", "c", "e", "g"]
    assert list(pairs.right) == ["b", "d", "f", "h"]
    assert pairs.same.tolist() == [True, False, False, True]
    assert pairs.fold.tolist() == [0, 0, 1, 1]
    assert pairs.lines.tolist() == [1, 2, 4, 5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b 1\nc d\n", "line 2 of .*list.txt: expected `key1 key2 1|0`, got 'c d'"),
        ("a b 1\n\nc d 0 4\n", "line 3 of .*expected `key1 key2 1.0`, got 'c d 0 4'"),
        ("a b 1\nc d 2\n", "line 2 of .*got 'c d 2'"),
        ("a b 1\nc d 01\n", "line 2 of .*got 'c d 01'"),
        ("a b 1\nc d 0\ne f 1\n", "list.txt: expected a number of pairs that num_folds = 2 divides, got 3 pairs"),
        ("a b 1\nc d 0\ne f 1\ng h 1\n", r"no 0 \(different\) in fold 1 \(lines 3 to 4\)"),
        ("a b 0\nc d 0\ne f 1\ng h 0\n", r"no 1 \(same\) in fold 0 \(lines 1 to 2\)"),
        ("", "an empty file"),
    ],
)
def test_bad_pairs(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_pairs(write(tmp_path, text), 2)
