"""Loads the model and the data of a recipe and holds them against it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from compresskit import catalog, data
from compresskit.data import Dataset
from compresskit.distribution import share_problems
from compresskit.errors import CompressKitError, Problem, RecipeError, did_you_mean
from compresskit.fitting import check_fit, known
from compresskit.lessons import Lesson, find_lesson
from compresskit.models.load import load_model
from compresskit.outputs import Output
from compresskit.recipe import Recipe
from compresskit.recipe_source import Locate, render
from compresskit.resolution import Resolved, resolve
from compresskit.samples import count
from compresskit.selection import Selection
from compresskit.stages import Distill, Prune, Shrink
from compresskit.stopping import stopping_problems
from compresskit.tfmot import loading
from compresskit.tfmot.session import Session


@dataclass(kw_only=True)
class Prepared:
    """A recipe's model and data, and what stands against it.

    Attributes:
        exports: the targets and precisions of the recipe's exports.
        selections: what each stage would take of the model.
        lessons: how each stage learns from a teacher, or None.
        steps: batches in an epoch of each stage.
        output: which output of the model is measured.
        session: with the model of tf_keras, if TFMOT is the engine.
        problems: everything that is wrong.
        error: the kind of the first problem.
    """

    model: keras.Model | None = None
    dataset: Dataset | None = None
    exports: list[Resolved] = field(default_factory=list)
    selections: list[Selection] = field(default_factory=list)
    lessons: list[Lesson | None] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    output: Output | None = None
    session: Session | None = None
    problems: list[Problem] = field(default_factory=list)
    error: type[CompressKitError] | None = None

    def add(self, error: CompressKitError) -> None:
        """Takes the problems of an error over."""
        self.problems += error.problems
        self.error = self.error or type(error)


def prepare(
    recipe: Recipe,
    *,
    model: Any = None,
    data: Any = None,
    locate: Locate = render,
    base: Path | None = None,
    safe_mode: bool = True,
) -> Prepared:
    """Loads what a recipe names, and checks that the recipe fits it. Raises nothing."""
    exports, wrong = resolve(recipe, locate)
    prepared = Prepared(exports=exports)
    _load(prepared, recipe, model, data, locate, base, safe_mode)
    wrong += _training_problems(recipe, locate)
    wrong += _walk(prepared, recipe, locate, base, safe_mode)
    if wrong:
        prepared.add(RecipeError(wrong))
    if prepared.model is not None and prepared.dataset is not None:
        try:
            prepared.output = check_fit(prepared.model, prepared.dataset, recipe, locate)
        except CompressKitError as error:
            prepared.add(error)
    return prepared


def _walk(
    prepared: Prepared, recipe: Recipe, locate: Locate, base: Path | None, safe_mode: bool
) -> list[Problem]:
    """Goes through the stages, each with the model and the samples that it will have."""
    problems: list[Problem] = []
    model, dataset, ids = prepared.model, prepared.dataset, None
    if recipe.baseline is not None and dataset is not None:
        size = recipe.baseline.batch_size
        problems += share_problems(count(dataset.x_train), size, locate(("baseline",)))
    for index, stage in enumerate(recipe.stages):
        samples = count(dataset.x_train) if dataset is not None else 0
        lesson = None
        if model is not None and dataset is not None:
            try:
                lesson = find_lesson(
                    stage, ("stages", index), model, prepared.model, dataset, ids, locate,
                    base=base, safe_mode=safe_mode,
                )  # fmt: skip
            except CompressKitError as error:
                prepared.add(error)
            if lesson is not None:
                model, dataset, ids = lesson.student or model, lesson.dataset, lesson.first_ids
                samples = lesson.samples
            prepared.lessons.append(lesson)
            where = locate(("stages", index, "early_stopping"))
            problems += stopping_problems(stage, dataset.y_train, where)
        if samples:
            size = batch_size(recipe, stage)
            prepared.steps.append(math.ceil(samples / size))
            if stage.epochs:
                problems += share_problems(samples, size, locate(("stages", index)))
        # Of a student that could not be made nothing can be said, and nothing of later stages.
        if isinstance(stage, Distill) and stage.student is not None and lesson is None:
            model = None
        if model is not None:
            method = catalog.methods.get(stage.type)(stage)
            selection = method.select(model, locate(("stages", index)))
            prepared.selections.append(selection)
            problems += selection.problems
    if prepared.session is not None and prepared.model is not None:
        problems += loading.problems_of(recipe, prepared.model, prepared.selections, locate)
        if prepared.dataset is not None:
            problems += loading.data_problems(prepared.dataset, locate)
    return problems + schedule_problems(recipe, prepared.steps, locate)


def check(recipe: Recipe, **given: Any) -> Prepared:
    """`prepare`, with nothing standing against the recipe.

    Raises:
        RecipeError, ModelError, DataError: with every problem at once.
    """
    prepared = prepare(recipe, **given)
    if prepared.problems:
        raise (prepared.error or RecipeError)(prepared.problems)
    return prepared


def batch_size(recipe: Recipe, stage: Any) -> int:
    """The batch size that a stage trains with."""
    return stage.batch_size or recipe.defaults.batch_size


def _load(
    prepared: Prepared,
    recipe: Recipe,
    model: Any,
    given: Any,
    locate: Locate,
    base: Path | None,
    safe_mode: bool,
) -> None:
    try:
        spec = recipe.data if given is None else given
        prepared.dataset = data.load(spec, where=locate(("data",)), base=base)
    except CompressKitError as error:
        prepared.add(error)
    try:
        named = recipe.model if model is None else model
        how: dict[str, Any] = {
            "where": locate(("model",)),
            "base": base,
            "safe_mode": safe_mode,
            "dataset": prepared.dataset,
        }
        if recipe.engine == "tfmot":
            prepared.model, prepared.session = loading.load(named, **how)
        else:
            prepared.model = load_model(named, **how)
    except CompressKitError as error:
        prepared.add(error)


def _training_problems(recipe: Recipe, locate: Locate) -> list[Problem]:
    """Names of optimizers and losses that nobody knows."""
    problems = []
    sections: list[tuple[tuple[str | int, ...], Any]] = [(("defaults",), recipe.defaults)]
    if recipe.baseline is not None:
        sections.append((("baseline",), recipe.baseline))
    sections += [(("stages", index), stage) for index, stage in enumerate(recipe.stages)]
    optimizers = {
        name.lower()
        for name, value in vars(keras.optimizers).items()
        if isinstance(value, type) and known(keras.optimizers.get, _class(name))
    }
    for path, section in sections:
        name = section.optimizer
        if name is not None and name.lower() not in optimizers:
            problems.append(_unknown(locate((*path, "optimizer")), "optimizer", name, optimizers))
    words = [name for name in dir(keras.losses) if name.islower() and name.strip("_") == name]
    losses = {"auto", *(name for name in words if "_" in name and known(keras.losses.get, name))}
    loss = recipe.defaults.loss
    if loss not in losses:
        problems.append(_unknown(locate(("defaults", "loss")), "loss", loss, losses))
    return problems


def _class(name: str) -> dict[str, Any]:
    return {"class_name": name, "config": {}}


def _unknown(where: str, kind: str, name: str, valid: set[str]) -> Problem:
    return Problem(
        where=where,
        found=f"unknown {kind} {name!r}",
        expected=f"one of: {', '.join(sorted(valid))}",
        fix=did_you_mean(name, valid),
    )


def schedule_problems(recipe: Recipe, steps: list[int], locate: Locate) -> list[Problem]:
    """Schedules that do not fit into their stages.

    Args:
        steps: of an epoch of each stage.
    """
    problems = []
    for index, (stage, per_epoch) in enumerate(zip(recipe.stages, steps, strict=False)):
        if not isinstance(stage, (Prune, Shrink)):
            continue
        total = per_epoch * stage.epochs
        begin, end = (each.steps(per_epoch, stage.epochs) for each in (stage.begin, stage.end))
        if not begin < end <= total:
            problems.append(
                Problem(
                    where=locate(("stages", index, "end")),
                    found=f"begin {stage.begin} is step {begin}, end {stage.end} is step {end}, "
                    f"and the stage has {total} steps",
                    expected="begin before end, and end within the stage",
                    fix="change begin or end, or train for more epochs",
                )
            )
    return problems
