"""Values that weights share while it is still learned who shares which.

Each weight goes on learning by its own gradient, and is read as the shared value nearest to it.
Each value is the mean of the weights that are read as it: every update is followed by one step
of k-means.

Sources: k-means as alternating steps: S. Lloyd, "Least squares quantization in PCM", 1982; a
rounded weight whose gradient passes to the float behind it: M. Courbariaux et al., "BinaryConnect",
2015, https://arxiv.org/abs/1511.00363.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np
import tensorflow as tf

from compresskit.holds import Hold
from compresskit.methods.grids import Scales
from compresskit.methods.shared_values import COMPILED_FROM, off_ties


@final
class LearnedValues(Hold):
    """Finds after each update which weights share a value; `read` is what a layer sees of them.

    The variable itself keeps the weights as they learn, until `settled` takes their place.

    Args:
        values: the weights as they are; zeros among them stay zeros.
        books: of each unit, the values to begin with, in ascending order.
        pinned: values that do not learn.
        units: which parts of the weights have a book of their own.
        scales: which parts are divided by their largest weight before they are compared with a
            book, or None.
    """

    def __init__(
        self,
        values: np.ndarray,
        books: Sequence[np.ndarray],
        pinned: tuple[float, ...],
        units: Scales,
        scales: Scales | None = None,
    ):
        self._scales = scales
        parts, axes = units.split(values)
        # Weights in parts of which some axes lie within a unit, and one number for each unit
        # in a shape that stands beside them.
        self._parts = tuple(parts.shape)
        self._beside = [1 if axis in axes else size for axis, size in enumerate(parts.shape)]
        # Replicas find the same.
        same = {"trainable": False, "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA}
        # Behind the last value of a shorter book, where no weight is near.
        table = np.full((len(books), max(map(len, books))), np.inf, np.float32)
        for row, book in zip(table, books, strict=True):
            row[: len(book)] = book
        self.books = tf.Variable(table, dtype=tf.float32, name="books", **same)
        # Each weight as the value that it shares: a step reads it more often than it changes.
        self.shared = tf.Variable(values, dtype=tf.float32, name="shared", **same)
        self._fixed = tf.constant(np.isin(table, pinned))
        self._zeros = tf.constant(values == 0)
        compiled = values.size >= COMPILED_FROM
        # Compiled, the comparisons with all values of a book are one pass over the weights.
        self._found = tf.function(self._find, jit_compile=True) if compiled else self._find

    def state(self) -> dict[str, np.ndarray]:
        """The shared values, who shares which, and what stays as it is, as plain arrays."""
        return {
            "books": self.books.numpy(),
            "shared": self.shared.numpy(),
            "fixed": self._fixed.numpy(),
            "zeros": self._zeros.numpy(),
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Takes such arrays, of weights of the same shape, in place of its own."""
        self.books.assign(state["books"])
        self.shared.assign(state["shared"])
        self._fixed = tf.constant(state["fixed"])
        self._zeros = tf.constant(state["zeros"])

    def apply(self, values: Any) -> Any:
        values = tf.where(self._zeros, tf.zeros_like(values), values)
        books, shared = self._found(tf.cast(values, tf.float32), self.books, self._fixed)
        self.books.assign(books)
        self.shared.assign(shared)
        return values

    def distance(self, values: Any) -> float:
        shared = tf.convert_to_tensor(self.shared)
        if self._scales is not None:
            values, shared = self._scales.divide(values)[0], self._scales.divide(shared)[0]
        clusters = self._nearest(self._split(shared), self.books)
        found = self._means(self._split(values), clusters, self.books, self._fixed)
        moved = tf.where(tf.math.is_finite(found), tf.abs(found - self.books), 0.0)
        return float(tf.reduce_max(moved) / tf.reduce_max(tf.abs(values)))

    def read(self, values: Any) -> Any:
        """`values` as layers see them, each as the value that it shares; the gradient passes."""

        @tf.custom_gradient
        def shared(values: Any) -> tuple[Any, Callable[[Any], Any]]:
            return self.settled(values), lambda upstream: upstream

        return shared(tf.convert_to_tensor(values))

    def settled(self, values: Any) -> Any:
        """Each weight as the value that it shares; the shape and dtype of `values`."""
        return tf.cast(self.shared, values.dtype)

    def _find(self, values: Any, books: Any, fixed: Any) -> tuple[Any, Any]:
        """One step of k-means: the new books, and each weight as the value that it shares."""
        scaled, largest = values, None
        if self._scales is not None:
            scaled, largest = self._scales.divide(values)
        parts = self._split(scaled)
        clusters = self._nearest(parts, books)
        # Between its middles a mean stays: the books remain in order.
        means = self._means(parts, clusters, books, fixed)
        # Choosing between neighbours is one pass over the weights; looking up is slower.
        shared = tf.broadcast_to(tf.reshape(means[:, 0], self._beside), parts.shape)
        for index in range(1, means.shape[1]):
            value = tf.reshape(means[:, index], self._beside)
            shared = tf.where(clusters >= index, value, shared)
        shared = tf.reshape(shared, values.shape)
        if self._scales is not None:
            shared = tf.reshape(self._scales.split(shared)[0] * largest, values.shape)
        return means, shared

    def _nearest(self, parts: Any, books: Any) -> Any:
        """The index of the value of its book that each weight is nearest to, int32."""
        middles = (books[:, 1:] + books[:, :-1]) / 2
        clusters = tf.zeros(parts.shape, tf.int32)
        for index in range(middles.shape[1]):
            clusters += tf.cast(parts > tf.reshape(middles[:, index], self._beside), tf.int32)
        return clusters

    def _means(self, parts: Any, clusters: Any, books: Any, fixed: Any) -> Any:
        """Each value as the mean of its members, (units, n); itself if it has none."""
        size = books.shape[0] * books.shape[1]
        entries = tf.reshape(clusters + self._first(), [-1])
        # In float32, a sum of a million weights drifts by percents.
        wide = tf.cast(tf.reshape(parts, [-1]), tf.float64)
        sums = tf.math.unsorted_segment_sum(wide, entries, size)
        members = tf.math.unsorted_segment_sum(tf.ones_like(wide), entries, size)
        means = tf.reshape(tf.cast(tf.math.divide_no_nan(sums, members), tf.float32), books.shape)
        if self._scales is not None:
            means = off_ties(means)
        known = tf.reshape(members > 0, books.shape) & tf.math.is_finite(means) & ~fixed
        return tf.where(known, means, books)

    def _split(self, values: Any) -> Any:
        return tf.reshape(values, self._parts)

    def _first(self) -> Any:
        """Where the book of each unit begins in one table of all books."""
        units, count = self.books.shape
        return tf.reshape(tf.range(units) * count, self._beside)
