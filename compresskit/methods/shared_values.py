"""Values that weights share for good: who shares one stays as it is, and the values learn.

Source: S. Han et al., "Deep Compression", 2015, https://arxiv.org/abs/1510.00149.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, final

import numpy as np
import tensorflow as tf

from compresskit.holds import Hold


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
        compiled = entries.size >= COMPILED_FROM
        self._obeyed = _obeyed_compiled if compiled else _obeyed
        self._gradient = _gradient_compiled if compiled else _gradient

    def state(self) -> dict[str, np.ndarray]:
        """Who belongs to which cluster, as plain arrays."""
        return {name: np.asarray(values) for name, values in self._book._asdict().items()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Takes such arrays, of weights of the same shape, in place of its own."""
        self._book = _Book(**{name: tf.constant(values) for name, values in state.items()})

    def apply(self, values: Any) -> Any:
        obeyed = self._obeyed(self._book, self._scaled, tf.reshape(values, [-1]))
        return tf.reshape(obeyed, values.shape)

    def read(self, values: Any) -> Any:
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
        centroids = off_ties(centroids)
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
COMPILED_FROM = 16_384
_obeyed_compiled = tf.function(_obeyed, jit_compile=True)
_gradient_compiled = tf.function(_gradient, jit_compile=True)


def off_ties(centroids: Any) -> Any:
    """Centroids moved a hair off the middle between two levels of 2 to 8 bits.

    There, `scale * centroid / scale` may round up in one channel and down in the next.
    """
    for bits in range(2, 9):
        levels = float(2 ** (bits - 1) - 1)
        rest = tf.math.floormod(centroids * levels, 1.0)
        tied = tf.abs(rest - 0.5) < 1e-3
        centroids += tf.where(tied, 2e-3 / levels, 0.0)
    return centroids
