"""Which parts of a weight share one scale in the integer kernel that will run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from compresskit.target import Grid
from compresskit.weights import Weight


@dataclass(frozen=True, kw_only=True)
class Scales:
    """Where the scales of a weight are.

    Attributes:
        channels: axes over which scales differ; empty for one scale.
        gates: into how many parts of one scale each the last axis falls, or 0.
        bits: of the integers that the kernel holds.
    """

    channels: tuple[int, ...] = ()
    gates: int = 0
    bits: int = 8

    def split(self, values: Any) -> tuple[Any, list[int]]:
        """`values` in a shape whose listed axes a scale spans."""
        if self.gates:
            return tf.reshape(values, (values.shape[0], self.gates, -1)), [0, 2]
        return values, [axis for axis in range(len(values.shape)) if axis not in self.channels]

    def divide(self, values: Any) -> tuple[Any, Any]:
        """`values` divided by the largest of their scale, and these in a shape beside `split`."""
        parts, axes = self.split(values)
        largest = tf.reduce_max(tf.abs(parts), axis=axes, keepdims=True)
        # A channel of zeros has no scale; any will do.
        largest = tf.where(largest > 0, largest, tf.ones_like(largest))
        return tf.reshape(parts / largest, values.shape), largest

    def units(self, shape: tuple[int, ...]) -> np.ndarray:
        """Of each element of a weight of that shape, the index of its scale, from 0."""
        parts, axes = self.split(np.empty(shape, bool))
        sizes = [1 if axis in axes else size for axis, size in enumerate(parts.shape)]
        numbers = np.arange(np.prod(sizes), dtype=np.int32).reshape(sizes)
        return np.broadcast_to(numbers, parts.shape).reshape(shape)


def scales_of(weight: Weight, grid: Grid) -> Scales:
    """The scales of a weight; one for each output channel if its kernel is not known."""
    layout = weight.layout
    if layout is None:
        return Scales(channels=(len(weight.shape) - 1,))
    if layout.gates and grid.bits < 8:
        # No fused kernel has such weights: the layer is unrolled into dense ones.
        return Scales(channels=layout.channels, bits=grid.bits)
    if layout.gates or layout.table:
        return Scales(gates=layout.gates)
    bits = grid.bits if layout.narrow else 8
    if layout.dense and not grid.per_channel_dense:
        return Scales(bits=bits)
    return Scales(channels=layout.channels, bits=bits)
