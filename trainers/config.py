"""What a trainer needs to know, one frozen dataclass per component; checked when made."""

import math
import re
from dataclasses import dataclass, field

from search_space.errors import require


@dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """Verification pairs and the pictures that they name."""

    lmdb: str = ""
    """LMDB (folder or single file) with the pictures."""

    pairs: str = ""
    """Text file, `key1 key2 1|0` per line, folds in file order."""

    num_folds: int = 10
    """Equal folds that the whole file is cut into."""

    folds: tuple[int, ...] = ()
    """Folds to use, counted from 0; empty: all."""

    def __post_init__(self) -> None:
        require(self.num_folds >= 2, "num_folds must be at least 2", self.num_folds)
        good = all(0 <= f < self.num_folds for f in self.folds) and len(set(self.folds)) == len(self.folds)
        require(good, f"folds must be distinct and in 0..{self.num_folds - 1}", self.folds)
        law = "folds must be empty (all) or name at least 2: thresholds come from the others"
        require(len(self.folds) != 1, law, self.folds)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the faces are. No `train` at all means the built-in faces."""

    root: str = ""
    """Folder that relative paths below start from; empty: the current folder."""

    train: tuple[str, ...] = ()
    """LMDBs of training pictures; labels of the later ones are offset by the label count before them."""

    train_list: tuple[str, ...] = ()
    """List files, one per LMDB: `key label` per line."""

    reward: PairsConfig = field(default_factory=PairsConfig)
    """Pairs whose score is the reward. Never the people of the test."""

    test: PairsConfig = field(default_factory=PairsConfig)
    """Pairs that only the final model is tested on."""

    input_size: int = 112
    """Side of the square network input, pixels."""

    flip: bool = True
    """Random horizontal flip of training pictures."""

    decode_threads: int = 0
    """Threads that decode ahead of the trainer; 0: decode in the training thread (right for CPU trainers)."""

    cache_bytes: int = 512 * 2**20
    """Decoded pictures of one set are kept in memory if they fit into this many bytes; 0: never."""

    def __post_init__(self) -> None:
        require(16 <= self.input_size <= 448, "input_size must be in 16..448 pixels", self.input_size)
        require(self.decode_threads >= 0, "decode_threads must be >= 0", self.decode_threads)
        require(self.cache_bytes >= 0, "cache_bytes must be >= 0", self.cache_bytes)
        require(
            len(self.train) == len(self.train_list),
            "train and train_list must name equally many files",
            (self.train, self.train_list),
        )


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How one candidate is trained."""

    backbone: str = "mobilefacenet"
    """`mobilefacenet`, `resnet50`, `resnet101` (112 pixels) or `small` (any input size, for CPUs)."""

    embedding_dim: int = 512
    """Length of the embedding."""

    batch_size: int = 128
    """Pictures per step."""

    lr: float = 0.1
    """Learning rate of SGD before any milestone."""

    momentum: float = 0.9
    """Momentum of SGD."""

    weight_decay: float = 5e-4
    """Weight decay of SGD, on weights only (not on batch norm and biases)."""

    milestones: tuple[float, ...] = ()
    """Epochs (fractions allowed) after which the learning rate is multiplied by `lr_decay`."""

    lr_decay: float = 0.1
    """Factor at each milestone."""

    lr_warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from zero at the start of the search."""

    generation_length: float = 1.0
    """Length of a generation, in `generation_unit`."""

    generation_unit: str = "epochs"
    """`epochs` or `steps`."""

    inherit_momentum: bool = True
    """The next generation inherits the winner's momentum buffers, not only its weights."""

    amp: str = "auto"
    """Autocast: `auto` (bfloat16 or float16 on GPUs that have it, off on CPUs), `off`, `bf16`, `fp16`."""

    channels_last: bool = True
    """Keep pictures and convolutions in channels-last memory order."""

    deterministic: bool = True
    """Only kernels that give the same bits each time."""

    num_threads: int = 1
    """Torch threads of one trainer on a CPU."""

    def __post_init__(self) -> None:
        unit = self.generation_unit
        require(unit in ("epochs", "steps"), "generation_unit must be `epochs` or `steps`", unit)
        require(
            0 < self.generation_length < math.inf, "generation_length must be > 0 and finite", self.generation_length
        )
        whole = self.generation_unit == "epochs" or float(self.generation_length).is_integer()
        require(whole, "generation_length in steps must be a whole number", self.generation_length)
        require(self.amp in ("auto", "off", "bf16", "fp16"), "amp must be one of auto, off, bf16, fp16", self.amp)
        for name in ("embedding_dim", "batch_size", "num_threads"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1", getattr(self, name))
        require(self.batch_size >= 2, "batch_size must be at least 2 (batch norm)", self.batch_size)
        require(0 < self.lr < math.inf, "lr must be > 0 and finite", self.lr)
        require(0 <= self.momentum < 1, "momentum must be in [0, 1)", self.momentum)
        require(0 <= self.weight_decay < math.inf, "weight_decay must be >= 0 and finite", self.weight_decay)
        require(0 < self.lr_decay <= 1, "lr_decay must be in (0, 1]", self.lr_decay)
        require(self.lr_warmup_steps >= 0, "lr_warmup_steps must be >= 0", self.lr_warmup_steps)
        rising = all(a < b for a, b in zip((0.0, *self.milestones), self.milestones, strict=False))
        require(rising, "milestones must rise and be > 0", self.milestones)


METRIC = re.compile(r"accuracy|auc|tar@far=([0-9.]+(?:e-?[0-9]+)?)")


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """How good a model is: one number on the reward pairs, higher is better."""

    metric: str = "tar@far=1e-2"
    """`accuracy` (ten-fold), `auc`, or `tar@far=F` with 0 < F < 1."""

    flip_average: bool = False
    """Embed each picture and its mirror image and add the two."""

    num_bootstrap: int = 200
    """Resamples behind the standard errors; the same resamples for every candidate, so differences are paired."""

    test_fars: tuple[float, ...] = (1e-1, 1e-2, 1e-3)
    """False-accept rates at which TAR of the final model is given."""

    def __post_init__(self) -> None:
        match = METRIC.fullmatch(self.metric)
        require(match is not None, "metric must be `accuracy`, `auc` or `tar@far=F`", self.metric)
        if match and match[1]:
            require(0 < float(match[1]) < 1, "the far in metric must be in (0, 1)", self.metric)
        require(self.num_bootstrap >= 2, "num_bootstrap must be at least 2", self.num_bootstrap)
        require(all(0 < f < 1 for f in self.test_fars), "test_fars must be in (0, 1)", self.test_fars)
