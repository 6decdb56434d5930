"""Which of a model's outputs is measured, and how the labels of several fit to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras

from compresskit.errors import DataError, Problem, RecipeError, did_you_mean
from compresskit.labels import Labels, signature_name
from compresskit.recipe_source import Locate


@dataclass(frozen=True, kw_only=True)
class Output:
    """The output that the metric is of.

    Attributes:
        index: in the flat order of the model's outputs.
        name: by which its labels are found, or None if the model has only one.
    """

    index: int = 0
    name: str | None = None

    @property
    def signature(self) -> str | None:
        """Its name in the signature of a file; None if it is the only one."""
        return None if self.name is None else signature_name(self.name)


def output_names(model: keras.Model, answers: Any) -> list[str]:
    """The names of a model's outputs, in their flat order.

    Args:
        answers: what it answers to some samples.
    """
    if isinstance(answers, dict):
        return sorted(answers)  # the order in which a structure is flattened
    names = list(getattr(model, "output_names", ()))
    count = len(keras.tree.flatten(answers))
    return names if len(names) == count else [str(index) for index in range(count)]


def find_output(
    model: keras.Model, answers: Any, labels: Labels, wanted: str | None, locate: Locate
) -> Output:
    """The output that a recipe wants to be measured; the first one by default.

    Raises:
        DataError: the labels are not those of the model's outputs.
        RecipeError: there is no output of that name.
    """
    names = output_names(model, answers)
    found = sorted(labels) if isinstance(labels, dict) else ["one array"]
    if (len(names) > 1 or isinstance(labels, dict)) and sorted(names) != found:
        raise DataError(
            Problem(
                where=locate(("data",)),
                found=f"labels: {', '.join(found)}; outputs of {model.name}: {', '.join(names)}",
                expected="an array of labels for each output, by its name",
                fix="give y as a dict by these names (in a file y_train.NAME and y_test.NAME)",
            )
        )
    if wanted is None:
        return Output(name=names[0] if isinstance(labels, dict) else None)
    if wanted not in names:
        raise RecipeError(
            Problem(
                where=locate(("evaluate", "output")),
                found=f"output {wanted!r}",
                expected=f"one of: {', '.join(names)}",
                fix=did_you_mean(wanted, names),
            )
        )
    index = names.index(wanted)
    return Output(index=index, name=wanted if isinstance(labels, dict) else None)
