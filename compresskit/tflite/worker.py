"""The process that converts. It may die: the converter aborts on some graphs."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compresskit.child import serve


def convert(request: dict[str, Any]) -> None:
    """Converts a SavedModel to a .tflite file.

    The request has `saved_model`, `out`, `weights`, `activations`, `io`,
    `per_channel_dense`, `integer_inputs`, `rounding` (`algorithm`, `block`) if
    litert-quantizer rounds, and `calibration`, a .npz file with an array of samples
    for each input, by its name, where they are needed; and `memory`, the most bytes that the
    process may have for data.
    """
    import tensorflow as tf

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (request["memory"], hard))
    converter = tf.lite.TFLiteConverter.from_saved_model(request["saved_model"])
    # Builtins only: an op of TensorFlow itself does not exist on an edge device.
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if request["rounding"]:
        Path(request["out"]).write_bytes(_rounded(converter.convert(), request))
        return
    if request["weights"] != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if request["weights"] == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if request["activations"] in ("int8", "int16"):
        # Ranges that training learned stay as they are; calibration gives the others.
        converter.representative_dataset = _batches(_samples(request))
        sets = tf.lite.OpsSet
        converter.target_spec.supported_ops = [
            sets.TFLITE_BUILTINS_INT8
            if request["activations"] == "int8"
            else sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        ]
        converter._experimental_disable_per_channel_quantization_for_dense_layers = not request[
            "per_channel_dense"
        ]
    if request["io"] in ("int8", "int16"):
        # Tokens stay what they are: the converter takes no int32 here.
        if not request["integer_inputs"]:
            converter.inference_input_type = tf.dtypes.as_dtype(request["io"])
        converter.inference_output_type = tf.dtypes.as_dtype(request["io"])
    Path(request["out"]).write_bytes(converter.convert())


def _rounded(content: bytes, request: dict[str, Any]) -> bytes:
    from compresskit.tflite.rounding import round_all, round_weights

    if request["activations"] == "int16":
        return round_all(content, _samples(request))
    bits = 4 if request["weights"] == "int4" else 8
    return round_weights(content, _samples(request), bits=bits, **request["rounding"])


def _samples(request: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    with np.load(request["calibration"]) as arrays:
        return dict(arrays)


def _batches(samples: dict[str, Any]) -> Callable[[], Any]:
    def generate() -> Any:
        for index in range(len(next(iter(samples.values())))):
            yield {name: array[index : index + 1] for name, array in samples.items()}

    return generate


if __name__ == "__main__":
    # TensorFlow loads Keras if it can, and Keras whatever it works with: two fifths of the time
    # until the first conversion, which needs none of them.
    sys.modules["keras"] = None  # type: ignore[assignment]
    serve(convert)
