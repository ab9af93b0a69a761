import hashlib
import inspect
import math
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from search_space.config import LossConfig
from search_space.errors import UserError
from search_space.loss import Loss
from search_space.margins import make_loss
from search_space.spaces import LossParameters
from trainers.backbones import build_backbone
from trainers.candidate import Candidate, CandidateResult, Weights
from trainers.checkpoint import from_bytes, to_bytes
from trainers.config import DataConfig, PairsConfig, RewardConfig, TrainerConfig
from trainers.data.datum import encode_datum
from trainers.data.lmdb_source import write_lmdb
from trainers.data.sets import TrainingSet
from trainers.data.verification_set import VerificationSet
from trainers.heads import CosineHead
from trainers.metrics import Metric
from trainers.schedule import learning_rate
from trainers.trainer import CandidateTrainer
from trainers.verification import AllPairsMetrics, evaluate_metric, verification_report

REPOSITORY = Path(__file__).parents[2]
SEED = 3
SIZE = 16
CONFIG = TrainerConfig(
    backbone="small",
    embedding_dim=8,
    batch_size=16,
    generation_length=4,
    generation_unit="steps",
    milestones=(1.0,),
    lr_warmup_steps=2,
)
REWARD = RewardConfig(metric="auc", num_bootstrap=10, test_metrics=("accuracy", "auc", "d_prime", "tar@far=0.1"))


def make_faces(folder: Path) -> None:
    """Ten people with a colour pattern each, six noisy pictures of each, and 40 pairs."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(40, 215, (10, 4, 4, 3)).repeat(SIZE // 4, axis=1).repeat(SIZE // 4, axis=2)
    items, lines = [], []
    for person, pattern in enumerate(patterns):
        for i in range(6):
            picture = np.clip(pattern + rng.normal(0, 40, pattern.shape), 0, 255).astype(np.uint8)
            items.append((f"{person}/{i}", encode_datum(cv2.imencode(".jpg", picture)[1].tobytes(), person)))
            lines.append(f"{person}/{i} {person}\n")
    write_lmdb(folder / "train.lmdb", items)
    write_lmdb(folder / "pairs.lmdb", items)
    (folder / "train.txt").write_text("".join(lines))
    people = rng.integers(0, 10, 40)
    pairs = [f"{a}/{i % 6} {(a + i % 2) % 10}/{(i + 1) % 5} {1 - i % 2}\n" for i, a in enumerate(people)]
    (folder / "pairs.txt").write_text("".join(pairs))


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    make_faces(folder)
    return folder


def data_config(folder: Path) -> DataConfig:
    pairs = PairsConfig(lmdb=("pairs.lmdb",), pairs=("pairs.txt",))
    return DataConfig(
        root=str(folder), train=("train.lmdb",), train_list=("train.txt",), reward=pairs, test=pairs, input_size=SIZE
    )


def make_trainer(folder: Path, reward: RewardConfig = REWARD, **changes: object) -> CandidateTrainer:
    return CandidateTrainer(replace(CONFIG, **changes), data_config(folder), reward, seed=SEED, device="cpu")


@pytest.fixture(scope="module")
def trainer(faces) -> CandidateTrainer:
    return make_trainer(faces)


def candidate(margin: float = 0.2, generation: int = 0, index: int = 0) -> Candidate:
    return Candidate(generation=generation, index=index, loss=LossParameters(scale=16.0, shift=(16.0 * margin,)))


def digest(result: CandidateResult) -> str:
    """Every bit of the model and of its reward."""
    outcome = {"reward": result.reward, "replicates": result.replicates.tolist(), "metrics": result.metrics}
    return hashlib.sha256(to_bytes(result.weights, outcome)).hexdigest()


def same_bits(a: Weights, b: Weights) -> bool:
    return to_bytes(a, {}) == to_bytes(b, {})


# What a result depends on


def test_order_and_history_do_not_matter(trainer, faces):
    first = [digest(trainer.run(candidate(margin))) for margin in (0.0, 0.3)]
    again = [digest(trainer.run(candidate(margin))) for margin in (0.3, 0.0)][::-1]
    fresh = digest(make_trainer(faces).run(candidate(0.3)))
    assert first == again
    assert first[1] == fresh
    assert first[0] != first[1]


def test_index_does_not_matter(trainer):
    assert digest(trainer.run(candidate(index=5))) == digest(trainer.run(candidate(index=0)))


def test_seed_and_generation_do_matter(trainer, faces):
    other_seed = CandidateTrainer(CONFIG, data_config(faces), REWARD, seed=SEED + 1, device="cpu")
    base = trainer.initial_weights()
    results = [trainer.run(candidate(), base), trainer.run(candidate(generation=1), base)]
    results += [other_seed.run(candidate(), base), other_seed.run(candidate())]
    assert len({digest(result) for result in results}) == 4


def test_another_process_gives_the_same_bits(trainer, faces):
    script = f"""
        import tests.trainers.test_trainer as t
        from pathlib import Path
        print(t.digest(t.make_trainer(Path({str(faces)!r})).run(t.candidate())))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == digest(trainer.run(candidate()))


def test_global_random_state_is_neither_read_nor_moved(trainer):
    torch.manual_seed(1)
    first = digest(trainer.run(candidate()))
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert digest(trainer.run(candidate())) == first
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


# Inheritance


def test_no_base_means_the_initial_weights(trainer):
    assert digest(trainer.run(candidate())) == digest(trainer.run(candidate(), trainer.initial_weights()))


@pytest.mark.filterwarnings("error")
def test_a_fresh_trainer_continues_from_weights_that_travelled(trainer, faces):
    base = trainer.run(candidate()).weights
    travelled, _ = from_bytes(to_bytes(base, {}))
    for array in travelled.values():
        array.setflags(write=False)
    there = make_trainer(faces).run(candidate(generation=1), travelled)
    assert digest(there) == digest(trainer.run(candidate(generation=1), base))


def test_two_generations_are_one_of_twice_the_length(trainer, faces):
    half = trainer.run(candidate())
    whole = make_trainer(faces, generation_length=8).run(candidate())
    assert same_bits(trainer.run(candidate(generation=1), half.weights).weights, whole.weights)


def test_momentum_is_inherited_only_if_configured(trainer, faces):
    forgetful = make_trainer(faces, inherit_momentum=False)
    kept, dropped = trainer.run(candidate()).weights, forgetful.run(candidate()).weights
    assert {name for name in kept if name.startswith("momentum.")} == kept.keys() - dropped.keys() != set()
    assert all(np.array_equal(kept[name], dropped[name]) for name in dropped)

    with_momentum = trainer.run(candidate(generation=1), kept).weights
    without = trainer.run(candidate(generation=1), dropped).weights
    assert not np.array_equal(with_momentum["head.weight"], without["head.weight"])
    ignored = forgetful.run(candidate(generation=1), kept).weights
    assert np.array_equal(ignored["head.weight"], without["head.weight"])


def test_weights_are_the_callers_own(trainer):
    base = trainer.initial_weights()
    before = to_bytes(base, {})
    first = trainer.run(candidate(), base)
    kept = to_bytes(first.weights, {})
    trainer.run(candidate(0.4), first.weights)
    assert to_bytes(base, {}) == before
    assert to_bytes(first.weights, {}) == kept
    assert all(array.flags.owndata and array.flags.c_contiguous for array in first.weights.values())


# Training, against plain loops


def plain_training(folder: Path, loss_of: LossParameters, steps: int) -> Weights:
    """SGD as textbooks write it, one tensor at a time."""
    training = TrainingSet([folder / "train.lmdb"], [folder / "train.txt"], SIZE)
    backbone = build_backbone("small", CONFIG.embedding_dim, SIZE, SEED)
    head = CosineHead(CONFIG.embedding_dim, training.num_classes, SEED)
    named = {f"backbone.{name}": p for name, p in backbone.named_parameters()} | {"head.weight": head.weight}
    momentum = {name: torch.zeros_like(p) for name, p in named.items()}
    for step in range(steps):
        images, target = training.batch_at(step, CONFIG.batch_size, SEED)
        pictures = (images.permute(0, 3, 1, 2).float() - 127.5) / 128
        gradients = torch.autograd.grad(loss_of(head(backbone(pictures)), target), list(named.values()))
        rate = learning_rate(step, CONFIG, training.num_batches(CONFIG.batch_size))
        with torch.no_grad():
            for (name, p), gradient in zip(named.items(), gradients, strict=True):
                decay = CONFIG.weight_decay if p.ndim > 1 else 0.0
                momentum[name] = CONFIG.momentum * momentum[name] + gradient + decay * p
                p -= rate * momentum[name]
    return {name: p.detach().numpy() for name, p in named.items()}


def test_training_is_plain_sgd_on_the_schedule(trainer, faces):
    result = trainer.run(candidate())
    for name, expected in plain_training(faces, candidate().loss, CONFIG.generation_length).items():
        np.testing.assert_allclose(result.weights[name], expected, rtol=1e-3, atol=1e-5, err_msg=name)


def test_training_reduces_the_loss(faces):
    trainer = make_trainer(faces, milestones=(), generation_length=10)
    weights, losses = None, []
    for generation in range(4):
        result = trainer.run(candidate(generation=generation), weights)
        weights = result.weights
        losses.append(result.metrics["train_loss"])
    assert losses[3] < 0.7 * losses[0]
    assert result.reward > 0.9


class ConstantLoss(Loss):
    """No gradient: what moves is moved by weight decay."""

    name = "constant"

    def per_sample(self, cosines, target, context=None):
        return cosines.sum(1) * 0


def test_weight_decay_spares_batch_norm_and_biases(faces):
    trainer = make_trainer(faces, generation_length=1, lr_warmup_steps=0, weight_decay=0.5)
    base = trainer.initial_weights()
    result = trainer.run(replace(candidate(), loss=ConstantLoss()), base)
    parameters = [name for name in base if f"momentum.{name}" in result.weights]
    for name in parameters:
        factor = 1 - CONFIG.lr * 0.5 if base[name].ndim > 1 else 1.0
        np.testing.assert_allclose(result.weights[name], base[name] * np.float32(factor), rtol=1e-6, err_msg=name)
    assert {base[name].ndim for name in parameters} >= {1, 2, 4}


def test_all_candidates_of_a_generation_see_the_same_pictures(trainer, monkeypatch):
    seen: list[bytes] = []
    real = TrainingSet.batch_at

    def spy(self: TrainingSet, *args: object, **kwargs: object) -> tuple[torch.Tensor, torch.Tensor]:
        images, target = real(self, *args, **kwargs)
        seen.append(images.numpy().tobytes() + target.numpy().tobytes())
        return images, target

    monkeypatch.setattr(TrainingSet, "batch_at", spy)
    trainer.run(candidate(0.0))
    trainer.run(candidate(0.4, index=1))
    trainer.run(candidate(0.4, generation=1))
    assert len(seen) == 12
    assert seen[0:4] == seen[4:8]
    assert not set(seen[0:4]) & set(seen[8:12])


def test_without_momentum_there_are_no_buffers(faces):
    result = make_trainer(faces, momentum=0.0).run(candidate())
    assert not result.diverged
    assert not [name for name in result.weights if name.startswith("momentum.")]


def test_channels_last_changes_speed_not_results(trainer, faces):
    result = make_trainer(faces, channels_last=False).run(candidate())
    assert result.metrics["train_loss"] == pytest.approx(trainer.run(candidate()).metrics["train_loss"], rel=1e-4)


@pytest.mark.parametrize(("amp", "differs"), [("auto", False), ("off", False), ("bf16", True), ("fp16", True)])
def test_autocast_rounds_the_first_loss_a_little(faces, amp, differs):
    exact, rounded = (
        make_trainer(faces, generation_length=1, lr_warmup_steps=0, amp=name).run(candidate()) for name in ("off", amp)
    )
    assert rounded.metrics["train_loss"] == pytest.approx(exact.metrics["train_loss"], rel=0.02)
    assert same_bits(rounded.weights, exact.weights) != differs
    assert not np.array_equal(rounded.weights["head.weight"], make_trainer(faces).initial_weights()["head.weight"])


# Validation, against plain loops


def plain_scores(weights: Weights, one: VerificationSet, *, flip: bool) -> list[float]:
    """Cosines of pictures embedded one by one."""
    backbone = build_backbone("small", CONFIG.embedding_dim, SIZE)
    prefix = "backbone."
    state = {name.removeprefix(prefix): torch.tensor(w) for name, w in weights.items() if name.startswith(prefix)}
    backbone.load_state_dict(state)
    backbone.eval()

    def embed(image: torch.Tensor) -> torch.Tensor:
        picture = ((image.float() - 127.5) / 128).permute(2, 0, 1)[None]
        mirrored = picture[:, :, :, torch.arange(SIZE - 1, -1, -1)]
        return (backbone(picture) + backbone(mirrored) if flip else backbone(picture))[0].detach().double()

    vectors = [embed(image) for batch in one.images(1) for image in batch]
    return [
        float(vectors[i] @ vectors[j] / vectors[i].norm() / vectors[j].norm())
        for i, j in zip(one.listed.left.tolist(), one.listed.right.tolist(), strict=True)
    ]


@pytest.mark.parametrize("flip", [False, True])
def test_reward_and_test_equal_a_picture_by_picture_evaluation(faces, flip):
    trainer = make_trainer(faces, replace(REWARD, flip_average=flip))
    result = trainer.run(candidate())
    config = data_config(faces)
    one = VerificationSet(config.reward, 0, config.root, SIZE)
    pairs = one.listed
    scores = plain_scores(result.weights, one, flip=flip)

    expected = evaluate_metric("auc", scores, pairs.same, pairs.fold, 10)
    assert result.reward == pytest.approx(expected.value, abs=1e-6)
    assert result.reward_se == pytest.approx(expected.standard_error, abs=1e-6)
    np.testing.assert_allclose(result.replicates, expected.replicates, atol=1e-6)
    report = verification_report(scores, pairs.same, pairs.fold, REWARD.test_metrics, 10)
    assert trainer.test(result.weights) == pytest.approx(report, abs=1e-4)
    assert {name: result.metrics[name] for name in report} == pytest.approx(report, abs=1e-4)


def test_a_reward_of_several_metrics_is_their_mean_and_records_each(faces):
    both = make_trainer(faces, replace(REWARD, metric="auc+tar@far=0.1"))
    result = both.run(candidate())
    parts = [make_trainer(faces, replace(REWARD, metric=name)).run(candidate()) for name in ("auc", "tar@far=0.1")]
    assert result.reward == np.mean([part.reward for part in parts])
    np.testing.assert_allclose(result.replicates, np.mean([part.replicates for part in parts], axis=0), atol=1e-15)
    assert result.reward_se == pytest.approx(np.std(result.replicates, ddof=1))
    for name, part in zip(("auc", "tar@far=0.1"), parts, strict=True):
        assert result.metrics[name] == part.reward
        assert result.metrics[f"{name}_se"] == part.metrics[f"{name}_se"]
    assert both.validate(result.weights, ["auc+tar@far=0.1"])["auc+tar@far=0.1"].value == result.reward


def test_testing_leaves_no_trace(trainer):
    first = trainer.run(candidate())
    report = trainer.test(first.weights)
    trainer.run(candidate(0.4))
    assert trainer.test(first.weights) == report
    assert digest(trainer.run(candidate())) == digest(first)


def write_labels(folder: Path) -> None:
    (folder / "labels.txt").write_text("".join(f"{person}/{i} {person}\n" for person in range(10) for i in range(6)))


def labelled_trainer(folder: Path, metric: str) -> CandidateTrainer:
    write_labels(folder)
    data = data_config(folder)
    reward = replace(data.reward, labels=("labels.txt",), max_per_identity=3)
    data = replace(data, reward=reward, test=replace(reward, max_per_identity=0))
    return CandidateTrainer(CONFIG, data, replace(REWARD, metric=metric, test_metrics=()), seed=SEED, device="cpu")


def test_reward_on_all_pairs(faces):
    trainer = labelled_trainer(faces, "all:tar@far=0.01")
    result = trainer.run(candidate())
    [one] = trainer._validation("reward").sets
    units = trainer._validation("reward").embed(trainer._embedding, [Metric.parse("all:auc")])[0][one.labelled.rows]
    [expected] = AllPairsMetrics(np.repeat(np.arange(10), 3), 10).evaluate(units, [Metric.parse("all:tar@far=0.01")])
    assert one.labelled.labels.tolist() == np.repeat(np.arange(10), 3).tolist()
    assert result.reward == expected.value
    np.testing.assert_array_equal(result.replicates, expected.replicates)
    assert result.metrics["all:tar@far=0.01"] == result.reward
    assert {"accuracy", "auc", "d_prime", "tar@far=0.001"} < set(result.metrics)
    assert digest(trainer.run(candidate())) == digest(result)


def test_any_metrics_of_given_weights(faces):
    trainer = labelled_trainer(faces, "all:auc")
    result = trainer.run(candidate())
    scores = trainer.validate(result.weights, ["all:auc", "auc", "all:tar@far=1e-2", "all:accuracy"])
    assert list(scores) == ["all:auc", "auc", "all:tar@far=1e-2", "all:accuracy"]
    assert scores["all:auc"].value == pytest.approx(result.reward, abs=1e-6)
    assert scores["auc"].value == pytest.approx(result.metrics["auc"], abs=1e-6)
    assert len({score.value for score in scores.values()}) == 4
    report = trainer.test(result.weights)
    tested = trainer.validate(result.weights, ["all:auc"], which="test")["all:auc"]
    assert (tested.value, tested.standard_error) == pytest.approx((report["all:auc"], report["all:auc_se"]), abs=1e-6)
    assert tested.value != pytest.approx(scores["all:auc"].value, abs=1e-6), "the test sets have twice the pictures"
    assert {"accuracy", "all:d_prime", "all:tar@far=0.001_se"} < set(report)
    assert "all:tar@far=0.0001" not in report, "1,620 impostor pairs are too few for it"
    broken = {n: w * np.float32(np.nan) if w.dtype.kind == "f" else w for n, w in result.weights.items()}
    with pytest.raises(UserError, match="weights to test must give finite embeddings"):
        trainer.validate(broken, ["auc"])


# Divergence


@dataclass
class FailingLoss:
    """Not finite from call `step` on, counted from 1."""

    step: int
    value: float
    calls: int = 0
    normalise_embedding = normalise_weight = True
    needs_context = False

    def initial_state(self) -> dict[str, torch.Tensor]:
        return {}

    def __call__(self, cosines: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        loss = torch.nn.functional.cross_entropy(cosines, target)
        return loss * self.value if self.calls >= self.step else loss


@pytest.mark.parametrize(("value", "name"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")])
def test_loss_that_is_not_finite_ends_the_candidate_at_once(trainer, value, name):
    loss = FailingLoss(step=3, value=value)
    result = trainer.run(replace(candidate(index=2), loss=loss))
    assert result.diverged
    assert result.reason == f"loss is {name} at step 3 of the generation"
    assert loss.calls == 3
    assert math.isnan(result.reward)
    assert math.isnan(result.reward_se)
    assert np.isnan(result.replicates).all()
    assert result.replicates.shape == (10,)
    assert result.weights == {}
    assert (result.generation, result.index, result.num_images) == (0, 2, 3 * CONFIG.batch_size)


@pytest.mark.parametrize(
    ("steps", "lr", "reason"),
    [
        (4, 1e30, r"loss is nan at step 2 of the generation"),
        (1, 1e30, r"embeddings are not finite after the generation"),
        (1, 1e45, r"\S+ is not finite after the generation"),
    ],
)
def test_huge_learning_rate_is_divergence_not_an_exception(faces, steps, lr, reason):
    trainer = make_trainer(faces, generation_length=steps, lr=lr, lr_warmup_steps=0)
    result = trainer.run(candidate())
    assert result.diverged
    assert re.fullmatch(reason, result.reason)
    assert result.weights == {}


def test_a_diverged_candidate_leaves_no_trace(trainer):
    before = digest(trainer.run(candidate()))
    trainer.run(replace(candidate(), loss=FailingLoss(step=2, value=math.nan)))
    assert digest(trainer.run(candidate())) == before


# What the caller sees


def test_progress_is_told_after_each_step(trainer):
    told: list[tuple[int, int]] = []
    trainer.run(candidate(), progress=lambda done, steps: told.append((done, steps)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_properties_and_counts(trainer):
    assert trainer.num_classes == 10
    assert trainer.generation_steps == 4
    result = trainer.run(candidate(generation=7, index=3))
    assert (result.generation, result.index, result.num_images) == (7, 3, 64)
    assert result.train_s > 0
    assert result.validate_s > 0


def test_generation_length_in_epochs(faces):
    assert make_trainer(faces, generation_length=2.0, generation_unit="epochs").generation_steps == 6


def test_torch_settings_hold_during_a_run_and_come_back(faces):
    trainer = make_trainer(faces, num_threads=2)

    def settings() -> tuple[object, ...]:
        return torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()

    before, inside = settings(), []

    def stop(done: int, steps: int) -> None:
        inside.append(settings())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.run(candidate(), progress=stop)
    assert inside == [(True, 2)]
    assert settings() == before

    relaxed: list[object] = []
    make_trainer(faces, deterministic=False).run(candidate(), progress=lambda *_: relaxed.append(settings()[0]))
    assert relaxed == [False] * 4


def test_docstring_example_runs(faces, monkeypatch, capsys):
    text = inspect.getdoc(CandidateTrainer)
    code = text.split("winner of the first:\n")[1].split("Args:")[0]
    monkeypatch.chdir(faces)
    exec(textwrap.dedent(code), vars(sys.modules[__name__]) | {})
    reward, accuracy = map(float, capsys.readouterr().out.split())
    assert 0.5 < reward <= 1
    assert 0.5 < accuracy <= 1


# Bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": (), "train_list": ()}, "a trainer needs training pictures, got an empty `train`"),
        ({"reward": PairsConfig()}, r"reward sets need LMDBs .*, got \(\), \(\) and \(\)"),
    ],
)
def test_missing_data_is_refused_at_once(faces, changes, message):
    with pytest.raises(UserError, match=message):
        CandidateTrainer(CONFIG, replace(data_config(faces), **changes), REWARD, seed=0)


def test_missing_test_pairs_are_refused_when_needed(faces):
    data = replace(data_config(faces), test=PairsConfig())
    trainer = CandidateTrainer(CONFIG, data, REWARD, seed=0, device="cpu")
    with pytest.raises(UserError, match="test sets need LMDBs"):
        trainer.test(trainer.initial_weights())


def test_weights_of_another_model_are_refused(trainer, faces):
    wider = make_trainer(faces, embedding_dim=9).initial_weights()
    with pytest.raises(
        UserError, match=r"weights must have `\S+` of shape \[.*8.*\], got \[.*9.*\]: they are of another"
    ):
        trainer.run(candidate(), wider)
    with pytest.raises(UserError, match=r"weights must have `\S+` of shape .*, got none"):
        trainer.test({})


def test_weights_that_are_not_finite_are_not_tested(trainer):
    broken = {
        name: np.full_like(array, np.nan) if array.dtype.kind == "f" else array
        for name, array in trainer.initial_weights().items()
    }
    with pytest.raises(UserError, match="weights to test must give finite embeddings"):
        trainer.test(broken)


@pytest.mark.parametrize("device", ["cuda", "gpu"])
def test_device_that_is_not_there_is_refused(faces, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=f"device .*{device}"):
        CandidateTrainer(CONFIG, data_config(faces), REWARD, seed=0, device=device)


# Large heads


def assert_close(a: Weights, b: Weights) -> None:
    assert a.keys() == b.keys()
    for name, array in a.items():
        np.testing.assert_allclose(array, b[name], rtol=2e-3, atol=2e-4, err_msg=name)


@pytest.mark.parametrize("name", ["am", "v_softmax", "curricular"])
@pytest.mark.parametrize("changes", [{"head_chunk": 3}, {"head_chunk": 100}, {"sample_rate": 0.99}])
def test_a_head_in_chunks_or_of_all_sampled_trains_as_the_plain_one(faces, trainer, name, changes):
    loss = make_loss(LossConfig(name=name), scale=8.0)
    base = trainer.run(candidate()).weights
    given = Candidate(generation=1, index=0, loss=loss)
    plain, other = trainer.run(given, base), make_trainer(faces, **changes).run(given, base)
    assert_close(other.weights, plain.weights)
    assert other.metrics["train_loss"] == pytest.approx(plain.metrics["train_loss"], rel=1e-4)


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_only_sampled_classes_move(faces, momentum):
    trainer = make_trainer(faces, sample_rate=0.3, batch_size=2, generation_length=2, momentum=momentum)
    base = trainer.run(candidate()).weights
    result = trainer.run(candidate(generation=1), base)
    names = ["head.weight"] + ["momentum.head.weight"] * bool(momentum)
    moved = [(result.weights[name] != base[name]).any(1) for name in names]
    assert 2 <= moved[0].sum() <= 6  # of 10
    assert all((rows == moved[0]).all() for rows in moved)


def test_sampling_depends_on_nothing_else(faces):
    trainer = make_trainer(faces, sample_rate=0.3, batch_size=2, head_chunk=2)
    first = [digest(trainer.run(candidate(margin))) for margin in (0.0, 0.3)]
    assert digest(make_trainer(faces, sample_rate=0.3, batch_size=2, head_chunk=2).run(candidate(0.3))) == first[1]
    assert digest(make_trainer(faces, sample_rate=0.5, batch_size=2, head_chunk=2).run(candidate(0.3))) != first[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_chunk": -1}, "head_chunk must be >= 0"),
        ({"sample_rate": 0.0}, r"sample_rate must be in \(0, 1\], got 0.0"),
        ({"sample_rate": 1.1}, r"sample_rate must be in \(0, 1\], got 1.1"),
    ],
)
def test_large_head_settings_are_checked(changes, message):
    with pytest.raises(UserError, match=message):
        TrainerConfig(**changes)
