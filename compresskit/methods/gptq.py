"""GPTQ: rounding one weight after the other, the later ones making up for the earlier.

Frantar et al., 2022, https://arxiv.org/abs/2210.17323. With the second moments `H` of what a
layer reads, the error that rounding one input's weights makes in the layer's answers is
taken over, as well as can be, by the weights that are not rounded yet.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
import tensorflow as tf
from keras import layers

# Added to the diagonal, as a share of its mean.
_DAMPING = 0.01


def gptq(matrix: np.ndarray, moments: np.ndarray, steps: np.ndarray, levels: int) -> np.ndarray:
    """The integers of a weight.

    In each row the largest weight stays at `levels`: by it a converter finds the step again.

    Args:
        matrix: float, output channels by inputs, shape (O, I).
        moments: of what the layer reads, `x.T @ x` over samples x, shape (I, I).
        steps: between two integers, shape (O, 1).
        levels: the integers are -levels to levels.

    Returns:
        Whole numbers, float64, shape (O, I).
    """
    left = matrix.astype(np.float64)
    moments = moments.astype(np.float64).copy()
    diagonal = np.diagonal(moments).copy()
    # What is always zero may weigh anything.
    dead = diagonal <= 0
    mean = float(diagonal[~dead].mean()) if not dead.all() else 1.0
    moments[np.diag_indices_from(moments)] += np.where(dead, mean, _DAMPING * mean)
    # Of the inverse the upper Cholesky factor: its rows are what each step of the
    # elimination needs.
    inverse = scipy.linalg.cho_solve(
        scipy.linalg.cho_factor(moments, lower=True), np.eye(len(moments))
    )
    factor = scipy.linalg.cholesky(inverse, lower=False)
    largest = np.abs(matrix).argmax(axis=1)
    rows = np.arange(len(matrix))
    signs = np.sign(matrix[rows, largest])
    made = np.zeros_like(left)
    for column in range(matrix.shape[1]):
        rounded = np.clip(np.round(left[:, column] / steps[:, 0]), -levels, levels)
        rounded = np.where(largest == column, signs * levels, rounded)
        made[:, column] = rounded
        error = (left[:, column] - rounded * steps[:, 0]) / factor[column, column]
        left[:, column + 1 :] -= np.outer(error, factor[column, column + 1 :])
    return made


def patches(layer: Any, values: Any) -> np.ndarray | None:
    """What each answer of a layer is made from, in the order of `Weight.matrix`.

    Args:
        values: what the layer reads, a batch.

    Returns:
        shape (answers, inputs); None for a layer of which that is not known.
    """
    values = tf.convert_to_tensor(values)
    if isinstance(layer, layers.Conv1D) and not isinstance(layer, layers.Conv2D):
        if layer.padding == "causal" or layer.data_format != "channels_last" or layer.groups != 1:
            return None
        return _windows(
            values[:, None],
            (1, *layer.kernel_size),
            (1, *layer.strides),
            (1, *layer.dilation_rate),
            layer.padding,
        )
    if isinstance(layer, layers.Conv2D):
        if layer.data_format != "channels_last" or layer.groups != 1:
            return None
        return _windows(
            values, layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding
        )
    if isinstance(layer, layers.Dense | layers.EinsumDense):
        inputs = layer.kernel.shape[0]
        if isinstance(layer, layers.EinsumDense):
            kernel, result = layer.equation.replace("...", "").split(",")[1].split("->")
            summed = [index for index, letter in enumerate(kernel) if letter not in result]
            inputs = int(np.prod([layer.kernel.shape[index] for index in summed]))
        return np.asarray(values).reshape(-1, inputs)
    return None


def _windows(values: Any, sizes: Any, strides: Any, rates: Any, padding: str) -> np.ndarray:
    found = tf.image.extract_patches(
        values, (1, *sizes, 1), (1, *strides, 1), (1, *rates, 1), padding.upper()
    )
    return np.asarray(found).reshape(-1, found.shape[-1])
