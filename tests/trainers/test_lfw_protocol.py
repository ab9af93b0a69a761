"""Verification in the form of LFW, against hand-computed cases and a slow loop."""

from pathlib import Path

import numpy as np
import pytest

from search_space.errors import UserError
from tests.lfs.evaluation_files import unit
from trainers.lfw_protocol import LfwProtocol
from trainers.protocol import InMemory, ProtocolResult, held
from trainers.verification import fold_accuracies, fold_thresholds

PAIRS = "a b 1\na c 0\nd e 1\nd f 0\n"


def evaluated(tmp_path: Path, angles: dict[str, float], text: str = PAIRS, **settings: object) -> ProtocolResult:
    (tmp_path / "pairs.txt").write_text(text)
    made = LfwProtocol("mine", tmp_path / "x.lmdb", tmp_path / "pairs.txt", num_folds=2, **settings)  # type: ignore[arg-type]
    [needed] = made.needs()
    vectors = np.stack([unit(angles[key]) * 3 for key in needed.keys])
    return made.evaluate({"mine": InMemory(vectors)})


def by_name(result: ProtocolResult) -> dict[str, float | None]:
    return {measure.name: measure.value for measure in result.measures}


def test_a_case_by_hand(tmp_path: Path) -> None:
    """Fold 0: cosines 1 (genuine) and 0. Fold 1: cos 50 and cos 50 = 0.643, which no threshold parts.

    In fold 1 every threshold is as good: fold 0 is judged at the middle of all, 0.5 of the range -4 to 5, and is right.
    Fold 1 is judged at 0.5, the middle between 0 and 1: both of its pairs are accepted, one of them is right.
    """
    result = evaluated(tmp_path, {"a": 0, "b": 0, "c": 90, "d": 0, "e": 50, "f": -50}, fars=(0.5, 0.4))
    found = by_name(result)
    assert found["accuracy"] == (1 + 0.5) / 2
    assert found["threshold"] == pytest.approx(0.5)
    assert result.counts == {"pictures": 6, "pairs": 4, "genuine": 2, "skipped_pictures": 0, "skipped_pairs": 0}
    assert found["tar@far=0.5"] == 1  # one of two impostors may pass, so the threshold is 0: 1 and 0.643 are above it
    assert found["tar@far=0.4"] is None  # less than one of two impostor pairs
    assert found["auc"] == pytest.approx((1 + 1 + 1 + 0.5) / 4)
    assert result.curve is not None
    np.testing.assert_allclose(result.curve.thresholds, [1, 0.6427876, 0, -np.inf], atol=1e-6)
    assert (result.curve.fars.tolist(), result.curve.tars.tolist()) == ([0, 0, 0.5, 1], [0, 0.5, 1, 1])


def test_all_genuine_equal_and_parted(tmp_path: Path) -> None:
    angles = {"a": 0, "b": 0, "c": 90, "d": 0, "e": 0, "f": 90}
    result = evaluated(tmp_path, angles, fars=(0.5,))
    assert by_name(result) == {"accuracy": 1, "threshold": pytest.approx(0.5), "tar@far=0.5": 1, "auc": 1}
    assert next(m for m in result.measures if m.name == "accuracy").standard_error == 0


def test_thresholds_of_folds_against_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    same, fold = np.arange(60) % 2 == 0, np.repeat(np.arange(5), 12)
    scores = np.round(rng.normal(size=60) + same, 1)  # with ties
    thresholds = fold_thresholds(scores, same, fold)
    tried = np.concatenate(([-9], (np.unique(scores)[1:] + np.unique(scores)[:-1]) / 2, [9]))
    for number, threshold in enumerate(thresholds):
        rest, own = fold != number, fold == number
        best = max(((scores[rest] > t) == same[rest]).mean() for t in tried)
        assert ((scores[rest] > threshold) == same[rest]).mean() == best
        assert ((scores[own] > threshold) == same[own]).mean() == fold_accuracies(scores, same, fold)[number]


def test_a_rate_of_exactly_one_impostor_pair_can_be_told(tmp_path: Path) -> None:
    text = "".join(f"a b 1\na c{i} 0\n" for i in range(10))
    angles = {"a": 0, "b": 1} | {f"c{i}": 30 + i for i in range(10)}
    found = by_name(evaluated(tmp_path, angles, text, fars=(0.1, 0.09)))
    assert found["tar@far=0.1"] == 1
    assert found["tar@far=0.09"] is None


def test_pairs_with_skipped_pictures_are_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("a b 1\na c 0\nb a 1\nd e 1\nd f 0\ne f 0\n")
    made = LfwProtocol("mine", tmp_path / "x.lmdb", tmp_path / "pairs.txt", num_folds=2)
    vectors = np.stack([unit(angle) for angle in (0, 5, 90, 0, 10, 95)])
    vectors[4] = np.nan
    with pytest.raises(UserError, match="one kind alone or none in fold 1 after pictures"):
        made.evaluate({"mine": InMemory(vectors)})
    (tmp_path / "pairs.txt").write_text("a b 1\na c 0\nb a 1\nd e 1\nd f 0\nf f 1\n")
    made = LfwProtocol("mine", tmp_path / "x.lmdb", tmp_path / "pairs.txt", num_folds=2)
    result = made.evaluate({"mine": InMemory(vectors)})
    assert (result.counts["pairs"], result.counts["skipped_pairs"], result.counts["skipped_pictures"]) == (5, 1, 1)
    assert by_name(result)["accuracy"] == 1
    vectors[4] = np.inf  # is not skipped by anybody
    with pytest.raises(ValueError, match="embeddings must be finite, got a row that is not: 4"):
        made.evaluate({"mine": InMemory(vectors)})


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "got an empty file"), ("a b 1\na c 0\nd e 1\n", "num_folds = 2 divides, got 3 pairs"),
        ("a b 1\na c 1\nd e 1\nd f 0\n", r"got no 0 \(different\) in fold 0"), ("a b\n", "line 1 of .*expected `key1"),
    ],
)  # fmt: skip
def test_bad_pairs_are_refused(text: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(UserError, match=line):
        LfwProtocol("mine", tmp_path / "x.lmdb", tmp_path / "pairs.txt", num_folds=2).needs()


def test_chunks_are_put_together() -> None:
    whole = np.arange(12, dtype=np.float32).reshape(6, 2)
    assert [len(part) for part in InMemory(whole).chunks(4)] == [4, 2]
    np.testing.assert_array_equal(held(InMemory(whole)), whole)
