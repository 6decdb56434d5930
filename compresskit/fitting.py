"""Whether a model, its data and the measures of a recipe fit each other."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from compresskit.data import Dataset
from compresskit.errors import CompressKitError, ModelError, Problem, RecipeError
from compresskit.labels import are_classes, label_of
from compresskit.metrics import METRICS
from compresskit.outputs import Output, find_output
from compresskit.recipe import Recipe
from compresskit.recipe_source import Locate


def known(get: Any, identifier: Any) -> bool:
    """Whether Keras makes something of a name alone; wrappers of optimizers need more."""
    try:
        get(identifier)
    except (ValueError, KeyError, TypeError, NotImplementedError):
        return False
    return True


def try_out(
    model: keras.Model,
    samples: Any,
    *,
    where: str,
    name: str = "data",
    error: type[CompressKitError] = ModelError,
) -> Any:
    """The model's answers to its first two samples, in their structure.

    Args:
        samples: as the model takes them, samples first; an array or several.
        name: what the samples are of, for the error.

    Raises:
        CompressKitError: `error`; the model does not take them.
    """
    try:
        few = keras.tree.map_structure(lambda values: values[:2], samples)
        return keras.tree.map_structure(np.asarray, model(few, training=False))
    except Exception as cause:
        shapes = ", ".join(str(np.shape(values)[1:]) for values in keras.tree.flatten(samples))
        raise error(
            Problem(
                where=where,
                found=f"the model refuses samples of shape {shapes} of {name}: "
                f"{str(cause).strip().splitlines()[0]}",
                expected="a model that takes the samples of the data set",
                fix="name the data that the model was made for",
            )
        ) from cause


def check_fit(model: keras.Model, dataset: Dataset, recipe: Recipe, locate: Locate) -> Output:
    """That the model takes the samples, and that loss and metric take its answers.

    Returns:
        the output that is measured.

    Raises:
        ModelError, DataError, RecipeError: they do not.
    """
    where = locate(("model",))
    answers = try_out(model, dataset.x_train, where=where, name=dataset.name)
    output = find_output(model, answers, dataset.y_train, recipe.evaluate.output, locate)
    outputs = keras.tree.flatten(answers)[output.index]
    labels = label_of(dataset.y_train, output.name)
    _check_measures(outputs, labels[:2], recipe, locate, several=isinstance(dataset.y_train, dict))
    if are_classes(labels) and 1 < outputs.shape[-1] < int(labels.max()) + 1:
        raise ModelError(
            Problem(
                where=where,
                found=f"{outputs.shape[-1]} outputs for the {dataset.class_count} classes of "
                f"{dataset.name}",
                expected="an output for each class",
                fix="name the data that the model was made for under `data:`",
            )
        )
    return output


def _check_measures(
    outputs: np.ndarray, labels: np.ndarray, recipe: Recipe, locate: Locate, *, several: bool
) -> None:
    """That the metric and the loss can be computed of a model's answers.

    Args:
        several: whether there are several outputs. One name of a loss is hardly that of all.

    Raises:
        RecipeError: they cannot.
    """
    metric, loss = recipe.evaluate.metric, recipe.defaults.loss
    # A single output is compared with labels in a column, as `fit` does.
    column = labels.reshape(-1, 1) if outputs.shape[1:] == (1,) else labels
    measures: list[tuple[tuple[str, ...], str, Any]] = [
        (("evaluate", "metric"), metric, lambda: METRICS[metric](outputs, labels))
    ]
    if known(keras.losses.get, loss) and not several:
        of = keras.losses.get(loss)
        measures.append((("defaults", "loss"), loss, lambda: of(column, outputs)))
    problems = []
    if metric in ("accuracy", "top_5_accuracy") and labels.dtype.kind == "f":
        problems.append(
            Problem(
                where=locate(("evaluate", "metric")),
                found=f"{metric} of labels of type {labels.dtype}",
                expected="a metric of numbers, or labels that are the numbers of classes",
                fix="write `evaluate: {metric: mean_squared_error, mode: min}`, or give the "
                "labels as integers: y.astype('int64')",
            )
        )
        measures = []
    for path, name, measure in measures:
        try:
            measure()
        except Exception as cause:  # noqa: BLE001 - told below, whatever Keras or NumPy raises
            problems.append(
                Problem(
                    where=locate(path),
                    found=f"{name} of outputs of shape {outputs.shape[1:]} and labels of shape "
                    f"{labels.shape[1:]}: {str(cause).strip().splitlines()[0]}",
                    expected="a measure of answers and labels of these shapes",
                    fix="for classes: loss auto, and the metric accuracy; for several labels that "
                    "are 0 or 1: binary_accuracy; for numbers: mean_squared_error, mode min",
                )
            )
    if problems:
        raise RecipeError(problems)
