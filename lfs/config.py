"""The whole configuration of a search: the components' own dataclasses, and what only the search knows."""

from dataclasses import dataclass, field

from search_space.config import PolicyConfig, SpaceConfig
from search_space.errors import require
from trainers.config import DataConfig, RewardConfig, TrainerConfig

MODES = ("search", "random")

MAY_CHANGE_ON_RESUME = ("num_workers", "address", "generations", "dashboard")
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
    inherit the winner."""

    seed: int = 0
    """Everything random follows from it."""

    generations: int = 8
    """Generations in all, warm-up included."""

    warmup_generations: int = 1
    """Generations at the start that train one candidate with the space's warm-up loss."""

    population_size: int = 0
    """Candidates per generation, B in the paper; 0: as many as `num_workers`."""

    num_workers: int = 2
    """Trainers to run at most; those that fit the machine share the candidates."""

    cpus_per_worker: float = 1.0
    """CPUs that one trainer reserves; its torch threads too, when more than `trainer.num_threads`."""

    gpus_per_worker: float | None = None
    """GPUs that one trainer reserves, fractions allowed; default: 1 where the cluster has any, else 0."""

    address: str = ""
    """Ray cluster to join (`auto`, or host:port of its head); empty: $RAY_ADDRESS, else one of its own here."""

    dashboard: bool = False
    """Start Ray's dashboard, on loopback, with a private cluster."""

    data: DataConfig = field(default_factory=DataConfig)
    """Pictures and pairs."""

    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """Training of one candidate."""

    reward: RewardConfig = field(default_factory=RewardConfig)
    """What is rewarded."""

    space: SpaceConfig = field(default_factory=SpaceConfig)
    """Which losses are searched."""

    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """How their distribution learns."""

    def __post_init__(self) -> None:
        require(self.mode in MODES, f"mode must be one of {', '.join(MODES)}", self.mode)
        require(self.num_workers >= 1, "num_workers must be at least 1", self.num_workers)
        require(self.generations >= 1, "generations must be at least 1", self.generations)
        require(self.warmup_generations >= 0, "warmup_generations must be >= 0", self.warmup_generations)
        require(self.population_size >= 0, "population_size must be >= 0", self.population_size)
        require(self.cpus_per_worker > 0, "cpus_per_worker must be > 0", self.cpus_per_worker)
        require(self.seed >= 0, "seed must be >= 0", self.seed)
        gpus = self.gpus_per_worker
        require(gpus is None or 0 <= gpus <= 1, "gpus_per_worker must be in [0, 1]: a trainer runs on one GPU", gpus)
        plain = not any(c in self.name for c in "/\\\0") and self.name not in (".", "..")
        require(plain, "name must be a plain folder name", self.name)

    @property
    def population(self) -> int:
        """B: candidates per generation after the warm-up."""
        return self.population_size or self.num_workers
