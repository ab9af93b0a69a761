"""Trains a candidate for one generation and says how good it is; replayable in a Python shell."""

import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from search_space.class_products import ClassProducts, Cosines
from search_space.errors import UserError
from search_space.loss import Loss, LossContext
from trainers.average import RunningMean
from trainers.backbones import build_backbone
from trainers.candidate import Candidate, CandidateResult, Weights
from trainers.class_sampler import ClassSampler, SampledClasses
from trainers.config import DataConfig, RewardConfig, TrainerConfig
from trainers.data.decode import normalise
from trainers.data.sets import TrainingSet
from trainers.heads import CosineHead
from trainers.metrics import Metric
from trainers.numerics import numerics
from trainers.schedule import first_step, generation_steps, learning_rate
from trainers.validation import Embeddings, EmbeddingsNotFiniteError, Validation
from trainers.verification import Score

Progress = Callable[[int, int], None]
BatchLoss = Callable[[Tensor, Tensor], Tensor]

GPU_CHECK_STEPS = 50
"""Steps between two looks at the losses on a GPU: each look waits for the GPU."""


class CandidateTrainer:
    """Trains and validates candidates, one after the other, on one device.

    A result depends on the configuration, the seed, the candidate's generation and loss, and the base weights; not on
    the candidate's index, the process, or what this trainer ran before. On a CPU it is the same to the last bit.

    Example, two generations of two candidates each, the second from the winner of the first:

        pairs = PairsConfig(lmdb=("pairs.lmdb",), pairs=("pairs.txt",))
        data = DataConfig(train=("train.lmdb",), train_list=("train.txt",), reward=pairs, test=pairs, input_size=32)
        config = TrainerConfig(backbone="small", embedding_dim=32, batch_size=16)
        trainer = CandidateTrainer(config, data, RewardConfig(metric="auc"), seed=0)
        weights = trainer.initial_weights()
        for generation in range(2):
            losses = [make_loss(LossConfig(name="am", margin=margin), scale=32.0) for margin in (0.0, 0.2)]
            candidates = [Candidate(generation=generation, index=i, loss=loss) for i, loss in enumerate(losses)]
            winner = max((trainer.run(candidate, weights) for candidate in candidates), key=lambda r: r.reward)
            weights = winner.weights
        print(winner.reward, trainer.test(weights)["accuracy"])

    Args:
        trainer: the network and how to train it.
        data: training pictures, reward sets and (only for `test`) test sets, all named.
        reward: what to measure on the sets.
        seed: of the initial weights, the order of the pictures and their flips.
        device: as torch names it; None: the GPU if there is one, else the CPU.
    Raises:
        UserError: data that is missing or wrong, an unknown backbone, a device that is not there.
    """

    def __init__(
        self, trainer: TrainerConfig, data: DataConfig, reward: RewardConfig, *, seed: int, device: str | None = None
    ) -> None:
        self.config = trainer
        self.data = data
        self.reward = reward
        self.seed = seed
        self.device = _device(device)
        self._training = self._training_set()
        self._steps_per_epoch = self._training.num_batches(trainer.batch_size)
        self._validations = {"reward": Validation("reward", data, reward)}
        self._autocast = _autocast_dtype(trainer.amp, self.device)
        self._model = self._build().to(self.device)
        if trainer.channels_last:
            self._model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimizer = _sgd(self._model, trainer)
        self._sampler = self._class_sampler()
        self._slots: dict[str, Tensor] = self._model.state_dict()
        self._input: Tensor | None = None
        self._momentum = _momentum_buffers(self._model, self._optimizer) if trainer.momentum else {}

    @property
    def num_classes(self) -> int:
        """Identities of the training set."""
        return self._training.num_classes

    @property
    def generation_steps(self) -> int:
        """Steps of one generation."""
        return generation_steps(self.config, self._steps_per_epoch)

    def initial_weights(self) -> Weights:
        """The untrained model that every search with this seed starts from."""
        return _copies(self._build().state_dict())

    def run(
        self, candidate: Candidate, base: Weights | None = None, *, progress: Progress | None = None
    ) -> CandidateResult:
        """Train `base` with the candidate's loss for one generation, then validate it on the reward pairs.

        Args:
            base: weights to start from, left as they are (read-only arrays will do); None: `initial_weights()`.
            progress: called after each step with the steps done and the steps of the generation.
        Returns:
            The result; a diverged one, without weights, if losses, weights or embeddings were not finite.
        Raises:
            UserError: `base` is of another network or another number of classes.
        """
        started = time.perf_counter()
        with numerics(self.config):
            self._load_all(self.initial_weights() if base is None else base)
            state, average = self._loss_state(candidate.loss, base or {}), self._average()
            losses = self._train(candidate, state, average, progress)
            weights = self._weights() | _copies({f"loss.{name}": tensor for name, tensor in state.items()})
            weights |= _copies({f"average.{name}": tensor for name, tensor in average.means.items()})
            average.take_over()
            reason = _loss_fault(losses) or _weight_fault(weights)
            trained = time.perf_counter()
            result = self._diverged(candidate, reason) if reason else self._validated(candidate, weights, losses)
        return replace(
            result,
            num_images=len(losses) * self.config.batch_size,
            train_s=trained - started,
            validate_s=time.perf_counter() - trained,
        )

    def test(self, weights: Weights) -> dict[str, float]:
        """Verification report of `weights` on the test sets: the test metrics, `NAME` and `NAME_se` each.

        Raises:
            UserError: no test sets are configured, or `weights` are of another network or not finite.
        """
        sets = self._validation("test")
        metrics = sets.test_metrics
        with numerics(self.config):
            return sets.report(self._embed(weights, sets, metrics), metrics)

    def validate(self, weights: Weights, metrics: Sequence[str], which: str = "reward") -> dict[str, Score]:
        """Any metrics of `weights`, all of one pass over the pictures, as the reward is measured.

        Args:
            metrics: as `RewardConfig.metric` spells them; the keys of the result.
            which: on the `reward` or the `test` sets.
        Raises:
            UserError: as `test`, or a metric that the sets cannot give.
        """
        sets = self._validation(which)
        asked = sets.metrics(metrics)
        with numerics(self.config):
            return sets.named_scores(self._embed(weights, sets, asked), metrics)

    def _validation(self, which: str) -> Validation:
        """The sets of a purpose, made when first asked for."""
        if which not in self._validations:
            self._validations[which] = Validation(which, self.data, self.reward)
        return self._validations[which]

    def _embed(self, weights: Weights, sets: Validation, metrics: Sequence[Metric]) -> list[Embeddings]:
        backbone = {name: slot for name, slot in self._slots.items() if name.startswith("backbone.")}
        _load(
            weights | {name: weights[f"average.{name}"] for name in backbone if f"average.{name}" in weights}, backbone
        )
        try:
            return sets.embed(self._embedding, metrics)
        except EmbeddingsNotFiniteError:
            message = "weights to test must give finite embeddings, got others; use weights that did not diverge"
            raise UserError(message) from None

    def _training_set(self) -> TrainingSet:
        if not self.data.train:
            raise UserError("a trainer needs training pictures, got an empty `train`: name an LMDB and its list file")
        return TrainingSet.from_config(self.data)

    def _build(self) -> nn.ModuleDict:
        dim = self.config.embedding_dim
        backbone = build_backbone(self.config.backbone, dim, self.data.input_size, self.seed)
        return nn.ModuleDict({"backbone": backbone, "head": CosineHead(dim, self.num_classes, self.seed)})

    def _load_all(self, base: Weights) -> None:
        """Load weights, and momentum too if it is inherited and `base` has any."""
        _load(base, self._slots)
        if self.config.inherit_momentum and any(name.startswith("momentum.") for name in base):
            _load(base, self._momentum)
        else:
            for buffer in self._momentum.values():
                buffer.zero_()

    def _weights(self) -> Weights:
        return _copies(self._slots) | (_copies(self._momentum) if self.config.inherit_momentum else {})

    def _loss_state(self, loss: Loss, base: Weights) -> dict[str, Tensor]:
        """Live state of a loss: inherited where `base` has it in the same shape, else as it is at the start."""
        state = {name: tensor.to(self.device, copy=True) for name, tensor in loss.initial_state().items()}
        for name, tensor in state.items():
            array = base.get(f"loss.{name}")
            if array is not None and array.shape == tuple(tensor.shape):
                tensor.copy_(torch.from_numpy(np.array(array)))
        return state

    def _average(self) -> RunningMean:
        """The mean of the backbone's weights over the last steps of a generation, still empty."""
        backbone = {n: t for n, t in self._slots.items() if n.startswith("backbone.") and t.is_floating_point()}
        steps = self.generation_steps
        return RunningMean(
            backbone if self.config.average else {}, first_step=steps - max(1, round(self.config.average * steps))
        )

    def _train(
        self, candidate: Candidate, state: dict[str, Tensor], average: RunningMean, progress: Progress | None
    ) -> npt.NDArray[np.float32]:
        """Train for one generation, or until a loss is not finite.

        Args:
            state: live state of the loss.
            average: told of each step.
        Returns:
            [steps done] loss of each step; one that is not finite can only be among the last few.
        """
        steps = self.generation_steps
        start = first_step(candidate.generation, self.config, self._steps_per_epoch)
        losses = torch.zeros(steps, device=self.device)
        # Anew each time, since a scale that earlier candidates moved would be history; and low, since each step on the
        # way down from torch's 65536 would be lost in every generation.
        scaler = torch.amp.GradScaler(
            self.device.type, init_scale=1024.0, growth_interval=100, enabled=self._autocast is torch.float16
        )
        look = GPU_CHECK_STEPS if self.device.type == "cuda" else 1
        seed = _order_seed(self.seed, candidate.order)
        self._model.train()
        with closing(self._batches(start, steps, seed)) as batches:
            for done, (images, target) in enumerate(batches, start=1):
                step = start + done - 1
                self._set_rate(learning_rate(step, self.config, self._steps_per_epoch))
                sample = self._sampler.take(target, step, seed) if self._sampler else None
                loss_of = self._loss_of(candidate.loss, state, step, seed, sample)
                losses[done - 1] = self._step(images, target, loss_of, scaler)
                if self._sampler:
                    self._sampler.give_back()
                average.add(done)
                if progress:
                    progress(done, steps)
                if done % look == 0 and not math.isfinite(losses[done - look : done].sum().item()):
                    break
        return losses[:done].cpu().numpy()

    def _batches(self, start: int, steps: int, seed: int) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Batches that every candidate of the generation sees; to be closed, so that no thread decodes on."""
        size, threads = self.config.batch_size, self.data.decode_threads
        yield from self._training.batches(start, steps, size, seed, flip=self.data.flip, decode_threads=threads)

    def _set_rate(self, rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    def _class_sampler(self) -> ClassSampler | None:
        head = cast(CosineHead, self._model["head"])
        rate = self.config.sample_rate
        return ClassSampler(head.weight, self._optimizer, rate=rate) if rate < 1 else None

    def _loss_of(
        self, loss: Loss, state: dict[str, Tensor], step: int, seed: int, sample: SampledClasses | None
    ) -> BatchLoss:
        """The loss of a batch as a function of its embeddings [batch, dim] and target [batch]."""
        head = cast(CosineHead, self._model["head"])

        left, right, chunk = loss.normalise_embedding, loss.normalise_weight, self.config.head_chunk

        def loss_of(embeddings: Tensor, target: Tensor) -> Tensor:
            products: Cosines  # [batch, classes]
            if chunk or sample is not None:
                products = head.products(
                    embeddings, normalise_embedding=left, normalise_weight=right, chunk=chunk, sample=sample
                )
            else:
                products = head(embeddings, normalise_embedding=left, normalise_weight=right)
            if not loss.needs_context:
                return loss(products, target)
            norms = embeddings.float().norm(dim=1)
            if isinstance(products, ClassProducts):
                target_norms = products.target_norms(target)
            else:
                target_norms = head.weight.float().norm(dim=1)[target]
            context = LossContext(norms=norms, target_norms=target_norms, step=step, seed=seed, state=state)
            return loss(products, target, context)

        return loss_of

    def _step(self, images: Tensor, target: Tensor, loss_of: BatchLoss, scaler: torch.amp.GradScaler) -> Tensor:
        # The last step's input is overwritten: fresh memory would cost as much as the arithmetic.
        self._input = self._to_device(images, self._input)
        loss = loss_of(self._forward(self._input), target.to(self.device, non_blocking=True))
        self._optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.step(self._optimizer)
        scaler.update()
        return loss.detach()

    def _to_device(self, images: Tensor, out: Tensor | None = None) -> Tensor:
        """[n, size, size, 3] uint8 -> [n, 3, size, size] float on the device."""
        pictures = normalise(images, self.device, out=out if self.config.channels_last else None)
        return pictures if self.config.channels_last else pictures.contiguous()

    def _forward(self, pictures: Tensor) -> Tensor:
        """Embeddings [n, dim], not normalised."""
        with torch.autocast(self.device.type, self._autocast, enabled=self._autocast is not None):
            embeddings: Tensor = self._model["backbone"](pictures)
        return embeddings.float()

    def _embedding(self, images: Tensor) -> Tensor:
        """Embeddings [n, dim] of pictures to verify, not normalised."""
        self._model.eval()
        pictures = self._to_device(images)
        embeddings = self._forward(pictures)
        if self.reward.flip_average:
            embeddings += self._forward(pictures.flip(3))
        return embeddings

    def _validated(self, candidate: Candidate, weights: Weights, losses: npt.NDArray[np.float32]) -> CandidateResult:
        """The result of the model as it stands: its reward, and more metrics for the record."""
        sets = self._validations["reward"]
        name, more = self.reward.metric, sets.recorded_metrics
        metrics = sets.metrics([name])
        parts = [str(metric) for metric in metrics]
        try:
            embeddings = sets.embed(self._embedding, [*metrics, *more])
        except EmbeddingsNotFiniteError:
            return self._diverged(candidate, "embeddings are not finite after the generation")
        scores = sets.named_scores(embeddings, [name, *parts])
        reward = scores[name]
        own = {part: scores[part].value for part in parts} | {f"{p}_se": scores[p].standard_error for p in parts}
        return CandidateResult(
            generation=candidate.generation,
            index=candidate.index,
            reward=reward.value,
            reward_se=reward.standard_error,
            replicates=reward.replicates,
            metrics={"train_loss": float(losses.mean(dtype=np.float64)), **own, **sets.report(embeddings, more)},
            weights=weights,
        )

    def _diverged(self, candidate: Candidate, reason: str) -> CandidateResult:
        return CandidateResult(
            generation=candidate.generation,
            index=candidate.index,
            reward=math.nan,
            reward_se=math.nan,
            replicates=np.full(self.reward.num_bootstrap, math.nan),
            metrics={},
            diverged=True,
            reason=reason,
        )


def _order_seed(seed: int, order: int) -> int:
    """What the order of the pictures, their flips and a loss's own draws are keyed by."""
    return int(np.random.SeedSequence([seed, order]).generate_state(1, np.uint64)[0] >> 1) if order else seed


def _device(name: str | None) -> torch.device:
    gpu = torch.cuda.is_available()
    try:
        device = torch.device(name or ("cuda" if gpu else "cpu"))
    except RuntimeError as error:
        raise UserError(f"device must be `cpu` or `cuda`, got {name!r}") from error
    if device.type == "cuda" and not gpu:
        law = f"device {name!r} needs a GPU that torch {torch.__version__} can use, got none"
        raise UserError(f"{law}: install a CUDA build of torch, or take `cpu` (--gpus-per-worker 0)")
    return device


def _autocast_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    if amp == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]


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


@torch.no_grad()
def _load(weights: Weights, slots: Mapping[str, Tensor]) -> None:
    """Copy arrays into live tensors of the same names."""
    for name, slot in slots.items():
        array = weights.get(name)
        if array is None or array.shape != tuple(slot.shape):
            found = "none" if array is None else str(list(array.shape))
            raise UserError(
                f"weights must have `{name}` of shape {list(slot.shape)}, got {found}: they are of another backbone,"
                " embedding_dim, input_size or training set"
            )
        # torch warns of read-only arrays, as they come out of an object store, though nothing is written here.
        slot.copy_(torch.from_numpy(array if array.flags.writeable else array.copy()))


def _copies(tensors: Mapping[str, Tensor]) -> Weights:
    return {name: np.array(tensor.detach().cpu().numpy(), order="C") for name, tensor in tensors.items()}


def _loss_fault(losses: npt.NDArray[np.float32]) -> str:
    """What is wrong with the losses of the steps; empty: nothing."""
    if np.isfinite(losses).all():
        return ""
    step = int(np.argmin(np.isfinite(losses)))
    return f"loss is {losses[step]} at step {step + 1} of the generation"


def _weight_fault(weights: Weights) -> str:
    for name, array in weights.items():
        if not np.isfinite(array).all():
            return f"{name} is not finite after the generation"
    return ""
