"""Activation ranges: where an integer graph rounds its activations, and over what range.

A range is plain data. Training learns it, export puts it into the graph as a constant,
and it can be stored beside a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from compresskit.graph import operations
from compresskit.parametrize import hook, settle

# What is rounded: the model's inputs; the tensor between the halves of a separable
# convolution; what goes into a layer's own activation function; what an operation gives.
Place = Literal["input", "inside", "activation", "output"]


@dataclass(frozen=True, kw_only=True)
class Range:
    """The range of one activation.

    Attributes:
        operation: position in `graph.operations(model)`, or None for the model itself.
        name: the operation's name, for people.
        place: where at the operation.
        low, high: the range, zero inside it.
        bits: of the integer that holds the activation.
    """

    operation: int | None
    name: str
    place: Place
    low: float
    high: float
    bits: int


def place(operation: Any, where: Place, transform: Callable[[Any], Any]) -> Callable[[], None]:
    """Puts a transform at a place of an operation.

    Returns:
        A function that takes it away again.
    """
    target = hook(operation)
    transforms = target.inputs if where == "input" else target.outputs
    if where in ("input", "output"):
        transforms.append(transform)
    elif where == "activation":
        target.activation = lambda original: lambda values: original(transform(values))
    else:
        target.call = _separable_in_two(operation, transform)

    def undo() -> None:
        if where in ("input", "output"):
            transforms.remove(transform)
        elif where == "activation":
            target.activation = None
        else:
            target.call = target.original
        settle(operation)

    return undo


@contextmanager
def applied(model: keras.Model, ranges: Sequence[Range]) -> Iterator[None]:
    """Inside, the model rounds its activations over constant ranges."""
    known = list(operations(model))
    with ExitStack() as stack:
        for each in ranges:
            operation = model if each.operation is None else known[each.operation]
            stack.callback(place(operation, each.place, _constant(each)))
        yield


def _constant(each: Range) -> Callable[[Any], Any]:
    low, high = np.float32(each.low), np.float32(each.high)

    def fake_quant(values: Any) -> Any:
        # The op that training used: its twin that takes attributes rounds ties otherwise.
        rounded = tf.quantization.fake_quant_with_min_max_vars(
            tf.cast(values, tf.float32), tf.constant(low), tf.constant(high), num_bits=each.bits
        )
        return tf.cast(rounded, values.dtype)

    return fake_quant


def _separable_in_two(layer: Any, transform: Callable[[Any], Any]) -> Callable[..., Any]:
    """The call of a separable convolution that shows the tensor between its halves."""

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
            transform(values), layer.pointwise_kernel, data_format=layer.data_format
        )
        if layer.use_bias:
            shape = [1] * len(values.shape)
            shape[-1 if layer.data_format == "channels_last" else 1] = layer.filters
            values = values + keras.ops.reshape(layer.bias, shape)
        return values if layer.activation is None else layer.activation(values)

    return call
