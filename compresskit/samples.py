"""Samples and labels: arrays, or several arrays by the names of a model's inputs.

NumPy only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from compresskit.errors import Problem

# A model of one input takes an array, one of several takes an array for each, by name.
Samples = np.ndarray | dict[str, np.ndarray]


def count(x: Samples) -> int:
    """How many samples there are."""
    return len(next(iter(x.values()))) if isinstance(x, dict) else len(x)


def take(x: Samples, chosen: Any) -> Any:
    """The samples at a slice or at an array of indices."""
    return each(x, lambda array: array[chosen])


def joined(x: Samples, more: Samples) -> Any:
    """Two sets of samples, one after the other."""
    if isinstance(x, dict) and isinstance(more, dict):
        return {name: np.concatenate([array, more[name]]) for name, array in x.items()}
    return np.concatenate([x, more])


def each(x: Samples, function: Callable[[np.ndarray], Any]) -> Any:
    """What a function makes of every array, in the same structure."""
    if isinstance(x, dict):
        return {name: function(array) for name, array in x.items()}
    return function(x)


def shapes(x: Samples) -> Any:
    """The shape of one sample: a tuple, or tuples by name."""
    return each(x, lambda array: np.shape(array)[1:])


def plain_samples(x: Any) -> Any:
    """Samples with their values unchanged: floats and uint8 pictures as float32.

    Raises:
        TypeError, ValueError: they are no arrays.
    """

    def plain(array: np.ndarray) -> np.ndarray:
        small = array.dtype in (np.uint8, np.bool_)
        return array.astype(np.float32, copy=False) if small or array.dtype.kind == "f" else array

    if isinstance(x, dict):
        return {str(name): plain(np.asarray(array)) for name, array in x.items()}
    return plain(np.asarray(x))


def check_samples(x: Samples, where: str) -> list[Problem]:
    """Everything that is wrong with samples."""
    if not isinstance(x, dict):
        return _check_array(x, where)
    if not x:
        return [
            Problem(
                where=where,
                found="no input",
                expected="an array for each input of the model, by its name",
                fix="name the inputs",
            )
        ]
    problems = [p for name, array in x.items() for p in _check_array(array, f"{where}.{name}")]
    lengths = {name: len(array) for name, array in x.items() if np.ndim(array)}
    if len(set(lengths.values())) > 1:
        problems.append(
            Problem(
                where=where,
                found=", ".join(f"{size} samples of {name}" for name, size in lengths.items()),
                expected="as many samples of each input",
                fix="write all arrays from the same list of samples",
            )
        )
    return problems


def _check_array(x: np.ndarray, where: str) -> list[Problem]:
    def problem(found: str, expected: str, fix: str) -> list[Problem]:
        return [Problem(where=where, found=found, expected=expected, fix=fix)]

    if x.dtype.kind not in "fiu":
        return problem(f"type {x.dtype}", "numbers", "encode the samples as float32 or int32")
    if x.ndim < 2:
        return problem(
            f"shape {x.shape}", "(samples, ...), at least two axes", "add the axis of the features"
        )
    if x.size == 0:
        return problem(f"shape {x.shape}", "at least one sample", "check what wrote the array")
    if x.dtype.kind != "f":
        return []
    broken = np.flatnonzero(~np.isfinite(x).reshape(len(x), -1).all(axis=1))
    if broken.size == 0:
        return []
    return problem(
        f"NaN or infinite values in {broken.size} of {len(x)} samples, first at index {broken[0]}",
        "finite numbers",
        "remove these samples, or fill in the values",
    )
