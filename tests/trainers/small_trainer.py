"""A trainer of a fraction of a second, its faces and candidates, and the bits of what it gives."""

import hashlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from search_space.spaces import LossParameters
from trainers.candidate import Candidate, CandidateResult, Weights
from trainers.checkpoint import to_bytes
from trainers.config import DataConfig, PairsConfig, RewardConfig, TrainerConfig
from trainers.data.datum import encode_datum
from trainers.data.lmdb_source import write_lmdb
from trainers.trainer import CandidateTrainer

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


def data_config(folder: Path) -> DataConfig:
    pairs = PairsConfig(lmdb=("pairs.lmdb",), pairs=("pairs.txt",))
    return DataConfig(
        root=str(folder), train=("train.lmdb",), train_list=("train.txt",), reward=pairs, test=pairs, input_size=SIZE
    )


def make_trainer(folder: Path, reward: RewardConfig = REWARD, **changes: object) -> CandidateTrainer:
    return CandidateTrainer(replace(CONFIG, **changes), data_config(folder), reward, seed=SEED, device="cpu")


def candidate(margin: float = 0.2, generation: int = 0, index: int = 0) -> Candidate:
    return Candidate(generation=generation, index=index, loss=LossParameters(scale=16.0, shift=(16.0 * margin,)))


def digest(result: CandidateResult) -> str:
    """Every bit of the model and of its reward."""
    outcome = {"reward": result.reward, "replicates": result.replicates.tolist(), "metrics": result.metrics}
    return hashlib.sha256(to_bytes(result.weights, outcome)).hexdigest()


def same_bits(a: Weights, b: Weights) -> bool:
    return to_bytes(a, {}) == to_bytes(b, {})
