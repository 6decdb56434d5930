"""Layers written so that the converter makes the best of them.

Keras writes some layers in a way that costs ops that few devices have: an embedding that
counts negative ids from the end (LESS, SELECT), a normalization that negates (NEG stays
float in an integer file), an LSTM as a loop. While a model is traced for export, their
calls are replaced by equal ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import keras
import tensorflow as tf
from keras import layers

from compresskit.graph import operations
from compresskit.parametrize import hook, settle
from compresskit.tflite.recurrent import fused
from compresskit.weights import leaves

Form = Literal["fused", "unrolled", "while"]


@contextmanager
def lowered(model: keras.Model, lstm: Form, *, integer: bool) -> Iterator[None]:
    """Inside, the layers of a model are called in a form fit for export.

    An LSTM is called as `lstm` says. A GRU has no fused op: it is unrolled, unless `lstm`
    is `while`, which leaves every recurrent layer as Keras writes it.

    Args:
        integer: whether the file will compute in integers.
    """
    own_scale = integer and _may_join(model)
    with ExitStack() as stack:
        for layer in leaves(model):
            if isinstance(layer, layers.LSTM) and lstm == "fused":
                stack.callback(_replace(layer, fused(layer, own_scale=own_scale)))
            elif isinstance(layer, layers.RNN) and lstm != "while":
                stack.callback(_unroll(layer))
            elif type(layer) is layers.Embedding and not layer.lora_enabled:
                stack.callback(_replace(layer, _lookup(layer)))
            elif type(layer) is layers.LayerNormalization and not layer.rms_scaling:
                stack.callback(_replace(layer, _normalize(layer)))
        yield


def _may_join(model: keras.Model) -> bool:
    """Whether tensors are concatenated somewhere, or somewhere that cannot be seen."""
    if any(isinstance(layer, layers.Bidirectional) for layer in model._flatten_layers()):
        return True
    joined = any(type(operation).__name__ == "Concatenate" for operation in operations(model))
    return joined or not hasattr(model, "operations")


def _replace(layer: Any, call: Callable[..., Any]) -> Callable[[], None]:
    target = hook(layer)
    target.call = call

    def undo() -> None:
        target.call = target.original
        settle(layer)

    return undo


def _unroll(layer: Any) -> Callable[[], None]:
    before = layer.unroll
    layer.unroll = True

    def undo() -> None:
        layer.unroll = before

    return undo


def _lookup(layer: Any) -> Callable[..., Any]:
    return lambda inputs: tf.gather(layer.embeddings.value, tf.cast(inputs, tf.int32))


def _normalize(layer: Any) -> Callable[..., Any]:
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]

    def call(inputs: Any) -> Any:
        shape = [size if axis in _positive(axes, inputs) else 1 for axis, size in _sizes(inputs)]
        centred = inputs - tf.reduce_mean(inputs, axis=axes, keepdims=True)
        variance = tf.reduce_mean(tf.square(centred), axis=axes, keepdims=True)
        outputs = centred * tf.math.rsqrt(variance + layer.epsilon)
        if layer.scale:
            outputs = outputs * tf.reshape(layer.gamma.value, shape)
        if layer.center:
            outputs = outputs + tf.reshape(layer.beta.value, shape)
        return outputs

    return call


def _positive(axes: Any, inputs: Any) -> set[int]:
    return {axis % len(inputs.shape) for axis in axes}


def _sizes(inputs: Any) -> list[tuple[int, int]]:
    return list(enumerate(inputs.shape))
