"""Files of numbers, read a part at a time, against a loop over their lines; and templates."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_space.errors import UserError
from trainers.data import text_fields
from trainers.data.template_lists import read_template_pairs, read_templates
from trainers.data.text_fields import number_blocks


@settings(max_examples=80, deadline=None)
@given(
    rows=st.lists(st.tuples(*[st.integers(0, 999_999_999)] * 3), min_size=1, max_size=12),
    gaps=st.lists(st.sampled_from(["\n", "\r\n", "\n\n \n", " \n"]), min_size=12, max_size=12),
    block=st.integers(40, 90),
)
def test_blocks_are_the_lines_of_the_file(
    rows: list[tuple[int, int, int]], gaps: list[str], block: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("n") / "n.txt"
    path.write_bytes("".join(f"{a} \t{b} {c}{gap}" for (a, b, c), gap in zip(rows, gaps, strict=False)).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_fields, "BLOCK_BYTES", block)
        found = [numbers for _, numbers in number_blocks(path, 3, "three")]
    assert np.concatenate(found).tolist() == [list(row) for row in rows]


@pytest.mark.parametrize("block", [8, 9, 16, 1000])
@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"1 2 1\n3 4 0\n5 6 2\n", r"line 3 of .*: expected `template1 template2 1\|0`, got '5 6 2'"),
        (b"1 2 1\n\n3 4 0\n5 6\n1 2 1\n", r"line 4 of .*: expected `template1 template2 1\|0`, got '5 6'"),
        (b"1 2 1\n3 x 0\n", "line 2 of .*got '3 x 0'"),
        (b"1 2 1\n3 4 01\n", "line 2 of .*got '3 4 01'"),
        (b"1 2 1\n1 2 0\n3 \xff 0\n", "line 3 of .*: expected UTF-8 text, got byte 0xff"),
        (b"\n \n", "expected lines of .*got an empty file"),
        (b"", "got an empty file"),
        (b"1 2 0\n1 3 0", "expected pairs of both kinds, got 0 with 1 of 2"),
    ],
)
def test_bad_pairs_are_refused_with_their_line(
    text: bytes, line: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_fields, "BLOCK_BYTES", block)
    (tmp_path / "p.txt").write_bytes(text)
    with pytest.raises(UserError, match=line):
        read_template_pairs(tmp_path / "p.txt")


def test_long_lines_and_numbers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_fields, "BLOCK_BYTES", 16)
    (tmp_path / "p.txt").write_text("1 2 0\n" + "1" * 100 + "\n")
    with pytest.raises(UserError, match=r"line 2 of .*: expected .*, got \d+ bytes and more"):
        read_template_pairs(tmp_path / "p.txt")
    (tmp_path / "p.txt").write_text("1 1000000000 0\n")
    with pytest.raises(UserError, match="line 1 of .*got '1 1000000000 0'"):
        read_template_pairs(tmp_path / "p.txt")


def test_pairs_and_templates(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes(b"\xef\xbb\xbf1 2 1\n4 999999999 0")
    pairs = read_template_pairs(tmp_path / "p.txt")
    assert [side.tolist() for side in (pairs.left, pairs.right, pairs.same)] == [[1, 4], [2, 999999999], [True, False]]
    (tmp_path / "t.txt").write_text("1.jpg 7 3\n2.jpg 7 3\n\n1.jpg 8 0\n3.jpg 8 1\n")
    listed = read_templates(tmp_path / "t.txt")
    assert list(listed.keys) == ["1.jpg", "2.jpg", "3.jpg"]
    assert listed.rows.tolist() == [0, 1, 0, 2]
    assert (listed.templates.tolist(), listed.media.tolist()) == ([7, 7, 8, 8], [3, 3, 0, 1])
