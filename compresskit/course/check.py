"""What stands against stages in somebody else's training, before its first step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from compresskit import catalog, recipe_source
from compresskit.distillation.in_loss import labels_for
from compresskit.distillation.teaching import comparisons
from compresskit.errors import CompressKitError, Problem, RecipeError
from compresskit.exporting import declared_sample, precision_of
from compresskit.lessons import OWN
from compresskit.preparation import schedule_problems
from compresskit.recipe import Recipe
from compresskit.recipe_source import Locate, render
from compresskit.resolution import resolve
from compresskit.samples import take
from compresskit.stages import PTQ, QAT, Distill, Shrink, Stage

# What a loop decides that is not ours.
_THEIRS = ("optimizer", "learning_rate", "learning_rate_schedule", "batch_size", "early_stopping")
Stages = Recipe | str | Path | Sequence[Mapping[str, Any]]


def read_stages(given: Stages, target: str | None, precision: str | None) -> tuple[Recipe, Locate]:
    """The stages as a recipe, and where people find its keys.

    Args:
        given: a recipe, the path of one, or its `stages` as plain data.
        target, precision: what is exported in the end, in place of the recipe's own exports.

    Raises:
        RecipeError, TargetError: with everything that is wrong with them.
    """
    export = {}
    if target is not None:
        precision_of(catalog.targets.get(target, where="target"), precision)
        export = {"export": [{"target": target, "precision": precision}]}
    elif precision is not None:
        raise RecipeError(
            Problem(
                where="precision",
                found=f"{precision!r} without a target",
                expected="the target that has it",
                fix='for example `target="edge-cpu"`',
            )
        )
    locate: Locate = render
    if isinstance(given, (str, Path)):
        source = recipe_source.read_file(str(given))
        recipe, locate = Recipe.from_source(source), source.where
    elif isinstance(given, Recipe):
        recipe = given
    else:
        head = {"version": 1, "name": "stages", "model": "given"}
        recipe = Recipe.from_dict({**head, "stages": list(given), **export})
        wrong = list(_their_keys(recipe, locate))
        if wrong:
            raise RecipeError(wrong)
    if export:
        plain = recipe.model_dump(mode="json", by_alias=True)
        recipe = Recipe.from_dict({**plain, **export})
    return recipe, locate


def _their_keys(recipe: Recipe, locate: Locate) -> Iterator[Problem]:
    for index, stage in enumerate(recipe.stages):
        for key in _THEIRS:
            if key in stage.model_fields_set:
                yield Problem(
                    where=locate(("stages", index, key)),
                    found=f"{key}: {getattr(stage, key)}",
                    expected="stages without it: your own loop decides",
                    fix=f"remove `{key}`, and give it to `compile` or `fit`",
                )


def sample_for(model: keras.Model, sample: Any) -> Any:
    """Inputs as the model takes them: those given, or zeros in the shape that it declares.

    Returns:
        None if it declares none.
    """
    if sample is None:
        try:
            sample = declared_sample(model)
        except CompressKitError:
            return None
    if isinstance(sample, (list, tuple)):
        # A functional model takes its inputs by name, too, however it was written.
        named = zip((tensor.name for tensor in model.inputs), sample, strict=True)
        return sample[0] if len(sample) == 1 else dict(named)
    return sample


def problems(
    recipe: Recipe,
    model: keras.Model,
    *,
    locate: Locate,
    steps: int | None,
    epochs: int | None,
    sample: Any,
    teacher: keras.Model | None,
) -> list[Problem]:
    """Everything that is wrong, before anything is put on the model.

    Args:
        steps: batches of an epoch, or None if that is not known.
        epochs: how many the loop has, or None if it may have any number.
        sample: inputs as the model takes them, or None.
        teacher: in place of the model as it is now, or None.
    """
    if not model.built:
        return [
            Problem(
                where=f"model {model.name!r}",
                found="a model without weights",
                expected="a model that is built",
                fix="call it on a batch, or give it an Input",
            )
        ]
    _, found = resolve(recipe, locate)
    if recipe.engine != "native":
        found.append(
            Problem(
                where=locate(("engine",)),
                found=f"engine: {recipe.engine}",
                expected="native: the stages act on a Keras 3 model in your own training",
                fix="remove `engine`, or run the recipe with `compresskit apply`",
            )
        )
    for index, stage in enumerate(recipe.stages):
        path = ("stages", index)
        found += _elsewhere(stage, path, locate)
        if isinstance(stage, Shrink | PTQ) or (isinstance(stage, Distill) and stage.student):
            continue
        selected = catalog.methods.get(stage.type)(stage).select(model, locate(path))
        found += selected.problems
        found += _lesson(stage, path, locate, model, sample, teacher)
        if isinstance(stage, QAT) and sample is None:
            found.append(_no_sample(model, stage))
    if not recipe.stages:
        found.append(
            Problem(
                where=locate(("stages",)),
                found="no stage",
                expected="at least one",
                fix="for example `stages: [{type: prune, sparsity: 0.8}]`",
            )
        )
    if steps is None:
        found.append(
            Problem(
                where="steps_per_epoch",
                found="data whose length is not known",
                expected="the batches of an epoch, which schedules are counted in",
                fix="give `steps_per_epoch` to `fit`, or use data with a length",
            )
        )
    else:
        found += schedule_problems(recipe, [steps] * len(recipe.stages), locate)
    return found + too_few(recipe, epochs)


def too_few(recipe: Recipe, epochs: int | None) -> list[Problem]:
    """That the loop has epochs enough for all stages."""
    wanted = sum(stage.epochs for stage in recipe.stages)
    if epochs is None or epochs >= wanted:
        return []
    each = " + ".join(f"{stage.epochs} ({stage.name})" for stage in recipe.stages)
    return [
        Problem(
            where="epochs",
            found=f"{epochs} epochs of training",
            expected=f"at least {wanted}: {each}",
            fix=f"train for {wanted} epochs, or give the stages fewer `epochs`",
        )
    ]


def _elsewhere(stage: Stage, path: tuple[str | int, ...], locate: Locate) -> list[Problem]:
    """What only `compress` can do: it has the model, the samples and the test set itself."""
    found = []

    def only(key: str, what: str, fix: str = "use `compresskit.compress` for this recipe") -> None:
        found.append(
            Problem(
                where=locate((*path, key)),
                found=what,
                expected="a stage that leaves model and data as they are, in a loop that is yours",
                fix=fix,
            )
        )

    if isinstance(stage, PTQ):
        only("type", "ptq, which trains nothing and looks at samples")
    if isinstance(stage, Shrink):
        only("type", "shrink, which goes on with a smaller model")
    if isinstance(stage, Distill) and stage.student is not None:
        only("student", "a student, which takes the place of the model")
    if stage.learning is not None and stage.learning.transfer is not None:
        inner = "transfer" if isinstance(stage, Distill) else "distill"
        only(inner, "samples without labels, beside those of your loop")
    if stage.gate is not None:
        fix = "remove `gate` and look at the validation yourself, or use `compresskit.compress`"
        only("gate", "a gate, which is measured against a baseline on a test set", fix)
    return found


def _no_sample(model: keras.Model, stage: Stage) -> Problem:
    return Problem(
        where=f"stage {stage.name}",
        found=f"{model.name}, a subclassed model, which declares no input shape",
        expected="a few inputs, to see how its layers follow each other",
        fix="give `sample=x_train[:200]`",
    )


def _lesson(
    stage: Stage,
    path: tuple[str | int, ...],
    locate: Locate,
    model: keras.Model,
    sample: Any,
    teacher: keras.Model | None,
) -> list[Problem]:
    """What stands against a teacher in the model's own loss."""
    learning = stage.learning
    if learning is None or not learning.alpha:
        return []
    inner = path if isinstance(stage, Distill) else (*path, "distill")
    if learning.teacher not in OWN:
        return [
            Problem(
                where=locate((*inner, "teacher")),
                found="a teacher that the recipe loads",
                expected="baseline, or previous",
                fix="load it and give it as `teacher=`; it takes the place of the baseline",
            )
        ]
    if sample is None:
        return [_no_sample(model, stage)]
    if not model.compiled or model.loss is None:
        return [
            Problem(
                where=f"model {model.name!r}",
                found="no loss, in which a teacher could be",
                expected="a model that is compiled with one",
                fix="call `model.compile(optimizer, loss)`, and `model.compute_loss` in the step",
            )
        ]
    taught = teacher if teacher is not None and learning.teacher == "baseline" else model
    few = take(sample, slice(2))
    labels = labels_for(model, model(few, training=False))
    try:
        terms = comparisons(learning, taught, model, few, labels, where=locate(inner))
    except CompressKitError as error:
        return list(error.problems)
    if any(getattr(each.loss, "projection", None) is not None for each in terms):
        return [
            Problem(
                where=locate((*inner, "losses")),
                found="features of another width than the teacher's",
                expected="one width: a projection would be variables that your optimizer lacks",
                fix="compare layers of one width, or the answers alone, or use "
                "`compresskit.compress`",
            )
        ]
    return []
