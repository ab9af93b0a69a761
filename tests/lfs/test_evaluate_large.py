"""MegaFace, Trillion-Pairs and IJB from end to end, against slow loops on the same embeddings."""

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from lfs import embedding_room, evaluate
from lfs.commands import FAILED, OK, run_command
from lfs.embedding_file import open_embeddings
from lfs.embedding_room import HeldRoom, StoredRoom, room
from lfs.overlap import both_sides_line
from lfs.sheet import is_fraction, metric_title
from search_space.errors import UserError
from tests.lfs.evaluation_files import make_evaluation, spoil
from trainers.gallery_protocols import GalleryFiles, MegafaceProtocol

PROBES = [f"{person}/{i}" for person in range(4) for i in range(6)]
OTHERS = [f"{person}/{i}" for i in (3, 1, 5, 0, 4, 2) for person in (9, 4, 7, 6, 5, 8)]
GALLERY = {
    "lmdb": "train.lmdb", "probes": "probes.txt", "distractors_lmdb": "train.lmdb", "distractors": "others.txt",
}  # fmt: skip
NOISE = {"probe_noise": "probe_noise.txt", "distractor_noise": "other_noise.txt"}
MEGAFACE = {**GALLERY, "protocol": "megaface"}
IJB = {"protocol": "ijbc", "lmdb": "train.lmdb", "templates": "templates.txt", "pairs": "t_pairs.txt"}
TEMPLATES = [(f"{p}/{i}", 100 * p + i // 3, i % 2) for p in range(10) for i in range(6)]
PAIRS = [
    (100 * a + i, 100 * b + j, int(a == b)) for a in range(10) for b in range(10) for i in (0, 1) for j in (0, 1)
    if (a, i) < (b, j)
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_evaluation(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("probes.txt").write_text("".join(f"{key} {key[0]}\n" for key in PROBES))
    Path("others.txt").write_text("".join(f"{key}\n" for key in OTHERS))
    Path("probe_noise.txt").write_text("# by hand\n0/0\n\n # 1/1 is right\nnobody/1\n")
    Path("other_noise.txt").write_text("9/3\n5/3\n8/2\n")
    Path("templates.txt").write_text("".join(f"{key} {t} {m}\n" for key, t, m in TEMPLATES))
    Path("t_pairs.txt").write_text("".join(f"{a} {b} {same}\n" for a, b, same in PAIRS))
    recipe(mf={**MEGAFACE, **NOISE, "counts": [3, 7, 33]}, tp={**GALLERY, "protocol": "trillion_pairs"}, ijb=IJB)
    return tmp_path


def recipe(**sets: dict[str, Any]) -> None:
    Path("large.yaml").write_text(yaml.safe_dump(sets))


def scored(*arguments: str) -> dict[str, Any]:
    command = (*arguments, "--sets", "large.yaml", "--json", "r.json", "--overwrite")
    assert run_command(evaluate.main, command) == OK
    model: dict[str, Any] = json.loads(Path("r.json").read_text())["models"][0]
    return model["sets"]  # type: ignore[no-any-return]


def values(found: dict[str, Any]) -> dict[str, float | None]:
    return {name: measure["value"] for name, measure in found["measures"].items()}


def embed(name: str = "all.npy", lmdb: str = "train.lmdb", listed: str = "train.txt", *flags: str) -> None:
    command = ("embed", "m1", "--lmdb", lmdb, "--list", listed, "--out", name, "--overwrite", *flags)
    assert run_command(evaluate.main, command) == OK


def cosines() -> dict[tuple[str, str], int]:
    """Scores of all pictures with all."""
    vectors = {key: v.astype(float) for keys, part in open_embeddings("all.npy").blocks()
               for key, v in zip(keys, part, strict=True)}  # fmt: skip
    return {
        (a, b): round(float(x @ y) / np.linalg.norm(x) / np.linalg.norm(y) * 2**20)
        for a, x in vectors.items()
        for b, y in vectors.items()
    }


def slow_rank(probes: list[str], others: list[str], rank: int) -> float:
    """Each picture of a person is looked for by each other one of that person."""
    score = cosines()
    won = [
        sum(score[probe, other] >= score[probe, mate] for other in others) < rank
        for probe in probes for mate in probes if probe != mate and probe[0] == mate[0]
    ]  # fmt: skip
    return sum(won) / len(won)


def test_megaface_is_that_of_a_slow_loop_and_noise_is_left_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = scored("m1", "--protocols", "mf")["mf"]
    captured = capsys.readouterr()
    embed()
    probes, others = PROBES[1:], [key for key in OTHERS if key not in ("9/3", "5/3", "8/2")]
    for count in (3, 7, 33):
        for rank in (1, 10):
            assert values(found)[f"rank{rank}@{count}"] == pytest.approx(slow_rank(probes, others[:count], rank))
    assert 0 < (values(found)["rank1@33"] or 0) < (values(found)["rank1@3"] or 0)
    assert values(found)["tar@far=1e-06"] is None  # of 759 comparisons
    assert found["counts"] == {
        "probes": 23, "identities": 4, "probes_without_mate": 0, "searches": 5 * 4 + 3 * 30, "distractors": 33,
        "noise_probes": 1, "noise_distractors": 3, "unknown_probe_noise": 1, "unknown_distractor_noise": 0,
        "skipped_probes": 0, "skipped_distractors": 0,
    }  # fmt: skip
    assert f"warning: 1 keys of {folder}/probe_noise.txt are none of the probes of mf" in captured.err
    assert "rank 1 @33" in captured.out
    assert "rank 10 @3" in captured.out


def test_embeddings_in_the_order_of_the_list_or_in_any_other_give_the_same(folder: Path) -> None:
    embed()
    Path("in_order.txt").write_text("".join(f"{key} 0\n" for key in OTHERS))
    embed("others.npy", "train.lmdb", "in_order.txt")
    embed("others.parquet", "train.lmdb", "in_order.txt")
    Path("sorted.txt").write_text("".join(f"{key} 0\n" for key in sorted(OTHERS)))
    embed("sorted.npy", "train.lmdb", "sorted.txt")
    flags = ("--protocols", "mf,tp,ijb")
    first = scored(*flags, "--embeddings", "all.npy")
    assert values(first["ijb"]) == values(scored("m1", *flags)["ijb"])
    for name in ("others.npy", "others.parquet", "sorted.npy"):
        both = ("--embeddings", f"mf/distractors={name}", "--embeddings", f"tp/distractors={name}")
        again = scored(*flags, "--embeddings", "all.npy", *both)
        assert values(again["mf"]) == pytest.approx(values(first["mf"]))
        assert again["tp"] == first["tp"]


def test_a_set_that_is_not_held_gives_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("m1", "--protocols", "mf,tp,ijb")
    whole = scored(*flags)
    monkeypatch.setattr(embedding_room, "HELD_BYTES", 100)
    made: list[object] = []
    real = StoredRoom.chunks

    def chunks(self: StoredRoom, rows: int) -> Iterator[Any]:
        made.append(self)
        return real(self, rows)

    monkeypatch.setattr(StoredRoom, "chunks", chunks)
    assert scored(*flags) == whole
    assert len({id(one) for one in made}) == 5
    embed()
    assert values(scored("--protocols", "mf", "--embeddings", "all.npy")["mf"]) == pytest.approx(values(whole["mf"]))


def test_skipped_pictures_are_left_out_and_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = ("1/2", "7/3", "3/0", "3/1", "3/2")
    spoil(folder, *bad)
    sets = yaml.safe_load(Path("large.yaml").read_text())
    recipe(**{name: {k: v.replace("train.lmdb", "spoiled.lmdb") if isinstance(v, str) else v for k, v in entry.items()}
              for name, entry in sets.items()})  # fmt: skip
    assert "spoiled.lmdb: key '1/2': expected a JPEG" in refused(capsys, "m1", "--protocols", "mf")
    found = scored("m1", "--protocols", "mf,ijb", "--skip-bad")
    assert found["mf"]["counts"]["skipped_probes"] == 4
    assert found["mf"]["counts"]["skipped_distractors"] == 1
    assert found["mf"]["counts"]["distractors"] == 32
    assert set(found["mf"]["skipped"]) == set(bad)
    assert found["ijb"]["counts"] == {
        "pictures": 60, "templates": 19, "pairs": len(PAIRS) - 19, "genuine": 9, "skipped_pictures": 5,
        "skipped_pairs": 19,
    }  # fmt: skip
    embed()
    probes = [key for key in PROBES[1:] if key not in bad]
    others = [key for key in OTHERS if key not in ("9/3", "5/3", "8/2", *bad)]
    assert values(found["mf"])["rank1@32"] == pytest.approx(slow_rank(probes, others, 1))
    assert values(found["mf"])["rank1@3"] == pytest.approx(slow_rank(probes, others[:3], 1))
    embed("spoiled.npy", "spoiled.lmdb", "train.txt", "--skip-bad")
    capsys.readouterr()
    again = scored("--protocols", "mf,ijb", "--embeddings", "spoiled.npy", "--skip-bad")
    assert "4 pictures of mf/probes have no embedding in spoiled.npy and are skipped" in capsys.readouterr().err
    assert again["mf"]["counts"] == found["mf"]["counts"]
    assert values(again["mf"]) == pytest.approx(values(found["mf"]))
    assert "has no embedding here" in refused(capsys, "--protocols", "mf", "--embeddings", "spoiled.npy")


@pytest.mark.parametrize("unit", [True, False])
def test_templates_are_those_of_a_slow_loop(folder: Path, unit: bool) -> None:
    recipe(ijb=IJB if unit else {**IJB, "unit_pictures": False})
    found = scored("m1", "--protocols", "ijb", "--roc", "curves")["ijb"]
    embed()
    vectors = {key: v / (np.linalg.norm(v) if unit else 1) for keys, part in open_embeddings("all.npy").blocks()
               for key, v in zip(keys, part.astype(float), strict=True)}  # fmt: skip
    made = {}
    for template in {t for _, t, _ in TEMPLATES}:
        media = {m for _, t, m in TEMPLATES if t == template}
        mean = sum(
            np.mean([vectors[k] for k, t, m in TEMPLATES if (t, m) == (template, medium)], axis=0) for medium in media
        )
        made[template] = mean / np.linalg.norm(mean)
    genuine = [made[a] @ made[b] for a, b, same in PAIRS if same]
    impostor = sorted((made[a] @ made[b] for a, b, same in PAIRS if not same), reverse=True)
    for far in (1e-1, 1e-2):
        bar = impostor[int(far * len(impostor))]
        assert values(found)[f"tar@far={far}"] == pytest.approx(np.mean([score > bar for score in genuine]))
    assert values(found)["tar@far=0.0001"] is None  # of 180 impostor pairs
    assert found["counts"]["pairs"] == len(PAIRS) == 190
    curve = pd.read_csv("curves/ijb.csv")  # in whole steps of 2^-20
    for far, tar, threshold in curve[["far", "tar", "threshold"]].to_numpy():
        assert far == np.mean([score > threshold + 2**-20 for score in impostor])
        assert tar == np.mean([score > threshold + 2**-20 for score in genuine])


def test_curves_are_promised_where_they_are_drawn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--roc needs a set of listed pairs" in refused(capsys, "m1", "--protocols", "mf,tp", "--roc", "curves")
    scored("m1", "--protocols", "mf,ijb,tp", "--roc", "curves")
    assert "warning: --roc: mf, tp get no curve: their comparisons are too many to be held" in capsys.readouterr().err
    assert sorted(path.name for path in Path("curves").iterdir()) == ["ijb.csv", "ijb.png"]


def test_the_headlines_of_each_protocol(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scored("m1", "--protocols", "mf,tp,ijb", "--set", "faces=pairs.lmdb,pairs.txt")
    table, _, details = capsys.readouterr().out.partition("Set by set")
    assert "Accuracy and rates in %, mean ± standard error over folds of accuracy." in table
    assert "thresholds: cosines, mean over folds where there are some;" in details
    for title in ("Identification and verification", "rank 1 @33", "TAR@FAR=1e-6", "Id@FAR=1e-3", "TAR@FAR=1e-9",
                  "TAR@FAR=1e-4", "faces"):  # fmt: skip
        assert title in table
    names = ("rank1@1000000", "rank10@999", "id@far=0.001", "tar_threshold@far=1e-06")
    scored("m1", "--protocols", "mf")
    assert "folds" not in capsys.readouterr().out
    assert [metric_title(name) for name in names] == [
        "rank 1 @1e6", "rank 10 @999", "Id@FAR=1e-3", "threshold@FAR=1e-6",
    ]  # fmt: skip
    assert [is_fraction(name) for name in ("rank1@10", "id@far=0.1", "id_threshold@far=0.1")] == [True, True, False]


def test_people_of_distractors_are_not_warned_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("train_half.txt").write_text("3/0 0\n9/0 1\n")
    scored("m1", "--protocols", "mf,ijb", "--train-list", "train_half.txt")
    err = capsys.readouterr().err
    assert "1 of 4 people of mf are in train_half.txt too (3)" in err
    assert "people of ijb" not in err  # folders of templates' pictures say nothing


def test_people_who_are_looked_for_among_themselves_are_warned_of(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("some.txt").write_text("".join(f"{key} {key[0]}\n" for key in PROBES[:-1]))
    Path("others.txt").write_text("".join(f"{key}\n" for key in [*OTHERS, PROBES[-1]]))
    recipe(mf={**MEGAFACE, **NOISE, "probes": "some.txt"})
    scored("m1", "--protocols", "mf")
    assert "warning: 1 people of mf are among its distractors too (3): to find them" in capsys.readouterr().err
    Path("other_noise.txt").write_text(f"{PROBES[-1]}\n")
    scored("m1", "--protocols", "mf")
    assert "among its distractors" not in capsys.readouterr().err


def test_people_are_told_by_labels_in_one_lmdb_alone(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a 1\nb 1\nc 2\n")
    (tmp_path / "d.txt").write_text("d 2\ne 3\n")
    for lmdb, line in (("p", "1 people of m are among its distractors too (2)"), ("d", None)):
        files = GalleryFiles(
            lmdb=tmp_path / "p", probes=tmp_path / "p.txt", distractors=tmp_path / "d.txt",
            distractors_lmdb=tmp_path / lmdb,
        )  # fmt: skip
        found = both_sides_line(MegafaceProtocol("m", files))
        assert (found or "").startswith(line or "")
        assert (found is None) == (line is None)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a command ends with."""
    capsys.readouterr()
    assert run_command(evaluate.main, (*arguments, "--sets", "large.yaml")) == FAILED
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning" not in line]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ({"protocol": "megaface", "lmdb": "l"}, "large.yaml, line 1: probes must name a file: protocol megaface"),
        ({"lmdb": "l"}, "pairs must name a file: protocol lfw needs it"),
        ({"pairs": "p"}, "lmdb"),
        ({**MEGAFACE, "pairs": "t_pairs.txt"}, "pairs must be left out: protocol megaface takes lmdb, probes"),
        ({**GALLERY, "protocol": "trillion_pairs", "counts": [3]}, "counts must be left out: protocol trillion_pairs"),
        ({**IJB, "folds": 10}, "folds must be left out: protocol ijbc takes lmdb, templates, pairs"),
        ({**IJB, "protocol": "ijba"}, "protocol must be one of lfw, megaface, trillion_pairs, ijbc"),
        ({**MEGAFACE, "counts": [37]}, "counts of x must be from 1 to 36"),
        ({**MEGAFACE, **NOISE, "counts": [34]}, "counts of x must be from 1 to 33"),
        ({**MEGAFACE, "counts": [0]}, "counts must be at least 1"),
        ({**MEGAFACE, "counts": ["many"]}, "counts must be a whole number"),
        ({**MEGAFACE, "distractors": "train.txt"}, "line 1 of {}/train.txt: expected no probe, got '0/0'"),
        ({**MEGAFACE, "probes": "twice.txt"}, "line 3 of {}/twice.txt: expected each key once, got '0/0' again"),
        ({**MEGAFACE, "distractors": "twice.txt"}, "line 3 of {}/twice.txt: expected each key once"),
        ({**MEGAFACE, "probes": "single.txt"}, "single.txt: expected two probes of one label, got 2, each of its own"),
        ({**MEGAFACE, "distractor_noise": "others.txt"}, "others.txt: expected some of the distractors, got all"),
        ({**MEGAFACE, "probe_noise": "none.txt"}, "none.txt: expected a readable text file"),
        ({**MEGAFACE, "probe_noise": "empty.txt"}, "empty.txt: expected lines of `lmdb_key`"),
        ({**MEGAFACE, "distractors": "absent.txt"}, "line 2 of {}/absent.txt: key 'x/9' is not in {}/train.lmdb"),
        ({**MEGAFACE, "lmdb": "no.lmdb"}, "no.lmdb: no such LMDB"),
        ({**IJB, "templates": "others.txt"}, "line 1 of {}/others.txt: expected `lmdb_key template medium`"),
        ({**IJB, "templates": "odd.txt"}, "line 2 of {}/odd.txt: expected `lmdb_key template medium` with integers"),
        ({**IJB, "templates": "few.txt"}, "line 2 of {}/t_pairs.txt: template 100 has no picture in {}/few.txt"),
        ({**IJB, "pairs": "two.txt"}, "line 2 of {}/two.txt: expected `template1 template2 1|0`, got '0 100 2'"),
        ({**IJB, "pairs": "same.txt"}, "same.txt: expected pairs of both kinds, got 1 with 1 of 1"),
        ({**IJB, "pairs": "empty.txt"}, "empty.txt: expected lines of `template1 template2 1|0`, got an empty file"),
        ({**IJB, "templates": "lost.txt"}, "line 1 of {}/lost.txt: key 'x/9' is not in {}/train.lmdb"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], entry: dict[str, Any], line: str
) -> None:
    texts = {
        "twice": "0/0 0\n\n0/0 1\n", "single": "0/0 0\n1/0 1\n", "absent": "9/1\nx/9\n", "odd": "0/0 0 0\n0/1 -1 0\n",
        "few": "0/0 0 0\n0/1 1 0\n", "two": "0 1 1\n0 100 2\n", "same": "0 1 1\n", "empty": "\n",
        "lost": "x/9 0 0\n0/1 1 0\n" + "".join(f"{k} {t} {m}\n" for k, t, m in TEMPLATES),
    }  # fmt: skip
    for name, text in texts.items():
        Path(f"{name}.txt").write_text(text)
    recipe(x=entry)
    assert line.replace("{}", str(folder)) in refused(capsys, "m1", "--protocols", "x")


def test_embeddings_that_cannot_be_used_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("nan.npy", np.full((len(OTHERS), 8), np.nan, np.float32))
    Path("nan.keys.txt").write_text(Path("others.txt").read_text())
    embed()
    flags = ("--protocols", "mf", "--embeddings", "all.npy", "--embeddings")
    assert "nan.npy: embeddings must be finite, in float32, got row 0" in refused(
        capsys, *flags, "mf/distractors=nan.npy"
    )
    line = refused(capsys, *flags, "mf/distractor=nan.npy")
    assert line.endswith("--embeddings: no set 'mf/distractor' is evaluated; there are mf/distractors, mf/probes")
    assert "must be NAME=LMDB,PAIRS" in refused(capsys, "m1", "--set", "x=a,b,c,d")


def test_a_file_that_is_cut_short_meanwhile_is_refused(folder: Path) -> None:
    embed()
    file = open_embeddings("all.npy")
    Path("all.npy").write_bytes(Path("all.npy").read_bytes()[:-40])
    with pytest.raises(UserError, match="it has been cut short"):
        list(file.chunks(7))


class Slow(io.FileIO):
    """Every call transfers less than it could."""

    def write(self, data: Any) -> int:
        return super().write(memoryview(data)[:1000])

    def readinto(self, data: Any) -> int:
        return super().readinto(memoryview(data)[:1000])


def test_room_in_memory_and_in_a_file_hold_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    order = rng.permutation(50)
    values = rng.normal(size=(50, 3)).astype(np.float32)
    found = []
    for limit, kind in ((10**6, HeldRoom), (1, StoredRoom)):
        monkeypatch.setattr(embedding_room, "HELD_BYTES", limit)
        with room(50, 3) as made:
            assert isinstance(made, kind)
            for start in (0, 20, 21):
                part = order[start : {0: 20, 20: 21, 21: 50}[start]]
                made.put(part, values[part])
            made.skip(np.array([3, 7]))
            found.append((made.usable.tolist(), np.concatenate([part.copy() for part in made.chunks(8)])))
    np.testing.assert_array_equal(found[0][1], found[1][1])
    assert found[0][0] == found[1][0] == [row not in (3, 7) for row in range(50)]
    np.testing.assert_array_equal(np.delete(found[0][1], [3, 7], 0), np.delete(values, [3, 7], 0))
    assert np.isnan(found[0][1][[3, 7]]).all()


def test_a_file_that_takes_and_gives_a_part_at_a_time_holds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_room, "HELD_BYTES", 1)
    values = np.random.default_rng(0).normal(size=(5000, 3)).astype(np.float32)
    with room(5000, 3) as made:
        assert isinstance(made, StoredRoom)
        made._file = io.BufferedRandom(Slow(os.dup(made._file.fileno()), "r+b"))
        made.put(np.arange(5000), values)
        np.testing.assert_array_equal(np.concatenate([part.copy() for part in made.chunks(4000)]), values)
        os.truncate(made._file.fileno(), 59_000)
        with pytest.raises(UserError, match="has been cut short"):
            list(made.chunks(4000))


def test_no_space_for_the_temporary_file_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_room, "HELD_BYTES", 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with (
        pytest.raises(UserError, match=r"no room for 600 bytes of embeddings \(No space left on device\)"),
        room(50, 3),
    ):
        pass
