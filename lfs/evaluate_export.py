"""The action `export`: a model for other programs, as ONNX, or as a folder of its own.

The ONNX file takes `input` [N, 3, S, S] float32, pixels (x - 127.5) / 128 in BGR order, and gives `embedding` [N, dim],
not normalised; its metadata says so, and where the model came from. Before the file gets its name, torch and
onnxruntime are both run on random pictures, and on those of --lmdb, and must agree.

Examples:
    python -m lfs.evaluate export runs/NAME --onnx model.onnx
    python -m lfs.evaluate export runs/NAME@3 --onnx model.onnx --lmdb faces.lmdb
    python -m lfs.evaluate export runs/NAME --to models/NAME
"""

import argparse
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lfs.commands import OK
from lfs.evaluate_embed import one_model
from lfs.model_file import MODEL, ModelFile, save_model
from lfs.onnx_file import TOLERANCE, compare, onnx_bytes, require_packages
from lfs.outputs import refuse_existing
from lfs.plugins import add_allow_flag
from lfs.terminal import printable
from lfs.view import View
from search_space.errors import require
from trainers.data.decode import normalise
from trainers.data.lists import Keys
from trainers.data.lmdb_source import LmdbSource
from trainers.data.sets import Pictures
from trainers.embedder import BackboneModel
from trainers.whole_file import write_bytes

NUM_PICTURES = 16


def add_parser(actions: Any) -> None:
    """The flags of the action."""
    made = actions.add_parser(
        "export", help="write a model as ONNX, or as a folder of its own", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    made.set_defaults(run=run)
    add = made.add_argument
    add("model", metavar="MODEL", help="a run (RUN, RUN@G) or an exported folder")
    add("--onnx", default="", metavar="FILE", help="ONNX file to write (needs the extra: pip install 'lfs[export]')")
    add("--to", default="", metavar="DIR", help=f"folder to write: {MODEL} and its weights")
    add("--lmdb", default="", metavar="LMDB", help="pictures to compare on, besides random ones")
    add("--overwrite", action="store_true", help="replace files that are there")
    add_allow_flag(made)


def run(options: argparse.Namespace) -> int:
    """Export, compare, write."""
    require(bool(options.onnx or options.to), "--onnx or --to must say what to write", "neither")
    law = "--lmdb has pictures to compare an ONNX file on, which needs --onnx"
    require(bool(options.onnx) or not options.lmdb, law, "--to alone")
    view = View()
    onnx, folder = Path(options.onnx).expanduser(), Path(options.to).expanduser()
    if options.onnx:
        require(onnx.suffix == ".onnx", "--onnx must name a file X.onnx", options.onnx)
        refuse_existing([onnx], options.overwrite)
        require_packages()
    if options.to:
        require(not folder.exists() or folder.is_dir(), "--to must name a folder", options.to)
        refuse_existing([folder / MODEL], options.overwrite)
    found = one_model(options.model)
    model = found.load()
    if options.to:
        save_model(folder, model, {"source": found.source, **found.origin})
        view.say(f"{found.source} in {printable(str(folder))}")
    if options.onnx:
        pictures = real_pictures(options.lmdb, model.network.input_size) if options.lmdb else None
        with view.waiting("exporting"):
            data = onnx_bytes(model, described(found, model))
        worst = compare(model, data, random_pictures(model.network.input_size)).worst
        said = f"{NUM_PICTURES} random pictures by {worst:.1e}"
        if pictures is not None:
            real = compare(model, data, pictures)
            said += f", on {real.num_pictures} of {Path(options.lmdb).name} by {real.worst:.1e}"
        write_bytes(onnx, data)
        view.say(f"torch and onnxruntime differ on {said} of an embedding's length (allowed: {TOLERANCE:.0e})")
        view.say(f"{found.source} in {printable(str(onnx))}, {len(data):,} bytes")
    return OK


def described(found: ModelFile, model: BackboneModel) -> dict[str, str]:
    """The metadata of an ONNX file."""
    network = model.network
    facts = {
        **found.origin,
        "backbone": network.backbone, "embedding_dim": network.embedding_dim, "input_size": network.input_size,
        "input": "NCHW float32, BGR, (x - 127.5) / 128", "output": "embedding, not normalised", "source": found.source,
        "sha256": model.digest,
    }  # fmt: skip
    return {f"lfs.{name}": str(value) for name, value in facts.items()}


def random_pictures(size: int) -> npt.NDArray[np.float32]:
    """[n, 3, size, size] noise, normalised, the same every time."""
    rng = np.random.Generator(np.random.Philox(0))
    return as_input(rng.integers(0, 256, (NUM_PICTURES, size, size, 3), dtype=np.uint8))


def real_pictures(lmdb: str, size: int) -> npt.NDArray[np.float32]:
    """[n, 3, size, size] the first pictures of an LMDB, normalised.

    Raises:
        UserError: there are none, or one does not decode.
    """
    source = LmdbSource(Path(lmdb).expanduser())
    keys = list(islice(source.keys(), NUM_PICTURES))
    require(bool(keys), f"--lmdb {lmdb} must hold pictures", "an empty LMDB")
    return as_input(Pictures([source], [0], Keys.of(keys), size, 0).read(np.arange(len(keys))))


def as_input(pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """uint8 [n, size, size, 3] as the network takes them."""
    return normalise(torch.from_numpy(pictures)).contiguous().numpy()
