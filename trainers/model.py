"""The live model of a trainer: backbone, head and SGD, on its device and over its ranks."""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from search_space.class_products import ClassProducts, Cosines
from search_space.errors import UserError
from search_space.loss import Loss, LossContext
from trainers.backbones import build_backbone
from trainers.candidate import Weights
from trainers.class_sampler import ClassSampler, SampledClasses
from trainers.config import TrainerConfig
from trainers.data.decode import normalise
from trainers.device import autocast_dtype
from trainers.heads import CosineHead
from trainers.ranks import Ranks
from trainers.sync_batchnorm import synchronised

SHARDED = ("head.weight", "momentum.head.weight")
"""What each rank holds the rows of its own classes of."""


class Model:
    """What is loaded, trained for steps, copied out and asked for embeddings.

    Args:
        config: how it is trained.
        input_size: side of a picture.
        num_classes: training identities.
        seed: of its initial weights.
        device: where it lives.
        ranks: the processes that train it together.
    """

    def __init__(
        self, config: TrainerConfig, input_size: int, num_classes: int, seed: int, device: torch.device, ranks: Ranks
    ) -> None:
        self.config, self.device, self.ranks = config, device, ranks
        self._input_size, self._num_classes, self._seed = input_size, num_classes, seed
        self._autocast = autocast_dtype(config.amp, device)
        self._model = self._build(ranks).to(device)
        if config.channels_last:
            self._model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.sync_batchnorm and ranks.size > 1:
            self._model["backbone"] = synchronised(self._model["backbone"], ranks, device)
        self._head = cast(CosineHead, self._model["head"])
        self._optimizer = _sgd(self._model, config)
        self._sampler = self._class_sampler()
        self._slots: dict[str, Tensor] = self._model.state_dict()
        self._input: Tensor | None = None
        self._momentum = _momentum_buffers(self._model, self._optimizer) if config.momentum else {}
        self._in_training = ranks.parallel(self._model["backbone"])
        if ranks.size > 1:
            self._settle()

    def initial_weights(self) -> Weights:
        """The untrained model."""
        return copies(self._build(Ranks.alone()).state_dict())

    @torch.no_grad()
    def load(self, base: Weights | None) -> None:
        """Load weights, and momentum too if it is inherited and `base` has any; None: the untrained model.

        Raises:
            UserError: `base` is of another network or another number of classes.
        """
        if base is None:
            initial = self._build(self.ranks).state_dict()  # of the head this rank's rows alone
            for name, slot in self._slots.items():
                slot.copy_(initial[name])
        else:
            self._load(base, self._slots)
        if base and self.config.inherit_momentum and any(name.startswith("momentum.") for name in base):
            self._load(base, self._momentum)
        else:
            for buffer in self._momentum.values():
                buffer.zero_()

    def load_backbone(self, weights: Weights) -> None:
        """Load what embeds a picture: the mean over steps where there is one.

        Raises:
            UserError: `weights` are of another network.
        """
        backbone = {name: slot for name, slot in self._slots.items() if name.startswith("backbone.")}
        means = {name: weights[f"average.{name}"] for name in backbone if f"average.{name}" in weights}
        self._load(weights | means, backbone)

    def weights(self) -> Weights:
        """Copies of everything that is inherited, whole in rank 0's host memory; the head's rows are gathered there."""
        found = copies(self._slots) | (copies(self._momentum) if self.config.inherit_momentum else {})
        return {name: self.ranks.stack(array) if name in SHARDED else array for name, array in found.items()}

    def backbone(self) -> dict[str, Tensor]:
        """Live floating tensors of the backbone, statistics of batch norm among them."""
        return {n: t for n, t in self._slots.items() if n.startswith("backbone.") and t.is_floating_point()}

    @torch.no_grad()
    def share_statistics(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the mean over ranks of those tensors of the backbone that each rank counted from its own pictures."""
        if not self.config.sync_batchnorm:
            parameters = {f"backbone.{name}" for name, _ in self._model["backbone"].named_parameters()}
            for name, tensor in tensors.items():
                if name not in parameters:
                    self.ranks.mean_(tensor)

    def train(self) -> None:
        """Get ready for the steps of a generation."""
        self._model.train()
        # Anew each time, since a scale that earlier candidates moved would be history; and low, since each step on the
        # way down from torch's 65536 would be lost in every generation.
        fp16 = self._autocast is torch.float16
        self._scaler = RanksScaler(self.ranks, self.device.type, init_scale=1024.0, growth_interval=100, enabled=fp16)

    def step(
        self, images: Tensor, target: Tensor, loss: Loss, *, state: dict[str, Tensor], step: int, seed: int, rate: float
    ) -> Tensor:
        """One step of SGD.

        Args:
            images: [batch / ranks, size, size, 3] uint8, this rank's rows.
            target: [batch] of all ranks.
            state: live state of the loss.
            step: since the start of training.
            seed: what is drawn is keyed by it and the step.
            rate: learning rate.
        Returns:
            Loss of the whole batch, the same in every rank.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        sample = self._sampler.take(target, step, seed) if self._sampler else None
        # The last step's input is overwritten: fresh memory would cost as much as the arithmetic.
        self._input = self._to_device(images, self._input)
        embeddings = self.ranks.gather(self._forward(self._in_training, self._input))
        target = target.to(self.device, non_blocking=True)
        products = self._products(loss, embeddings, sample)
        context = self._context(embeddings, target, products, state, step, seed) if loss.needs_context else None
        mean = loss(products, target, context) if context else loss(products, target)
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(mean).backward()  # type: ignore[no-untyped-call]
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._sampler:
            self._sampler.give_back()
        return mean.detach()

    def _products(self, loss: Loss, embeddings: Tensor, sample: SampledClasses | None) -> Cosines:
        """What the loss takes: of one process, all at once unless they are to be made in chunks."""
        left, right, chunk = loss.normalise_embedding, loss.normalise_weight, self.config.head_chunk
        if self.ranks.size == 1 and not chunk and sample is None:
            plain: Tensor = self._head(embeddings, normalise_embedding=left, normalise_weight=right)
            return plain
        return self._head.products(
            embeddings, normalise_embedding=left, normalise_weight=right, chunk=chunk, sample=sample, shards=self.ranks
        )

    def _context(
        self, embeddings: Tensor, target: Tensor, products: Cosines, state: dict[str, Tensor], step: int, seed: int
    ) -> LossContext:
        if isinstance(products, ClassProducts):
            target_norms = products.target_norms(target)
        else:
            target_norms = self._head.weight.float().norm(dim=1)[target]
        norms = embeddings.float().norm(dim=1)
        return LossContext(norms=norms, target_norms=target_norms, step=step, seed=seed, state=state)

    def embed(self, images: Tensor, *, flip_average: bool) -> Tensor:
        """Embeddings [n, dim] of pictures [n, size, size, 3] uint8 to verify, not normalised.

        Args:
            flip_average: add those of the mirrored pictures.
        """
        self._model.eval()
        pictures = self._to_device(images)
        embeddings = self._forward(self._model["backbone"], pictures)
        if flip_average:
            embeddings += self._forward(self._model["backbone"], pictures.flip(3))
        return embeddings

    def _build(self, ranks: Ranks) -> nn.ModuleDict:
        dim = self.config.embedding_dim
        backbone = build_backbone(self.config.backbone, dim, self._input_size, self._seed)
        head = CosineHead(dim, self._num_classes, self._seed, rank=ranks.rank, size=ranks.size)
        return nn.ModuleDict({"backbone": backbone, "head": head})

    def _class_sampler(self) -> ClassSampler | None:
        rate, weight = self.config.sample_rate, self._head.weight
        if rate == 1:
            return None
        first = self._head.classes.start
        return ClassSampler(weight, self._optimizer, rate=rate, first=first, rank=self.ranks.rank)

    def _settle(self) -> None:
        """Two steps for nothing: after its first, DistributedDataParallel regroups the gradients that it sums together.

        Where three ranks and more add up, the grouping decides the last bits, so without this the first candidate of a
        process would differ from the others.
        """
        size = self._input_size
        pictures = torch.zeros(self.config.batch_size // self.ranks.size, 3, size, size, device=self.device)
        for _ in range(2):
            self._forward(self._in_training, pictures).sum().backward()  # type: ignore[no-untyped-call]
        self._optimizer.zero_grad(set_to_none=True)

    def _to_device(self, images: Tensor, out: Tensor | None = None) -> Tensor:
        """[n, size, size, 3] uint8 -> [n, 3, size, size] float on the device."""
        pictures = normalise(images, self.device, out=out if self.config.channels_last else None)
        return pictures if self.config.channels_last else pictures.contiguous()

    def _forward(self, backbone: nn.Module, pictures: Tensor) -> Tensor:
        """Embeddings [n, dim], not normalised."""
        with torch.autocast(self.device.type, self._autocast, enabled=self._autocast is not None):
            embeddings: Tensor = backbone(pictures)
        return embeddings.float()

    @torch.no_grad()
    def _load(self, weights: Weights, slots: Mapping[str, Tensor]) -> None:
        """Copy arrays, of the head the rows of this rank, into live tensors of the same names."""
        for name, slot in slots.items():
            array = weights.get(name)
            shape = (self._num_classes, *slot.shape[1:]) if name in SHARDED else tuple(slot.shape)
            if array is None or array.shape != shape:
                found = "none" if array is None else str(list(array.shape))
                raise UserError(
                    f"weights must have `{name}` of shape {list(shape)}, got {found}: they are of another backbone,"
                    " embedding_dim, input_size or training set"
                )
            number = torch.empty(0, dtype=slot.dtype).numpy().dtype
            if array.dtype != number:
                raise UserError(
                    f"weights must have `{name}` of type {number}, got {array.dtype}: they are of another model"
                )
            array = array[self._head.classes] if name in SHARDED else array
            # torch warns of read-only arrays, as they come out of an object store, though nothing is written here.
            slot.copy_(torch.from_numpy(array if array.flags.writeable else array.copy()))


class RanksScaler(torch.amp.GradScaler):
    """A gradient that overflows in any rank counts in all: each has other classes of the head.

    Torch's own for shards adds up how many ranks found one, which fused optimizers take for none from two ranks on.
    """

    def __init__(self, ranks: Ranks, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ranks = ranks

    def _check_inf_per_device(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        found: dict[str, Any] = super()._check_inf_per_device(optimizer)
        for tensor in found.values():
            self._ranks.max_(tensor)
        return found


def copies(tensors: Mapping[str, Tensor]) -> Weights:
    """Arrays of one's own in host memory."""
    return {name: np.array(tensor.detach().cpu().numpy(), order="C") for name, tensor in tensors.items()}


def _sgd(model: nn.Module, config: TrainerConfig) -> torch.optim.SGD:
    """SGD that decays matrices and kernels, but not batch norm, biases and slopes, which are vectors."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)


def _momentum_buffers(model: nn.Module, optimizer: torch.optim.SGD) -> dict[str, Tensor]:
    """Give the optimizer its buffers before its first step, so that they can be loaded like weights; by name."""
    buffers = {}
    for name, parameter in model.named_parameters():
        buffers[f"momentum.{name}"] = optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return buffers
