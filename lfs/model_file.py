"""A trained model, wherever it lies: in a run, in a comparison, or in a folder of its own.

A folder of its own is the smallest thing that says what it is:

    MODEL/model.yaml                format, network, how pixels become its input, where it came from, its weights
    MODEL/model-SHA256.safetensors  the backbone's state, float32 and int64, by the names of `trainers.backbones`
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic
import yaml

from lfs.compare import SETTINGS as COMPARISON
from lfs.compare import cells_of, frame_of
from lfs.config import CompareConfig, SearchConfig
from lfs.locations import under
from lfs.options import read_recipe
from lfs.run_store import CONFIG, RunStore, start_of
from lfs.scores import REWARD, best_point, display_name, read_cells
from lfs.settings import load_settings
from search_space.errors import UserError, shown
from trainers.candidate import Weights
from trainers.checkpoint import MAX_CHECKPOINT_BYTES, from_bytes, to_bytes
from trainers.embedder import BackboneModel, Network, backbone_weights
from trainers.untrusted import read_file
from trainers.whole_file import write_bytes, writing

MODEL, WEIGHTS = "model.yaml", "model-{}.safetensors"
FORMAT = 1
INPUT = {"layout": "NCHW", "channels": "BGR", "mean": 127.5, "scale": 128.0}
"""Pixels x become (x - mean) / scale; every model of this project has been trained so."""

WRONG_KINDS = {
    ".safetensors": "name its folder: the run, or the folder with its model.yaml",
    ".npy": "embeddings are given with --embeddings", ".parquet": "embeddings are given with --embeddings",
    ".onnx": "only what ONNX was exported from can be evaluated", ".pth": "weights are read from safetensors alone",
    ".pt": "weights are read from safetensors alone",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A model that was found, and what it is called. Its weights are read when they are asked for."""

    label: str
    """Row of the table; several models with the same one (seeds of one method) share it."""

    source: str
    """Where it was found: `RUN@G`, or a folder."""

    network: Network
    read: Callable[[], Weights] = field(repr=False)
    origin: dict[str, Any] = field(default_factory=dict)
    """What is known of where it came from: run, generation, loss, reward."""

    train_lists: tuple[str, ...] = ()
    """Lists of the pictures that it was trained on, as far as known."""

    def load(self) -> BackboneModel:
        """The model.

        Raises:
            UserError: its weights are gone, damaged, or of another network.
        """
        try:
            return BackboneModel(network=self.network, weights=self.read())
        except UserError as error:
            message = str(error)
            raise UserError(message if self.source in message else f"{self.source}: {message}") from None


def find_models(text: str) -> list[ModelFile]:
    """The models that an argument names: one, or those of a comparison.

    Raises:
        UserError: there is nothing of the kind, or it is damaged.
    """
    path = Path(text).expanduser()
    if "://" not in text and (path / MODEL).is_file():
        return [model_of_folder(path)]
    store, generation = start_of(text)
    if store.exists(CONFIG):
        return [model_of_run(store, generation)]
    if generation is None and store.exists(COMPARISON):
        return models_of_comparison(store)
    hint = WRONG_KINDS.get(path.suffix.lower(), "")
    there = f"a file; {hint}" if hint else "another file" if path.is_file() else "a folder without any of them"
    raise UserError(
        f"{text}: expected a model: a run (RUN or RUN@G, with its {CONFIG}), a comparison ({COMPARISON}) or an "
        f"exported folder ({MODEL}), got {there if hint or path.exists() else 'no such file or folder'}"
    )


def model_of_run(store: RunStore, generation: int | None = None, label: str = "") -> ModelFile:
    """The winner of a committed generation of a run.

    Args:
        generation: counted from 1; None: the last one.
    Raises:
        UserError: no such generation, or the run is damaged.
    """
    config, done = store.load_config(), store.committed()
    if not done:
        raise UserError(f"{store.uri} has no committed generation yet, so there is no model to evaluate")
    number = done[-1] if generation is None else generation - 1
    if number not in done:
        raise UserError(f"{store.uri} has generations {done[0] + 1} to {done[-1] + 1}, got @{generation}")
    _, summary = store.load_state(number)
    network = Network(
        backbone=config.trainer.backbone, embedding_dim=config.trainer.embedding_dim, input_size=config.data.input_size
    )
    at = f"@{number + 1}" if generation is not None else ""
    return ModelFile(
        label=label or f"{store.name}{at}",
        source=f"{store.uri}@{number + 1}",
        network=network,
        read=lambda: backbone_weights(store.load_weights(number)),
        origin={"run": store.name, "generation": number + 1, "loss": loss_of(config), "reward": summary["best_reward"]},
        train_lists=tuple(str(Path(config.data.root, path)) for path in config.data.train_list),
    )


def loss_of(config: SearchConfig) -> str:
    """What a run trained with, in a word."""
    if config.mode == "fixed":
        return config.loss.name or "replay"
    return f"{config.mode}:{config.space.name}"


def models_of_comparison(root: RunStore) -> list[ModelFile]:
    """Each method at the grid point with the best mean reward, once per seed; a method's seeds share a label.

    Raises:
        UserError: it is damaged, or none of its trainings has come to its end.
    """
    config = load_settings(root, COMPARISON, CompareConfig)
    frame = frame_of(config, root)
    cells = read_cells(frame, []) if len(frame) else []
    found = []
    for method in dict.fromkeys(cell.method for cell in cells):
        group = [cell for cell in cells if cell.method == method]
        point = best_point(group, REWARD)
        label = f"{display_name(method)} {point}".strip()
        kept = {cell.seed for cell in group if cell.point == point and cell.replicate == 0 and not cell.diverged}
        for cell in cells_of(config):
            if cell.method == method and cell.point == point and cell.replicate == 0 and cell.seed in kept:
                store = RunStore(under(root.uri, "cells", cell.name))
                found.append(model_of_run(store, label=label))
    if not found:
        raise UserError(f"{root.uri} is a comparison none of whose trainings has come to a model yet")
    return found


class Description(pydantic.BaseModel, extra="forbid"):
    """What model.yaml holds."""

    format: int
    network: Network
    input: dict[str, Any]
    weights: str
    sha256: str
    origin: dict[str, Any] = {}


def save_model(folder: Path, model: BackboneModel, origin: dict[str, Any]) -> None:
    """Write a folder with the model alone. A folder that has one is that one until model.yaml changes, at one blow.

    Raises:
        UserError: it cannot be written.
    """
    data = to_bytes(model.weights, {})
    digest = hashlib.sha256(data).hexdigest()
    weights = WEIGHTS.format(digest)
    values = Description(
        format=FORMAT, network=model.network, input=INPUT, weights=weights, sha256=digest, origin=origin
    )
    write_bytes(folder / weights, data)
    write_bytes(folder / MODEL, yaml.safe_dump(values.model_dump(), sort_keys=False).encode())
    with writing(folder):
        for old in folder.glob(WEIGHTS.format("[0-9a-f]" * 64)):
            if old.name != weights:
                old.unlink()


def model_of_folder(folder: Path) -> ModelFile:
    """What `save_model` wrote.

    Raises:
        UserError: something is missing, of another kind, or not what model.yaml says.
    """
    place = folder / MODEL
    _, values, _ = read_recipe(str(place))
    try:
        said = Description.model_validate(values)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))[:100]
        raise UserError(f"{place}: not the description of a model: {where}: {first['msg'][:200]}") from None
    if said.format != FORMAT:
        raise UserError(f"{place}: format {said.format}; this version reads format {FORMAT}")
    if said.input != INPUT:
        raise UserError(f"{place}: input must be {INPUT}, got {shown(said.input)}: no other is built here")
    if Path(said.weights).name != said.weights:
        raise UserError(f"{place}: weights must be a file of the same folder, got {shown(said.weights)}")
    return ModelFile(
        label=folder.resolve().name,
        source=str(folder),
        network=said.network,
        read=lambda: read_weights(folder / said.weights, said.sha256),
        origin=said.origin,
    )


def read_weights(path: Path, sha256: str) -> Weights:
    """The arrays of a safetensors file.

    Raises:
        UserError: it cannot be read, is damaged, or is not the file that was meant.
    """
    try:
        data = read_file(path, MAX_CHECKPOINT_BYTES)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"{path}: damaged: its SHA-256 differs from the one in {MODEL}; export the model again")
    return from_bytes(data, source=str(path))[0]
