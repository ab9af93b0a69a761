"""The whole configuration of a search: the components' own dataclasses, and what only the search knows."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from search_space.config import LossConfig, PolicyConfig, SpaceConfig
from search_space.errors import require
from trainers.config import DataConfig, RewardConfig, TrainerConfig, refuse_batch

MODES = ("search", "random", "fixed")
MAX_POPULATION = 100_000
LOGGERS = ("mlflow", "wandb")

SHARED_CLUSTER = ("max_workers", "priority", "start_timeout_s")
"""Settings of a search among others."""

SEARCH_ONLY = (*SHARED_CLUSTER, "straggler_factor", "loggers")
"""Settings that comparisons and single trainings do without."""

MAY_CHANGE_ON_RESUME = (
    "num_workers", *SHARED_CLUSTER, "address", "generations", "keep_generations", "dashboard", "loggers",
)  # fmt: skip
"""Fields that a resumed search may be given anew: none of them changes what a generation computes."""


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """One search, as it is written to config.yaml of its run directory."""

    name: str = ""
    """Name of the run and of its folder under `storage`; empty: recipe and date."""

    storage: str = "runs"
    """Folder that holds runs: a local path, or `s3://`, `gs://`."""

    mode: str = "search"
    """`search` learns the distribution of losses; `random` is the paper's Random-Softmax: sample, never learn, still
    inherit the winner; `fixed` trains one model with `loss`, or with the losses of `schedule`."""

    seed: int = 0
    """Everything random follows from it."""

    order: int = 0
    """Which draw of the order of the pictures (and of their flips) to train in; the same first weights with each."""

    start: str = ""
    """Run whose model to go on from, `RUN` or `RUN@G` after its generation G, counted from 1; empty: from scratch.
    Generations, and with them the learning rate, count on from there."""

    generations: int = 8
    """Generations in all, warm-up included."""

    keep_generations: int | None = None
    """Generations whose weights are kept, the last ones; results, policies and losses of all others stay. None: all."""

    warmup_generations: int = 1
    """Generations at the start that train one candidate with the space's warm-up loss."""

    population_size: int = 0
    """Candidates per generation, B in the paper; 0: as many as `num_workers`."""

    num_workers: int = 2
    """Trainers to run at most; those that fit the machine share the candidates."""

    max_workers: int = 0
    """Of these, how many may run at once on a cluster that others use too; 0: all."""

    priority: int = 0
    """Searches of a cluster with a higher priority get trainers first; equal ones share evenly."""

    start_timeout_s: float = 900.0
    """Seconds to wait for room for a first trainer, on a cluster that may grow."""

    straggler_factor: float = 0.0
    """Close a generation without a candidate that takes so many times the median of the generation; 0: wait for all.
    What comes out then depends on how fast trainers are: the record says which candidates were dropped."""

    cpus_per_worker: float = 1.0
    """CPUs that one trainer reserves; its torch threads too, when more than `trainer.num_threads`."""

    gpus_per_worker: float | None = None
    """GPUs that one trainer reserves: a fraction of one, or several, each with a process (rank) of its own; default: 1
    a rank where the cluster has any, else 0."""

    ranks_per_worker: int | None = None
    """Processes of one trainer, which share each candidate's batches and the classes of its head, and the trainer's
    CPUs; default: one per GPU, one without GPUs. More than one must divide `trainer.batch_size`."""

    address: str = ""
    """Ray cluster to join (`auto`, or host:port of its head); empty: $RAY_ADDRESS, else one of its own here."""

    dashboard: bool = False
    """Start Ray's dashboard, on loopback, with a private cluster."""

    loggers: tuple[str, ...] = ()
    """Where results of candidates go besides Tune's own files: `mlflow`, `wandb`. Each logs to where it does by itself,
    or to where its own environment variables say, and each is an extra: pip install 'lfs[mlflow]'."""

    data: DataConfig = field(default_factory=DataConfig)
    """Pictures and pairs."""

    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """Training of one candidate."""

    reward: RewardConfig = field(default_factory=RewardConfig)
    """What is rewarded."""

    loss: LossConfig = field(default_factory=LossConfig)
    """The one loss of mode `fixed`."""

    schedule: tuple[dict[str, Any], ...] = ()
    """Losses of mode `fixed` generation by generation, the last one to the end, in place of `loss`: as they are stored
    in the run that is replayed."""

    space: SpaceConfig = field(default_factory=SpaceConfig)
    """Which losses are searched."""

    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """How their distribution learns."""

    def __post_init__(self) -> None:
        require(self.mode in MODES, f"mode must be one of {', '.join(MODES)}", self.mode)
        require(self.num_workers >= 1, "num_workers must be at least 1", self.num_workers)
        require(self.max_workers >= 0, "max_workers must be >= 0", self.max_workers)
        require(self.start_timeout_s > 0, "start_timeout_s must be > 0", self.start_timeout_s)
        require(self.generations >= 1, "generations must be at least 1", self.generations)
        keep = self.keep_generations
        require(keep is None or keep >= 1, "keep_generations must be at least 1, or none to keep all", keep)
        require(self.warmup_generations >= 0, "warmup_generations must be >= 0", self.warmup_generations)
        good = 0 <= self.population_size <= MAX_POPULATION and self.population <= MAX_POPULATION
        law = f"population_size, or num_workers in its place, must be in 0..{MAX_POPULATION}"
        require(good, law, max(self.population, self.population_size))
        factor = self.straggler_factor
        require(factor == 0 or 1 < factor < math.inf, "straggler_factor must be 0 or more than 1", factor)
        require(self.cpus_per_worker > 0, "cpus_per_worker must be > 0", self.cpus_per_worker)
        require(self.seed >= 0, "seed must be >= 0", self.seed)
        require(self.order >= 0, "order must be >= 0", self.order)
        known = set(self.loggers) <= set(LOGGERS) and len(set(self.loggers)) == len(self.loggers)
        require(known, f"loggers must be distinct ones of {', '.join(LOGGERS)}", self.loggers)
        fixed = self.mode == "fixed"
        require(fixed or not self.loss.name, "loss name needs mode `fixed`", self.loss.name)
        require(fixed or not self.schedule, "schedule needs mode `fixed`", self.mode)
        one = bool(self.loss.name) != bool(self.schedule)
        require(one or not fixed, "mode `fixed` needs a loss name or a schedule, not both", self.loss.name)
        gpus, ranks = self.gpus_per_worker, self.ranks_per_worker
        whole = gpus is None or 0 <= gpus <= 1 or float(gpus).is_integer()
        require(whole and (gpus is None or gpus >= 0), "gpus_per_worker must be in [0, 1] or a whole number", gpus)
        require(ranks is None or ranks >= 1, "ranks_per_worker must be at least 1", ranks)
        fair = gpus in (None, 0, self.num_ranks) or (self.num_ranks == 1 and gpus <= 1)
        require(fair, f"gpus_per_worker must be 0, or 1 for each of ranks_per_worker ({self.num_ranks})", gpus)
        refuse_batch(self.trainer.batch_size, self.num_ranks)
        plain = self.name.isprintable() and not set("/\\%?#") & set(self.name) and self.name not in (".", "..")
        require(plain, "name must be a plain folder name, without any of / \\ % ? #", self.name)

    @property
    def num_ranks(self) -> int:
        """Processes of one trainer."""
        return self.ranks_per_worker or max(1, int(self.gpus_per_worker or 0))

    @property
    def population(self) -> int:
        """B: candidates per generation after the warm-up."""
        return 1 if self.mode == "fixed" else self.population_size or self.num_workers

    @property
    def most_workers(self) -> int:
        """Trainers that there is work for, and that are allowed."""
        return min(self.max_workers or self.num_workers, self.num_workers, self.population)


def refuse_ranks(config: SearchConfig) -> None:
    """Raise `UserError` for trainers of several processes, which only a search has."""
    law = "ranks_per_worker must be 1, and gpus_per_worker 1 at most, for all but lfs.search"
    require(config.num_ranks == 1, law, config.num_ranks)


HAND_CRAFTED = ("softmax", "norm_softmax", "a_softmax", "v_softmax", "arc", "am")
SEARCHES = ("am_lfs", "random", "search")


@dataclass(frozen=True, kw_only=True)
class AMLFSConfig:
    """Settings of the space `am_lfs`, where another one is searched beside it. `None` stands for its own default."""

    num_intervals: int | None = None
    """Equal intervals of the target cosine, and as many of its probability, default 6."""

    intercepts: str | None = None
    """`continuous` (default: slopes are searched, intercepts follow) or `free` (both are searched)."""

    std: float | None = None
    """Standard deviation of the policy, fixed, default 0.2."""

    def __post_init__(self) -> None:
        SpaceConfig(name="am_lfs", **asdict(self))  # says what is wrong


@dataclass(frozen=True, kw_only=True)
class CompareConfig(SearchConfig):
    """Losses x seeds on the same data for the same number of epochs. Everything else is as in a search."""

    losses: tuple[str, ...] = HAND_CRAFTED
    """Hand-crafted losses, each trained over its grid."""

    searches: tuple[str, ...] = SEARCHES
    """`search` and `random` in the space that is configured, `am_lfs` for a search in that space, or any other
    `MODE:SPACE`, such as `random:local`."""

    am_lfs: AMLFSConfig = field(default_factory=AMLFSConfig)
    """The space of the row `am_lfs`."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Each method is trained once per seed; a seed has the same first weights and batches for all."""

    grid: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Values of a loss's own parameter (its margin, mostly) to train it with, `am=0.1,0.2 arc=0.3`; others keep the
    grid that they declare. Every point with every value of a further parameter: `am.scale=16,32`."""

    replicates: bool = True
    """Train each hand-crafted loss at least B times per seed, with other seeds where its grid is smaller, so that the
    best of B trainings can be set beside a search of B."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_ranks(self)
        require(bool(self.losses or self.searches), "losses and searches must name at least one row", self.losses)
        require(bool(self.seeds) and len(set(self.seeds)) == len(self.seeds), "seeds must be distinct", self.seeds)
        require(all(0 <= s < SEED_STEP for s in self.seeds), f"seeds must be in 0..{SEED_STEP - 1}", self.seeds)
        rows = (*self.losses, *self.searches)
        require(len(set(rows)) == len(rows), "losses and searches must be distinct", rows)
        require(self.mode == "search", "mode is set by each row of a comparison: leave it out", self.mode)
        refuse_grid(self.grid)


def grid_key(key: str) -> tuple[str, str | None]:
    """`am.scale` as loss and further parameter, None where there is none; a plug-in's path has dots of its own."""
    path, colon, name = key.rpartition(":")
    loss, dot, parameter = name.partition(".")
    return path + colon + loss, parameter if dot else None


def refuse_grid(grid: dict[str, tuple[float, ...]]) -> None:
    """Raise `UserError` for a loss without values, or with two that go by the same name."""
    for name, values in grid.items():
        distinct = len({f"{value:g}" for value in values}) == len(values)
        require(bool(values) and distinct, f"grid must have one or more distinct values of {name}", values)


SEED_STEP = 10_000
"""Further trainings of one seed have the seeds `seed + SEED_STEP`, `seed + 2 * SEED_STEP`, ..."""


@dataclass(frozen=True, kw_only=True)
class ReliabilityConfig(SearchConfig):
    """The same losses trained on from one model, in several orders of the pictures. The rest is as in a search."""

    grid: dict[str, tuple[float, ...]] = field(default_factory=lambda: {"am": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)})
    """Losses to tell apart: hand-crafted ones with values of their own parameter, `am=0.1,0.2 arc=0.3`."""

    orders: int = 2
    """Orders of the pictures that each loss is trained in."""

    after: float = 0.0
    """Length, in `trainer.generation_unit`, of the training that leads to the common model; not with `start`."""

    lengths: tuple[float, ...] = ()
    """Lengths to judge after, in `trainer.generation_unit`; empty: one and two generations, but one alone where weights
    are averaged over a generation or momentum is not inherited."""

    metrics: tuple[str, ...] = ()
    """Rewards to judge; empty: all that the reward pairs allow."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_ranks(self)
        refuse_grid(self.grid)
        keep = self.keep_generations
        require(keep is None, "keep_generations must be none: models of several generations are judged", keep)
        further = [key for key in self.grid if grid_key(key)[1] is not None]
        require(not further, "grid must be over a loss's own parameter; others are for lfs.compare", further)
        points = sum(len(values) for values in self.grid.values())
        require(points >= 3, "grid must have at least 3 losses: fewer cannot be ranked", points)
        require(self.orders >= 2, "orders must be at least 2", self.orders)
        require(0 <= self.after < math.inf, "after must be >= 0 and finite", self.after)
        require(not (self.after and self.start), "after goes without start, which is the common model", self.after)
        require(all(0 < x < math.inf for x in self.lengths), "lengths must be > 0 and finite", self.lengths)
        whole = self.trainer.average == 0 and self.trainer.inherit_momentum
        law = "lengths must be one length, and after a multiple of it, where trainer.average is not 0 or momentum "
        law += "is not inherited: a generation must not be cut into shorter ones"
        generations = self.after / self.judged_lengths[0]
        one = len(self.lengths) <= 1 and abs(generations - round(generations)) < 1e-6
        require(whole or one, law, (self.lengths, self.after))
        require(self.mode == "search", "mode is set by each training: leave it out", self.mode)

    @property
    def judged_lengths(self) -> tuple[float, ...]:
        """Lengths that are judged, rising."""
        one, trainer = self.trainer.generation_length, self.trainer
        both = (one, 2 * one) if trainer.average == 0 and trainer.inherit_momentum else (one,)
        return tuple(sorted(self.lengths)) or both
