"""Labels: classes, numbers, yes or no, for each sample or each step; several outputs by name.

NumPy only.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from compresskit.errors import Problem

# A model of one output has an array of labels, one of several an array for each, by name.
Labels = np.ndarray | dict[str, np.ndarray]


def plain_labels(y: Any) -> Any:
    """Labels with their values unchanged: classes as int32 or int64, numbers as float32.

    A column, shape (n, 1), becomes shape (n,).

    Raises:
        TypeError, ValueError: they are no arrays.
    """
    if isinstance(y, dict):
        return {str(name): plain_labels(array) for name, array in y.items()}
    array = np.asarray(y)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind in "iub" and array.dtype not in (np.int32, np.int64):
        return array.astype(np.int64)
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def label_of(y: Labels, output: str | None) -> np.ndarray:
    """The labels of one output; of the first one, if none is named."""
    if not isinstance(y, dict):
        return y
    return y[next(iter(y)) if output is None else output]


def signature_name(name: str) -> str:
    """What an output of several is called in a file."""
    return re.sub(r"\W", "_", name)


def are_classes(y: Labels) -> bool:
    """Whether each sample, or each step of one, has the number of a class."""
    return not isinstance(y, dict) and y.dtype.kind in "iu" and not are_answers(y)


def are_answers(y: np.ndarray) -> bool:
    """Whether each sample has several labels that are 0 or 1."""
    return y.ndim > 1 and bool(np.isin(y, (0, 1)).all())


def check_labels(y: Labels, where: str, classes: tuple[str, ...] | None = None) -> list[Problem]:
    """Everything that is wrong with labels."""
    if isinstance(y, dict):
        return [
            found for name, array in y.items() for found in check_labels(array, f"{where}.{name}")
        ]

    def problem(found: str, expected: str, fix: str) -> list[Problem]:
        return [Problem(where=where, found=found, expected=expected, fix=fix)]

    if y.ndim == 0:
        return problem(f"shape {y.shape}", "(samples, ...)", "give a label for each sample")
    if y.size == 0:
        return problem("no labels", "at least one label", "check what wrote the array")
    if y.dtype.kind == "f":
        broken = np.flatnonzero(~np.isfinite(y).reshape(len(y), -1).all(axis=1))
        if broken.size:
            found = f"NaN or infinite values in {broken.size} labels, first at index {broken[0]}"
            return problem(found, "finite numbers", "remove these samples, or fill in the values")
        if not are_answers(y):
            return []
    elif y.dtype.kind not in "iu":
        return problem(f"type {y.dtype}", "numbers", "number the classes from 0")
    if are_answers(y) and y.ndim == 2 and (y.sum(axis=1) == 1).all():
        fix = "turn one-hot rows into integers: y.argmax(axis=-1)"
        return problem(f"one-hot rows, shape {y.shape}", "(samples,), one label a sample", fix)
    if y.min() < 0:
        return problem(f"label {y.min()}", "labels from 0 up", "number the classes from 0")
    if classes is not None and are_classes(y) and y.max() >= len(classes):
        return problem(
            f"label {y.max()}, but {len(classes)} class names",
            f"labels 0 to {len(classes) - 1}",
            "name every class",
        )
    return []
