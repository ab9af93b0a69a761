"""Protocols on files and embeddings in the plane, worked out by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from search_space.errors import UserError
from tests.lfs.evaluation_files import unit
from trainers.gallery_protocols import GalleryFiles, GalleryProtocol, MegafaceProtocol, TrillionPairsProtocol
from trainers.protocol import InMemory, ProtocolResult
from trainers.template_protocol import TemplateProtocol

PROBES = {"a0": 0, "a1": 10, "b0": 90, "b1": 120}
OTHERS = {"x": 15, "y": 200, "z": 118}


def files(tmp_path: Path) -> GalleryFiles:
    (tmp_path / "probes.txt").write_text("".join(f"{key} {'ab'.index(key[0])}\n" for key in PROBES))
    (tmp_path / "others.txt").write_text("".join(f"{key}\n" for key in OTHERS))
    return GalleryFiles(
        lmdb=tmp_path / "p.lmdb", probes=tmp_path / "probes.txt", distractors=tmp_path / "others.txt",
        distractors_lmdb=tmp_path / "d.lmdb",
    )  # fmt: skip


def evaluated(made: GalleryProtocol, **changes: float) -> ProtocolResult:
    vectors = [np.stack([unit(angle) for angle in ({**of, **changes}[key] for key in of)]) for of in (PROBES, OTHERS)]
    assert [one.name for one in made.needs()] == ["m/probes", "m/distractors"]
    return made.evaluate({one.name: InMemory(v) for one, v in zip(made.needs(), vectors, strict=True)})


def values(result: ProtocolResult) -> dict[str, float | None]:
    return {measure.name: measure.value for measure in result.measures}


def test_megaface_by_hand(tmp_path: Path) -> None:
    """Among x alone: a0 finds a1 (10 before 15 degrees), a1 loses a0 (10 after 5), b0 and b1 find each other. z takes
    both searches of b: b0 is 30 from b1 and 28 from z, b1 is 30 from b0 and 2 from z.

    Comparisons: 12. The nearest of them are 2 (b1, z), 5 (a1, x) and 15 degrees (a0, x); mates are 10 and 30 apart.
    """
    made = MegafaceProtocol("m", files(tmp_path), counts=(1, 3), far=2 / 12)
    result = evaluated(made)
    found = values(result)
    assert found["rank1@1"] == 3 / 4
    assert found["rank1@3"] == 1 / 4
    assert found["rank10@3"] == 1
    assert found[f"tar@far={2 / 12}"] == 2 / 4  # the third is the threshold: 15 degrees
    assert found[f"tar_threshold@far={2 / 12}"] == pytest.approx(np.cos(np.deg2rad(15)), abs=1e-5)
    assert [m.name for m in result.measures if m.headline] == ["rank1@3", f"tar@far={2 / 12}"]
    assert values(evaluated(MegafaceProtocol("m", files(tmp_path), far=1 / 13)))["rank1@3"] == 1 / 4
    assert values(evaluated(MegafaceProtocol("m", files(tmp_path), far=1 / 13)))[f"tar@far={1 / 13}"] is None


def test_noise_is_left_out_before_anything_is_counted(tmp_path: Path) -> None:
    """Without b1, b has no mate; without x, the first distractor is y."""
    (tmp_path / "p.noise").write_text("b1\n")
    (tmp_path / "d.noise").write_text("x\nunknown\n")
    noisy = replace(files(tmp_path), probe_noise=tmp_path / "p.noise", distractor_noise=tmp_path / "d.noise")
    for made in (MegafaceProtocol("m", noisy, counts=(1, 2)), TrillionPairsProtocol("m", noisy)):
        counts = evaluated(made).counts
        assert (counts["probes"], counts["probes_without_mate"], counts["searches"]) == (3, 1, 2)
        assert (counts["distractors"], counts["noise_probes"], counts["noise_distractors"]) == (2, 1, 1)
        assert (counts["unknown_probe_noise"], counts["unknown_distractor_noise"]) == (0, 1)
    found = values(evaluated(MegafaceProtocol("m", noisy, counts=(1, 2))))
    assert found["rank1@1"] == found["rank1@2"] == 1  # x came before the mate of a1, and z of b0 and b1


def test_trillion_pairs_by_hand(tmp_path: Path) -> None:
    """Best of each search without the mate: 15, 5, 28 and 2 degrees. One of four may be accepted: the bar is 5 degrees.
    With z elsewhere they are 15, 5, 75 and 80: two of four may be accepted, the bar is at 75, and a0, b0 and b1 are
    accepted and first.
    """
    made = TrillionPairsProtocol("m", files(tmp_path), search_far=1 / 4, far=1 / 12)
    result = evaluated(made)
    assert values(result)["id@far=0.25"] == 0
    assert values(result)[f"tar@far={1 / 12}"] == 0
    assert [m.name for m in result.measures if m.headline] == ["id@far=0.25", f"tar@far={1 / 12}"]
    made = TrillionPairsProtocol("m", files(tmp_path), search_far=2 / 4, far=2 / 12)
    assert values(evaluated(made, z=250))["id@far=0.5"] == 3 / 4


def test_a_count_that_skipped_distractors_leave_too_few_for(tmp_path: Path) -> None:
    made = MegafaceProtocol("m", files(tmp_path), counts=(2, 3))
    result = evaluated(made, x=np.nan)
    assert {name for name in values(result) if name.startswith("rank1@")} == {"rank1@2"}
    assert result.counts["skipped_distractors"] == 1
    with pytest.raises(UserError, match="m: at least one distractor is needed, got none"):
        evaluated(made, x=np.nan, y=np.nan, z=np.nan)
    with pytest.raises(UserError, match="m: two probes of an identity are needed"):
        evaluated(made, a0=np.nan, b1=np.nan)


def test_the_usual_numbers_of_distractors(tmp_path: Path) -> None:
    from trainers.gallery_protocols import _usual_counts

    assert _usual_counts(3) == [3]
    assert _usual_counts(10) == [10, 10]
    assert _usual_counts(999_999) == [10, 100, 1000, 10_000, 100_000, 999_999]
    assert _usual_counts(1_027_060) == [10, 100, 1000, 10_000, 100_000, 1_000_000]


def test_templates_by_hand(tmp_path: Path) -> None:
    """Template 1 is at 0 and 20 degrees, so at 10; template 3 is at 40 alone once its other picture is skipped."""
    (tmp_path / "t.txt").write_text("a 1 0\nb 1 1\nc 2 0\nd 3 0\ne 3 1\nf 4 0\na 5 0\n")
    (tmp_path / "p.txt").write_text("1 2 1\n2 3 0\n1 3 1\n1 4 0\n2 4 0\n1 5 0\n")
    made = TemplateProtocol("t", tmp_path / "x", tmp_path / "t.txt", tmp_path / "p.txt", fars=(1 / 2, 1 / 4, 1e-4))
    [needed] = made.needs()
    assert list(needed.keys) == list("abcdef")
    angles = {"a": 0, "b": 20, "c": 24, "d": 40, "e": np.nan, "f": np.nan}
    result = made.evaluate({"t": InMemory(np.stack([unit(angle) for angle in angles.values()]))})
    assert result.counts == {
        "pictures": 6, "templates": 4, "pairs": 4, "genuine": 2, "skipped_pictures": 2, "skipped_pairs": 2,
    }  # fmt: skip
    # genuine pairs are 14 and 30 degrees apart, impostor ones 16 (2, 3) and 10 (1, 5)
    assert values(result) == {"tar@far=0.5": 1 / 2, "tar@far=0.25": None, "tar@far=0.0001": None}
    assert [m.name for m in result.measures if m.headline] == ["tar@far=0.0001"]
    assert result.curve is not None
    np.testing.assert_allclose(result.curve.thresholds[:-1], np.cos(np.deg2rad([10, 14, 16, 30])), atol=1e-5)
    assert result.curve.fars.tolist() == [0, 0.5, 0.5, 1, 1]
    assert result.curve.tars.tolist() == [0, 0, 0.5, 0.5, 1]
    assert made.notes() == ()
    with (tmp_path / "t.txt").open("a") as file:
        file.write("a 1 0\na 1 2\n")
    made = TemplateProtocol("t", tmp_path / "x", tmp_path / "t.txt", tmp_path / "p.txt")
    assert made.notes() == (f"1 lines of {tmp_path}/t.txt repeat others: a picture counts once for each of its lines",)
    assert made.where("t", 2) == f"line 3 of {tmp_path}/t.txt"
    with pytest.raises(UserError, match="t: expected pictures, got none that decodes"):
        made.evaluate({"t": InMemory(np.full((6, 2), np.nan, np.float32))})
    with pytest.raises(UserError, match="t: genuine and impostor pairs are needed, got 1 genuine of 1 pairs"):
        made.evaluate({"t": InMemory(np.stack([unit(x) for x in (np.nan, 20, 24, np.nan, np.nan, np.nan)]))})
