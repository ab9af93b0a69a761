"""Who is in a set, whatever says so, and who is in two."""

from pathlib import Path

import pytest

from lfs.overlap import people_of
from search_space.errors import UserError
from trainers.data.importers.identity_file import write_identities

PEOPLE = {"George_W_Bush", "Tony_Blair"}


@pytest.mark.parametrize(
    "text",
    [
        "Tony Blair\nGeorge_W_Bush\n",
        "0 Tony_Blair\n1 George_W_Bush\n",
        "Tony_Blair/1.jpg 4\nTony_Blair/video2/1.jpg 4\nGeorge_W_Bush/a.png 7\n",
        "\ufeffTony_Blair/1.jpg 0\nGeorge_W_Bush/a.png 1\n",
        "Tony_Blair/1.jpg\nGeorge_W_Bush/a.png\n",
    ],
)
def test_files_that_say_who_is_in_a_set(text: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text(text)
    assert people_of(tmp_path / "file") == PEOPLE


def test_folders_that_say_who_is_in_a_set(tmp_path: Path) -> None:
    for name in ("George W Bush", "Tony_Blair", ".hidden"):
        (tmp_path / "set" / name).mkdir(parents=True)
    assert people_of(tmp_path / "set") == PEOPLE
    write_identities(tmp_path / "set" / "identities.txt", ["Eva", "Tony_Blair", "George_W_Bush"])
    assert people_of(tmp_path / "set") == people_of(tmp_path / "set/identities.txt") == {*PEOPLE, "Eva"}
    (tmp_path / "set" / "labels.txt").write_text("17.jpg 1\n18.jpg 2\n")  # the file beside it knows their names
    assert people_of(tmp_path / "set/labels.txt") == PEOPLE


def test_names_of_nobody_are_no_all_clear(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "list").write_text("17.jpg 0\n18.jpg 1\n")
    (tmp_path / "blank").write_text("\n")
    for name in ("empty", "list", "blank"):
        with pytest.raises(UserError, match=rf"{name}: expected a folder or file that names people, .*, got none"):
            people_of(tmp_path / name)
    with pytest.raises(UserError, match="none: expected a list of identities, got: No such file"):
        people_of(tmp_path / "none")
    (tmp_path / "list").write_text("A/17.jpg 0\nA/18.jpg\n")
    with pytest.raises(UserError, match=r"line 2 of .*list: expected `lmdb_key"):
        people_of(tmp_path / "list")
