"""Measures a file on the test samples of a data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compresskit.data import Dataset
from compresskit.errors import DataError, Problem, did_you_mean
from compresskit.inspection import read_file
from compresskit.labels import label_of, signature_name
from compresskit.metrics import METRICS
from compresskit.samples import count
from compresskit.tflite.audit import audit
from compresskit.tflite.runtime import Runner, runtime_of
from compresskit.tflite.timing import interleaved


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a file answers to the test samples of a data set.

    Attributes:
        outputs: of the output that is measured, shape (n, ...).
        labels: the test labels of that output.
        latency_ms: median of one call; None of a `.keras` file.
    """

    outputs: np.ndarray
    labels: np.ndarray
    latency_ms: float | None = None


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
    check_metric(metric)
    given = answer(path, dataset, output=output, threads=threads, safe_mode=safe_mode, timed=True)
    figures: dict[str, Any] = {"samples": count(dataset.x_test)}
    if given.latency_ms is not None:
        figures["latency_ms"] = given.latency_ms
    return {**figures, metric: measured(given, metric, str(path))}


def check_metric(metric: str) -> None:
    """Raises a DataError if there is no metric of that name."""
    if metric not in METRICS:
        raise DataError(
            Problem(
                where="metric",
                found=f"unknown metric {metric!r}",
                expected=f"one of: {', '.join(METRICS)}",
                fix=did_you_mean(metric, METRICS),
            )
        )


def answer(
    path: str | Path,
    dataset: Dataset,
    *,
    output: str | None = None,
    threads: int = 1,
    safe_mode: bool = True,
    timed: bool = False,
) -> Answers:
    """What a `.tflite` or `.keras` file answers to the test samples of a data set.

    Args:
        output: which of several outputs, by the name of its labels.
        timed: measure the latency of a `.tflite` file, too.

    Raises:
        DataError: samples that the file does not take, or no such output.
        ModelError: the file is missing or damaged.
    """
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
        ms = interleaved([runner], [dataset.x_test])[0].ms() if timed else None
        return Answers(outputs=outputs, labels=labels, latency_ms=ms)
    from compresskit.fitting import try_out
    from compresskit.models.load import load_model
    from compresskit.outputs import find_output
    from compresskit.recipe_source import render
    from compresskit.tflite.lower import predictions

    model = load_model(str(path), safe_mode=safe_mode, dataset=dataset)
    few = try_out(model, dataset.x_test, where=str(path), name=dataset.name, error=DataError)
    index = find_output(model, few, dataset.y_test, output, render).index
    return Answers(outputs=predictions(model, dataset.x_test, output=index), labels=labels)


def measured(given: Answers, metric: str, where: str) -> float:
    """A metric of a file's answers.

    Raises:
        DataError: it is none of answers and labels of these shapes.
    """
    try:
        return METRICS[metric](given.outputs, given.labels)
    except ValueError as error:
        raise DataError(
            Problem(
                where=where,
                found=f"{metric} of outputs of shape {given.outputs.shape[1:]} and labels of shape "
                f"{given.labels.shape[1:]}: {error}",
                expected="a metric of answers and labels of these shapes",
                fix="for classes: accuracy",
            )
        ) from error
