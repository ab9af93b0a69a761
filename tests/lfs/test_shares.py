"""How several searches divide a cluster: by priority, evenly among equals, never beyond what fits or is wanted."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfs.room import Growth
from lfs.shares import Claim, divide, part_of

ONE = {"CPU": 1.0, "GPU": 0.0}


def claim(name: str, most: int, priority: int = 0, **needs: float) -> Claim:
    return Claim(name=name, priority=priority, most=most, needs=needs or ONE)


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ([claim("a", 8)], {"a": 8}),
        ([claim("a", 99)], {"a": 10}),
        ([claim("a", 8), claim("b", 8)], {"a": 5, "b": 5}),
        ([claim("b", 8), claim("a", 8), claim("c", 8)], {"a": 4, "b": 3, "c": 3}),
        ([claim("a", 2), claim("b", 99)], {"a": 2, "b": 8}),
        ([claim("a", 8), claim("b", 4, priority=1)], {"a": 6, "b": 4}),
        ([claim("a", 8), claim("b", 99, priority=1)], {"a": 0, "b": 10}),
        ([claim("a", 0), claim("b", 99)], {"a": 0, "b": 10}),  # a is paused
        ([claim("a", 99, CPU=2.0), claim("b", 99)], {"a": 2, "b": 3}),
    ],
)
def test_shares_of_ten_cpus_on_two_nodes(claims: list[Claim], expected: dict[str, int]) -> None:
    nodes = [{"CPU": 5.0}, {"CPU": 5.0}]
    if expected == {"a": 2, "b": 3}:
        nodes = [{"CPU": 5.0}, {"CPU": 2.0}]
    assert divide(nodes, claims) == expected


def test_what_the_first_cannot_use_goes_to_the_next() -> None:
    nodes = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 4.0}]
    claims = [claim("gpu", 9, priority=5, CPU=1.0, GPU=1.0), claim("cpu", 9)]
    assert divide(nodes, claims) == {"gpu": 1, "cpu": 7}


def test_the_ranks_of_a_trainer_may_lie_on_several_nodes_but_all_of_them_must_fit() -> None:
    nodes = [{"CPU": 3.0}, {"CPU": 3.0}, {"CPU": 1.0}]
    ranks = Claim(name="ranks", priority=1, most=9, needs={"CPU": 2.0}, ranks=2)
    assert divide(nodes, [ranks, claim("one", 9)]) == {"ranks": 1, "one": 3}
    assert divide(nodes, [replace(ranks, ranks=3), claim("one", 9)]) == {"ranks": 0, "one": 7}


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2), st.integers(1, 3)), min_size=1, max_size=4),
)
def test_nobody_gets_more_than_fits_and_nothing_lies_idle_that_somebody_wants(
    cpus: list[int], asked: list[tuple[int, int, int]]
) -> None:
    nodes = [{"CPU": float(n)} for n in cpus]
    claims = [claim(f"s{i}", most, priority, CPU=float(need)) for i, (most, priority, need) in enumerate(asked)]
    given_to = divide(nodes, claims)
    used = sum(given_to[c.name] * c.needs["CPU"] for c in claims)
    assert used <= sum(cpus)
    assert all(given_to[c.name] <= c.most for c in claims)
    if all(c.needs["CPU"] == 1 for c in claims):
        assert used == min(sum(cpus), sum(c.most for c in claims))
    assert divide(nodes, claims[::-1]) == given_to


def test_where_it_is_not_known_what_may_come_each_asks_for_one_more_than_its_share() -> None:
    nodes, unknown = [{"CPU": 4.0}], Growth(unknown=True)
    a, b = claim("a", 9), claim("b", 9)
    assert part_of("a", {"a": a}, nodes, Growth()) == 4
    assert part_of("a", {"a": a}, nodes, unknown) == 9
    assert part_of("a", {"a": a, "b": b}, nodes, Growth()) == 2
    assert part_of("a", {"a": a, "b": b}, nodes, unknown) == 3
    assert part_of("b", {"a": a, "b": claim("b", 2)}, nodes, unknown) == 2  # never more than it can use
    assert part_of("a", {"a": a, "b": b}, nodes, Growth(nodes=({"CPU": 4.0},))) == 4
