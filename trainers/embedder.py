"""A trained backbone by itself: pictures in, embeddings out, with the same bits however many work on them."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from search_space.errors import UserError, require
from trainers.backbones import plan_backbone
from trainers.candidate import Weights
from trainers.checkpoint import to_parts
from trainers.config import TrainerConfig
from trainers.data.decode import normalise
from trainers.data.lists import Keys
from trainers.data.lmdb_source import LmdbSource
from trainers.data.sets import Pictures
from trainers.device import find_device
from trainers.numerics import numerics

BATCH = 128
"""Pictures that go through the network together; part of what decides the last bits."""

Floats = npt.NDArray[np.float32]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Network:
    """What is built before weights go into it."""

    backbone: str
    """A key of `trainers.backbones.BACKBONES`, or that of a plug-in."""

    embedding_dim: int
    """Length of the embedding."""

    input_size: int
    """Side of the pictures, pixels."""

    def __post_init__(self) -> None:
        for name, most in (("embedding_dim", 2**16), ("input_size", 448)):
            require(1 <= getattr(self, name) <= most, f"{name} must be in 1..{most}", getattr(self, name))


@dataclass(frozen=True, kw_only=True, eq=False)
class BackboneModel:
    """A trained backbone: its network and its weights, by the names of the network's state.

    Raises:
        UserError: the weights are of another network.
    """

    network: Network
    weights: Weights = field(repr=False)

    def __post_init__(self) -> None:
        network = self.network
        plan = plan_backbone(network.backbone, network.embedding_dim, network.input_size).state_dict()
        for name, slot in plan.items():
            array = self.weights.get(name)
            shape = None if array is None else tuple(array.shape)
            if array is None or shape != tuple(slot.shape) or (array.dtype.kind == "f") != slot.is_floating_point():
                found = "none" if array is None else f"{array.dtype} {list(array.shape)}"
                raise UserError(
                    f"weights of {network.backbone} with embedding_dim {network.embedding_dim} at input_size "
                    f"{network.input_size} must have `{name}` of shape {list(slot.shape)}, got {found}"
                )
        if unknown := sorted(set(self.weights) - set(plan)):
            raise UserError(f"weights of {network.backbone} must have no `{unknown[0]}`: they are of another network")

    @cached_property
    def digest(self) -> str:
        """SHA-256 of network and weights."""
        found = hashlib.sha256()
        for part in to_parts(self.weights, asdict(self.network)):
            found.update(part)
        return found.hexdigest()

    def module(self) -> nn.Module:
        """The network with its weights, on the CPU, in evaluation mode: [N, 3, S, S] float -> [N, dim]."""
        network = self.network
        made = plan_backbone(network.backbone, network.embedding_dim, network.input_size).to_empty(device="cpu")
        slots = made.state_dict()
        with torch.no_grad():
            for name, slot in slots.items():
                slot.copy_(torch.from_numpy(np.array(self.weights[name])))
        return made.eval()


def backbone_weights(weights: Mapping[str, npt.NDArray[np.generic]]) -> Weights:
    """What embeds a picture, of all that a generation leaves: the mean over steps where there is one."""
    backbone = {name.removeprefix("backbone."): a for name, a in weights.items() if name.startswith("backbone.")}
    means = {name: weights[f"average.backbone.{name}"] for name in backbone if f"average.backbone.{name}" in weights}
    return backbone | means


class Embedder:
    """A model on a device.

    Args:
        device: None: the GPU if there is one, else the CPU.
        flip: add the embedding of the mirrored picture, as in the project's own tests with `flip_average`.
    """

    def __init__(self, model: BackboneModel, *, device: str | None = None, flip: bool = True) -> None:
        self.size, self.dim, self.flip = model.network.input_size, model.network.embedding_dim, flip
        self.device = find_device(device)
        self._module = model.module().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Floats:
        """Embeddings [n, dim] of pictures [n, size, size, 3] uint8 BGR, not normalised, in float32 on any device."""
        pictures = normalise(images, self.device)
        embeddings: Tensor = self._module(pictures)
        if self.flip:
            embeddings = embeddings + self._module(pictures.flip(3))
        return np.asarray(embeddings.float().cpu().numpy(), np.float32)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Pictures to embed in one piece of work; plain values, so that any process on any machine can do it."""

    number: int
    lmdb: str
    """Absolute path."""

    keys: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """How pictures are embedded."""

    flip: bool = True
    skip_bad: bool = False
    """Go on where a picture does not decode."""

    num_threads: int = 1
    """Threads that each take whole batches; how many does not show in the result."""

    device: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddedShard:
    """The outcome for one shard."""

    number: int
    embeddings: Floats
    """[n, dim]; rows of NaN for bad pictures."""

    bad: tuple[tuple[int, str], ...] = ()
    """(row, reason) of the pictures that do not decode."""


def embed_shard(model: BackboneModel, shard: Shard, options: EmbedOptions) -> EmbeddedShard:
    """Embed the pictures of a shard: depends on its arguments alone, whoever does it and how often.

    Raises:
        UserError: a key that the LMDB does not have, a picture that does not decode (unless skipped), or an embedding
            that is not finite; each names the key.
    """
    with numerics(TrainerConfig()):  # one thread of torch's own: batches are what is shared out
        embedder = Embedder(model, device=options.device, flip=options.flip)
        return embed_with(embedder, shard, options)


def embed_with(embedder: Embedder, shard: Shard, options: EmbedOptions) -> EmbeddedShard:
    """`embed_shard` with a model that is on its device already."""
    pictures = Pictures([LmdbSource(shard.lmdb)], [0], Keys.of(shard.keys), embedder.size, 0)
    embeddings = np.empty((len(shard.keys), embedder.dim), np.float32)
    starts = range(0, len(shard.keys), BATCH)
    on_gpu = embedder.device.type == "cuda"

    def read(start: int) -> tuple[Tensor, list[tuple[int, str]]]:
        return _read(pictures, np.arange(start, min(start + BATCH, len(shard.keys))), options.skip_bad)

    def read_and_embed(start: int) -> tuple[Floats, list[tuple[int, str]]]:
        images, bad = read(start)
        return embedder(images), bad

    found: Iterable[tuple[Any, list[tuple[int, str]]]]
    found = map_ahead(read if on_gpu else read_and_embed, starts, options.num_threads)
    all_bad: list[tuple[int, str]] = []
    for start, (part, bad) in zip(starts, found, strict=True):
        embeddings[start : start + BATCH] = embedder(part) if on_gpu else part
        all_bad += bad
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        key = shard.keys[int(finite.argmin())]
        raise UserError(f"embeddings must be finite, got one of key {key!r} that is not: the model has diverged")
    embeddings[[row for row, _ in all_bad]] = np.nan
    return EmbeddedShard(number=shard.number, embeddings=embeddings, bad=tuple(all_bad))


def _read(pictures: Pictures, rows: npt.NDArray[np.int64], skip_bad: bool) -> tuple[Tensor, list[tuple[int, str]]]:
    """Pictures of rows; bad ones are black, so that the others stay in the same places of the same batch."""
    try:
        return torch.from_numpy(pictures.read(rows)), []
    except UserError:
        if not skip_bad:
            raise
    images = np.zeros((len(rows), pictures.size, pictures.size, 3), np.uint8)
    bad = []
    for place, row in enumerate(rows.tolist()):
        try:
            images[place] = pictures.read(np.array([row]))[0]
        except UserError as error:
            if pictures.first_missing([row]) is not None:
                raise
            bad.append((row, str(error)))
    return torch.from_numpy(images), bad


def map_ahead(work: Callable[[T], R], items: Sequence[T], num_threads: int) -> Iterator[R]:
    """`work` of each item, in order, by so many threads; no more than two for each of them are held."""
    if num_threads <= 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(num_threads, "embed", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        rest = iter(items)
        ahead: deque[Future[R]] = deque(pool.submit(work, item) for item in islice(rest, 2 * num_threads))
        try:
            while ahead:
                result = ahead.popleft().result()
                for item in islice(rest, 1):
                    ahead.append(pool.submit(work, item))
                yield result
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
