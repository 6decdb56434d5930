"""Clustering: the weights of a tensor share a few values, and the values go on learning.

Source: S. Han et al., "Deep Compression", 2015, https://arxiv.org/abs/1510.00149.

An integer kernel divides each channel (or gate) by its own scale. Values that are shared in
floats are shared no more behind that division, and the file has gained nothing. So a codebook
for a whole tensor is one of scaled weights: every weight is `scale * centroid`, the largest
weight of each scale belongs to the centroid 1 or -1, and therefore the integers, `centroid *
127` rounded, are shared by the whole tensor, whatever the scales are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, final

import keras
import numpy as np
import tensorflow as tf

from compresskit.holds import Hold, enforce, hold, release
from compresskit.method import Attached, Examples, Length, Method, State
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

        def state() -> State:
            return {
                f"{name}{index}": values
                for index, (_, shared) in enumerate(held)
                for name, values in shared.book().items()
            }

        def restore(state: State) -> None:
            for index, (_, shared) in enumerate(held):
                shared.reopen({name: state[f"{name}{index}"] for name in _Book._fields})

        return Attached(
            touched=tuple(weight.path for weight in selection.taken),
            skipped=selection.skipped,
            callbacks=(_LastWord(held),),
            detach=detach,
            state=state,
            restore=restore,
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
        shape = (1 if units is None else int(units.max()) + 1, len(centroids))
        members = np.bincount(entries.ravel(), minlength=shape[0] * shape[1])
        member = np.zeros(members.size, np.int32)
        member[entries.ravel()] = np.arange(entries.size)
        self._book = _Book(
            entries=tf.constant(entries.ravel(), tf.int32),
            members=tf.constant(members.reshape(shape), tf.float32),
            member=tf.constant(member.reshape(shape)),
            fixed=tf.constant(np.isin(centroids, pinned)),
            centroids=tf.constant(centroids, tf.float32),
            ends=tf.constant(np.where(np.abs(centroids) == 1.0, centroids, 0.0), tf.float32),
        )
        compiled = entries.size >= _COMPILED_FROM
        self._obeyed = _obeyed_compiled if compiled else _obeyed
        self._gradient = _gradient_compiled if compiled else _gradient

    def book(self) -> dict[str, np.ndarray]:
        """Who belongs to which cluster, as plain arrays."""
        return {name: np.asarray(values) for name, values in self._book._asdict().items()}

    def reopen(self, book: dict[str, np.ndarray]) -> None:
        """Takes such arrays, of weights of the same shape, in place of its own."""
        self._book = _Book(**{name: tf.constant(values) for name, values in book.items()})

    def apply(self, values: Any) -> Any:
        obeyed = self._obeyed(self._book, self._scaled, tf.reshape(values, [-1]))
        return tf.reshape(obeyed, values.shape)

    def together(self, values: Any) -> Any:
        """`values` as they are; in the backward pass a cluster learns as one.

        A weight is `scale * centroid`. What comes back is, for each weight, the share of its
        centroid's gradient, the sum over all members, or of its scale's, so that an
        optimizer moves all members alike.
        """

        @tf.custom_gradient
        def identity(values: Any) -> tuple[Any, Callable[[Any], Any]]:
            def gradient(upstream: Any) -> Any:
                # Of a lookup, `upstream` is sparse, and may not know its own shape.
                flat = [tf.reshape(each, [-1]) for each in (values, tf.convert_to_tensor(upstream))]
                return tf.reshape(self._gradient(self._book, self._scaled, *flat), values.shape)

            return tf.identity(values), gradient

        return identity(tf.convert_to_tensor(values))


class _Book(NamedTuple):
    """A codebook: a table of scales by clusters, and where each weight is in it.

    Attributes:
        entries: of each weight, the position of its entry in the flat table; (weights,).
        members: how many weights each entry has; (scales, n).
        member: the position of one of them; (scales, n).
        fixed: of each centroid, whether it stays; (n,).
        centroids: as they were in the beginning; (n,).
        ends: of each centroid, 1 or -1 if its weights are the largest of their scale, else 0;
            (n,).
    """

    entries: Any
    members: Any
    member: Any
    fixed: Any
    centroids: Any
    ends: Any


def _obeyed(book: _Book, scaled: bool, values: Any) -> Any:
    """Each weight as its cluster and its scale have it; (weights,)."""
    sums = _sums(book, values)
    scale = _scale(book, scaled, sums)
    centroids = _means(book, scaled, sums, scale)
    if scaled:
        centroids = _off_ties(centroids)
    return _spread(book, scale * tf.where(book.fixed, book.centroids, centroids), values)


def _gradient(book: _Book, scaled: bool, values: Any, upstream: Any) -> Any:
    """Each weight's share of the gradient; (weights,)."""
    given = _sums(book, upstream)
    # The hold has made them equal: one of each entry speaks for all.
    sums = book.members * tf.gather(tf.cast(values, tf.float32), book.member)
    scale = _scale(book, scaled, sums)
    made = tf.where(book.fixed, 0.0, tf.reduce_sum(given * scale, axis=0)) * scale
    if scaled:
        ratios = tf.where(book.fixed, book.centroids, _means(book, scaled, sums, scale))
        made += tf.reduce_sum(given * ratios, axis=1, keepdims=True) * book.ends
    return _spread(book, made, values)


def _sums(book: _Book, values: Any) -> Any:
    """The sum over each entry, (scales, n)."""
    # In float32, a sum of a million equal weights drifts by percents.
    wide = tf.cast(values, tf.float64)
    sums = tf.math.unsorted_segment_sum(wide, book.entries, math.prod(book.members.shape))
    return tf.cast(tf.reshape(sums, book.members.shape), tf.float32)


def _spread(book: _Book, table: Any, values: Any) -> Any:
    """The entry of each weight, in the dtype of `values`."""
    return tf.cast(tf.gather(tf.reshape(table, [-1]), book.entries), values.dtype)


def _scale(book: _Book, scaled: bool, sums: Any) -> Any:
    """Each scale as the weights at its ends have it, (scales, 1)."""
    if not scaled:
        return tf.ones((1, 1))
    number = tf.reduce_sum(book.members * tf.abs(book.ends), axis=1, keepdims=True)
    # An update may turn a small scale round; then it is gone.
    total = tf.maximum(tf.reduce_sum(sums * book.ends, axis=1, keepdims=True), 0.0)
    return total / tf.maximum(number, 1.0)


def _means(book: _Book, scaled: bool, sums: Any, scale: Any) -> Any:
    """Each centroid as its members have it, (n,)."""
    members = tf.maximum(tf.reduce_sum(book.members, axis=0), 1.0)
    means = tf.reduce_sum(tf.math.divide_no_nan(sums, scale), axis=0) / members
    return tf.clip_by_value(means, -1.0, 1.0) if scaled else means


# Compiled, it is one operation instead of a hundred small ones, and a third of the time of
# TensorFlow's kernels for scalars. Compiling takes a quarter of a second: small weights are not
# worth it.
_COMPILED_FROM = 16_384
_obeyed_compiled = tf.function(_obeyed, jit_compile=True)
_gradient_compiled = tf.function(_gradient, jit_compile=True)


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
