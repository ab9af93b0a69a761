"""`lfs.evaluate`: models found, scored, tabled; and every wrong input in one line."""

import json
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from lfs import evaluate, evaluation, model_file
from lfs.commands import FAILED, OK, run_command
from lfs.evaluation import ModelResult
from lfs.evaluation_sets import PUBLIC, chosen_sets, given_set, recipe_sets
from lfs.evaluation_table import EvaluationTable, Number
from lfs.model_file import find_models, save_model
from tests.lfs.evaluation_files import make_evaluation, small_model, spoil
from trainers.protocol import Measure, ProtocolResult
from trainers.whole_file import write_bytes


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_evaluation(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LFS_DATA_ROOT", raising=False)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a command ends with."""
    assert run_command(evaluate.main, arguments) == FAILED
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err.strip()


SCORE = ("--protocols", "faces", "--sets", "sets.yaml")


def test_models_are_rows_sets_are_columns_and_files_hold_the_same(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("m1", "m2", *SCORE, "--set", "again=pairs.lmdb,pairs.txt", "--names", "One,Two")
    files = ("--json", "r.json", "--csv", "r.csv", "--markdown", "r.md")
    assert run_command(evaluate.main, (*command, *files)) == OK
    out = capsys.readouterr().out
    assert all(title in out for title in ("Faces", "again", "average"))
    table = pd.read_csv("r.csv")
    assert set(table["method"]) == {"One", "Two"}
    assert set(table["set"]) == {"faces", "again"}
    found = json.loads(Path("r.json").read_text())
    for model in found["models"]:
        measures = model["sets"]["faces"]["measures"]
        rows = table[(table["method"] == model["method"]) & (table["set"] == "faces")].set_index("measure")
        assert measures["accuracy"]["value"] == pytest.approx(rows.loc["accuracy", "value"])
        assert measures["tar@far=0.001"] == {"value": None, "standard_error": None}
        assert f"{100 * measures['accuracy']['value']:.2f} ± " in out
    assert found["models"][0]["facts"]["sha256"] != found["models"][1]["facts"]["sha256"]
    assert Path("r.md").read_text().count("| One |") == 3
    line = refused(capsys, *command, "--json", "r.json")
    assert line.endswith("r.json is there already; choose another name, or replace it with --overwrite")
    assert run_command(evaluate.main, (*command, *files, "--overwrite")) == OK


def test_the_same_again_is_the_same_bytes(folder: Path) -> None:
    for name in ("a.json", "b.json"):
        assert run_command(evaluate.main, ("m1", *SCORE, "--json", name)) == OK
    assert Path("a.json").read_bytes() == Path("b.json").read_bytes()


def test_the_action_may_be_named_or_left_out_and_flags_may_come_first(folder: Path) -> None:
    parser = evaluate.parser()
    bare, named = parser.parse_args(["m1", *SCORE]), parser.parse_args(["score", "m1", *SCORE])
    first = parser.parse_args([*SCORE, "m1"])
    assert vars(bare) == vars(named) == vars(first)
    assert parser.parse_args(["./embed", *SCORE]).models == ["./embed"]
    assert parser.parse_args(["embed", "m", "--lmdb", "l", "--list", "t", "--out", "o.npy"]).action == "embed"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["m1", "--protocol", "x", "--jsn", "r"], "did you mean --json?"), ([], "ACTION"),
        (["embed", "m1", "--lmdb", "x"], "required: --out"),
    ],
)  # fmt: skip
def test_wrong_flags_are_usage_errors(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(arguments)
    assert stopped.value.code == 2
    assert line in capsys.readouterr().err


def test_standard_output_is_for_one_thing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(evaluate.main, ("m1", *SCORE, "--csv", "-")) == OK
    captured = capsys.readouterr()
    assert captured.out.startswith("method,model,set,measure,value,standard_error\nm1,m1,faces,")
    assert "Verification" in captured.err
    assert run_command(evaluate.main, ("m1", *SCORE, "--json", "-", "--csv", "r.csv")) == OK
    captured = capsys.readouterr()
    assert json.loads(captured.out)["models"][0]["method"] == "m1"
    assert captured.err.endswith("files        r.csv\n")


def test_models_of_one_name_are_rows_of_their_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, name in enumerate("ab", 1):
        Path(name).mkdir()
        Path(f"m{number}").rename(Path(name, "net"))
    assert run_command(evaluate.main, ("a/net", "b/net", "b/net", *SCORE, "--csv", "r.csv")) == OK
    table = pd.read_csv("r.csv").set_index("measure").loc["auc"]
    assert table["method"].tolist() == ["net (a/net)", "net (b/net)"]
    assert table["value"].nunique() == 2
    assert run_command(evaluate.main, ("a/net", "b/net", *SCORE, "--names", "A,B", "--csv", "s.csv")) == OK
    assert set(pd.read_csv("s.csv")["method"]) == {"A", "B"}


def test_what_cannot_be_written_is_said_before_anything_is_scored(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = ["./" * number + "m1" for number in range(33)]
    for command, line in {
        ("m1", *SCORE, "--json", "m1/model.yaml/r.json"): "m1/model.yaml/r.json: cannot be written: Not a directory",
        ("m1", *SCORE, "--json", "x", "--csv", "./x"): "--json, --csv, --markdown and --roc must write to different",
        ("m1", *SCORE, "--json", "-", "--csv", "-"): "must write to different places",
        ("m1", *SCORE, "--csv", "c/faces.csv", "--roc", "c"): "must write to different places",
        ("m1", "m2", *SCORE, "--names", "a,a"): "one distinct name for each row (m1, m2)",
        (*models, *SCORE, "--roc", "c"): "--roc shows up to 32 models, got 33",
    }.items():
        assert run_command(evaluate.main, command) == FAILED, command
        captured = capsys.readouterr()
        assert line in captured.err
        assert captured.out == ""
    assert not Path("c").exists()


def test_what_a_model_says_of_itself_stands_apart(folder: Path) -> None:
    origin = {"method": "evil", "sha256": "0", "sets": {"loss": [float("nan"), 1.5]}, "when": date(2020, 1, 2), "3": ()}
    save_model(Path("m3"), small_model(), {})
    described = yaml.safe_load(Path("m3/model.yaml").read_text()) | {"origin": origin}
    Path("m3/model.yaml").write_text(yaml.safe_dump(described))
    assert run_command(evaluate.main, ("m3", *SCORE, "--json", "r.json")) == OK
    [found] = json.loads(Path("r.json").read_text())["models"]
    assert found["method"] == "m3"
    assert "counts" in found["sets"]["faces"]
    assert found["facts"]["sha256"] == small_model().digest
    assert found["facts"]["origin"] == {
        "method": "evil", "sha256": "0", "sets": {"loss": [None, 1.5]}, "when": "2020-01-02", "3": [],
    }  # fmt: skip


def test_people_who_were_trained_on_are_warned_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("train_half.txt").write_text("".join(f"{person}/{i} {person}\n" for person in (3, 4) for i in range(2)))
    assert run_command(evaluate.main, ("m1", *SCORE, "--train-list", "train_half.txt")) == OK
    err = capsys.readouterr().err
    assert "warning: 2 of " in err
    assert "people of faces are in train_half.txt too (3, 4)" in err
    Path("identities.txt").write_text("3 Ann Lee\n\u00b2 Al\n4 Bo\n9 Cy\n" + "1" * 5000 + " Di\n")
    Path("elsewhere").mkdir()
    Path("elsewhere/list.txt").write_text("x/1 0\ny/1 7\n")
    Path("elsewhere/identities.txt").write_text("0 Ann Lee\n7 Dan\n8 Bo\n")
    command = ("m1", "--set", "faces=pairs.lmdb,pairs.txt,train.txt", "--train-list", "elsewhere/list.txt")
    assert run_command(evaluate.main, command) == OK
    err = capsys.readouterr().err
    assert "warning: 1 of 3 people of faces are in elsewhere/list.txt too (Ann Lee)" in err


def test_bad_pictures_are_named_or_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = Path("pairs.txt").read_text().split()[0]
    spoil(folder, key)
    command = ("m1", "--set", "faces=spoiled.lmdb,pairs.txt")
    assert f"spoiled.lmdb: key {key!r}: expected a JPEG" in refused(capsys, *command)
    assert run_command(evaluate.main, (*command, "--skip-bad", "--json", "r.json")) == OK
    assert "warning: 1 pictures of faces do not decode and are skipped" in capsys.readouterr().err
    found = json.loads(Path("r.json").read_text())["models"][0]["sets"]["faces"]
    assert found["counts"]["skipped_pictures"] == 1
    assert found["counts"]["pairs"] + found["counts"]["skipped_pairs"] == 40
    assert list(found["skipped"]) == [key]


def test_bad_input_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = Path("pairs.txt").read_text()
    Path("more.txt").write_text(text.replace(text.split()[3], "nobody/0", 1))
    Path("empty.txt").write_text("\n")
    Path("uneven.txt").write_text("".join(text.splitlines(keepends=True)[:-1]))
    Path("wrong.yaml").write_text("faces:\n  lmdb: a\n  pairs: b\n  lable: c\n")
    Path("odd.yaml").write_text("faces: 3\n")
    Path("w.safetensors").write_bytes(b"x")
    cases = {
        ("m1", "--protocols", "face", "--sets", "sets.yaml"): "--protocols: no set 'face'; did you mean 'faces'?",
        ("m1", "--protocols", "lwf"): "did you mean 'lfw'?",
        ("m1", "--protocols", "lfw"): "lfw/pairs.txt: expected a readable text file of set lfw, got none; paths of "
        "sets start at --data.root (or $LFS_DATA_ROOT), and `Faces in, numbers out` of the README imports public ones",
        ("m1", "--protocols", "faces,faces", "--sets", "sets.yaml"): "must name each set once",
        ("m1",): "--protocols or --set must name what to evaluate on",
        ("--protocols", "lfw"): "a MODEL or --embeddings must be given",
        ("m3", *SCORE): "m3: expected a model: a run",
        ("w.safetensors", *SCORE): "got a file; name its folder",
        ("train.lmdb", *SCORE): "got another file",
        ("m1", "--set", "x=pairs.lmdb"): "--set must be NAME=LMDB,PAIRS or",
        ("m1", "--set", "x=pairs.lmdb,more.txt"): "more.txt: key 'nobody/0' is not in ",
        ("m1", "--set", "x=pairs.lmdb,empty.txt"): "got an empty file",
        ("m1", "--set", "x=pairs.lmdb,uneven.txt"): "num_folds = 10 divides, got 39 pairs",
        ("m1", "--set", "x=nowhere.lmdb,pairs.txt"): "nowhere.lmdb: no such LMDB",
        ("m1", "--set", "x=pairs.txt,pairs.txt"): "expected a readable LMDB",
        ("m1", "--protocols", "x", "--sets", "wrong.yaml"): "wrong.yaml, line 1: unknown key 'lable'; did you mean",
        ("m1", "--protocols", "x", "--sets", "odd.yaml"): "odd.yaml, line 1: expected `NAME: {lmdb: FILE",
        ("m1", "--protocols", "x", "--sets", "none.yaml"): "no recipe 'none.yaml'",
        ("m1", *SCORE, "--names", "a,b"): "--names must have one distinct name for each row (m1)",
        ("m1", *SCORE, "--num-threads", "many"): "--num-threads must be a number in 0..4096",
        ("m1", *SCORE, "--gpus-per-worker", "1"): "--gpus-per-worker needs --num-workers",
        ("m1", *SCORE, "--device", "tpu9"): "device must be `cpu` or `cuda`",
        ("m1", *SCORE, "--json", "m1"): "expected the name of a file to write, got a folder",
        ("m1", *SCORE, "--train-list", "no.txt"): "no.txt: expected a list of identities, got: No such",
    }  # fmt: skip
    for arguments, line in cases.items():
        assert line in refused(capsys, *arguments), arguments


def test_a_damaged_model_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    described = Path("m1/model.yaml").read_text()
    [weights] = Path("m1").glob("*.safetensors")
    for change, line in {
        "format: 1->format: 9": "format 9; this version reads format 1",
        "BGR->RGB": "input must be",
        "backbone: small->backbone: smal": "did you mean small?",
        "embedding_dim: 8->embedding_dim: 9": "must have `embed.0.weight` of shape [9, 64]",
        "input_size: 16->input_size: lots": "network.input_size",
        "weights: model->weights: ../m2/model": "weights must be a file of the same folder",
        "sha256: ->sha256: 0": "differs from the one in model.yaml",
    }.items():
        old, _, new = change.partition("->")
        assert old in described
        Path("m1/model.yaml").write_text(described.replace(old, new))
        assert line in refused(capsys, "m1", *SCORE), change
    Path("m1/model.yaml").write_text(described)
    weights.write_bytes(weights.read_bytes()[:-4])
    assert "damaged" in refused(capsys, "m1", *SCORE)
    weights.unlink()
    assert "cannot be read" in refused(capsys, "m1", *SCORE)


def test_a_model_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    model = small_model(3)
    save_model(tmp_path / "m", model, {"run": "x", "generation": 2})
    [found] = find_models(str(tmp_path / "m"))
    assert (found.label, found.network, found.origin) == ("m", model.network, {"run": "x", "generation": 2})
    assert found.load().digest == model.digest


def test_a_model_is_replaced_at_one_blow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, old, new = tmp_path / "m", small_model(1), small_model(2)
    save_model(folder, old, {})

    def killed(path: Path, data: bytes) -> None:
        if path.name == "model.yaml":
            raise KeyboardInterrupt
        write_bytes(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(model_file, "write_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            save_model(folder, new, {})
    assert find_models(str(folder))[0].load().digest == old.digest
    save_model(folder, new, {})
    assert find_models(str(folder))[0].load().digest == new.digest
    assert len(list(folder.iterdir())) == 2


def test_what_was_embedded_in_vain_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluation, "ROWS", 16)
    key = list(dict.fromkeys(Path("pairs.txt").read_text().split()))[-1]
    spoil(folder, key)
    line = refused(capsys, "m1", "--set", "faces=spoiled.lmdb,pairs.txt")
    assert f"key {key!r}: expected a JPEG" in line
    assert line.endswith("were embedded in vain: `lfs.evaluate embed --protocols faces` goes on later")


def test_seeds_of_one_method_share_a_row() -> None:
    def result(label: str, source: str, accuracy: float) -> ModelResult:
        measures = (
            Measure(name="accuracy", value=accuracy, standard_error=0.5, headline=True),
            Measure(name="tar@far=0.1", value=None),
        )
        return ModelResult(
            label=label, source=source, facts={}, results={"s": ProtocolResult(measures=measures, counts={})}
        )

    table = EvaluationTable(
        results=[result("A", "1", 0.8), result("A", "2", 0.9), result("B", "3", 0.7)], titles={"s": "S"}
    )
    assert table.labels == ["A", "B"]
    assert table.number("A", "s", "accuracy") == Number(value=pytest.approx(0.85), se=pytest.approx(0.05))
    assert table.number("B", "s", "accuracy") == Number(value=0.7, se=0.5)
    text = table.as_markdown()
    assert "| A | **85.00 ± 5.00** |" in text
    assert "| B | S | - |" in text
    assert table.number("A", "s", "tar@far=0.1").text("tar@far=0.1") == "-"


def test_the_public_sets_are_all_there(tmp_path: Path) -> None:
    known = recipe_sets(PUBLIC, tmp_path)
    assert list(known) == [
        "lfw", "sllfw", "calfw", "cplfw", "agedb_30", "cfp_ff", "cfp_fp", "rfw_african", "rfw_asian", "rfw_caucasian",
        "rfw_indian", "megaface", "megaface_refined", "trillion_pairs", "ijbb", "ijbc",
    ]  # fmt: skip
    assert [one.files.protocol for one in known.values()][-6:] == [
        "lfw",
        *["megaface"] * 2,
        "trillion_pairs",
        "ijbc",
        "ijbc",
    ]
    assert known["lfw"].files.lmdb == str(tmp_path / "lfw/faces.lmdb")
    own = given_set("lfw=a,b", tmp_path)
    assert [one.files.pairs for one in chosen_sets(["calfw", "lfw"], known, [own])] == [
        str(tmp_path / "calfw/pairs.txt"), str(tmp_path / "b"),
    ]  # fmt: skip


def test_the_root_is_the_flag_or_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("elsewhere").mkdir()
    Path("elsewhere/sets.yaml").write_text(Path("sets.yaml").read_text())
    command = ("../m1", "--protocols", "faces", "--sets", "sets.yaml")
    monkeypatch.chdir("elsewhere")
    assert run_command(evaluate.main, command) == FAILED
    assert run_command(evaluate.main, (*command, "--data.root", "..")) == OK
    monkeypatch.setenv("LFS_DATA_ROOT", str(folder))
    assert run_command(evaluate.main, command) == OK


def test_curves_are_drawn(folder: Path) -> None:
    assert run_command(evaluate.main, ("m1", "m2", *SCORE, "--roc", "figures")) == OK
    assert Path("figures/faces.png").read_bytes().startswith(b"\x89PNG")
    assert set(pd.read_csv("figures/faces.csv")["set"]) == {"m1", "m2"}


def test_embeddings_stand_in_for_a_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("e.npy", "e.parquet"):
        made = ("embed", "m1", "--lmdb", "train.lmdb", "--list", "train.txt", "--out", name)
        assert run_command(evaluate.main, made) == OK
    assert run_command(evaluate.main, (*made[:-1], "plain.npy", "--no-flip")) == OK
    assert run_command(evaluate.main, ("m1", *SCORE, "--json", "m.json")) == OK
    expected = json.loads(Path("m.json").read_text())["models"][0]["sets"]["faces"]["measures"]
    for name in ("e.npy", "faces=e.parquet"):
        for model in ((), ("m1",)):
            command = (*model, *SCORE, "--embeddings", name, "--json", "e.json", "--overwrite")
            assert run_command(evaluate.main, command) == OK
            found = json.loads(Path("e.json").read_text())["models"][0]["sets"]["faces"]["measures"]
            assert found["accuracy"] == pytest.approx(expected["accuracy"])
            assert found["auc"]["value"] == pytest.approx(expected["auc"]["value"], abs=0.02)
    capsys.readouterr()
    np.save("wide.npy", np.ones((60, 9), np.float32))
    Path("wide.keys.txt").write_text(Path("train.txt").read_text())
    cases = {
        ("m2", *SCORE, "--embeddings", "e.npy"): "embeddings are of another model",
        ("m1", *SCORE, "--embeddings", "wide.npy"): "must have the 8 numbers of m1, got 9",
        ("m1", "m2", *SCORE, "--embeddings", "e.npy"): "--embeddings are of one model",
        ("m1", *SCORE, "--no-flip", "--embeddings", "e.npy"): "made with flip averaging, and without it is asked for",
        (*SCORE, "--embeddings", "face=e.npy"): "--embeddings: no set 'face' is evaluated; there are faces",
        (*SCORE, "--embeddings", "e.npy", "--embeddings", "e.npy"): "must name one file for each set",
        (*SCORE, "--embeddings", "e.npy", "--embeddings", "faces=wide.npy"): "must all be of one length",
        (*SCORE, "--embeddings", "e.npy", "--embeddings", "faces=plain.npy"): "e.npy flip=True, plain.npy flip=False",
        (*SCORE, "--set", "b=pairs.lmdb,pairs.txt", "--embeddings", "faces=e.npy"): "set b has no embeddings",
        (*SCORE, "--embeddings", "pairs.txt"): "expected embeddings in a .npy or .parquet file, got '.txt'",
    }
    for arguments, line in cases.items():
        assert line in refused(capsys, *arguments), arguments


def test_a_recipe_is_plain_yaml() -> None:
    from lfs.options import RECIPES

    values = yaml.safe_load((RECIPES / f"{PUBLIC}.yaml").read_text())
    assert all({"lmdb", "title"} < set(entry) for entry in values.values())
