"""Real processes, one per rank, that run the same functions in the same order; what each gave comes back."""

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from trainers.ranks import Ranks, listen

Work = Callable[[Ranks, Path], Any]
"""Called in each rank, with a folder that holds the faces."""


def run_in_ranks(size: int, work: Sequence[Work], folder: Path, out: Path) -> dict[str, list[Any]]:
    """By function name, what it gave in each rank: its value, or the exception that it raised."""
    store, address = listen("127.0.0.1")
    mp.spawn(_process, (size, address, work, folder, out), nprocs=size)
    found = [pickle.loads((out / f"rank-{rank}").read_bytes()) for rank in range(size)]  # noqa: S301 - our own
    del store
    return {name: [one[name] for one in found] for name in found[0]}


def _process(rank: int, size: int, address: str, work: Sequence[Work], folder: Path, out: Path) -> None:
    torch.set_num_threads(1)
    ranks = Ranks.connect(rank=rank, size=size, address=address, host="127.0.0.1", timeout_s=60)
    found: dict[str, Any] = {}
    for function in work:
        try:
            found[function.__name__] = function(ranks, folder)
        except Exception as error:
            found[function.__name__] = error
    (out / f"rank-{rank}").write_bytes(pickle.dumps(found))
    ranks.close()
