"""Values that weights share while it is still learned who shares which.

Each weight goes on learning by its own gradient, and is read as the shared value nearest to it,
which every update finds anew. Each value is the mean of the weights that are read as it, as they
are at every fourth update: the two halves of k-means, in turn with the steps of the optimizer.

Sources: k-means as alternating steps: S. Lloyd, "Least squares quantization in PCM", 1982; a
rounded weight whose gradient passes to the float behind it: M. Courbariaux et al., "BinaryConnect",
2015, https://arxiv.org/abs/1511.00363.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, final

import numpy as np
import tensorflow as tf

from compresskit.holds import Hold
from compresskit.methods.grids import Scales
from compresskit.methods.shared_values import off_ties

# Means of thousands of weights move slowly, and sums are most of the time that a step takes.
MEANS_EVERY = 4


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
        parts, axes = units.split(values)
        self._found = _compiled(
            _Layout(
                parts=tuple(parts.shape),
                beside=tuple(1 if axis in axes else size for axis, size in enumerate(parts.shape)),
                scales=scales,
            )
        )
        # Replicas find the same.
        same = {"trainable": False, "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA}
        # Behind the last value of a shorter book, where no weight is near.
        table = np.full((len(books), max(map(len, books))), np.inf, np.float32)
        for row, book in zip(table, books, strict=True):
            row[: len(book)] = book
        self.books = tf.Variable(table, dtype=tf.float32, name="books", **same)
        # Each weight as the value that it shares: a step reads it more often than it changes.
        self.shared = tf.Variable(values, dtype=tf.float32, name="shared", **same)
        self.updates = tf.Variable(0, dtype=tf.int32, name="updates", **same)
        self._fixed = tf.constant(np.isin(table, pinned))
        self._zeros = tf.constant(values == 0)

    def state(self) -> dict[str, np.ndarray]:
        """The shared values, who shares which, and what stays as it is, as plain arrays."""
        return {
            "books": self.books.numpy(),
            "shared": self.shared.numpy(),
            "updates": self.updates.numpy(),
            "fixed": self._fixed.numpy(),
            "zeros": self._zeros.numpy(),
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Takes such arrays, of weights of the same shape, in place of its own."""
        self.books.assign(state["books"])
        self.shared.assign(state["shared"])
        self.updates.assign(state["updates"])
        self._fixed = tf.constant(state["fixed"])
        self._zeros = tf.constant(state["zeros"])

    def apply(self, values: Any) -> Any:
        values = tf.where(self._zeros, tf.zeros_like(values), values)
        due = tf.equal(self.updates % MEANS_EVERY, 0)
        books, shared = self._found(tf.cast(values, tf.float32), self.books, self._fixed, due)
        self.books.assign(books)
        self.shared.assign(shared)
        self.updates.assign_add(1)
        return values

    def distance(self, values: Any) -> float:
        values = tf.where(self._zeros, tf.zeros_like(values), values)
        wide = tf.cast(values, tf.float32)
        _, shared = self._found(wide, self.books, self._fixed, tf.constant(False))
        moved = tf.reduce_max(tf.abs(shared - self.shared))
        return float(tf.math.divide_no_nan(moved, tf.reduce_max(tf.abs(wide))))

    def read(self, values: Any) -> Any:
        """`values` as layers see them, each as the value that it shares; the gradient passes."""

        @tf.custom_gradient
        def shared(values: Any) -> tuple[Any, Callable[[Any], Any]]:
            return self.settled(values), lambda upstream: upstream

        return shared(tf.convert_to_tensor(values))

    def settled(self, values: Any) -> Any:
        """Each weight as the value that it shares; the shape and dtype of `values`."""
        return tf.cast(self.shared, values.dtype)


class _Layout(NamedTuple):
    """Which weights have a book of their own.

    Attributes:
        parts: a shape of the weights in which some axes lie within a unit.
        beside: the shape of one number for each unit that stands beside `parts`.
        scales: what the weights are divided by before they are compared, or None.
    """

    parts: tuple[int, ...]
    beside: tuple[int, ...]
    scales: Scales | None


@functools.cache
def _compiled(layout: _Layout) -> Any:
    """`_find` of that layout as one operation, which weights of one layout share.

    Also of small weights, where a hundred small operations take longer; to compile takes a quarter
    of a second. `hold` calls it first outside of a step: where it was first called within one, a
    step of BERT took a tenth longer (measured, the cause is not known).
    """
    return tf.function(functools.partial(_find, layout), jit_compile=True)


def _find(layout: _Layout, values: Any, books: Any, fixed: Any, due: Any) -> tuple[Any, Any]:
    """The books, with new means if they are due, and each weight as the value that it shares.

    Args:
        values: float32, any shape.
        books: float32, (units, n).
        fixed: which values do not learn; bool, (units, n).
        due: bool, a scalar.
    """
    scaled, largest = values, None
    if layout.scales is not None:
        scaled, largest = layout.scales.divide(values)
    parts = tf.reshape(scaled, layout.parts)

    def means() -> Any:
        return _means(layout, parts, books, fixed)

    # Between its middles a mean stays: the books remain in order.
    books = tf.cond(due, means, lambda: tf.identity(books))
    # Choosing between neighbours is one pass over the weights; looking up is slower.
    shared = tf.broadcast_to(tf.reshape(books[:, 0], layout.beside), parts.shape)
    for index, middle in enumerate(_middles(layout, books), start=1):
        shared = tf.where(parts > middle, tf.reshape(books[:, index], layout.beside), shared)
    shared = tf.reshape(shared, values.shape)
    if layout.scales is not None:
        shared = tf.reshape(layout.scales.split(shared)[0] * largest, values.shape)
    return books, shared


def _middles(layout: _Layout, books: Any) -> list[Any]:
    """Between which two values a weight is nearer to the higher one."""
    middles = (books[:, 1:] + books[:, :-1]) / 2
    return [tf.reshape(middles[:, i], layout.beside) for i in range(middles.shape[1])]


def _means(layout: _Layout, parts: Any, books: Any, fixed: Any) -> Any:
    """Each value as the mean of the weights nearest to it, (units, n); itself if there are none."""
    units, count = books.shape
    entries = tf.broadcast_to(tf.reshape(tf.range(units) * count, layout.beside), parts.shape)
    for middle in _middles(layout, books):
        entries += tf.cast(parts > middle, tf.int32)
    entries = tf.reshape(entries, [-1])
    # In float32, a sum of a million weights drifts by percents.
    wide = tf.cast(tf.reshape(parts, [-1]), tf.float64)
    sums = tf.math.unsorted_segment_sum(wide, entries, units * count)
    members = tf.math.unsorted_segment_sum(tf.ones_like(wide), entries, units * count)
    means = tf.reshape(tf.cast(tf.math.divide_no_nan(sums, members), tf.float32), books.shape)
    if layout.scales is not None:
        means = off_ties(means)
    known = tf.reshape(members > 0, books.shape) & tf.math.is_finite(means) & ~fixed
    return tf.where(known, means, books)
