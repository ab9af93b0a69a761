"""`lfs.evaluate export`: the file that leaves computes what the model does."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lfs import evaluate, onnx_file
from lfs.commands import FAILED, OK, run_command
from lfs.evaluate_export import described
from lfs.model_file import find_models
from tests.lfs.evaluation_files import make_evaluation, small_model
from trainers.embedder import BackboneModel

needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in onnx_file.PACKAGES), reason="needs the extra `export`"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_evaluation(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_the_extra_one_line_names_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(onnx_file, "PACKAGES", ("numpy", "nothing_of_that_name"))
    assert run_command(evaluate.main, ("export", "m1", "--onnx", "x.onnx")) == FAILED
    line = "lfs.evaluate: export to ONNX needs nothing_of_that_name: pip install 'lfs[export]'\n"
    assert capsys.readouterr().err.partition("export")[1:] == line.partition("export")[1:]
    assert not Path("x.onnx").exists()


@needs_onnx
def test_onnxruntime_gives_the_same_embeddings_for_any_batch(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnx
    import onnxruntime

    assert run_command(evaluate.main, ("export", "m1", "--onnx", "x.onnx", "--lmdb", "train.lmdb")) == OK
    assert "differ on 16 random pictures by" in capsys.readouterr().out
    session = onnxruntime.InferenceSession("x.onnx")
    rng = np.random.default_rng(0)
    for num in (1, 2, 9):
        pictures = rng.normal(size=(num, 3, 16, 16)).astype(np.float32)
        [found] = session.run(["embedding"], {"input": pictures})
        import torch

        with torch.no_grad():
            np.testing.assert_allclose(found, small_model().module()(torch.from_numpy(pictures)).numpy(), atol=1e-5)
    metadata = {entry.key: entry.value for entry in onnx.load("x.onnx").metadata_props}
    assert metadata["lfs.backbone"] == "small"
    assert metadata["lfs.input"] == "NCHW float32, BGR, (x - 127.5) / 128"
    assert metadata["lfs.run"] == "run1"
    assert metadata["lfs.sha256"] == small_model().digest
    [found] = find_models("m1")
    facts = described(replace(found, origin={"sha256": "0", "run": "r"}), small_model())
    assert (facts["lfs.sha256"], facts["lfs.run"]) == (small_model().digest, "r")


@needs_onnx
def test_a_file_that_computes_something_else_is_never_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def other(_: BackboneModel, metadata: Any, make: Any = onnx_file.onnx_bytes) -> bytes:
        data: bytes = make(small_model(2), metadata)
        return data

    monkeypatch.setattr("lfs.evaluate_export.onnx_bytes", other)
    assert run_command(evaluate.main, ("export", "m1", "--onnx", "x.onnx")) == FAILED
    assert "the exported model differs from the original by" in capsys.readouterr().err
    assert not Path("x.onnx").exists()


def test_bad_input_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("there.onnx").write_bytes(b"")
    Path("file").write_bytes(b"")
    for arguments, line in {
        ("m1", "--to", "m3", "--lmdb", "no.lmdb"): "--lmdb has pictures to compare an ONNX file on, which needs --onnx",
        ("m1",): "--onnx or --to must say what to write", ("m1", "--onnx", "x.pt"): "must name a file X.onnx",
        ("m1", "--onnx", "there.onnx"): "there.onnx is there already", ("m1", "--to", "file"): "must name a folder",
        ("m1", "--to", "m2"): "model.yaml is there already", ("m9", "--to", "m3"): "expected a model",
    }.items():  # fmt: skip
        assert run_command(evaluate.main, ("export", *arguments)) == FAILED
        err = capsys.readouterr().err
        assert line in err
        assert err.count("\n") == 1
    assert run_command(evaluate.main, ("export", "m1", "--to", "m2", "--overwrite")) == OK
    first, second = ([file.read_bytes() for file in Path(name).glob("*.safetensors")] for name in ("m1", "m2"))
    assert first == second
