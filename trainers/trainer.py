"""Trains a candidate for one generation and says how good it is; replayable in a Python shell."""

import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from search_space.errors import UserError
from search_space.loss import Loss
from trainers.average import RunningMean
from trainers.candidate import Candidate, CandidateResult, Weights
from trainers.config import DataConfig, RewardConfig, TrainerConfig, refuse_batch
from trainers.data.sets import TrainingSet
from trainers.device import find_device
from trainers.metrics import Metric
from trainers.model import Model, copies
from trainers.numerics import numerics
from trainers.ranks import Ranks
from trainers.schedule import first_step, generation_steps, learning_rate
from trainers.validation import Embeddings, EmbeddingsNotFiniteError, Validation
from trainers.verification import Score

Progress = Callable[[int, int], None]
Value = TypeVar("Value")

GPU_CHECK_STEPS = 50
"""Steps between two looks at the losses on a GPU: each look waits for the GPU."""


class CandidateTrainer:
    """Trains and validates candidates, one after the other, on one device or on several that share each candidate.

    A result depends on the configuration, the seed, the candidate's generation and loss, the base weights, and the
    number of ranks; not on the candidate's index, the processes, or what this trainer ran before. On a CPU it is the
    same to the last bit.

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
        ranks: the processes that share each candidate; None: this one alone. All of them make this object and call its
            methods alike. Each sees its rows of every batch; the batches are those of a single process.
    Raises:
        UserError: data that is missing or wrong, an unknown backbone, a device that is not there, a batch that cannot
            be divided among the ranks.
    """

    def __init__(
        self, trainer: TrainerConfig, data: DataConfig, reward: RewardConfig, *, seed: int, device: str | None = None,
        ranks: Ranks | None = None,
    ) -> None:  # fmt: skip
        self.config = trainer
        self.data = data
        self.reward = reward
        self.seed = seed
        self.ranks = ranks or Ranks.alone()
        refuse_batch(trainer.batch_size, self.ranks.size)
        self.device = self.ranks.agreed(lambda: find_device(device))
        self._training = self.ranks.agreed(self._training_set)
        self._validations = {"reward": self.ranks.agreed(lambda: Validation("reward", data, reward))}
        self._steps_per_epoch = self._training.num_batches(trainer.batch_size)
        with numerics(trainer):
            self._model = Model(trainer, data.input_size, self.num_classes, seed, self.device, self.ranks)

    @property
    def num_classes(self) -> int:
        """Identities of the training set."""
        return self._training.num_classes

    @property
    def generation_steps(self) -> int:
        """Steps of one generation."""
        return generation_steps(self.config, self._steps_per_epoch)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Keys of `CandidateResult.metrics` of every candidate that does not diverge."""
        sets = self._validations["reward"]
        parts = [name for metric in sets.metrics([self.reward.metric]) for name in (str(metric), f"{metric}_se")]
        return tuple(dict.fromkeys(["train_loss", *parts, *sets.report_names(sets.recorded_metrics)]))

    def initial_weights(self) -> Weights:
        """The untrained model that every search with this seed starts from."""
        return self._model.initial_weights()

    def run(
        self, candidate: Candidate, base: Weights | None = None, *, progress: Progress | None = None
    ) -> CandidateResult:
        """Train `base` with the candidate's loss for one generation, then validate it on the reward pairs.

        Args:
            base: weights to start from, left as they are (read-only arrays will do); None: `initial_weights()`.
            progress: called after each step with the steps done and the steps of the generation, in rank 0.
        Returns:
            The result, in every rank but rank 0 without its weights; a diverged one, without weights, if losses,
            weights or embeddings were not finite.
        Raises:
            UserError: `base` is of another network or another number of classes.
        """
        started = time.perf_counter()
        with numerics(self.config):
            self._model.load(base)
            state, average = self._loss_state(candidate.loss, base or {}), self._average()
            losses = self._train(candidate, state, average, progress if self.ranks.rank == 0 else None)
            self._model.share_statistics(self._model.backbone())
            self._model.share_statistics(average.means)
            weights = self._model.weights() | copies({f"loss.{name}": tensor for name, tensor in state.items()})
            weights |= copies({f"average.{name}": tensor for name, tensor in average.means.items()})
            average.take_over()
            reason = self.ranks.broadcast_object(_loss_fault(losses) or _weight_fault(weights))
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
            embeddings = self._embed(weights, sets, metrics)
            return self._in_rank_0(lambda: sets.report(embeddings, metrics))

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
            embeddings = self._embed(weights, sets, asked)
            return self._in_rank_0(lambda: sets.named_scores(embeddings, metrics))

    def _validation(self, which: str) -> Validation:
        """The sets of a purpose, made when first asked for."""
        if which not in self._validations:
            self._validations[which] = self.ranks.agreed(lambda: Validation(which, self.data, self.reward))
        return self._validations[which]

    def _embed(self, weights: Weights, sets: Validation, metrics: Sequence[Metric]) -> list[Embeddings]:
        self._model.load_backbone(weights)
        try:
            return sets.embed(self._embedding, metrics, self.ranks)
        except EmbeddingsNotFiniteError:
            message = "weights to test must give finite embeddings, got others; use weights that did not diverge"
            raise UserError(message) from None

    def _in_rank_0(self, value_of: Callable[[], Value]) -> Value:
        """What rank 0, which has all embeddings, makes of them; in every rank."""
        value: Value = self.ranks.broadcast_object(value_of() if self.ranks.rank == 0 else None)
        return value

    def _training_set(self) -> TrainingSet:
        if not self.data.train:
            raise UserError("a trainer needs training pictures, got an empty `train`: name an LMDB and its list file")
        return TrainingSet.from_config(self.data)

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
        steps = self.generation_steps
        return RunningMean(
            self._model.backbone() if self.config.average else {},
            first_step=steps - max(1, round(self.config.average * steps)),
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
        self._model.train()
        look = GPU_CHECK_STEPS if self.device.type == "cuda" else 1
        seed = _order_seed(self.seed, candidate.order)
        with closing(self._batches(start, steps, seed)) as batches:
            for done, (images, target) in enumerate(batches, start=1):
                step = start + done - 1
                rate = learning_rate(step, self.config, self._steps_per_epoch)
                losses[done - 1] = self._model.step(
                    images, target, candidate.loss, state=state, step=step, seed=seed, rate=rate
                )
                average.add(done)
                if progress:
                    progress(done, steps)
                if done % look == 0 and not math.isfinite(losses[done - look : done].sum().item()):
                    break
        return losses[:done].cpu().numpy()

    def _batches(self, start: int, steps: int, seed: int) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Batches that every candidate of the generation sees; to be closed, so that no thread decodes on."""
        size, threads, part = self.config.batch_size, self.data.decode_threads, self.ranks.share(self.config.batch_size)
        yield from self._training.batches(
            start, steps, size, seed, flip=self.data.flip, decode_threads=threads, part=part
        )

    def _embedding(self, images: Tensor) -> Tensor:
        """Embeddings [n, dim] of pictures to verify, not normalised."""
        return self._model.embed(images, flip_average=self.reward.flip_average)

    def _validated(self, candidate: Candidate, weights: Weights, losses: npt.NDArray[np.float32]) -> CandidateResult:
        """The result of the model as it stands: its reward, and more metrics for the record."""
        sets = self._validations["reward"]
        metrics = [*sets.metrics([self.reward.metric]), *sets.recorded_metrics]
        try:
            embeddings = sets.embed(self._embedding, metrics, self.ranks)
        except EmbeddingsNotFiniteError:
            return self._diverged(candidate, "embeddings are not finite after the generation")
        result = self._in_rank_0(lambda: self._scored(candidate, embeddings, losses))
        if not math.isfinite(result.reward):
            return self._diverged(candidate, f"reward is {result.reward} after the generation")
        return replace(result, weights=weights if self.ranks.rank == 0 else {})

    def _scored(
        self, candidate: Candidate, embeddings: Sequence[Embeddings], losses: npt.NDArray[np.float32]
    ) -> CandidateResult:
        sets, name = self._validations["reward"], self.reward.metric
        parts = [str(metric) for metric in sets.metrics([name])]
        scores = sets.named_scores(embeddings, [name, *parts])
        reward = scores[name]
        own = {part: scores[part].value for part in parts} | {f"{p}_se": scores[p].standard_error for p in parts}
        own |= sets.report(embeddings, sets.recorded_metrics)
        return CandidateResult(
            generation=candidate.generation,
            index=candidate.index,
            reward=reward.value,
            reward_se=reward.standard_error,
            replicates=reward.replicates,
            metrics={"train_loss": float(losses.mean(dtype=np.float64)), **own},
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
