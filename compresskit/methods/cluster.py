"""Clustering: the weights of a tensor share a few values, and the values go on learning.

Source: S. Han et al., "Deep Compression", 2015, https://arxiv.org/abs/1510.00149.

An integer kernel divides each channel (or gate) by its own scale. Values that are shared in
floats are shared no more behind that division, and the file has gained nothing. So a codebook
for a whole tensor is one of scaled weights: every weight is `scale * centroid`, the largest
weight of each scale belongs to the centroid 1 or -1, and therefore the integers, `centroid *
127` rounded, are shared by the whole tensor, whatever the scales are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import keras
import numpy as np
import tensorflow as tf

from compresskit.holds import Hold, enforce, hold, release
from compresskit.method import Attached, Length, Method
from compresskit.methods.codebooks import assign, codebook
from compresskit.methods.grids import Scales, scales_of
from compresskit.parametrize import hook, settle
from compresskit.selection import Selection, select
from compresskit.stages import Cluster
from compresskit.target import Grid
from compresskit.weights import Weight


@final
class Clustering(Method):
    """A codebook for each weight, its assignment kept by a hold."""

    def __init__(self, stage: Cluster):
        self.stage = stage

    def select(self, model: keras.Model, where: str) -> Selection:
        return select(model, self.stage.targets, self.stage.ignore, where=where, unfit=self._unfit)

    def _unfit(self, weight: Weight, named: bool) -> str | None:
        if weight.layout is None and not named:
            kind = type(weight.layer).__name__
            return f"layers of type {kind} are clustered only when targets names them"
        if self.stage.granularity == "gate" and not (weight.layout and weight.layout.gates):
            return "only an LSTM has gates"
        return None

    def attach(self, model: keras.Model, sample: Any, grid: Grid, length: Length) -> Attached:
        selection = self.select(model, self.stage.name)
        held = [(weight, self._shared(weight, grid)) for weight in selection.taken]
        for weight, shared in held:
            hook(weight.layer).parameters.append((weight.variable, shared.together))
            hold(weight.variable, shared)

        def detach() -> dict[str, Any]:
            for weight, shared in held:
                enforce(weight.variable)
                release(weight.variable, shared)
                hook(weight.layer).parameters.remove((weight.variable, shared.together))
                settle(weight.layer)
            return {}

        return Attached(
            touched=tuple(weight.path for weight in selection.taken),
            skipped=selection.skipped,
            callbacks=(_LastWord(held),),
            detach=detach,
        )

    def _shared(self, weight: Weight, grid: Grid) -> SharedValues:
        """The codebook of a weight as it is now, and which value each of its elements has."""
        values = weight.variable.numpy()
        count, init = self.stage.clusters, self.stage.init
        if self.stage.granularity == "tensor":
            scales = scales_of(weight, grid)
            scaled = _scaled(values, scales)
            pinned = tuple(value for value in (-1.0, 0.0, 1.0) if np.any(scaled == value))
            centroids = codebook(scaled, count, init, pinned)
            return SharedValues(assign(scaled, centroids), centroids, pinned, scales)
        if self.stage.granularity == "gate":
            assert weight.layout is not None  # `_unfit` leaves the others out
            parts = values.reshape(values.shape[0], weight.layout.gates, -1)
            units = np.broadcast_to(np.arange(parts.shape[1])[:, None], parts.shape)
        else:
            parts = weight.matrix(values)
            units = np.broadcast_to(np.arange(len(parts))[:, None], parts.shape)
        segments = np.zeros(parts.shape, np.int32)
        books: list[np.ndarray] = []
        for unit in range(units.max() + 1):
            mine = units == unit
            pinned = (0.0,) if np.any(parts[mine] == 0) else ()
            book = codebook(parts[mine], count, init, pinned)
            segments[mine] = assign(parts[mine], book) + sum(map(len, books))
            books.append(book)
        channel = self.stage.granularity == "channel"
        flat = weight.from_matrix(segments) if channel else segments.reshape(values.shape)
        return SharedValues(flat, np.concatenate(books), (0.0,), None)


def _scaled(values: np.ndarray, scales: Scales) -> np.ndarray:
    parts, axes = scales.split(tf.constant(values))
    largest = tf.reduce_max(tf.abs(parts), axis=axes, keepdims=True)
    # A channel of zeros has no scale; any will do.
    scaled = parts / tf.where(largest > 0, largest, tf.ones_like(largest))
    return np.reshape(scaled, values.shape)


@final
class SharedValues(Hold):
    """Keeps the weights of a cluster at one value, times the scale of each.

    Args:
        clusters: of each weight, the index of its centroid; the variable's shape.
        centroids: (n,); those that equal a pinned value stay there.
        pinned: values that do not learn: zero, and the ends of what is scaled.
        scales: where the scales are, or None for weights that are not scaled.
    """

    def __init__(
        self,
        clusters: np.ndarray,
        centroids: np.ndarray,
        pinned: tuple[float, ...],
        scales: Scales | None,
    ):
        self._count = len(centroids)
        self._clusters = tf.constant(clusters.ravel(), tf.int32)
        members = np.bincount(clusters.ravel(), minlength=self._count)
        self._members = tf.constant(np.maximum(members, 1), tf.float32)
        self._fixed = tf.constant(np.isin(centroids, pinned))
        self._centroids = tf.constant(centroids, tf.float32)
        self._scales = scales
        self._ends = None
        if scales is not None:
            # Of each weight: 1 or -1 if it is the largest of its scale, else 0.
            ends = np.where(np.abs(centroids) == 1.0, centroids, 0.0)[clusters]
            self._ends = tf.constant(ends, tf.float32)

    def _scale(self, values: Any) -> Any:
        """The scale of each weight as it stands, broadcast to the variable's shape."""
        assert self._scales is not None
        parts, axes = self._scales.split(values * tf.cast(self._ends, values.dtype))
        number, _ = self._scales.split(tf.abs(tf.cast(self._ends, values.dtype)))
        sums = tf.reduce_sum(parts, axis=axes, keepdims=True)
        # An update may turn a small scale round; then it is gone.
        scale = tf.maximum(sums, 0.0) / tf.maximum(
            tf.reduce_sum(number, axis=axes, keepdims=True), 1.0
        )
        return tf.reshape(tf.broadcast_to(scale, parts.shape), values.shape)

    def _sums(self, values: Any) -> Any:
        """The sum over each cluster, (n,)."""
        return tf.math.unsorted_segment_sum(tf.reshape(values, [-1]), self._clusters, self._count)

    def _spread(self, centroids: Any, values: Any) -> Any:
        """The centroid of each weight, in the shape of `values`."""
        return tf.reshape(tf.gather(centroids, self._clusters), values.shape)

    def apply(self, values: Any) -> Any:
        given = tf.cast(values, tf.float32)
        scale = None
        if self._scales is not None:
            scale = self._scale(given)
            given = tf.math.divide_no_nan(given, scale)
        centroids = self._sums(given) / self._members
        if scale is not None:
            centroids = _off_ties(tf.clip_by_value(centroids, -1.0, 1.0))
        centroids = tf.where(self._fixed, self._centroids, centroids)
        made = self._spread(centroids, given)
        return tf.cast(made if scale is None else made * scale, values.dtype)

    def together(self, values: Any) -> Any:
        """`values` as they are; in the backward pass a cluster learns as one.

        A weight is `scale * centroid`. What comes back is, for each weight, the share of its
        centroid's gradient, the sum over all members, or of its scale's, so that an
        optimizer moves all members alike.
        """

        @tf.custom_gradient
        def identity(values: Any) -> tuple[Any, Callable[[Any], Any]]:
            def gradient(upstream: Any) -> Any:
                given = tf.cast(upstream, tf.float32)
                if self._scales is None:
                    sums = tf.where(self._fixed, 0.0, self._sums(given))
                    return tf.cast(self._spread(sums, given), upstream.dtype)
                scale = self._scale(tf.cast(values, tf.float32))
                sums = tf.where(self._fixed, 0.0, self._sums(given * scale))
                ratio = tf.math.divide_no_nan(tf.cast(values, tf.float32), scale)
                parts, axes = self._scales.split(given * ratio)
                of_scale = tf.reduce_sum(parts, axis=axes, keepdims=True)
                of_scale = tf.reshape(tf.broadcast_to(of_scale, parts.shape), given.shape)
                made = self._spread(sums, given) * scale + self._ends * of_scale
                return tf.cast(made, upstream.dtype)

            return tf.identity(values), gradient

        return identity(tf.convert_to_tensor(values))


def _off_ties(centroids: Any) -> Any:
    """Centroids moved a hair off the middle between two levels of 2 to 8 bits.

    There, `scale * centroid / scale` may round up in one channel and down in the next.
    """
    for bits in range(2, 9):
        levels = float(2 ** (bits - 1) - 1)
        rest = tf.math.floormod(centroids * levels, 1.0)
        tied = tf.abs(rest - 0.5) < 1e-3
        centroids += tf.where(tied, 2e-3 / levels, 0.0)
    return centroids


@final
class _LastWord(keras.callbacks.Callback):
    """Optimizers that average weights (`use_ema`) overwrite them after the last constraint."""

    def __init__(self, held: list[tuple[Weight, SharedValues]]):
        super().__init__()
        self.held = held

    def on_train_end(self, logs: Any = None) -> None:
        for weight, _ in self.held:
            enforce(weight.variable)
