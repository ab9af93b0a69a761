"""Acting on a search: what is asked for in the wrong way, and who is said to have asked."""

import getpass
import os

import pytest

from lfs.control import main, user
from search_space.errors import UserError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["extend", "x"], "--generations N goes with extend, and extend needs it"),
        (["stop", "x", "--generations", "3"], "--generations N goes with extend"),
        (["pause", "x", "--now"], "--now goes with stop"),
    ],
)
def test_flags_go_with_their_action(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(arguments)


def test_who_has_no_name_goes_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert user() == getpass.getuser()

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 1000640000")

    monkeypatch.setattr(getpass, "getuser", nameless)
    assert user() == str(os.getuid())
