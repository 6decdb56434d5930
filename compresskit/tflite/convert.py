"""Conversion to TFLite in a process of its own.

The converter can abort the process that it runs in. Here that is an error with the
converter's last words, and the user's process lives on. The process is kept between
conversions: importing TensorFlow costs more than converting a small model.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from compresskit.child import Child
from compresskit.errors import ConversionError, ModelError, Problem, TargetError
from compresskit.ranges import Range
from compresskit.recipe_rounding import ROUNDING, Rounding
from compresskit.target import Precision
from compresskit.tflite.culprit import culprit
from compresskit.tflite.forms import Form
from compresskit.tflite.lower import lower
from compresskit.tflite.runtime import Runner
from compresskit.tflite.support import by_library, unfit

TIMEOUT_SECONDS = 1800
# Of a part of a model, of which several are tried to find where a failure begins.
PART_SECONDS = 300
# A conversion that takes more ends by itself, before the system ends other processes for it.
MEMORY_BYTES = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

_worker = Child("compresskit.tflite.worker", "the converter")


def convert(
    model: keras.Model,
    precision: Precision,
    *,
    sample: Any,
    calibration: Any = None,
    ranges: Sequence[Range] = (),
    lstm: Form = "fused",
    rounding: Rounding = ROUNDING,
) -> bytes:
    """Converts a model to the bytes of a .tflite file.

    Args:
        sample: a batch of inputs as the model takes them.
        calibration: representative inputs, for integer precisions and for `gptq`; same
            structure. The sample if there are none.
        ranges: activation ranges that training learned.
        lstm: in which form recurrent layers are written.
        rounding: how weights are rounded, for precisions of floats with integer weights.

    Raises:
        TargetError: the precision has no kernel for a layer, or a package is missing.
        ConversionError: the converter refused, crashed, took too long or too much memory, or
            what it wrote answers with other than numbers; it names the layer where this
            begins, found by converting ever shorter beginnings of the model.
    """
    tokens = all(
        np.issubdtype(np.asarray(value).dtype, np.integer) for value in keras.tree.flatten(sample)
    )
    library = by_library(model, precision, rounding, tokens=tokens)
    problems = unfit(model, precision, lstm, library=library)
    if problems:
        raise TargetError(problems)

    def attempt(upto: int | None = None) -> tuple[bytes, str | None]:
        """The file of the model, or of its first calls, and what is wrong with it."""
        # Of a part, the outputs may be of any type.
        wanted = precision if upto is None else replace(precision, io="float32")
        content, error = _converted(
            model, wanted, sample, calibration, ranges, lstm, upto, rounding if library else None
        )
        if error is None and wanted.io == "float32":
            try:
                sound = Runner(content).finite(sample)
            except ModelError as unloadable:
                return content, unloadable.problems[0].found
            if not sound:
                error = "a file that answers a sample with NaN or infinity"
        return content, error

    content, error = attempt()
    if error is None:
        return content
    finite = all(
        np.all(np.isfinite(answer)) for answer in keras.tree.flatten(model(sample, training=False))
    )
    layer = culprit(model, sample, lambda upto: attempt(upto)[1] is not None) if finite else None
    named = f"; it begins with {layer}" if layer else ""
    raise ConversionError(
        Problem(
            where=f"conversion of {model.name!r}",
            found=error + named if finite else f"{error}, as the Keras model does",
            expected="a graph that the TFLite converter takes, and numbers from what it makes",
            fix=_fix(layer) if finite else "look for the layer whose weights are no numbers",
        )
    )


def _fix(layer: str | None) -> str:
    if layer:
        return "write this layer with other operations, or choose another precision"
    return "look for the op named above in the model, or choose another precision"


def _converted(
    model: keras.Model,
    precision: Precision,
    sample: Any,
    calibration: Any,
    ranges: Sequence[Range],
    lstm: Form,
    upto: int | None,
    rounding: Rounding | None,
) -> tuple[bytes, str | None]:
    """The bytes of a file, or what went wrong.

    Args:
        rounding: how litert-quantizer rounds; None: TensorFlow's converter does.
    """
    calibration = sample if calibration is None else calibration
    with tempfile.TemporaryDirectory(prefix="compresskit-") as folder:
        names = lower(
            model,
            sample,
            Path(folder),
            ranges,
            lstm,
            integer=precision.integer,
            wide=precision.activations == "int16",
            calibration=calibration,
            upto=upto,
        )
        return convert_folder(
            Path(folder),
            names,
            precision,
            sample,
            calibration,
            rounding=rounding,
            timeout=TIMEOUT_SECONDS if upto is None else PART_SECONDS,
        )


def convert_folder(
    folder: Path,
    names: Sequence[str],
    precision: Precision,
    sample: Any,
    calibration: Any,
    *,
    rounding: Rounding | None = None,
    timeout: float = TIMEOUT_SECONDS,
) -> tuple[bytes, str | None]:
    """Converts a SavedModel with the signature `serving_default`.

    Args:
        names: of its inputs, in the order of the sample's flat structure.
        sample, calibration: as `convert` takes them.
        rounding: how litert-quantizer rounds; None: TensorFlow's converter does.
        timeout: seconds after which the converter is stopped.

    Returns:
        The bytes of a file, or what went wrong.
    """
    with tempfile.TemporaryDirectory(prefix="compresskit-") as made:
        out, arrays = Path(made, "out"), Path(made, "data.npz")
        request = {
            "saved_model": str(folder),
            "out": str(out),
            "calibration": str(arrays),
            "weights": precision.weights,
            "activations": precision.activations,
            "io": precision.io,
            "integer_inputs": all(
                np.issubdtype(np.asarray(value).dtype, np.integer)
                for value in keras.tree.flatten(sample)
            ),
            "per_channel_dense": precision.grid.per_channel_dense,
            "rounding": rounding
            and {
                "algorithm": rounding.algorithm,
                "block": rounding.block if rounding.granularity == "block" else None,
            },
            "memory": MEMORY_BYTES,
        }
        if precision.integer or rounding is not None:
            flat: Any = [np.asarray(value) for value in keras.tree.flatten(calibration)]
            np.savez(arrays, **dict(zip(names, flat, strict=True)))
        error = _worker.ask(request, timeout=timeout).error
        return (b"", error) if error is not None else (out.read_bytes(), None)
