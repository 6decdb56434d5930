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
from compresskit.method import Attached, Examples, Length, Method
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

    def attach(
        self,
        model: keras.Model,
        sample: Any,
        grid: Grid,
        length: Length,
        examples: Examples | None = None,
    ) -> Attached:
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
            units = scales.units(values.shape)
            return SharedValues(assign(scaled, centroids), centroids, pinned, units)
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
        return SharedValues(flat, np.concatenate(books), (0.0,))


def _scaled(values: np.ndarray, scales: Scales) -> np.ndarray:
    parts, axes = scales.split(tf.constant(values))
    largest = tf.reduce_max(tf.abs(parts), axis=axes, keepdims=True)
    # A channel of zeros has no scale; any will do.
    scaled = parts / tf.where(largest > 0, largest, tf.ones_like(largest))
    return np.reshape(scaled, values.shape)


@final
class SharedValues(Hold):
    """Keeps the weights of a cluster at one value, times the scale of each.

    Every weight belongs to an entry of a table of scales by clusters. All arithmetic is done
    on the table; what touches each weight is one sum into it and one lookup.

    Args:
        clusters: of each weight, the index of its centroid; the variable's shape.
        centroids: (n,); those that equal a pinned value stay there.
        pinned: values that do not learn: zero, and the ends of what is scaled.
        units: of each weight, the index of its scale, or None for weights that are not
            scaled; the variable's shape.
    """

    def __init__(
        self,
        clusters: np.ndarray,
        centroids: np.ndarray,
        pinned: tuple[float, ...],
        units: np.ndarray | None = None,
    ):
        self._scaled = units is not None
        entries = clusters if units is None else units * len(centroids) + clusters
        self._shape = (1 if units is None else int(units.max()) + 1, len(centroids))
        self._compiled = entries.size >= _COMPILED_FROM
        self._entries = tf.constant(entries.ravel(), tf.int32)
        members = np.bincount(entries.ravel(), minlength=self._shape[0] * self._shape[1])
        self._members = tf.constant(members.reshape(self._shape), tf.float32)
        member = np.zeros(members.size, np.int32)
        member[entries.ravel()] = np.arange(entries.size)
        self._member = tf.constant(member.reshape(self._shape))
        self._fixed = tf.constant(np.isin(centroids, pinned))
        self._centroids = tf.constant(centroids, tf.float32)
        # Of a cluster: 1 or -1 if its weights are the largest of their scale, else 0.
        self._ends = tf.constant(np.where(np.abs(centroids) == 1.0, centroids, 0.0), tf.float32)

    def _sums(self, values: Any) -> Any:
        """The sum over each entry, (scales, n)."""
        add = _summed_compiled if self._compiled else _summed
        sums = add(tf.reshape(values, [-1]), self._entries, self._shape[0] * self._shape[1])
        return tf.cast(tf.reshape(sums, self._shape), tf.float32)

    def _spread(self, table: Any, values: Any) -> Any:
        """The entry of each weight, in the shape and dtype of `values`."""
        gather = _gather_compiled if self._compiled else tf.gather
        found = gather(tf.reshape(table, [-1]), self._entries)
        return tf.cast(tf.reshape(found, values.shape), values.dtype)

    def _scale(self, sums: Any) -> Any:
        """Each scale as the weights at its ends have it, (scales, 1)."""
        if not self._scaled:
            return tf.ones((1, 1))
        number = tf.reduce_sum(self._members * tf.abs(self._ends), axis=1, keepdims=True)
        # An update may turn a small scale round; then it is gone.
        total = tf.maximum(tf.reduce_sum(sums * self._ends, axis=1, keepdims=True), 0.0)
        return total / tf.maximum(number, 1.0)

    def _learned(self, sums: Any, scale: Any) -> Any:
        """Each centroid as its members have it, (n,)."""
        members = tf.maximum(tf.reduce_sum(self._members, axis=0), 1.0)
        means = tf.reduce_sum(tf.math.divide_no_nan(sums, scale), axis=0) / members
        if self._scaled:
            means = _off_ties(tf.clip_by_value(means, -1.0, 1.0))
        return tf.where(self._fixed, self._centroids, means)

    def apply(self, values: Any) -> Any:
        sums = self._sums(values)
        scale = self._scale(sums)
        return self._spread(scale * self._learned(sums, scale), values)

    def together(self, values: Any) -> Any:
        """`values` as they are; in the backward pass a cluster learns as one.

        A weight is `scale * centroid`. What comes back is, for each weight, the share of its
        centroid's gradient, the sum over all members, or of its scale's, so that an
        optimizer moves all members alike.
        """

        @tf.custom_gradient
        def identity(values: Any) -> tuple[Any, Callable[[Any], Any]]:
            def gradient(upstream: Any) -> Any:
                given = self._sums(upstream)
                # The hold has made them equal: one of each entry speaks for all.
                one = tf.gather(tf.cast(tf.reshape(values, [-1]), tf.float32), self._member)
                sums = self._members * one
                scale = self._scale(sums)
                of_centroids = tf.reduce_sum(given * scale, axis=0)
                made = tf.where(self._fixed, 0.0, of_centroids) * scale
                if self._scaled:
                    ratios = self._learned(sums, scale)
                    of_scale = tf.reduce_sum(given * ratios, axis=1, keepdims=True)
                    made += of_scale * self._ends
                # Of a lookup, `upstream` is sparse, and may not know its own shape.
                return self._spread(made, values)

            return tf.identity(values), gradient

        return identity(tf.convert_to_tensor(values))


def _summed(values: Any, entries: Any, count: int) -> Any:
    # In float32, a sum of a million equal weights drifts by percents.
    return tf.math.unsorted_segment_sum(tf.cast(values, tf.float64), entries, count)


# TensorFlow's own kernels for scalars take three times as long. Compiling takes a quarter of
# a second: small weights are not worth it.
_COMPILED_FROM = 16_384
_summed_compiled = tf.function(_summed, jit_compile=True)
_gather_compiled = tf.function(lambda table, entries: tf.gather(table, entries), jit_compile=True)


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
