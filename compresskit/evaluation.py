"""Measures a file on the test samples of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compresskit.data import Dataset
from compresskit.errors import DataError, Problem, did_you_mean
from compresskit.inspection import read_file
from compresskit.labels import label_of, signature_name
from compresskit.metrics import METRICS
from compresskit.samples import count
from compresskit.tflite.audit import audit
from compresskit.tflite.runtime import Runner, runtime_of
from compresskit.tflite.timing import interleaved


def evaluate(
    path: str | Path,
    dataset: Dataset,
    *,
    metric: str = "accuracy",
    output: str | None = None,
    threads: int = 1,
    safe_mode: bool = True,
) -> dict[str, Any]:
    """The metric of a `.tflite` file, run by LiteRT, or of a `.keras` file.

    A file with weights in look-up tables is run by TensorFlow Lite Micro.

    A `.tflite` file is measured without loading TensorFlow.

    Args:
        output: which of several outputs is measured, by the name of its labels.

    Returns:
        `samples`, the metric by its name and, for a `.tflite` file, `latency_ms`.

    Raises:
        DataError: unknown metric, or samples that the file does not take.
        ModelError: the file is missing or damaged.
    """
    if metric not in METRICS:
        raise DataError(
            Problem(
                where="metric",
                found=f"unknown metric {metric!r}",
                expected=f"one of: {', '.join(METRICS)}",
                fix=did_you_mean(metric, METRICS),
            )
        )
    several = isinstance(dataset.y_test, dict)
    if several and output not in dataset.y_test:
        raise DataError(
            Problem(
                where="output",
                found="no name" if output is None else repr(output),
                expected=f"one of: {', '.join(dataset.y_test)}",
                fix="give --output NAME"
                if output is None
                else did_you_mean(output, list(dataset.y_test)),
            )
        )
    labels = label_of(dataset.y_test, output)
    figures: dict[str, Any] = {"samples": count(dataset.x_test)}
    if Path(path).suffix == ".tflite":
        content = read_file(path)
        runner = Runner(
            content,
            threads=threads,
            where=str(path),
            runtime=runtime_of(audit(content, str(path))),
            output=signature_name(output) if several and output is not None else None,
        )
        outputs = runner.predict(dataset.x_test)
        (timing,) = interleaved([runner], [dataset.x_test])
        figures["latency_ms"] = timing.ms()
    else:
        from compresskit.fitting import try_out
        from compresskit.models.load import load_model
        from compresskit.outputs import find_output
        from compresskit.recipe_source import render
        from compresskit.tflite.lower import predictions

        model = load_model(str(path), safe_mode=safe_mode, dataset=dataset)
        few = try_out(model, dataset.x_test, where=str(path), name=dataset.name, error=DataError)
        index = find_output(model, few, dataset.y_test, output, render).index
        outputs = predictions(model, dataset.x_test, output=index)
    try:
        return {**figures, metric: METRICS[metric](outputs, labels)}
    except ValueError as error:
        raise DataError(
            Problem(
                where=str(path),
                found=f"{metric} of outputs of shape {outputs.shape[1:]} and labels of shape "
                f"{labels.shape[1:]}: {error}",
                expected="a metric of answers and labels of these shapes",
                fix="for classes: accuracy",
            )
        ) from error
