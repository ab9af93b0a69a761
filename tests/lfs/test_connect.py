"""What Ray says when it cannot be had, in one line."""

import pytest

from lfs.connect import cannot_be_reached
from search_space.errors import UserError


@pytest.mark.parametrize("kind", [Exception, ConnectionError, RuntimeError])
def test_what_ray_complains_of_is_one_line(kind: type[Exception]) -> None:
    law = "^Ray at here cannot be reached: timed out during startup; wait$"
    with pytest.raises(UserError, match=law), cannot_be_reached("here", "wait"):
        raise kind("timed out during startup\nand more")


def test_a_defect_stays_one() -> None:
    with pytest.raises(TypeError), cannot_be_reached("here", "wait"):
        raise TypeError("init() got an unexpected keyword argument")
