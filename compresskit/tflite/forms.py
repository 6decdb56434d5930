"""Layers written so that the converter makes the best of them.

Keras writes some layers in a way that costs ops that few devices have: an embedding that
counts negative ids from the end (LESS, SELECT), a normalization that negates (NEG stays
float in an integer file), an LSTM as a loop, the score of hidden tokens as -1e9. While a model
is traced for export, their calls are replaced by equal ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from compresskit.attention import attentions, hidden_scores, hide_at, written_out
from compresskit.errors import ModelError, Problem
from compresskit.graph import operations
from compresskit.inner import form, points
from compresskit.parametrize import hook, settle
from compresskit.ranges import place
from compresskit.tflite.recurrent import both_ways, fused, rescaled, reverse
from compresskit.weights import leaves

Form = Literal["fused", "unrolled", "while"]


@contextmanager
def lowered(
    model: keras.Model, lstm: Form, *, integer: bool, wide: bool = False, calibration: Any = None
) -> Iterator[None]:
    """Inside, the layers of a model are called in a form fit for export.

    An LSTM is called as `lstm` says. A GRU has no fused op: it is unrolled, unless `lstm`
    is `while`, which leaves every recurrent layer as Keras writes it.

    Args:
        integer: whether the file will compute in integers.
        wide: whether in those of 16 bits.
        calibration: representative inputs as the model takes them, for integers.
    """
    problems: list[Problem] = []
    own_scale = integer and _may_join(model)
    fuse = lstm == "fused" and any(isinstance(layer, layers.LSTM) for layer in leaves(model))
    with ExitStack() as stack:
        stack.enter_context(_telling(problems))
        for layer in leaves(model):
            if isinstance(layer, layers.LSTM) and fuse:
                call = fused(layer, problems, integer=integer, own_scale=own_scale)
                stack.callback(_replace(layer, call))
            elif isinstance(layer, layers.RNN) and lstm != "while":
                stack.callback(_unroll(layer))
            elif type(layer) is layers.Embedding and not layer.lora_enabled:
                stack.callback(_replace(layer, _lookup(layer)))
                if integer and fuse:
                    stack.callback(place(layer, "output", rescaled))
            elif points(layer):
                stack.callback(_replace(layer, form(layer, hook(layer).show, wide=wide)))
        if integer:
            for layer in model._flatten_layers():
                if type(layer) is layers.Bidirectional:
                    stack.callback(_replace(layer, both_ways(layer)))
            for operation in operations(model):
                if type(operation).__name__ == "Flip":
                    stack.callback(_replace(operation, _flip(operation)))
            # Those whose scores have no range yet.
            left = [layer for layer in attentions(model) if "_compute_attention" not in vars(layer)]
            scores = hidden_scores(model, calibration) if left else {}
            hide = {layer: hide_at(scores[id(layer)]) for layer in left if id(layer) in scores}
            stack.enter_context(written_out(hide))
        yield


@contextmanager
def _telling(problems: list[Problem]) -> Iterator[None]:
    """Raises what was taken down in place of what Keras made of it."""
    try:
        yield
    except Exception:
        if problems:
            raise ModelError(problems) from None
        raise


def _may_join(model: keras.Model) -> bool:
    """Whether tensors are concatenated somewhere, or somewhere that cannot be seen."""
    if any(isinstance(layer, layers.Bidirectional) for layer in model._flatten_layers()):
        return True
    joined = any(type(operation).__name__ == "Concatenate" for operation in operations(model))
    return joined or not hasattr(model, "operations")


def _replace(layer: Any, call: Callable[..., Any]) -> Callable[[], None]:
    target = hook(layer)
    before = target.call
    target.call = call

    def undo() -> None:
        target.call = before
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


def _flip(operation: Any) -> Callable[..., Any]:
    def call(values: Any) -> Any:
        axes = range(len(values.shape)) if operation.axis is None else np.atleast_1d(operation.axis)
        for axis in axes:
            values = reverse(values, int(axis), integer=True)
        return values

    return call
