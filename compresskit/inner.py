"""Layers written out, so that the tensors which an integer file rounds inside them can be seen.

Keras computes some layers in one piece where an integer file computes several ops and
rounds between them. Each form here is numerically equal to the layer's own call and hands
every tensor in between to `show`, by name, before it goes on with what `show` returns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import layers

Show = Callable[[str, Any], Any]


def _normalization(layer: Any, show: Show, *, wide: bool = False) -> Callable[..., Any]:
    given = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]

    def call(inputs: Any) -> Any:
        rank = len(inputs.shape)
        axes = sorted(axis % rank for axis in given)
        shape = [inputs.shape[axis] if axis in axes else 1 for axis in range(rank)]
        # Keras normalizes in float32, whatever the policy.
        inputs = tf.cast(inputs, tf.float32)
        mean = show("mean", tf.reduce_mean(inputs, axis=axes, keepdims=True))
        # Of 16 bits there is no kernel for the difference and its square in one.
        squares = _square_of_difference if wide else tf.math.squared_difference
        squared = show("squared", squares(inputs, mean))
        variance = show("variance", tf.reduce_mean(squared, axis=axes, keepdims=True))
        inverse = show("inverse", tf.math.rsqrt(show(POSITIVE, variance + layer.epsilon)))
        outputs = show("centred", inputs - mean) * inverse
        if layer.scale or layer.center:
            outputs = show("normalized", outputs)
        if layer.scale:
            outputs = outputs * tf.reshape(tf.cast(layer.gamma, tf.float32), shape)
        if layer.center:
            # Without a shift, the output itself is what is rounded.
            outputs = show("scaled", outputs) if layer.scale else outputs
            outputs = outputs + tf.reshape(tf.cast(layer.beta, tf.float32), shape)
        return tf.cast(outputs, layer.compute_dtype)

    return call


def _square_of_difference(one: Any, other: Any) -> Any:
    difference = one - other
    return difference * difference


def _separable(layer: Any, show: Show) -> Callable[..., Any]:
    def call(inputs: Any) -> Any:
        values = keras.ops.depthwise_conv(
            inputs,
            layer.depthwise_kernel,
            strides=layer.strides,
            padding=layer.padding,
            data_format=layer.data_format,
            dilation_rate=layer.dilation_rate,
        )
        values = keras.ops.conv(
            show("depthwise", values), layer.pointwise_kernel, data_format=layer.data_format
        )
        if layer.use_bias:
            shape = [1] * len(values.shape)
            shape[-1 if layer.data_format == "channels_last" else 1] = layer.filters
            values = values + keras.ops.reshape(layer.bias, shape)
        return values if layer.activation is None else layer.activation(values)

    return call


# An integer kernel takes the reciprocal root of zero for that of its smallest step. Whoever rounds
# this tensor in floats does as well, or divides by zero.
POSITIVE = "shifted"
_NORMALIZATION = ("mean", "squared", "variance", POSITIVE, "inverse", "centred", "normalized")


def points(layer: Any) -> tuple[str, ...]:
    """The names of what a layer's form shows; empty for a layer that has none."""
    if type(layer) in (layers.SeparableConv1D, layers.SeparableConv2D):
        return ("depthwise",)
    if type(layer) is layers.LayerNormalization and not getattr(layer, "rms_scaling", False):
        shown = _NORMALIZATION if layer.scale or layer.center else _NORMALIZATION[:-1]
        return (*shown, "scaled") if layer.scale and layer.center else shown
    return ()


def form(layer: Any, show: Show, *, wide: bool = False) -> Callable[..., Any]:
    """The call of a layer that has points, written out.

    Args:
        wide: whether it is for kernels of 16 bits.
    """
    if isinstance(layer, layers.LayerNormalization):
        return _normalization(layer, show, wide=wide)
    return _separable(layer, show)
