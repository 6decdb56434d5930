"""From scores to masks: which weights stay, by pattern.

All masks are made on the matrix that the runtime stores, output channels by inputs,
so that an N:M group or a block lies where a sparse kernel looks for it. Ties are broken
by position, so a mask keeps exactly the number of weights that it should, and the same
scores always give the same mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compresskit.granularity import NM, Block, Unstructured


def keep_largest(scores: np.ndarray, keep: int) -> np.ndarray:
    """A boolean mask of the `keep` largest of `scores`, the earlier one at a tie."""
    flat = scores.reshape(-1)
    mask = np.zeros(flat.size, dtype=bool)
    if keep > 0:
        # Found by threshold: a full stable sort of millions of scores is ten times slower.
        threshold = np.partition(flat, flat.size - keep)[flat.size - keep]
        mask[flat > threshold] = True
        ties = np.flatnonzero(flat == threshold)
        mask[ties[: keep - int(mask.sum())]] = True
    return mask.reshape(scores.shape)


def kept(size: int, sparsity: float) -> int:
    """How many of `size` weights stay at a sparsity: rounded as TFMOT rounds, one at least."""
    return max(1, int(np.round(size * (1.0 - sparsity))))


def unstructured(scores: Sequence[np.ndarray], sparsity: float) -> list[np.ndarray]:
    """Masks over matrices that share one budget: the largest scores of all of them stay."""
    joined = np.concatenate([matrix.reshape(-1) for matrix in scores])
    mask = keep_largest(joined, kept(joined.size, sparsity))
    ends = np.cumsum([matrix.size for matrix in scores])[:-1]
    parts = np.split(mask, ends)
    return [part.reshape(matrix.shape) for part, matrix in zip(parts, scores, strict=True)]


def n_of_m(scores: np.ndarray, pattern: NM, run: int) -> np.ndarray:
    """At most N nonzero weights in every M that follow each other along the inputs.

    Args:
        scores: matrix (O, I).
        run: length of the innermost run of input channels; a group never crosses its
            end, and a shorter last group keeps up to N.

    Source: Mishra et al., 2021, https://arxiv.org/abs/2104.08378.
    """
    rows = scores.reshape(-1, run)
    groups = -(-run // pattern.m)
    padded = np.full((rows.shape[0], groups * pattern.m), -np.inf, dtype=np.float64)
    padded[:, :run] = rows
    padded = padded.reshape(-1, pattern.m)
    order = np.argsort(-padded, axis=1, kind="stable")[:, : pattern.n]
    mask = np.zeros(padded.shape, dtype=bool)
    np.put_along_axis(mask, order, True, axis=1)
    return mask.reshape(rows.shape[0], -1)[:, :run].reshape(scores.shape)


def breaks(matrix: np.ndarray, pattern: NM, run: int) -> int:
    """How many groups of a matrix (O, I) have more than N nonzero weights in M."""
    rows = matrix.reshape(-1, run) != 0
    padded = np.zeros((rows.shape[0], -(-run // pattern.m) * pattern.m), dtype=bool)
    padded[:, :run] = rows
    return int(np.sum(padded.reshape(-1, pattern.m).sum(axis=1) > pattern.n))


def blocks(scores: Sequence[np.ndarray], pattern: Block, sparsity: float) -> list[np.ndarray]:
    """Whole blocks stay or go, by the mean score of the weights that are in them.

    A block at the edge of a matrix may be cut short. Blocks share one budget, counted in
    blocks.
    """
    means = []
    for matrix in scores:
        starts = (
            np.arange(0, matrix.shape[0], pattern.rows),
            np.arange(0, matrix.shape[1], pattern.columns),
        )
        sums = np.add.reduceat(np.add.reduceat(matrix, starts[0], axis=0), starts[1], axis=1)
        heights = np.diff(np.append(starts[0], matrix.shape[0]))
        widths = np.diff(np.append(starts[1], matrix.shape[1]))
        means.append(sums / np.outer(heights, widths))
    chosen = unstructured(means, sparsity)
    return [
        np.repeat(np.repeat(mask, pattern.rows, axis=0), pattern.columns, axis=1)[
            : matrix.shape[0], : matrix.shape[1]
        ]
        for mask, matrix in zip(chosen, scores, strict=True)
    ]


def masks(
    scores: Sequence[np.ndarray],
    granularity: Unstructured | NM | Block,
    sparsity: float,
    runs: Sequence[int],
) -> list[np.ndarray]:
    """Boolean masks of the matrices' shapes, True where a weight stays.

    Args:
        scores: matrices (O, I) that share one budget.
        sparsity: share of zeros, 0 to 1; an N:M pattern says its own.
        runs: for each matrix the length of its innermost run of input channels.
    """
    if isinstance(granularity, NM):
        return [n_of_m(matrix, granularity, run) for matrix, run in zip(scores, runs, strict=True)]
    if isinstance(granularity, Block):
        return blocks(scores, granularity, sparsity)
    return unstructured(scores, sparsity)
