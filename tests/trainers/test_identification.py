"""Identification among distractors against slow loops over every comparison, and cases worked out by hand."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search_space.errors import UserError
from tests.trainers.slow_identification import FARS, as_slow, slow_report
from trainers.identification import ArrayDistractors, identify, megaface, trillion_pairs
from trainers.identification import mates as mates_module
from trainers.identification import protocol as protocol_module
from trainers.identification import sieve as sieve_module
from trainers.identification.thresholds import Highest
from trainers.identification.units import (
    STEPS_PER_UNIT,
    all_scores,
    unit_embeddings,
)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(protocol_module, "TILE", 5)
    monkeypatch.setattr(protocol_module, "FIRST_TILE", 2)
    monkeypatch.setattr(sieve_module, "PROBES", 3)
    monkeypatch.setattr(mates_module, "ROWS", 2)
    monkeypatch.setattr(mates_module, "NEWS", 10**6)


# --- against slow loops -----------------------------------------------------------------------------------------------

FEW = st.sampled_from([-1.0, 0.0, 1.0])


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    people=st.lists(st.integers(0, 2), min_size=3, max_size=8),
    num=st.integers(1, 14),
    dim=st.integers(1, 4),
)
def test_identification_is_that_of_slow_loops(data, people, num, dim):
    """Few directions, so most scores are ties, and some embeddings are zeros."""
    if len(set(people)) == len(people):
        people = [*people, people[0]]
    vector = st.lists(FEW, min_size=dim, max_size=dim)
    probes = data.draw(st.lists(vector, min_size=len(people), max_size=len(people)))
    distractors = data.draw(st.lists(vector, min_size=num, max_size=num))
    counts = sorted({data.draw(st.integers(1, num)), num})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol_module, "TILE", data.draw(st.sampled_from([1, 3, 100])))
        patch.setattr(protocol_module, "FIRST_TILE", data.draw(st.sampled_from([1, 100])))
        patch.setattr(sieve_module, "PROBES", data.draw(st.sampled_from([1, 2, 100])))
        patch.setattr(sieve_module, "DENSE", data.draw(st.sampled_from([0, 2, 100])))
        report = identify(
            np.array(probes),
            people,
            ArrayDistractors(np.array(distractors)),
            counts=counts,
            ranks=(1, 2, 4),
            fars=FARS,
            search_fars=FARS,
        )
    assert as_slow(report) == slow_report(probes, people, distractors, counts, (1, 2, 4), FARS, FARS)


def crowded(num_probes, num, dim, noise):
    """Probes of few people, and distractors so near to them that float32 cannot tell which is nearer."""
    rng = np.random.default_rng(4)
    people = np.arange(num_probes) % 3
    centres = rng.normal(size=(3, dim))
    probes = centres[people] + noise * rng.normal(size=(num_probes, dim))
    return probes, people, centres[rng.integers(3, size=num)] + noise * rng.normal(size=(num, dim))


@pytest.mark.parametrize("noise", [1e-3, 0.5])
def test_scores_that_float32_cannot_tell_apart_are_told_apart(small_parts, noise):
    probes, people, distractors = crowded(8, 60, 48, noise)
    arguments = {"counts": (7, 60), "ranks": (1, 3, 30), "fars": FARS, "search_fars": FARS}
    report = identify(probes, people, ArrayDistractors(distractors), **arguments)
    assert as_slow(report) == slow_report(probes, people, distractors, *arguments.values())


@pytest.mark.parametrize("dense", [0, 10**9])
def test_the_sieve_lets_through_all_that_is_as_high_as_its_bar(monkeypatch, dense):
    monkeypatch.setattr(sieve_module, "DENSE", dense)
    probes, _, distractors = crowded(40, 500, 48, 1e-3)
    units, tile = unit_embeddings(probes), unit_embeddings(distractors)
    table = all_scores(units, tile)
    bars = np.median(table, axis=1).astype(np.int32)
    bars[7] = table.max() + 1
    rows, columns = np.nonzero(table >= bars[:, None])
    found, scores = sieve_module.Sieve(units, 500).at_least(slice(0, 40), tile, bars)
    assert found.tolist() == rows.tolist()
    assert scores.tolist() == table[rows, columns].tolist()
    assert (table == bars[:, None]).any()


def test_a_sort_of_all_scores_gives_the_same():
    """At a size at which most tiles are sieved and few scores looked at."""
    rng = np.random.default_rng(5)
    people = np.arange(90) % 30
    probes = rng.normal(size=(30, 32))[people] + 0.6 * rng.normal(size=(90, 32))
    distractors = rng.normal(size=(9000, 32)).astype(np.float32)
    report = identify(
        probes, people, ArrayDistractors(distractors), ranks=(1, 2, 20), fars=(1e-6, 1e-4, 0.05), search_fars=(0.1,)
    )
    units = unit_embeddings(probes)
    table, pairs = all_scores(units, unit_embeddings(distractors)), all_scores(units, units)
    left, right = np.nonzero((people[:, None] == people) & ~np.eye(90, dtype=bool))
    mates = pairs[left, right]
    assert [g.num_distractors for g in report.galleries] == [10, 100, 1000, 9000]
    for gallery in report.galleries:
        count = gallery.num_distractors
        rising = np.sort(table[:, :count], axis=1)
        before = np.array([count - np.searchsorted(rising[i], s, "left") for i, s in zip(left, mates, strict=True)])
        assert [r.rate for r in gallery.ranks] == [np.mean(before < k) for k in (1, 2, 20)]
        falling = np.sort(table[:, :count], axis=None)[::-1]
        for point in gallery.verification:
            bar = falling[int(point.far * len(falling) + 1e-9)]
            assert (point.threshold, point.rate) == (bar / STEPS_PER_UNIT, np.mean(mates > bar))
        [point] = gallery.open_set
        bar = np.sort(rising[:, -1])[::-1][9]
        assert (point.comparisons, point.false_accepts) == (90, 9)
        assert point.rate == np.mean((before == 0) & (mates > bar))


def test_nothing_depends_on_parts_or_threads(monkeypatch):
    probes, people, distractors = crowded(40, 3000, 64, 0.7)

    def report():
        return megaface(probes, people, ArrayDistractors(distractors), fars=(1e-6, 1e-3)).to_dict()

    expected, threads = report(), torch.get_num_threads()
    for tile, first, block, dense in ((100, 7, 11, 0), (3000, 3000, 40, 1), (333, 64, 3, 10**9)):
        monkeypatch.setattr(protocol_module, "TILE", tile)
        monkeypatch.setattr(protocol_module, "FIRST_TILE", first)
        monkeypatch.setattr(sieve_module, "PROBES", block)
        monkeypatch.setattr(sieve_module, "DENSE", dense)
        try:
            torch.set_num_threads(1 if tile == 333 else 2)
            assert report() == expected
        finally:
            torch.set_num_threads(threads)


def test_products_are_in_full_float32_even_where_less_is_allowed():
    probes, people, distractors = crowded(12, 400, 64, 0.5)
    expected = megaface(probes, people, ArrayDistractors(distractors))
    torch.set_float32_matmul_precision("medium")
    seen = []
    try:
        with sieve_module.full_float32():
            seen.append(torch.get_float32_matmul_precision())
        assert megaface(probes, people, ArrayDistractors(distractors)) == expected
        seen.append(torch.get_float32_matmul_precision())
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == ["highest", "medium"]


# --- by hand ----------------------------------------------------------------------------------------------------------

PROBES = np.array([(1, 0), (0.6, 0.8)])  # one person; cosine 0.6
DISTRACTORS = np.array([(-1, 0), (0.6, -0.8), (0.8, 0.6)])
"""Cosines with the probes: -1, 0.6 (as high as the mate), 0.8; -0.6, -0.28, 0.96."""


def step(cosine):
    """The multiple of 2^-20 next to a cosine."""
    return round(cosine * STEPS_PER_UNIT) / STEPS_PER_UNIT


def test_ranks_and_thresholds_by_hand():
    report = identify(
        PROBES, ["a", "a"], ArrayDistractors(DISTRACTORS), counts=(1, 2, 3), ranks=(1, 2, 3), fars=(1e-6, 0.34, 0.5)
    )
    rates = {g.num_distractors: [r.rate for r in g.ranks] for g in report.galleries}
    assert rates == {1: [1, 1, 1], 2: [0.5, 1, 1], 3: [0, 0.5, 1]}  # a tie comes before the mate
    points = [(p.comparisons, p.false_accepts, p.threshold, p.rate) for p in report.galleries[-1].verification]
    assert points == [
        (6, 0, step(0.96), 0.0),  # below one comparison
        (6, 2, step(0.6), 0.0),  # the mate's score is that of the threshold, and rejected
        (6, 3, step(-0.28), 1.0),
    ]
    assert (report.num_probes, report.num_identities, report.num_pairs, report.num_without_mate) == (2, 1, 2, 0)


def test_searches_by_hand():
    """Highest of each search at two distractors: 0.6 and -0.28, mate 0.6; the first comes after a distractor."""
    report = identify(PROBES, [7, 7], ArrayDistractors(DISTRACTORS), counts=(2,), search_fars=(0.1, 0.5))
    points = [(p.comparisons, p.false_accepts, p.threshold, p.rate) for p in report.galleries[0].open_set]
    assert points == [(2, 0, step(0.6), 0.0), (2, 1, step(-0.28), 0.5)]


def test_a_distractor_that_is_one_step_higher_than_all_before_counts():
    low, high = step(0.25), step(0.25) + 1 / STEPS_PER_UNIT
    others = np.array([[cosine, 0, np.sqrt(1 - cosine**2)] for cosine in (low, high)])
    probes = np.array([[1, 0, 0], [0.9, np.sqrt(1 - 0.9**2), 0]])  # mates far above
    for rates in ({"fars": (0.0,)}, {"search_fars": (0.0,)}):
        report = identify(probes, [0, 0], ArrayDistractors(others), counts=(1, 2), **rates)
        assert [(g.verification + g.open_set)[0].threshold for g in report.galleries] == [low, high]


def test_one_distractor():
    [gallery] = megaface(PROBES, [0, 0], ArrayDistractors(DISTRACTORS[2:])).galleries
    assert (gallery.num_distractors, gallery.ranks[0].rate, gallery.verification[0].rate) == (1, 0.0, 0.0)
    assert gallery.verification[0].threshold == step(0.96)


def test_a_collapsed_model_identifies_nobody():
    same = np.full((30, 8), 0.3)
    report = megaface(same[:6], [0, 0, 1, 1, 2, 2], ArrayDistractors(same), fars=(1e-6, 0.5), ranks=(1, 30, 31))
    for gallery in report.galleries:
        count = gallery.num_distractors
        assert [r.rate for r in gallery.ranks] == [0, float(count < 30), 1]
        assert [(p.threshold, p.rate) for p in gallery.verification] == [(1.0, 0.0)] * 2


def test_all_genuine_equal_and_above_every_distractor():
    probes, others = np.eye(4)[[0, 0, 1, 1]], np.eye(4)[[2, 3, 2]]
    report = trillion_pairs(probes, [0, 0, 1, 1], ArrayDistractors(others))
    [gallery] = report.galleries
    assert (gallery.ranks[0].rate, gallery.verification[0].rate, gallery.open_set[0].rate) == (1, 1, 1)
    assert (gallery.verification[0].far, gallery.open_set[0].far) == (1e-9, 1e-3)
    assert gallery.verification[0].threshold == 0.0


def test_zeros_have_cosine_0():
    probes = np.array([(0.0, 0), (1, 0), (1, 0.1)])
    [gallery] = identify(probes, [0, 0, 0], ArrayDistractors(np.array([(0.0, 0), (-1, 0)]))).galleries
    # pairs with the zeros: mate 0, first distractor 0: lost, 4 of 6
    assert gallery.ranks[0].rate == 2 / 6


def test_probes_without_a_mate_are_compared_but_never_found():
    lonely = np.concatenate((PROBES, [(0.6, -0.8)]))  # the second distractor's very picture
    report = identify(lonely, [0, 0, 1], ArrayDistractors(DISTRACTORS), counts=(2,), fars=(0.0,))
    assert (report.num_probes, report.num_identities, report.num_pairs, report.num_without_mate) == (3, 2, 2, 1)
    [point] = report.galleries[0].verification
    assert (point.comparisons, point.threshold, point.rate) == (6, 1.0, 0.0)


def test_what_is_left_out_counts_nowhere():
    probes = np.concatenate((PROBES, np.full((2, 2), np.nan)))
    others = np.concatenate((np.full((1, 2), np.inf), DISTRACTORS))
    expected = identify(PROBES, [0, 0], ArrayDistractors(DISTRACTORS[1:]), counts=(1, 2), fars=(0.3,))
    done = []
    report = identify(
        probes,
        [0, 0, 0, 0],
        ArrayDistractors(others),
        counts=(1, 2),
        fars=(0.3,),
        keep_probes=np.array([True, True, False, False]),
        keep_distractors=[False, False, True, True],
        progress=lambda *numbers: done.append(numbers),
    )
    assert report == expected
    assert done == [(1, 2), (2, 2)]


def test_a_report_is_json():
    report = megaface(PROBES, [0, 0], ArrayDistractors(DISTRACTORS)).to_dict()
    assert json.loads(json.dumps(report))["galleries"][0]["ranks"][0] == {"rank": 1, "rate": 0.0}


def test_counts_are_powers_of_ten_and_all():
    probes, people, distractors = crowded(4, 230, 4, 1.0)

    def counts(num):
        report = megaface(probes, people, ArrayDistractors(distractors[:num]))
        return [g.num_distractors for g in report.galleries]

    assert (counts(230), counts(100), counts(9)) == ([10, 100, 230], [10, 100], [9])


class Source:
    """Distractors whose chunks are given."""

    def __init__(self, num, parts):
        self.num, self.parts = num, parts

    def __len__(self):
        return self.num

    def chunks(self, rows):
        assert rows >= 1
        yield from self.parts


def test_chunks_may_be_of_any_length_and_are_read_no_further_than_needed():
    def parts():
        yield DISTRACTORS[:1]
        yield DISTRACTORS[:0]
        yield DISTRACTORS[1:]
        raise AssertionError("not needed")

    expected = identify(PROBES, [0, 0], ArrayDistractors(DISTRACTORS), counts=(2,))
    assert identify(PROBES, [0, 0], Source(9, parts()), counts=(2,)) == expected


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"probes": np.ones(3)}, r"probes must be \[n, d\] with d from 1 to 65536, got \[3\]"),
        ({"probes": np.ones((2, 0))}, r"probes must be \[n, d\]"),
        ({"probes": np.array([["a", "b"]] * 2)}, "probes must be numbers, got <U1"),
        ({"probes": np.array([(1, 2), (np.nan, 1)])}, "probes: row 1 must be finite, got a length of nan"),
        (
            {"distractors": ArrayDistractors(np.ones((3, 3)))},
            r"distractors from row 0 on must be \[n, 2\], got",
        ),
        ({"distractors": ArrayDistractors(np.ones((0, 2)))}, "at least one distractor is needed, got none"),
        ({"identities": [0]}, r"identities must be \[2\], one for each probe, got \[1\]"),
        ({"identities": [0, 1]}, "two probes of an identity are needed, got 2 probes of as many"),
        ({"keep_probes": [True]}, r"keep_probes must be \[2\] bool, got \[1\] bool"),
        ({"keep_probes": [1, 1]}, r"keep_probes must be \[2\] bool, got \[2\] int64"),
        ({"keep_distractors": [True]}, r"keep_distractors must be \[3\] bool"),
        ({"keep_distractors": [False] * 3}, "at least one distractor is needed, got none"),
        ({"counts": (4,)}, r"numbers of distractors must be from 1 to 3, as many as there are, got \[4\]"),
        ({"counts": ()}, "numbers of distractors must be"),
        ({"counts": (0, 1)}, "numbers of distractors must be"),
        ({"ranks": (0,)}, r"ranks must be at least 1, got \[0\]"),
        ({"ranks": ()}, "ranks must be at least 1"),
        ({"fars": (1.0,)}, r"false-accept rates must be in \[0, 1\), got \[1.0\]"),
        ({"fars": (float("nan"),)}, r"false-accept rates must be in \[0, 1\)"),
        ({"search_fars": (-0.1,)}, r"false-accept rates must be in \[0, 1\)"),
        ({"distractors": Source(3, [DISTRACTORS[:2]])}, "distractors must be 3 as their source says, got 2"),
        (
            {"distractors": Source(3, [DISTRACTORS[:2]] * 2)},
            "must be 3 as their source says, got 4 or more",
        ),
    ],
)
def test_bad_input_is_refused_in_one_line(changed, message):
    given = {"probes": PROBES, "identities": [0, 0], "distractors": ArrayDistractors(DISTRACTORS), **changed}
    with pytest.raises(UserError, match=message) as error:
        identify(**given)
    assert "\n" not in str(error.value)


def test_a_distractor_that_is_not_finite_is_named_by_its_row_in_the_list(small_parts):
    others = np.ones((20, 2))
    others[13] = np.inf
    keep = np.arange(20) % 2 == 1
    with pytest.raises(UserError, match="distractors: row 13 must be finite, got a length of inf"):
        identify(PROBES, [0, 0], ArrayDistractors(others), keep_distractors=keep)


def test_a_rate_that_allows_more_than_can_be_held_is_refused(monkeypatch):
    monkeypatch.setattr(Highest, "MAX_KEPT", 3)
    identify(PROBES, [0, 0], ArrayDistractors(DISTRACTORS), fars=(0.34,))
    with pytest.raises(UserError, match="allow at most 2 false accepts, got one that allows 3; ask for a lower rate"):
        identify(PROBES, [0, 0], ArrayDistractors(DISTRACTORS), fars=(0.5,))
