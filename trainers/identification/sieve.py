"""Scores of probes with a tile of distractors that are at least as high as a bar, and no work on the others."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from trainers.identification.units import (
    HIGHEST,
    LOWEST,
    Ints,
    Scores,
    Singles,
    all_scores,
    error_bound,
    pair_scores,
)
from trainers.verification.all_pairs import STEPS_PER_UNIT

PROBES = 4096
"""Probes whose products with a tile are made at a time."""

DENSE = 32
"""Where more than one in so many scores of a tile is wanted, all are computed in float64, which is cheaper then."""


@contextmanager
def full_float32() -> Iterator[None]:
    """Products of float32 in float32, whatever this process has allowed (the error bound depends on it)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class Sieve:
    """Scores of some unit embeddings, the probes, with tiles of others.

    Args:
        probes: [p, d] unit embeddings.
        columns: distractors of a tile, at most.
    """

    def __init__(self, probes: Singles, columns: int) -> None:
        self._probes = probes
        self._error = error_bound(probes.shape[1])
        self._memory = torch.empty(min(len(probes), PROBES) * columns)

    def blocks(self, num_probes: int) -> Iterator[slice]:
        """Probes that are put through together."""
        for start in range(0, num_probes, PROBES):
            yield slice(start, min(start + PROBES, num_probes))

    def at_least(self, block: slice, tile: Singles, bars: Scores) -> tuple[Ints, Scores]:
        """What is as high as the bars, among the scores of a block of probes with a tile.

        Args:
            block: of `blocks`.
            tile: [m, d] unit embeddings.
            bars: [rows of the block] for each probe, the lowest score that is wanted; above `HIGHEST`: none is.
        Returns:
            [found] probe and score of each that is at least its bar, by probe, then by place in the tile.
        """
        probes = self._probes[block]
        products = self._memory[: len(probes) * len(tile)].view(len(probes), len(tile))
        torch.mm(torch.from_numpy(probes), torch.from_numpy(tile).T, out=products)
        # what is below this is surely below the bar
        cuts = np.nextafter((bars / STEPS_PER_UNIT - self._error).astype(np.float32), np.float32(-np.inf))
        cuts[bars > HIGHEST], cuts[bars <= LOWEST] = np.inf, -np.inf
        some = np.flatnonzero(torch.amax(products, 1).numpy() >= cuts)
        if not len(some):
            return np.empty(0, np.int64), np.empty(0, np.int32)
        rows, columns = np.nonzero(products.numpy()[some] >= cuts[some, None])
        if len(rows) * DENSE > len(some) * len(tile):
            scores = all_scores(probes[some], tile)[rows, columns]
        else:
            scores = pair_scores(probes, tile, some[rows], columns)
        rows = some[rows]
        found = scores >= bars[rows]
        return rows[found] + block.start, scores[found]
