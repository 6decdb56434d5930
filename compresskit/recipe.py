"""The recipe: what to compress, how, and for which targets. Frozen records, no Keras.

```python
recipe = Recipe.load("recipe.yaml", overrides=["stages.sparsify.sparsity.final=0.8"])
```
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from compresskit import recipe_source
from compresskit.errors import RecipeError
from compresskit.recipe_export import Export
from compresskit.recipe_fields import (
    Count,
    Data,
    LearningRateSchedule,
    Model,
    Positive,
    Record,
    Slug,
    Text,
    wrong,
)
from compresskit.recipe_overrides import override, stage_names
from compresskit.recipe_problems import explain
from compresskit.recipe_strategy import Strategy, StrategyField
from compresskit.stage_base import StageBase
from compresskit.stages import Stage


def _whole(value: Any) -> Any:
    # True and 1.0 equal 1, so Literal[1] would take them.
    if type(value) is not int:
        raise wrong("1", "write `version: 1`")
    return value


class Evaluate(Record):
    """What the quality of a model is measured by."""

    metric: Literal[
        "accuracy",
        "binary_accuracy",
        "top_5_accuracy",
        "mean_squared_error",
        "mean_absolute_error",
    ] = Field(default="accuracy", description="What is measured on the test set.")
    output: Text | None = Field(
        default=None,
        description="Which of several outputs is measured; default: the first.",
        examples=["logits"],
    )
    mode: Literal["max", "min"] = Field(default="max", description="Which end of it is good.")


class Baseline(Record):
    """How to train the model that is compressed, if it is not trained yet."""

    epochs: Count = Field(description="Passes over the training data.", examples=[5])
    optimizer: Text = Field(default="adam", description="Name of a Keras optimizer.")
    learning_rate: Positive = Field(default=1e-3, description="The optimizer's step size.")
    batch_size: Count = Field(default=128, description="Samples a step.")
    learning_rate_schedule: LearningRateSchedule = Field(
        default="constant", description="Cosine falls from learning_rate to zero."
    )


class Training(Record):
    """How stages train that do not say otherwise."""

    optimizer: Text = Field(default="adam", description="Name of a Keras optimizer.")
    learning_rate: Positive = Field(default=1e-4, description="The optimizer's step size.")
    batch_size: Count = Field(default=128, description="Samples a step.")
    learning_rate_schedule: LearningRateSchedule = Field(
        default="constant", description="Cosine falls from learning_rate to zero over a stage."
    )
    loss: Text = Field(
        default="auto", description="Name of a Keras loss; auto: the model's own, or by its task."
    )


class Recipe(Record):
    """What to compress, how, and for which targets."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"version": 1, "name": "a", "model": "lenet5", "stages": [{"type": "qat"}]}
            ]
        }
    )

    version: Annotated[Literal[1], BeforeValidator(_whole)] = Field(
        description="Version of the recipe's format."
    )
    name: Slug = Field(description="Names the folder of the run.", examples=["lenet5-sparse"])
    engine: Literal["native", "tfmot"] = Field(
        default="native",
        description="What runs the stages: compresskit itself, or TFMOT, for models of tf_keras; "
        "left out, such a model's file or a live one decides.",
    )
    model: Model = Field(
        description="A name of `compresskit list models`, a .keras path, or a builder; also an "
        ".h5 file or SavedModel of tf_keras.",
        examples=["lenet5"],
    )
    data: Data = Field(
        default="digits",
        description="A name of `compresskit list datasets`, or where the data is.",
    )
    evaluate: Evaluate = Field(default=Evaluate(), description="The measure of quality.")
    baseline: Baseline | None = Field(
        default=None,
        description="Training before the first stage.",
        examples=[{"epochs": 5}],
    )
    defaults: Training = Field(default=Training(), description="Training within the stages.")
    strategy: StrategyField = Field(
        default=None,
        description="On which devices the stages train. Default: one, the first GPU if there is "
        "any.",
        examples=["mirrored"],
    )
    stages: Annotated[tuple[Stage, ...], Strict(False)] = Field(
        default=(),
        description="What is done to the model, in this order.",
        examples=[[{"type": "qat"}]],
    )
    export: Annotated[tuple[Export, ...], Strict(False)] = Field(
        default=(),
        description="What is written in the end.",
        examples=[[{"target": "edge-cpu"}]],
    )

    @field_validator("strategy")
    @classmethod
    def _check_strategy(cls, strategy: Strategy | None, info: ValidationInfo) -> Strategy | None:
        if strategy is not None and info.data.get("engine") == "tfmot":
            expected = "no `strategy`: engine tfmot trains on one device"
            raise wrong(expected, "remove `strategy` or `engine`", others=[("engine",)])
        return strategy

    @field_validator("stages", mode="wrap")
    @classmethod
    def _check_stages(cls, value: Any, handler: Any) -> tuple[Stage, ...]:
        if not isinstance(value, (list, tuple)):
            return handler(value)
        # A default that pydantic filled in counts as no name: it may have to be numbered.
        plain = [
            {"type": item.type, "name": item.name if "name" in item.model_fields_set else None}
            if isinstance(item, StageBase)
            else item
            for item in value
        ]
        names = stage_names(plain)
        named = [_with_name(*pair) for pair in zip(value, names, strict=True)]
        expected, fix = "a name that no other stage has", "give the stage another `name`"
        return _together(handler, named, _repeated(names, "name", expected, fix))

    @field_validator("export", mode="wrap")
    @classmethod
    def _check_export(cls, value: Any, handler: Any, info: ValidationInfo) -> tuple[Export, ...]:
        if value in ((), []) and info.data.get("stages") == ():
            found, fix = "neither `stages` nor `export`", "add `export: [{target: edge-cpu}]`"
            raise wrong(
                "at least one of them", fix, found=found, missing=True, others=[("stages",)]
            )
        files = [_file(item) for item in value] if isinstance(value, (list, tuple)) else []
        expected, fix = "a file of its own for each export", "give one of them another `name`"
        return _together(handler, value, _repeated(files, "target", expected, fix))

    @classmethod
    def load(cls, path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> Recipe:
        """Reads a recipe from a YAML file.

        Args:
            overrides: `KEY=VALUE` as in `--set`: `stages.sparsify.sparsity.final=0.8`.

        Raises:
            RecipeError: with everything that is wrong, not only the first.
        """
        source = recipe_source.read_file(os.fspath(path))
        return cls.from_source(override(source, overrides))

    @classmethod
    def loads(cls, text: str, source: str = "<string>", overrides: Iterable[str] = ()) -> Recipe:
        """Reads a recipe from YAML text; `source` names it in problems. See `load`."""
        read = recipe_source.read(text, source)
        return cls.from_source(override(read, overrides))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """Makes a recipe from plain data. Raises as `load` does."""
        return cls.from_source(recipe_source.Source(data=data))

    @classmethod
    def from_source(cls, source: recipe_source.Source) -> Recipe:
        """Makes a recipe from data that knows where it was written. Raises as `load` does."""
        problems = [problem for _, problem in source.problems]
        try:
            recipe = cls.model_validate(source.data)
        except ValidationError as error:
            problems += explain(error, cls.json_schema(), source)
        if problems:
            raise RecipeError(problems)
        return recipe

    def dump(self) -> str:
        """YAML text with every setting in it; `loads` gives back an equal recipe."""
        return recipe_source.dump(self.model_dump(mode="json", by_alias=True))

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON Schema of recipes, for editors and for the words of errors."""
        draft = "https://json-schema.org/draft/2020-12/schema"
        return {"$schema": draft, **cls.model_json_schema()}


def _with_name(stage: Any, name: Any) -> Any:
    if isinstance(stage, StageBase):
        return stage.model_copy(update={"name": name})
    return {**stage, "name": name} if isinstance(stage, Mapping) and name is not None else stage


def _file(export: Any) -> tuple[Any, ...] | None:
    """What tells the file of an export, which may not be valid, from others."""
    if isinstance(export, Export):
        export = export.model_dump()
    if not isinstance(export, Mapping):
        return None
    name, target, precision = (export.get(key) for key in ("name", "target", "precision"))
    key = (name,) if name is not None else (target, precision or "")
    return key if all(isinstance(part, str) for part in key) else None


def _repeated(names: Sequence[Any], key: str, expected: str, fix: str) -> list[InitErrorDetails]:
    """An error for each name, of the items of a list, that an earlier item has."""
    first: dict[Any, int] = {}
    errors = []
    for index, name in enumerate(names):
        same = (
            tuple(part.lower() for part in name) if isinstance(name, tuple) else str(name).lower()
        )
        if name is None or first.setdefault(same, index) == index:
            continue
        text = name if isinstance(name, str) else " ".join(filter(None, name))
        found = f"{text!r}, as in item {first[same]}"
        error = wrong(expected, fix, found=found, others=[("..", first[same], key)])
        errors.append(InitErrorDetails(type=error, loc=(index, key), input=name))
    return errors


def _together(handler: Any, value: Any, errors: list[InitErrorDetails]) -> Any:
    """What `handler` makes of `value`; its errors and `errors` at once."""
    try:
        valid = handler(value)
    except ValidationError as error:
        for one in error.errors(include_url=False):
            kind = PydanticCustomError(one["type"], one["msg"], one.get("ctx", {}))
            errors.append(InitErrorDetails(type=kind, loc=one["loc"], input=one["input"]))
    if errors:
        raise ValidationError.from_exception_data("Recipe", errors)
    return valid
