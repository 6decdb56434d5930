"""Rebuilds a model for deployment: batch 1, static shapes, every value a constant.

The model's own call is traced with each of its variables read as a constant. What comes
out has no variables at all, so nothing can be left in the file as a resource, and
dropout, being idle at inference, is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from compresskit.graph import Made, recording
from compresskit.labels import signature_name
from compresskit.outputs import output_names
from compresskit.parametrize import in_float32, reading
from compresskit.ranges import Range, applied
from compresskit.samples import Samples, count, each, take
from compresskit.tflite.forms import Form, lowered


def frozen(
    model: keras.Model,
    sample: Any,
    ranges: Sequence[Range] = (),
    lstm: Form = "fused",
    *,
    integer: bool = False,
    wide: bool = False,
    calibration: Any = None,
    upto: int | None = None,
) -> Any:
    """The concrete function of the model at inference.

    Args:
        sample: a batch of inputs as the model takes them; its shapes but the first
            dimension become the static shapes.
        ranges: activation ranges that are put into the graph as fake-quant ops.
        lstm: in which form recurrent layers are written.
        integer: whether the file will compute in integers.
        wide: whether in those of 16 bits.
        calibration: representative inputs, for integers; the sample if there are none.
        upto: the outputs are what the first so many calls of operations leave for others,
            instead of the model's own.
    """
    flat = [np.asarray(value) for value in keras.tree.flatten(sample)]
    names = _input_names(model, sample, len(flat))
    specs = [
        tf.TensorSpec((1, *value.shape[1:]), _input_dtype(value), name=name)
        for value, name in zip(flat, names, strict=True)
    ]
    constants = [(variable, variable.numpy()) for variable in model.variables]

    def call(*inputs: Any) -> Any:
        mapping = [(variable, tf.constant(value)) for variable, value in constants]
        given = keras.tree.pack_sequence_as(sample, list(inputs))
        if upto is not None:
            with reading(mapping, ()), recording(model) as calls:
                model(given, training=False)
            return _left_over(calls[:upto])
        with reading(mapping, ()):
            outputs = model(given, training=False)
        flat_outputs = keras.tree.flatten(outputs)
        if len(flat_outputs) == 1:
            return {"output_0": flat_outputs[0]}
        # Several come out in any order: by their names they are found again.
        names = [signature_name(name) for name in output_names(model, outputs)]
        return dict(zip(names, flat_outputs, strict=True))

    with (
        in_float32(model),
        applied(model, ranges, export=True),
        lowered(
            model,
            lstm,
            integer=integer,
            wide=wide,
            calibration=sample if calibration is None else calibration,
        ),
    ):
        return tf.function(call, autograph=False).get_concrete_function(*specs)


def lower(
    model: keras.Model,
    sample: Any,
    folder: Path,
    ranges: Sequence[Range] = (),
    lstm: Form = "fused",
    *,
    integer: bool = False,
    wide: bool = False,
    calibration: Any = None,
    upto: int | None = None,
) -> list[str]:
    """Writes the frozen model as a SavedModel with the signature `serving_default`.

    Returns:
        The names of its inputs, in the order of the sample's flat structure.
    """
    function = frozen(
        model,
        sample,
        ranges,
        lstm,
        integer=integer,
        wide=wide,
        calibration=calibration,
        upto=upto,
    )
    module = tf.Module()
    module.function = function
    tf.saved_model.save(module, str(folder), signatures={"serving_default": function})
    return [spec.name for spec in function.structured_input_signature[0]]


def predictions(
    model: keras.Model,
    inputs: Samples,
    ranges: Sequence[Range] = (),
    *,
    output: int = 0,
    batch_size: int = 256,
) -> np.ndarray:
    """What the model answers at inference, with its activations rounded over `ranges`.

    This is the fake-quantized Keras model that a file is compared with.

    Args:
        output: which of several, in their flat order.
    """

    def call(batch: Any) -> Any:
        return model(batch, training=False)

    spec = each(inputs, lambda array: tf.TensorSpec((None, *array.shape[1:]), array.dtype))
    with in_float32(model), applied(model, ranges):
        starts = range(0, count(inputs), batch_size)
        # To trace a model takes longer than to run it once.
        function = call
        if len(starts) > 1:
            function = tf.function(call, autograph=False).get_concrete_function(spec)
        batches = [take(inputs, slice(start, start + batch_size)) for start in starts]
        parts = [function(each(batch, tf.constant)) for batch in batches]
    return np.concatenate([np.asarray(keras.tree.flatten(part)[output]) for part in parts])


def _left_over(calls: Sequence[Made]) -> dict[str, Any]:
    """The tensors that some calls make and none of them reads."""
    read = {id(value) for call in calls for value in call.given}
    left = [value for call in calls for value in call.made if id(value) not in read]
    return {f"output_{index}": value for index, value in enumerate(left)}


def _input_names(model: keras.Model, sample: Any, number: int) -> list[str]:
    if isinstance(sample, dict):
        return sorted(sample)  # the order in which a structure is flattened
    try:
        names = [tensor.name.split(":")[0].replace("/", "_") for tensor in model.inputs]
    except (AttributeError, ValueError):  # a subclassed model has no symbolic inputs
        names = []
    return names if len(names) == number else [f"input_{index}" for index in range(number)]


def _input_dtype(value: np.ndarray) -> Any:
    return tf.int32 if np.issubdtype(value.dtype, np.integer) else tf.float32
