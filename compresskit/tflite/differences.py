"""How far the weights of two models, and what two files compute, are from each other.

Loads no TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compresskit.samples import Samples
from compresskit.tflite.audit import Audit
from compresskit.tflite.runtime import Runner
from compresskit.tflite.tensors import Tensor

# Two weights are one, changed, if they are less apart than the one is from zero.
_APART = 1.0
# Once each channel has been given the factor that fits best, even unrelated ones come closer.
_APART_SCALED = 0.5
# A normalization was folded in if factors leave less than this share of the difference; rounding
# and pruning leave nearly all of it. In a short row a factor explains too much.
_MOSTLY_FACTORS = 0.25
_LEAST_ROW = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Stored:
    """A weight as a matrix in real units, output channels by inputs."""

    name: str
    dtype: str
    matrix: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Two tensors that stand for the same.

    Attributes:
        a, b: their names.
        relative_error: norm of the difference, divided by the norm of the first; None if the first
            alone is zero.
        sqnr_db: the same as a signal-to-noise ratio in decibels, -20 log10 of it; None if they
            are equal, or the first is zero.
        scaled: whether each channel of the second was multiplied by the factor that fits best,
            because a normalization had been folded in.
    """

    a: str
    b: str
    dtypes: tuple[str, str]
    shape: tuple[int, ...]
    relative_error: float | None
    sqnr_db: float | None
    scaled: bool = False


def stored(audited: Audit) -> list[Stored]:
    """The weights of a file, dequantized."""
    return [
        Stored(name=each.name, dtype=each.dtype, matrix=_real(audited, each))
        for each in audited.weights
    ]


def _real(audited: Audit, tensor: Tensor) -> np.ndarray:
    values = audited.matrix(tensor).astype(np.float64)
    if not tensor.scales.size:
        return values
    # One scale, or one for each row.
    return values * tensor.scales.astype(np.float64).reshape(-1, 1)


def weights(
    a: Sequence[Stored], b: Sequence[Stored]
) -> tuple[list[Difference], list[str], list[str]]:
    """Weights that stand for the same, the worst first, and the names of those left over.

    Those of one name and shape are pairs. Names seldom survive conversion: of the others, those of
    one shape are paired that are closest, if they are closer than unrelated ones could be.
    """
    left_a, left_b = list(a), list(b)
    pairs: list[tuple[Stored, Stored, float, bool]] = []

    def pair(one: Stored, other: Stored, error: float, scaled: bool) -> None:
        pairs.append((one, other, error, scaled))
        left_a.remove(one)
        left_b.remove(other)

    names = [each.name for each in (*a, *b)]
    for one in a:
        for other in b:
            same = one.name == other.name and one.matrix.shape == other.matrix.shape
            # A name that stands twice on one side says nothing.
            if same and names.count(one.name) == 2:
                pair(one, other, *_apart(one, other))
    close = [
        (*_apart(one, other), one, other)
        for one in left_a
        for other in left_b
        if one.matrix.shape == other.matrix.shape
    ]
    for error, scaled, one, other in sorted(close, key=lambda each: each[0]):
        near = error < (_APART_SCALED if scaled else _APART)
        if near and one in left_a and other in left_b:
            pair(one, other, error, scaled)
    pairs.sort(key=lambda each: -each[2])
    made = [
        Difference(
            a=one.name,
            b=other.name,
            dtypes=(one.dtype, other.dtype),
            shape=one.matrix.shape,
            relative_error=error if np.isfinite(error) else None,
            sqnr_db=_decibels(error),
            scaled=scaled,
        )
        for one, other, error, scaled in pairs
    ]
    return made, [each.name for each in left_a], [each.name for each in left_b]


def _apart(one: Stored, other: Stored) -> tuple[float, bool]:
    """The relative error, and whether a factor of each channel was taken out of it."""
    plain = relative_error(one.matrix, other.matrix)
    if one.matrix.shape[1] < _LEAST_ROW or not one.matrix.any():
        return plain, False
    squares = (other.matrix**2).sum(axis=1, keepdims=True)
    products = (one.matrix * other.matrix).sum(axis=1, keepdims=True)
    factors = products / np.where(squares > 0, squares, 1.0)
    scaled = relative_error(one.matrix, other.matrix * factors)
    return (scaled, True) if scaled < plain * _MOSTLY_FACTORS else (plain, False)


def relative_error(a: np.ndarray, b: np.ndarray) -> float:
    """Norm of the difference divided by the norm of the first; infinite if that alone is zero."""
    apart, size = float(np.linalg.norm(a - b)), float(np.linalg.norm(a))
    if not apart:
        return 0.0
    return apart / size if size else float("inf")


def _decibels(error: float) -> float | None:
    return -20.0 * float(np.log10(error)) if 0 < error < float("inf") else None


def activations(a: tuple[bytes, Audit], b: tuple[bytes, Audit], x: Samples) -> list[Difference]:
    """What two files compute, tensor by tensor in the first one's order, where names are the same.

    Plain kernels run, op by op, so that what is computed in between can be seen.

    Args:
        a, b: bytes of a file, and what `audit` found in them.
        x: samples that both take.
    """
    found = [
        {
            audited.tensors[index].name: audited.tensors[index]
            for op in audited.ops
            for index in op.outputs
            if audited.tensors[index].values is None
        }
        for _, audited in (a, b)
    ]
    names = [n for n in found[0] if n in found[1] and found[0][n].shape == found[1][n].shape]
    values = [
        Runner(content, keep=True).computed(x, [tensors[name].index for name in names])
        for (content, _), tensors in zip((a, b), found, strict=True)
    ]
    made = []
    for name, one, other in zip(names, *values, strict=True):
        if one.dtype == bool:
            continue
        error = relative_error(_units(one, found[0][name]), _units(other, found[1][name]))
        if not np.isfinite(error):
            continue
        made.append(
            Difference(
                a=name,
                b=name,
                dtypes=(found[0][name].dtype, found[1][name].dtype),
                shape=found[0][name].shape,
                relative_error=error,
                sqnr_db=_decibels(error),
            )
        )
    return made


def _units(values: np.ndarray, tensor: Tensor) -> np.ndarray:
    if not tensor.scales.size:
        return values.astype(np.float64)
    return (values.astype(np.float64) - int(tensor.zero_points[0])) * float(tensor.scales[0])
