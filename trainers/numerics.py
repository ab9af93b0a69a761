"""Torch's process-wide settings that bits and speed depend on, set for the length of a call."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from trainers.config import TrainerConfig


@dataclass(frozen=True)
class Numerics:
    """Torch's global settings that bits and speed depend on."""

    deterministic: bool
    warn_only: bool
    fill_memory: bool
    cudnn_deterministic: bool
    cudnn_benchmark: bool
    num_threads: int

    @classmethod
    def current(cls) -> "Numerics":
        return cls(
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
            torch.get_num_threads(),
        )

    def apply(self) -> None:
        torch.use_deterministic_algorithms(self.deterministic, warn_only=self.warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = self.fill_memory  # type: ignore[attr-defined]
        torch.backends.cudnn.deterministic = self.cudnn_deterministic
        torch.backends.cudnn.benchmark = self.cudnn_benchmark
        torch.set_num_threads(self.num_threads)


@contextmanager
def numerics(config: TrainerConfig) -> Iterator[None]:
    """Threads and kernels as configured; what was set before comes back at the end."""
    before = Numerics.current()
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS demands it before its first use
    try:
        # Filling new memory would find reads of what was never written, at a tenth of the time of each step.
        Numerics(
            config.deterministic, False, False, config.deterministic, not config.deterministic, config.num_threads
        ).apply()
        yield
    finally:
        before.apply()
