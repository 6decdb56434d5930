"""Two models side by side. Loads TensorFlow only for a `.keras` file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compresskit import data as datasets
from compresskit import metrics
from compresskit.data import Dataset
from compresskit.errors import DataError, ModelError, Problem
from compresskit.evaluation import Answers, answer, check_metric, measured
from compresskit.inspection import inspect, read_file
from compresskit.packing import pack
from compresskit.samples import take
from compresskit.tflite.audit import audit
from compresskit.tflite.decode import DECODE
from compresskit.tflite.differences import Difference, Stored, activations, stored, weights

# Samples on which what ops compute is compared: all of it is kept in memory.
_SAMPLES = 16
# The gates of an LSTM in the order of Keras; a file holds each as a tensor of its own.
_GATES = ("input", "forget", "cell", "output")


@dataclass(frozen=True, kw_only=True)
class Side:
    """What one of the two is.

    Attributes:
        gzip_bytes, packed_bytes: what gzip -9 and `compresskit pack` make of a .tflite file; None
            of others, and the latter of a file without int8 weights.
        dtypes: how many values of its weights have each type.
        sparsity: share of zeros over its weights.
        metrics: on the test samples; empty without data.
    """

    path: str
    kind: str
    bytes: int
    gzip_bytes: int | None
    packed_bytes: int | None
    parameters: int
    ops: dict[str, int]
    dtypes: dict[str, int]
    sparsity: float
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Changed:
    """A test sample that the two answer differently.

    Attributes:
        index: in the test samples.
        label, a, b: classes, 0 or 1, or numbers; lists where a sample has several.
    """

    index: int
    label: Any
    a: Any
    b: Any


@dataclass(frozen=True, kw_only=True)
class AnswersCompared:
    """The answers of the two to the same samples.

    Attributes:
        data: name of the data set.
        samples: how many were compared.
        agreement: share of equal answers, as in the report.
        mean_abs_error, max_abs_error: over all outputs, in their unit.
        changed: samples that are answered differently.
    """

    data: str
    samples: int
    agreement: float
    mean_abs_error: float
    max_abs_error: float
    changed: tuple[Changed, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models side by side.

    Attributes:
        answers: None without data.
        weights: those that stand for the same, the worst first.
        only_a, only_b: weights without a counterpart.
        activations: of two files with tensors of equal names, in the first one's order; empty
            without data.
    """

    a: Side
    b: Side
    answers: AnswersCompared | None
    weights: tuple[Difference, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    activations: tuple[Difference, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for `--json`."""
        return asdict(self)


def compare(
    a: str | Path,
    b: str | Path,
    *,
    data: Any = None,
    metric: str = "accuracy",
    output: str | None = None,
    safe_mode: bool = True,
) -> Comparison:
    """Two models, `.tflite` or `.keras` files, side by side.

    ```python
    made = ck.compare("model.keras", "model.tflite", data="digits")
    print(made.answers.agreement, made.weights[0])
    ```

    Args:
        a: the one that errors are relative to.
        data: its test samples are answered by both; in any form that a recipe's `data` takes, or
            a data set.
        metric: what is measured of either.
        output: which of several outputs is measured, by the name of its labels.
        safe_mode: refuse `.keras` files with Python code in them.

    Raises:
        ModelError: a file is missing, damaged, or neither of the two kinds; both are named.
        DataError: unknown metric, samples that a file does not take, or answers of two shapes.
    """
    paths = (str(a), str(b))
    check_metric(metric)
    problems: list[Problem] = []
    read = []
    for path in paths:
        try:
            read.append((inspect(path, safe_mode=safe_mode), _stored(path, safe_mode)))
        except ModelError as error:
            problems += error.problems
    if problems:
        raise ModelError(problems)
    dataset = data if data is None or isinstance(data, Dataset) else datasets.load(data)
    given = (
        []
        if dataset is None
        else [answer(path, dataset, output=output, safe_mode=safe_mode) for path in paths]
    )
    figures = [
        {metric: measured(each, metric, path)} for each, path in zip(given, paths, strict=False)
    ]
    (report_a, weights_a), (report_b, weights_b) = read
    same, only_a, only_b = weights(weights_a, weights_b)
    return Comparison(
        a=_side(report_a, figures[0] if figures else {}),
        b=_side(report_b, figures[1] if figures else {}),
        answers=None if dataset is None else _compared(dataset, given[0], given[1], paths),
        weights=tuple(same),
        only_a=tuple(only_a),
        only_b=tuple(only_b),
        activations=() if dataset is None else tuple(_activations(paths, dataset)),
    )


def _stored(path: str, safe_mode: bool) -> list[Stored]:
    """The weights of a file, those of an LSTM gate by gate, as a .tflite file holds them."""
    if Path(path).suffix == ".tflite":
        return stored(audit(read_file(path), path))
    from compresskit.models.load import load_model
    from compresskit.weights import weights_of

    found = []
    for weight in weights_of(load_model(path, safe_mode=safe_mode)):
        matrix = weight.matrix(weight.variable.numpy()).astype(np.float64)
        dtype = weight.variable.dtype.upper()
        gates = weight.layout.gates if weight.layout else 0
        for index, part in enumerate(np.split(matrix, max(1, gates))):
            name = f"{weight.path}, {_GATES[index]} gate" if gates else weight.path
            found.append(Stored(name=name, dtype=dtype, matrix=part))
    return found


def _side(report: Any, figures: Mapping[str, float]) -> Side:
    dtypes: dict[str, int] = {}
    for each in report.weights:
        dtypes[each.dtype] = dtypes.get(each.dtype, 0) + int(np.prod(each.shape))
    packs = report.kind == "tflite" and not {"INT8", "INT4"}.isdisjoint(dtypes)
    return Side(
        path=report.name,
        kind=report.kind,
        bytes=report.bytes,
        gzip_bytes=report.gzip_bytes,
        packed_bytes=len(pack(read_file(report.name))) if packs else None,
        parameters=report.parameters,
        ops=report.ops,
        dtypes=dtypes,
        sparsity=report.sparsity,
        metrics=dict(figures),
    )


def _compared(dataset: Dataset, a: Answers, b: Answers, paths: tuple[str, str]) -> AnswersCompared:
    if a.outputs.shape != b.outputs.shape:
        raise DataError(
            Problem(
                where=" and ".join(paths),
                found=f"answers of shape {a.outputs.shape[1:]} and {b.outputs.shape[1:]}",
                expected="two models that answer the same question",
                fix="give models of one task, or choose an --output",
            )
        )
    kind = metrics.reading(a.outputs, a.labels)
    apart = np.abs(b.outputs.astype(np.float64) - a.outputs)
    answers = [_answers(each.outputs, kind) for each in (a, b)]
    differs = (
        ~metrics.close(b.outputs, a.outputs) if kind == "numbers" else answers[0] != answers[1]
    )
    changed = np.flatnonzero(differs.reshape(len(differs), -1).any(axis=1))
    return AnswersCompared(
        data=dataset.name,
        samples=len(a.outputs),
        agreement=metrics.agreement(b.outputs, a.outputs, kind),
        mean_abs_error=float(apart.mean()),
        max_abs_error=float(apart.max()),
        changed=tuple(
            Changed(
                index=int(index),
                label=a.labels[index].tolist(),
                a=answers[0][index].tolist(),
                b=answers[1][index].tolist(),
            )
            for index in changed
        ),
    )


def _answers(outputs: np.ndarray, kind: metrics.Answers) -> np.ndarray:
    """What each sample is answered: the form in which its label is given."""
    if kind == "numbers":
        return outputs
    if kind in ("shares", "scores"):
        return (outputs > (0.5 if kind == "shares" else 0.0)).astype(np.int64)
    return metrics.answers(outputs).reshape(outputs.shape[:-1])


def _activations(paths: tuple[str, str], dataset: Dataset) -> list[Difference]:
    """What two files compute; nothing of a Keras model, or where weights are decoded."""
    if any(Path(path).suffix != ".tflite" for path in paths):
        return []
    files = [(content, audit(content, path)) for path in paths for content in [read_file(path)]]
    if any(DECODE in audited.counts for _, audited in files):
        return []
    return activations(files[0], files[1], take(dataset.x_test, slice(_SAMPLES)))
