"""What is known of a tensor on its way through a model: which unit each channel belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False, kw_only=True)
class Flow:
    """A tensor: its shape, and the labels along one axis.

    Attributes:
        shape: without what is not known: the batch and free axes count as 1.
        axis: which the labels run along, or None if no unit is in it.
        labels: shape (shape[axis],); empty without an axis.
    """

    shape: tuple[int, ...]
    axis: int | None = None
    labels: np.ndarray

    @property
    def full(self) -> np.ndarray:
        """The label of every element."""
        if self.axis is None:
            return np.zeros(self.shape, dtype=np.int64)
        along = [1] * len(self.shape)
        along[self.axis] = -1
        return np.broadcast_to(self.labels.reshape(along), self.shape)


def plain(tensor: Any) -> Flow:
    """A tensor without units."""
    return Flow(shape=shape_of(tensor), labels=np.zeros(0, dtype=np.int64))


def labelled(tensor: Any, labels: np.ndarray, axis: int = -1) -> Flow:
    """A tensor with units along an axis.

    Raises:
        ValueError: a rule gave other labels than the axis is long.
    """
    shape = shape_of(tensor)
    if shape[axis] != len(labels):
        raise ValueError(f"{len(labels)} labels along axis {axis} of {shape}")
    return Flow(shape=shape, axis=axis % len(shape), labels=labels)


def from_full(full: np.ndarray) -> Flow | None:
    """The flow with these labels of its elements, or None if they run along several axes."""
    plain_axes = []
    for axis in range(full.ndim):
        first = full.take([0], axis=axis)
        if (full == first).all():
            plain_axes.append(axis)
    varied = [axis for axis in range(full.ndim) if axis not in plain_axes]
    if len(varied) > 1:
        return None
    if not varied:
        if not full.size or not full.flat[0]:
            return Flow(shape=full.shape, labels=np.zeros(0, dtype=np.int64))
        return None
    index: list[Any] = [0] * full.ndim
    index[varied[0]] = slice(None)
    return Flow(shape=full.shape, axis=varied[0], labels=full[tuple(index)])


def shape_of(tensor: Any) -> tuple[int, ...]:
    """A symbolic tensor's shape, with 1 for what is free."""
    return tuple(1 if size is None else int(size) for size in tensor.shape)
