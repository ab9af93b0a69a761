"""Small models and face sets for the tests of lfs.evaluate."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from lfs.embedding_file import EmbeddingFile
from lfs.model_file import save_model
from tests.trainers.small_trainer import SIZE, make_faces
from trainers.backbones import build_backbone
from trainers.data.lmdb_source import LmdbSource, write_lmdb
from trainers.embedder import BackboneModel, Network

NUM_PICTURES = 60


def small_model(seed: int = 1, dim: int = 8) -> BackboneModel:
    """An untrained network of 16 pixels."""
    state = build_backbone("small", dim, SIZE, seed).state_dict()
    network = Network(backbone="small", embedding_dim=dim, input_size=SIZE)
    return BackboneModel(network=network, weights={name: slot.numpy() for name, slot in state.items()})


def make_evaluation(folder: Path) -> None:
    """train.lmdb with its list, pairs.lmdb with 40 pairs, models m1 and m2, and a recipe of the set `faces`."""
    make_faces(folder)
    for number in (1, 2):
        save_model(folder / f"m{number}", small_model(number), {"run": f"run{number}"})
    recipe: dict[str, Any] = {"faces": {"lmdb": "pairs.lmdb", "pairs": "pairs.txt", "title": "Faces"}}
    (folder / "sets.yaml").write_text(yaml.safe_dump(recipe))


def spoil(folder: Path, *keys: str) -> Path:
    """A copy of train.lmdb in which the pictures of some keys are none."""
    source = LmdbSource(folder / "train.lmdb")
    every = list(source.keys())
    items = [(key, b"\x22\x04none" if key in keys else source.get(key)) for key in every]
    write_lmdb(folder / "spoiled.lmdb", items)
    return folder / "spoiled.lmdb"


def unit(degrees: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A vector in the plane."""
    angle = np.deg2rad(degrees)
    return np.array([np.cos(angle), np.sin(angle)], np.float32)


def by_key(file: EmbeddingFile, keys: Sequence[str]) -> npt.NDArray[np.float32]:
    """[len(keys), dim] embeddings of a file."""
    found = np.empty((len(keys), file.dim), np.float32)
    file.refuse_missing(keys, file.spread(keys, found.__setitem__))
    return found
