"""Lists of identities in their forms, the order of labels, and who is on a picture."""

from pathlib import Path

import pytest

from search_space.errors import UserError
from trainers.data.importers.identity_file import (
    identity_of_key,
    in_label_order,
    read_identities,
    write_identities,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2642131\n0001399\n0254402", ["2642131", "0001399", "0254402"]),  # no newline at the end
        ("m.0dc7zz\r\nm.02q70y1\r\n\r\n", ["m.0dc7zz", "m.02q70y1"]),
        ("\ufeffa\na\nb\n", ["a", "b"]),
        ("George W Bush\n", ["George_W_Bush"]),
        ("0 b\n1 a c\n", ["b", "a_c"]),
        ("0\n1\n", ["0", "1"]),
        ("0 b\n2 a\n", ["0_b", "2_a"]),
        ("\n \n", []),  # of two sets that share nobody
    ],
)
def test_forms(text: str, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(text.encode())
    assert read_identities(tmp_path / "list") == expected


def test_what_is_written_is_read(tmp_path: Path) -> None:
    names = ["12", "0", "\u00e9", "a_b"]
    write_identities(tmp_path / "identities.txt", names)
    assert read_identities(tmp_path / "identities.txt") == names


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["10", "9", "0100", "009", "0"], ["0", "009", "9", "10", "0100"]),
        (["10", "9", "x"], ["10", "9", "x"]),
        (["b", "B", "\u00e9", "\uffff", "\U00010000"], ["B", "b", "\u00e9", "\uffff", "\U00010000"]),
        (["\u0664", "3"], ["3", "\u0664"]),  # a digit, but of another script
    ],
)
def test_order(names: list[str], expected: list[str]) -> None:
    assert in_label_order(names) == expected


def test_who_is_on_a_picture() -> None:
    assert [identity_of_key(key) for key in ("A/1.jpg", "A/video/1.jpg", "1.jpg", "/1.jpg")] == ["A", "A", "", ""]


def test_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a list of identities, got: No such file"):
        read_identities(tmp_path / "none")
    (tmp_path / "list").write_bytes(b"a\xff")
    with pytest.raises(UserError, match="expected UTF-8 text, got byte 0xff"):
        read_identities(tmp_path / "list")
