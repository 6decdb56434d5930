"""Rounding to the integer grid in the forward pass, straight through in the backward pass.

Weights: symmetric, one scale for each output channel (or for the whole tensor), the
largest absolute value at 127. Activations: asymmetric over a range, as int8 kernels
compute. Straight-through estimator: Bengio et al., 2013, https://arxiv.org/abs/1308.3432;
the scheme: Jacob et al., 2018, https://arxiv.org/abs/1712.05877.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import tensorflow as tf

from compresskit.methods.grids import Scales

INT8_MAX = 127


def fake_quant_weight(values: Any, axes: Sequence[int], bits: int, stored: int = 8) -> Any:
    """`values` rounded to the grid that an integer kernel will hold them on.

    With fewer bits than are stored the levels are still points of the stored grid: for int8
    level `k` of `-K..K` becomes the integer `round(k * 127 / K)`. So the file holds exactly
    what training saw, with at most `2 ** bits - 1` distinct values in a channel.

    A scale has as many digits as a bfloat16, which the file then holds in two bytes that are
    not zero; a channel of weights is at most 0.4 % larger or smaller for it.

    Args:
        values: float tensor of any shape.
        axes: those that one scale spans.
        bits: 2 to 8.
        stored: bits of the integers in the file; if they are fewer, they are what counts.

    Returns:
        A tensor of the same shape and dtype; its gradient is that of the identity.
    """
    largest = tf.reduce_max(tf.abs(values), axis=axes, keepdims=True)
    # A channel of zeros has no scale; any will do.
    largest = tf.where(largest > 0, largest, tf.ones_like(largest))
    levels, points = (2 ** (min(bits, stored) - 1) - 1, 2 ** (stored - 1) - 1)
    rounded = tf.round(values / largest * levels)
    if levels < points:
        rounded = tf.round(rounded * (points / levels))
    quantized = rounded * tf.cast(_coarse(largest / points), values.dtype)
    return values + tf.stop_gradient(quantized - values)


def _coarse(scale: Any) -> Any:
    # 127 times such a scale is a float32 without rounding: the converter finds it again.
    return tf.cast(tf.cast(scale, tf.bfloat16), tf.float32)


def weight_transform(scales: Scales, bits: int) -> Callable[[Any], Any]:
    """`fake_quant_weight` as a parametrization."""

    def transform(values: Any) -> Any:
        parts, axes = scales.split(values)
        return tf.reshape(fake_quant_weight(parts, axes, bits, scales.bits), values.shape)

    return transform


@final
class ActivationRange:
    """The range of an activation: a moving average in training, constant afterwards.

    Attributes:
        bits: of the integer that holds the activation.
        fixed: a range that the kernel dictates, as softmax's [0, 255/256]; never learned.
        positive: whether zero is taken for one step.
    """

    def __init__(
        self,
        name: str,
        *,
        observing: Any,
        bits: int = 8,
        decay: float = 0.99,
        fixed: tuple[float, float] | None = None,
        positive: bool = False,
    ):
        self.bits = bits
        self.positive = positive
        self.decay = decay
        self.fixed = fixed
        self.observing = observing
        low, high = fixed or (0.0, 0.0)
        # Plain TensorFlow variables: inside the stateless scope of a hooked layer, where
        # an activation function runs, what is assigned to a Keras variable is dropped.
        # Replicas assign the same value: what all of them have seen.
        same = {"aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA}
        self.low = tf.Variable(low, trainable=False, dtype=tf.float32, name=f"{name}_low", **same)
        self.high = tf.Variable(
            high, trainable=False, dtype=tf.float32, name=f"{name}_high", **same
        )

    def __call__(self, values: Any) -> Any:
        if self.fixed is None:
            self._observe(values)
        rounded = fake_quant_activation(values, self.low, self.high, self.bits)
        if self.positive:
            step = (self.high - self.low) / (2**self.bits - 1)
            rounded = tf.maximum(rounded, tf.cast(step, rounded.dtype))
        return rounded

    def _observe(self, values: Any) -> None:
        values = tf.reshape(tf.stop_gradient(tf.cast(values, tf.float32)), [-1])
        before = tf.stack([self.low, self.high])
        decay = tf.constant([self.decay, 1.0 - self.decay])
        if tf.distribute.has_strategy():
            # Replicas cannot meet inside a function or a branch, not even one with itself.
            moved = _moved(before, _on_all_replicas(_extremes(values)), decay)
            moved = tf.where(self.observing, moved, before)
        else:
            moved = _observed(values, before, decay, self.observing)
        low, high = tf.unstack(moved)
        self.low.assign(low)
        self.high.assign(high)

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest value as they stand."""
        return float(self.low.numpy()), float(self.high.numpy())


# Traced once for all ranges of a process: to trace it for each takes longer than a short training.
@tf.function(
    autograph=False,
    input_signature=[
        tf.TensorSpec([None], tf.float32),
        tf.TensorSpec([2], tf.float32),
        tf.TensorSpec([2], tf.float32),
        tf.TensorSpec([], tf.bool),
    ],
)
def _observed(values: Any, before: Any, decay: Any, observing: Any) -> Any:
    """A range, lowest and highest value, after it has seen `values` if it is observing."""
    return tf.cond(
        observing, lambda: _moved(before, _extremes(values), decay), lambda: tf.identity(before)
    )


def _extremes(values: Any) -> Any:
    # Zero is always inside: padding and ReLU need it to be a point of the grid.
    return tf.stack(
        [tf.minimum(tf.reduce_min(values), 0.0), tf.maximum(tf.reduce_max(values), 0.0)]
    )


def _moved(before: Any, seen: Any, decay: Any) -> Any:
    # The first batch sets the range; an average from zero would clip for long.
    moved = before * decay[0] + seen * decay[1]
    return tf.where(tf.equal(before, 0.0), seen, moved)


def _on_all_replicas(seen: Any) -> Any:
    """The lowest and the highest value of a whole batch, of which a replica has a part."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return seen
    # There is no reduction by the largest: each replica fills in its own row of a sum.
    mine = tf.one_hot(context.replica_id_in_sync_group, context.num_replicas_in_sync)
    every = context.all_reduce(tf.distribute.ReduceOp.SUM, mine[:, None] * seen[None])
    return tf.stack([tf.reduce_min(every[:, 0]), tf.reduce_max(every[:, 1])])


def fake_quant_activation(values: Any, low: Any, high: Any, bits: int = 8) -> Any:
    """`values` rounded to `2 ** bits` steps over [low, high], clipped outside.

    The op is one that the converter knows: in an exported graph it says which scale and
    zero point a tensor has.
    """
    dtype = values.dtype
    # The op divides by the width: a tensor that is always zero has none.
    high = tf.maximum(high, low + 1e-6)
    values = tf.quantization.fake_quant_with_min_max_vars(
        tf.cast(values, tf.float32), low, high, num_bits=bits
    )
    return tf.cast(values, dtype)
