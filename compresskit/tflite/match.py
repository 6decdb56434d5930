"""Finds a Keras weight in a file: which constant of the file is it?

Names do not survive conversion, and BatchNormalization scales every output channel when
it is folded in. What does survive is the shape of the matrix and, in each of its rows,
the proportions of the values; so that is what is compared.
"""

from __future__ import annotations

import numpy as np

from compresskit.tflite.audit import Audit

# Mean difference, relative to each row's largest value, that two roundings may make.
TOLERANCE = 0.05


def find(matrix: np.ndarray, audit: Audit, parts: int = 1) -> np.ndarray | None:
    """What a file holds of a Keras weight.

    Args:
        matrix: the Keras weight as output channels by inputs (`Weight.matrix`).
        parts: into how many tensors of equal size, one below the other, the file may
            have cut it: the gates of an LSTM.

    Returns:
        The stored values as a matrix of the same shape, or None.
    """
    found = [_find(part, audit) for part in np.split(matrix, parts)]
    if any(part is None for part in found):
        # A converter that does not fuse keeps the weight in one piece.
        return find(matrix, audit) if parts > 1 else None
    return np.concatenate([part for part in found if part is not None])


def looked_up(table: np.ndarray, audit: Audit) -> tuple[np.ndarray | None, np.ndarray]:
    """What a file holds of a table whose rows the converter looked up beforehand.

    Args:
        table: (rows, width).

    Returns:
        The rows that the file holds as a constant of another op, and which rows of the
        table they are; None and no rows if there is no such constant.
    """
    wanted = _proportions(table)
    best: tuple[tuple[bool, float], np.ndarray, np.ndarray] | None = None
    for tensor in set(audit.tensors) - set(audit.weights):
        if tensor.values is None or tensor.shape[-1:] != table.shape[1:] or len(tensor.shape) < 2:
            continue
        zero = tensor.zero_points[0] if tensor.zero_points.size else 0
        stored = tensor.constant.astype(np.float32).reshape(-1, table.shape[1]) - zero
        given = _proportions(stored)
        rows = np.array([np.abs(wanted - row).sum(axis=1).argmin() for row in given])
        error = float(np.mean(np.abs(given - wanted[rows])))
        # Any zeros equal a row of zeros: they count only if nothing else is found.
        rank = (not stored.any(), error)
        if error < TOLERANCE and (best is None or rank < best[0]):
            best = (rank, stored, rows)
    return (None, np.zeros(0, int)) if best is None else best[1:]


def _find(matrix: np.ndarray, audit: Audit) -> np.ndarray | None:
    wanted = _proportions(matrix)
    best: tuple[float, np.ndarray] | None = None
    for tensor in audit.weights:
        stored = audit.matrix(tensor)
        if stored.shape != matrix.shape:
            continue
        distance = float(np.mean(np.abs(_proportions(stored.astype(np.float32)) - wanted)))
        if distance < TOLERANCE and (best is None or distance < best[0]):
            best = (distance, stored)
    return None if best is None else best[1]


def _proportions(matrix: np.ndarray) -> np.ndarray:
    """Absolute values relative to the largest of each row."""
    largest = np.abs(matrix).max(axis=1, keepdims=True)
    return np.abs(matrix) / np.where(largest > 0, largest, 1.0)
