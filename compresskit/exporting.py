"""Exports a model as it is, without a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from compresskit import catalog
from compresskit.errors import (
    ConversionError,
    DataError,
    ModelError,
    Problem,
    TargetError,
    did_you_mean,
)
from compresskit.files import write_file
from compresskit.fitting import try_out
from compresskit.inspection import FileReport, describe_file
from compresskit.installed import missing
from compresskit.ledger import Kept, in_file
from compresskit.methods.calibrate import calibrate
from compresskit.product import produce
from compresskit.progress import Bars
from compresskit.ranges import Range, completed
from compresskit.recipe_rounding import CALIBRATION, ROUNDING, Calibration, Rounding
from compresskit.report.records import Promise
from compresskit.resolution import Resolved, options_of
from compresskit.target import Precision, Target
from compresskit.tflite.convert import convert
from compresskit.tflite.forms import Form


def export(
    model: keras.Model,
    *,
    target: str,
    path: str | Path,
    precision: str | None = None,
    representative_data: Any = None,
    ranges: Sequence[Range] = (),
    compress: Literal["none", "lut"] = "none",
    c_array: bool = False,
    options: Mapping[str, str] | None = None,
    lstm: Form = "fused",
    weights: Rounding = ROUNDING,
    calibration: Calibration = CALIBRATION,
    kept: Sequence[Kept] = (),
) -> FileReport:
    """Writes a model to a .tflite file and reads it back.

    ```python
    ck.export(model, target="edge-cpu", precision="int8", path="m.tflite",
              representative_data=x_train[:200])
    ```

    Args:
        model: a built Keras 3 model; it is not changed.
        target: a name of `compresskit list targets`.
        path: of the file; an existing one is replaced once the new one is whole.
        precision: one of the target's, or None for its default.
        representative_data: samples as the model takes them, shape (n, ...), on which the
            ranges of activations are measured; integer precisions need it.
        ranges: activation ranges that training learned (`Result.ranges`).
        compress: `lut` stores weights with few values as look-up tables, for `micro`.
        c_array: write C source and header beside the file, too, for `micro`.
        options: what the target's own tool is told, for example
            `{"accelerator": "ethos-u55-256"}`. The file that it writes is put beside `path`.
        lstm: in which form recurrent layers are written.
        weights: how `int4` or `dynamic` rounds weights that are not on a grid.
        calibration: how the ranges that training did not learn are estimated, on all of the
            representative data.
        kept: what training made of the weights, which the file must have.

    Returns:
        What the file holds, read from its bytes, and what the target and its tool say of it.

    Raises:
        TargetError: there is no such target, it has no such precision or option, or none for a
            layer of the model, does not decode, or its files are not linked into firmware.
        DataError: representative data is missing, empty, or nothing that the model takes.
        ConversionError: the converter or the target's tool failed, or wrote a file that
            breaks a rule or a promise.
        ModelError: the target's runtime cannot load the file, or what it needs is not installed.
    """
    record: Target = catalog.targets.get(target, where="target")
    chosen = precision_of(record, precision)
    chosen_options, problems = options_of(record, options or {}, where="options")
    if problems:
        raise TargetError(problems)
    absent = missing(record.requires, where=f"target {target}") if record.requires else None
    if absent is not None:
        raise ModelError(absent)
    if compress != "none" and record.runtime != "tflite-micro":
        raise TargetError(
            Problem(
                where="compress",
                found=f"{compress} for target {target!r}",
                expected="a target that decodes weights while it runs: micro",
                fix="remove `compress`, or choose the target micro",
            )
        )
    if c_array and record.runtime != "tflite-micro":
        raise TargetError(
            Problem(
                where="c_array",
                found=f"a C array for target {target!r}",
                expected="a target whose files are linked into firmware: micro",
                fix="remove `c_array`, or choose the target micro",
            )
        )
    if representative_data is None:
        if chosen.integer:
            raise DataError(
                Problem(
                    where=f"export to {path}",
                    found=f"no representative data for {precision or record.default}",
                    expected="samples on which the ranges of activations are measured",
                    fix="give --data (in Python: representative_data=x_train[:200])",
                )
            )
        representative_data = declared_sample(model)
    elif any(len(values) == 0 for values in keras.tree.flatten(representative_data)):
        raise DataError(
            Problem(
                where=f"export to {path}",
                found="representative data without a sample",
                expected="samples on which the ranges of activations are measured",
                fix="give a hundred or more",
            )
        )
    try_out(model, representative_data, where=f"export to {path}", error=DataError)
    used = ranges if chosen.activations == "int8" else ()
    if chosen.activations == "int8" and calibration.estimator != "min-max":
        used = completed(used, calibrate(model, representative_data, calibration))
    content = convert(
        model,
        chosen,
        sample=keras.tree.map_structure(lambda values: values[:1], representative_data),
        calibration=representative_data,
        ranges=used,
        lstm=lstm,
        rounding=weights,
    )
    resolved = Resolved(
        target=record,
        precision_name=precision or record.default,
        precision=chosen,
        file=Path(path).name,
        options=chosen_options,
    )
    made = produce(
        content,
        resolved,
        compress=compress,
        with_arena=False,
        with_sources=c_array,
        where=str(path),
        bars=Bars(quiet=True),
    )
    broken = [
        promise
        for each in kept
        for promise in in_file(each, resolved.file, made.audited, resolved)
        if not promise.kept
    ]
    if broken:
        raise ConversionError(_broken(promise) for promise in broken)
    for name, beside in made.beside.items():
        write_file(Path(path).with_name(name), beside)
    write_file(Path(path), made.content)
    return replace(
        describe_file(path),
        claim=made.claim,
        findings=made.findings,
        placement=made.placement,
        compiled=made.compiled,
    )


def _broken(promise: Promise) -> Problem:
    return Problem(
        where=f"stage {promise.stage}",
        found=f"{promise.what}: {promise.measured}",
        expected=str(promise.expected),
        fix="export to the target and precision that the stages were trained for; if they were, "
        "something has changed the weights since",
    )


def precision_of(target: Target, name: str | None) -> Precision:
    """A precision of a target; its default without a name.

    Raises:
        TargetError: it has none of that name.
    """
    name = name or target.default
    if name not in target.precisions:
        raise TargetError(
            Problem(
                where="precision",
                found=f"precision {name!r} for target {target.name!r}",
                expected=f"one of: {', '.join(target.precisions)}",
                fix=did_you_mean(name, target.precisions),
            )
        )
    return target.precisions[name]


def declared_sample(model: keras.Model) -> Any:
    """A batch of zeros in the shape that the model declares.

    Raises:
        DataError: it declares none.
    """
    try:
        # A Sequential knows its inputs, but not their structure, before it is called.
        inputs = (
            model.inputs[0]
            if isinstance(model, keras.Sequential)
            else keras.tree.pack_sequence_as(model.input, model.inputs)
        )
    except (AttributeError, ValueError) as error:
        raise DataError(
            Problem(
                where=f"model {model.name!r}",
                found="a subclassed model, which declares no input shape",
                expected="a sample of its inputs",
                fix="give --data (in Python: representative_data=x_train[:1])",
            )
        ) from error
    return keras.tree.map_structure(
        lambda tensor: np.zeros([size or 1 for size in tensor.shape], dtype=tensor.dtype), inputs
    )
