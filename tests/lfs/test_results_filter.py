"""The small language of conditions: against plain Python row by row, and what it refuses."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lfs.results_filter import selected
from search_space.errors import UserError

Row = dict[str, Any]


@pytest.fixture
def table() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    rewards = rng.random(60)
    rewards[::7] = np.nan
    return pd.DataFrame(
        {
            "generation": np.arange(60) // 10, "candidate": np.arange(60) % 10, "reward": rewards,
            "reward_se": rng.random(60) / 5, "winner": rng.random(60) < 0.3, "trainer": rng.choice(["t-0", "t-1"], 60),
            "reason": rng.choice(["", "loss not finite"], 60), "margins": list(rng.random((60, 3))),
            "all:tar@far=0.01": rng.random(60),
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "slow"),
    [
        ("reward > 0.5", lambda r: r["reward"] > 0.5),
        ("not reward <= 0.5", lambda r: r["reward"] > 0.5),
        (
            "candidate == 1 or reward > 0.5 and winner",
            lambda r: r["candidate"] == 1 or (r["winner"] and r["reward"] > 0.5),
        ),
        ("not (winner or trainer != 't-1')", lambda r: not (r["winner"] or r["trainer"] != "t-1")),
        ("0.2 < reward <= 0.6", lambda r: 0.2 < r["reward"] <= 0.6),
        ("generation in (2, 4)", lambda r: r["generation"] + 1 in (2, 4)),
        ("generation not in [2, 4]", lambda r: r["generation"] + 1 not in (2, 4)),
        ("margins[1] >= 0.25", lambda r: r["margins"][1] >= 0.25),
        ("reward - 2 * reward_se > -0.1", lambda r: r["reward"] - 2 * r["reward_se"] > -0.1),
        ("-reward / 2 < -0.4", lambda r: -r["reward"] / 2 < -0.4),
        ("'not finite' in reason", lambda r: "not finite" in r["reason"]),
        ("'t-0' not in trainer", lambda r: "t-0" not in r["trainer"]),
        ("`all:tar@far=0.01` > 0.5", lambda r: r["all:tar@far=0.01"] > 0.5),
        ("reward == None", lambda r: r["reward"] != r["reward"]),
        ("reward != None", lambda r: r["reward"] == r["reward"]),
        ("winner == True", lambda r: r["winner"]),
        (" candidate == 3 ", lambda r: r["candidate"] == 3),
    ],
)  # fmt: skip
def test_conditions_hold_where_python_says(table: pd.DataFrame, text: str, slow: Callable[[Row], bool]) -> None:
    rows = table.to_dict("records")
    expected = [i for i, row in enumerate(rows) if slow(row)]
    assert 0 < len(expected) < len(rows)
    assert selected(table, where=text).index.tolist() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rewrd > 1", "no column 'rewrd'; did you mean 'reward'?"),
        ("`x y` > 1", "no column 'x y'; expected one of generation, candidate"),
        ("reward", "does not fit the columns"),
        ("reward > 'a'", "does not fit the columns"),
        ("margins > 0", "does not fit the columns"),
        ("margins[9] > 0", "does not fit the columns"),
        ("trainer in ('a', 1)", "does not fit the columns"),
        ("reward > 9999999999999999999999999", "does not fit the columns"),
        ("reward >", "not understood (invalid syntax)"),
        ("", ""),
        ("1", "expected comparisons"),
        ("(" * 500, "not understood"),
        ("not " * 240 + "winner", "of more than 200 parts"),
        ("winner " + " " * 1000, "at most 1000 characters"),
        ("reward is None", "expected one of == !="),
        ("__import__('os').system('true')", "expected comparisons"),
        ("reward.real > 1", "expected a column"),
        ("len(trainer) > 1", "expected a column"),
        ("generation == 10**999", "expected a column"),
        ("reward := 1", "not understood"),
        ("lambda: 1", "expected comparisons"),
        ("[r for r in reward]", "expected comparisons"),
        ("f'{reward}' == 'a'", "expected a column"),
        ("margins[-1] > 0", "expected a column"),
        ("margins[0:2] > 0", "expected a column"),
        ("__0__ > 1", "no column '__0__'"),
    ],
)
def test_anything_else_is_refused_in_one_line(table: pd.DataFrame, text: str, message: str) -> None:
    if not text:
        assert len(selected(table, where=text)) == len(table)
        return
    with pytest.raises(UserError) as caught:
        selected(table, where=text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_are_sorted_by_several_columns_and_what_is_missing_is_last(table: pd.DataFrame) -> None:
    found = selected(table, sort="trainer:desc, reward", columns="reward,trainer")
    assert list(found) == ["reward", "trainer"]
    rows = [(row["trainer"], row["reward"]) for row in table.to_dict("records")]
    slow = sorted(rows, key=lambda row: (row[0] != "t-1", row[1] != row[1], row[1]))
    assert found["trainer"].tolist() == [trainer for trainer, _ in slow]
    np.testing.assert_array_equal(found["reward"].to_numpy(), [reward for _, reward in slow])


def test_sorting_is_stable_and_takes_names_with_a_colon(table: pd.DataFrame) -> None:
    assert selected(table, sort="generation:desc").index.tolist()[:3] == [50, 51, 52]
    best = selected(table, sort="all:tar@far=0.01:desc")["all:tar@far=0.01"].tolist()
    assert best == sorted(best, reverse=True)
    assert (
        selected(table, sort="all:tar@far=0.01").index.tolist()
        == selected(table, sort="all:tar@far=0.01:asc").index.tolist()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sort": "rewad"}, "--sort: no column 'rewad'; did you mean 'reward'?"),
        ({"sort": "reward:down"}, "--sort: no column 'reward:down'"),
        ({"sort": "margins"}, "--sort: values of margins have no order"),
        ({"columns": "reward,nothing"}, "--columns: no column 'nothing'"),
    ],
)
def test_columns_that_are_not_there(table: pd.DataFrame, arguments: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        selected(table, **arguments)
    assert message in str(caught.value)
