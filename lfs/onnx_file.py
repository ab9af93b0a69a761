"""A model as an ONNX file, and the proof that it computes the same."""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from search_space.errors import UserError, first_line
from trainers.embedder import BackboneModel

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
INPUT, OUTPUT = "input", "embedding"
TOLERANCE = 1e-4
"""Largest difference of an embedding that is allowed, relative to its length; measured are some 1e-6."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Torch against onnxruntime on the same pictures."""

    num_pictures: int
    worst: float
    """Largest distance between two embeddings of a picture, divided by their length."""


def require_packages() -> None:
    """Raise `UserError` if what exports and runs ONNX is not installed."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(f"export to ONNX needs {', '.join(missing)}: pip install 'lfs[export]'")


def onnx_bytes(model: BackboneModel, metadata: Mapping[str, str]) -> bytes:
    """The network as ONNX: `input` [N, 3, S, S] float32, pixels (x - 127.5) / 128 in BGR, to `embedding` [N, dim],
    not normalised; N is free.

    Args:
        metadata: texts that are stored in the file.
    Raises:
        UserError: a package is missing, or the exporter fails.
    """
    require_packages()
    size = model.network.input_size
    with tempfile.TemporaryDirectory(prefix="lfs-onnx-") as folder, _quiet():
        path = Path(folder, "model.onnx")
        try:
            torch.onnx.export(
                model.module(), (torch.zeros(2, 3, size, size),), str(path), input_names=[INPUT],
                output_names=[OUTPUT], dynamic_shapes=({0: torch.export.Dim("N", min=1)},), dynamo=True,
                external_data=False, verbose=False,
            )  # fmt: skip
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            raise UserError(f"torch {torch.__version__} cannot export this model: {first_line(error)}") from None
        return _described(path.read_bytes(), metadata)


def compare(model: BackboneModel, data: bytes, pictures: Floats) -> Comparison:
    """Run both on the same pictures, one at a time and all at once.

    Args:
        pictures: [n, 3, S, S] normalised.
    Raises:
        UserError: onnxruntime does not take the file, or they differ by more than `TOLERANCE`.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base
        raise UserError(f"onnxruntime does not take the exported model: {first_line(error)}") from None
    with torch.inference_mode():
        expected = model.module()(torch.from_numpy(pictures)).numpy()
    whole = session.run([OUTPUT], {INPUT: pictures})[0]
    single = session.run([OUTPUT], {INPUT: pictures[:1]})[0]
    lengths = np.maximum(np.linalg.norm(expected, axis=1), np.finfo(np.float32).tiny)
    distances = np.linalg.norm(whole - expected, axis=1) / lengths
    worst = float(max(distances.max(), np.linalg.norm(single[0] - expected[0]) / lengths[0]))
    if not worst <= TOLERANCE:
        raise UserError(f"the exported model differs from the original by {worst:.2g}, more than {TOLERANCE:g}")
    return Comparison(num_pictures=len(pictures), worst=worst)


def _described(data: bytes, metadata: Mapping[str, str]) -> bytes:
    import onnx

    proto = onnx.load_from_string(data)
    onnx.helper.set_model_props(proto, dict(sorted(metadata.items())))
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString(deterministic=True))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's talk goes nowhere."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
