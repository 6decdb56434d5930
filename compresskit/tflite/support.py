"""Which precision has kernels for which layer, and which tool writes it."""

from __future__ import annotations

import keras

from compresskit.errors import Problem
from compresskit.installed import LITERT_QUANTIZER, missing
from compresskit.recipe_rounding import ROUNDING, Rounding
from compresskit.target import Precision
from compresskit.tflite.forms import Form


def by_library(
    model: keras.Model, precision: Precision, rounding: Rounding, *, tokens: bool
) -> bool:
    """Whether litert-quantizer rounds a file, and not the converter of TensorFlow.

    With 16-bit activations the converter fails on integer inputs, and gives one bias of an
    unrolled GRU to ops of different scales: the file runs, and answers wrongly.

    Args:
        tokens: whether all inputs of the model are integers.
    """
    if precision.activations == "int16":
        return tokens or any(
            isinstance(layer, keras.layers.GRU) for layer in model._flatten_layers()
        )
    return precision.weights == "int4" or rounding != ROUNDING


def unfit(model: keras.Model, precision: Precision, lstm: Form, *, library: bool) -> list[Problem]:
    """What stands against a conversion, before anything is converted."""
    problems = []
    where = f"conversion of {model.name!r}"
    package = missing(LITERT_QUANTIZER, where=where) if library else None
    if package is not None:
        problems.append(package)
    narrow = precision.weights == "int4"
    if not (narrow or library or precision.activations == "int16"):
        return problems
    fixed = keras.layers.LSTM if lstm == "fused" else keras.layers.RNN
    recurrent = [layer.name for layer in model._flatten_layers() if isinstance(layer, fixed)]
    if recurrent and lstm != "unrolled":
        what = "4-bit weights" if narrow else "16-bit activations"
        problems.append(
            Problem(
                where=where,
                found=f"{recurrent[0]!r} with `lstm: {lstm}`, and no "
                f"{'LSTM kernel' if lstm == 'fused' else 'loop'} of LiteRT has {what}"
                if narrow or precision.activations == "int16"
                else f"{recurrent[0]!r} with `lstm: {lstm}`, which litert-quantizer does not round",
                expected="`lstm: unrolled` in the export, or precision int8 or dynamic",
                fix="write `lstm: unrolled`, for short sequences; the file grows with their length",
            )
        )
    return problems
