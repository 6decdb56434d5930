"""From the settings of a recipe to the terms of a loss, held against both models."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from compresskit.distillation.distiller import Comparison
from compresskit.distillation.losses import FeatureLoss, LogitsLoss
from compresskit.distillation.taps import ATTENTION, OUTPUT, Place, Taps, UnknownLayer
from compresskit.errors import Problem, RecipeError
from compresskit.labels import Labels
from compresskit.metrics import Answers, reading
from compresskit.outputs import output_names
from compresskit.recipe_distill import AttentionMaps, Features, Learning, Logits
from compresskit.samples import Samples


def answers_of(model: keras.Model, outputs: Any, labels: Labels) -> list[Answers]:
    """How the outputs of a model are to be read, in their flat order.

    Args:
        outputs: answers to a few samples.
        labels: those of the whole training set.
    """
    flat = [np.asarray(output) for output in keras.tree.flatten(outputs)]
    if not isinstance(labels, dict):
        return [reading(flat[0], labels)]
    names = output_names(model, outputs)
    return [reading(output, labels[name]) for name, output in zip(names, flat, strict=True)]


def comparisons(
    learning: Learning,
    teacher: keras.Model,
    student: keras.Model,
    x: Samples,
    labels: Labels,
    *,
    where: str,
    ids: np.ndarray | None = None,
) -> list[Comparison]:
    """The terms of the loss against the teacher; projections are built, and random.

    Args:
        x: a few samples, as the student takes them.
        labels: those of the training set.
        where: the stage, for errors.
        ids: the teacher's token id of each of the student's, or None.

    Raises:
        RecipeError: layers that are not there, or that cannot be compared; all of them.
    """
    few = keras.tree.map_structure(lambda values: values[:2], x)
    for_teacher = few if ids is None else ids[few]
    problems: list[Problem] = []
    pairs = [
        (index, each, *pair)
        for index, each in enumerate(learning.losses)
        if not isinstance(each, Logits)
        for pair in each.layers.items()
    ]
    learned, outputs = _shown(student, few, [(i, e, s) for i, e, s, _ in pairs], where, problems)
    taught, answers = _shown(
        teacher, for_teacher, [(i, e, t) for i, e, _, t in pairs], where, problems
    )
    made = []
    if _shapes(answers) != _shapes(outputs):
        problems.append(
            Problem(
                where=f"{where}.teacher",
                found=f"{teacher.name} answers in shape {_shapes(answers)}, {student.name} in "
                f"{_shapes(outputs)}",
                expected="answers of one shape to the same samples",
                fix="name a teacher and a student of the same task",
            )
        )
    else:
        made += [
            Comparison(
                LogitsLoss(
                    learning.temperature,
                    answers_of(teacher, answers, labels),
                    answers_of(student, outputs, labels),
                ),
                each.weight,
            )
            for each in learning.losses
            if isinstance(each, Logits)
        ]
    for index, each, to, of in pairs:
        one, other = (_place(each, of), taught), (_place(each, to), learned)
        if one[0] not in one[1] or other[0] not in other[1]:
            continue
        loss, problem = _feature_loss(
            each, one[1][one[0]], other[1][other[0]], f"{where}.losses[{index}].layers.{to}"
        )
        problems += [problem] if problem else []
        if loss is not None:
            made.append(Comparison(loss, each.weight, one[0], other[0]))
    if problems:
        raise RecipeError(problems)
    return made


def _place(loss: Features | AttentionMaps, layer: str) -> Place:
    return (ATTENTION if isinstance(loss, AttentionMaps) else OUTPUT, layer)


def _shown(
    model: keras.Model,
    x: Any,
    wanted: list[tuple[int, Any, str]],
    where: str,
    problems: list[Problem],
) -> tuple[dict[Place, Any], Any]:
    """What a model shows of a few samples, and what it answers."""
    taps = []
    for index, loss, layer in wanted:
        try:
            taps.append(Taps(model, [_place(loss, layer)]))
        except UnknownLayer as error:
            problems.append(
                Problem(
                    where=f"{where}.losses[{index}].layers",
                    found=repr(layer),
                    expected=error.expected,
                    fix=error.fix,
                )
            )
    try:
        outputs = model(x, training=False)
    finally:
        for tap in reversed(taps):
            tap.close()
    return {place: value for tap in taps for place, value in tap.shown.items()}, outputs


def _shapes(outputs: Any) -> Any:
    return [tuple(output.shape[1:]) for output in keras.tree.flatten(outputs)]


def _feature_loss(
    settings: Features | AttentionMaps, taught: Any, learned: Any, where: str
) -> tuple[FeatureLoss | None, Problem | None]:
    one, other = tuple(taught.shape[1:]), tuple(learned.shape[1:])
    if isinstance(settings, AttentionMaps):
        if one[1:] == other[1:]:
            return FeatureLoss(settings.loss, heads=True), None
    elif one[:-1] == other[:-1]:
        projection = None
        if one[-1] != other[-1]:
            projection = keras.layers.Dense(one[-1], use_bias=False, name="projection")
            projection.build((None, *other))
        return FeatureLoss(settings.loss, projection), None
    return None, Problem(
        where=where,
        found=f"shape {other} beside {one} of the teacher",
        expected="one shape but for the "
        + ("heads" if isinstance(settings, AttentionMaps) else "last axis, the width"),
        fix="compare layers that work at the same resolution",
    )
