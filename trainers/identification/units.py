"""Unit embeddings and their scores, the same to the last bit on every machine.

A unit embedding is x / |x|, each number rounded to a multiple of 2^-24, which float32 holds. A product of two such
numbers is a multiple of 2^-48, and no partial sum of an inner product is larger than the product of both lengths
(Cauchy-Schwarz), so below 2 and within the 53 bits of float64: an inner product in float64 is *exact*, in whatever
order, in whatever tiles and on however many threads it is summed. A score is that cosine, rounded to a whole number of
steps of 2^-20, the steps of `trainers.verification.all_pairs`: scores that are equal by law (of equal pictures, of a
collapsed model) are ties. It is held as that whole number.

A product in float32 is off by at most `error_bound`. So it tells which scores are surely below a bar, and only what is
left is computed in float64.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from search_space.errors import UserError
from trainers.verification.all_pairs import STEPS_PER_UNIT

Singles = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Scores = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]

GRID = 2.0**24
LOWEST, HIGHEST = -STEPS_PER_UNIT, STEPS_PER_UNIT
"""Scores of cosines -1 and 1."""

MAX_DIM = 2**16
BLOCK = 2**16
"""Numbers that are normalised at a time: half a megabyte, which stays in the cache."""

GATHERED = 2**20
"""Numbers of either side that are gathered at a time for scores of single pairs."""


def unit_embeddings(embeddings: npt.NDArray[Any], what: str = "embeddings", rows: Ints | None = None) -> Singles:
    """Unit embeddings on the grid of 2^-24.

    Args:
        embeddings: [n, d] of any real type; a vector of zeros stays one, and has cosine 0 with everything.
        what: what to call them in a message.
        rows: [n] what to call their rows in a message; None: 0, 1, ...
    Returns:
        [n, d] float32.
    Raises:
        UserError: not [n, d] numbers, or an embedding is not finite (the first one is named).
    """
    check_shape(embeddings, what)
    units = np.empty(embeddings.shape, np.float32)
    step = max(1, BLOCK // embeddings.shape[1])
    for start in range(0, len(units), step):
        part = embeddings[start : start + step].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            lengths = np.sqrt(np.einsum("nd,nd->n", part, part))
        if not np.isfinite(lengths).all():
            row = start + int(np.argmin(np.isfinite(lengths)))
            name = row if rows is None else int(rows[row])
            raise UserError(f"{what}: row {name} must be finite, got a length of {lengths[row - start]}")
        part *= (GRID / np.where(lengths > 0, lengths, 1.0))[:, None]
        np.rint(part, out=part)
        np.multiply(part, 1 / GRID, out=units[start : start + step], casting="same_kind")
    return units


def check_shape(embeddings: npt.NDArray[Any], what: str, dim: int | None = None) -> None:
    """Raise `UserError` unless these are [n, d] real numbers, with d as given."""
    shape = embeddings.shape
    if len(shape) != 2 or not 1 <= shape[1] <= MAX_DIM or shape[1] != (dim or shape[1]):
        wanted = f"[n, {dim}]" if dim else f"[n, d] with d from 1 to {MAX_DIM}"
        raise UserError(f"{what} must be {wanted}, got {list(shape)}")
    if embeddings.dtype.kind not in "fiu":
        raise UserError(f"{what} must be numbers, got {embeddings.dtype}")


def error_bound(dim: int) -> float:
    """How far an inner product of two unit embeddings in float32, summed in any order, may be from their score / 2^20.

    Source: Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, Eq. 3.5, |x| |y| at most
    (1 + sqrt(d) / 2^25)^2; and half a step of the score.
    """
    rounding = dim * 2.0**-24
    return rounding / (1 - rounding) * (1 + math.sqrt(dim) * 2.0**-25) ** 2 + 0.5 / STEPS_PER_UNIT


def cosine_of(score: int) -> float:
    """The cosine that a score stands for."""
    return score / STEPS_PER_UNIT


def scores_of(cosines: Floats) -> Scores:
    """Scores of exact cosines, same shape; changes `cosines`."""
    cosines *= STEPS_PER_UNIT
    np.rint(cosines, out=cosines)
    return np.clip(cosines, LOWEST, HIGHEST, out=cosines).astype(np.int32)


def pair_scores(left: Singles, right: Singles, rows: Ints, columns: Ints) -> Scores:
    """[pairs] scores of rows of `left` with rows of `right`, both unit embeddings."""
    scores = np.empty(len(rows), np.int32)
    step = max(1, GATHERED // left.shape[1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        a, b = left[rows[part]].astype(np.float64), right[columns[part]].astype(np.float64)
        scores[part] = scores_of(np.einsum("pd,pd->p", a, b))
    return scores


def all_scores(left: Singles, right: Singles) -> Scores:
    """[n, m] scores of all rows of `left` with all rows of `right`, both unit embeddings."""
    a, b = (torch.from_numpy(side.astype(np.float64)) for side in (left, right))
    return scores_of((a @ b.T).numpy())
