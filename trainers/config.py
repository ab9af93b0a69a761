"""What a trainer needs to know, one frozen dataclass per component; checked when made."""

import math
from dataclasses import dataclass, field
from pathlib import PurePath

from search_space.errors import require
from trainers.metrics import Metric, parse_mean


@dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """Verification sets: pictures, and listed pairs of them, labels of them, or both. Several sets count alike."""

    lmdb: tuple[str, ...] = ()
    """LMDBs (folder or single file) with the pictures, one per set."""

    pairs: tuple[str, ...] = ()
    """Text files, one per set: `key1 key2 1|0` per line, folds in file order. Empty: no listed pairs."""

    labels: tuple[str, ...] = ()
    """List files, one per set: `key label` per line, for metrics on all pairs (`all:`). With `pairs` too, the people of
    a set are those in the pairs of its folds; without, all people of the list. Empty: listed pairs only."""

    num_folds: int = 10
    """Equal folds that the whole pairs file is cut into."""

    folds: tuple[int, ...] = ()
    """Folds to use, counted from 0; empty: all."""

    max_per_identity: int = 0
    """Labelled pictures of one person at most, the first ones of the list; 0: all."""

    max_impostors: int = 0
    """Impostor pairs among all pairs at most, a sample that is always the same; 0: all."""

    def __post_init__(self) -> None:
        for name in ("lmdb", "pairs", "labels"):
            require(not isinstance(getattr(self, name), str), f"{name} must be a tuple of paths", getattr(self, name))
        for name in ("pairs", "labels") if self.lmdb else ():
            files = getattr(self, name)
            law = f"{name} must be empty or name one file per lmdb ({len(self.lmdb)})"
            require(not files or len(files) == len(self.lmdb), law, files)
        law = "the file names of several sets must differ in lmdb, pairs or labels: sets are named by them"
        require(len(self.names) == len(self.lmdb), law, (self.lmdb, self.pairs, self.labels))
        require(self.num_folds >= 2, "num_folds must be at least 2", self.num_folds)
        good = all(0 <= f < self.num_folds for f in self.folds) and len(set(self.folds)) == len(self.folds)
        require(good, f"folds must be distinct and in 0..{self.num_folds - 1}", self.folds)
        law = "folds must be empty (all) or name at least 2: thresholds come from the others"
        require(len(self.folds) != 1, law, self.folds)
        limit = self.max_per_identity
        require(limit == 0 or limit >= 2, "max_per_identity must be 0 (all) or at least 2", limit)
        require(self.max_impostors >= 0, "max_impostors must be >= 0", self.max_impostors)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each set: the stem of its LMDB, or of its pairs or labels file where those tell the sets apart."""
        for files in (self.lmdb, self.pairs, self.labels):
            stems = tuple(PurePath(file).stem for file in files)
            if len(set(stems)) == len(self.lmdb):
                return stems
        return ()


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
    """Sets whose score is the reward, its mean over several. Never the people of the test."""

    test: PairsConfig = field(default_factory=PairsConfig)
    """Sets that only the final model is tested on."""

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
        require(0 <= self.decode_threads <= 256, "decode_threads must be in 0..256", self.decode_threads)
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
    """`mobilefacenet`, `resnet50`, `resnet101` (112 pixels), `small` (any input size, for CPUs), or `MODULE:NAME` of a
    plug-in."""

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

    head_chunk: int = 0
    """Classes whose cosines are held at a time, made again in backward, so that a large head needs less memory; 8192 is
    a good number. 0: the cosines of all classes are held."""

    sample_rate: float = 1.0
    """Share of the classes that take part in a step: those of the batch, and others at random (Partial FC). 1: all."""

    average: float = 0.0
    """Share of a generation, at its end, over whose steps the backbone's weights are averaged into the model that is
    validated and tested; training goes on from the weights themselves. 0: these are validated."""

    inherit_momentum: bool = True
    """The next generation inherits the winner's momentum buffers, not only its weights."""

    sync_batchnorm: bool = False
    """Batch norm over the whole batch of a trainer of several ranks; off: each rank has the statistics of its own rows,
    and the running ones are their mean after each generation."""

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
        require(self.head_chunk >= 0, "head_chunk must be >= 0 (0: all classes)", self.head_chunk)
        require(0 < self.sample_rate <= 1, "sample_rate must be in (0, 1]", self.sample_rate)
        require(0 <= self.average <= 1, "average must be in [0, 1]", self.average)
        require(self.amp in ("auto", "off", "bf16", "fp16"), "amp must be one of auto, off, bf16, fp16", self.amp)
        for name, most in (("embedding_dim", 2**16), ("batch_size", 2**20), ("num_threads", 2**12)):
            require(1 <= getattr(self, name) <= most, f"{name} must be in 1..{most}", getattr(self, name))
        require(self.batch_size >= 2, "batch_size must be at least 2 (batch norm)", self.batch_size)
        require(0 < self.lr < math.inf, "lr must be > 0 and finite", self.lr)
        require(0 <= self.momentum < 1, "momentum must be in [0, 1)", self.momentum)
        require(0 <= self.weight_decay < math.inf, "weight_decay must be >= 0 and finite", self.weight_decay)
        require(0 < self.lr_decay <= 1, "lr_decay must be in (0, 1]", self.lr_decay)
        require(self.lr_warmup_steps >= 0, "lr_warmup_steps must be >= 0", self.lr_warmup_steps)
        rising = all(a < b for a, b in zip((0.0, *self.milestones), self.milestones, strict=False))
        require(rising, "milestones must rise and be > 0", self.milestones)


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """How good a model is: one number on the reward sets, higher is better."""

    metric: str = "tar@far=1e-2"
    """On listed pairs `accuracy` (over folds), `auc`, `d_prime`, or `tar@far=F` with 0 < F < 1; with `all:` in front on
    all pairs of the labelled pictures, where `all:accuracy` is balanced (mean of both kinds) at its best threshold.
    `A+B`: the mean of several of one kind, such as `all:tar@far=1e-4+all:tar@far=0.1`. `MODULE:NAME` is a plug-in's, on
    listed pairs."""

    flip_average: bool = False
    """Embed each picture and its mirror image and add the two."""

    num_bootstrap: int = 200
    """Resamples behind the standard errors; the same resamples for every candidate, so differences are paired."""

    record: tuple[str, ...] = ()
    """Metrics of every candidate, beside its reward; empty: those test metrics that are on listed pairs."""

    test_metrics: tuple[str, ...] = ()
    """Metrics of the final model. Empty: whatever the data can give of accuracy, auc, d_prime, tar at 0.1 0.01 0.001,
    and on all pairs auc, d_prime, tar at 1e-3 1e-4 1e-5."""

    def __post_init__(self) -> None:
        parse_mean(self.metric)
        for setting in ("record", "test_metrics"):
            for name in getattr(self, setting):
                Metric.parse(name, setting)
        require(2 <= self.num_bootstrap <= 10**5, "num_bootstrap must be in 2..100000", self.num_bootstrap)


def refuse_batch(batch_size: int, num_ranks: int) -> None:
    """Raise `UserError` for a batch that cannot be divided among ranks, or to one picture each (batch norm)."""
    law = f"batch_size must be divisible by the ranks of a trainer, {num_ranks}, to 2 pictures or more each"
    require(batch_size % num_ranks == 0 and batch_size >= 2 * num_ranks, law, batch_size)
