"""The teachers of a run, and the change from one model to a student."""

from __future__ import annotations

import keras

from compresskit.distillation.copies import copy_of
from compresskit.distillation.student import inherit, project_embedding
from compresskit.lessons import Lesson
from compresskit.run import Run
from compresskit.stages import Distill
from compresskit.training import loss_for


def original(run: Run) -> keras.Model | None:
    """The model before the first stage, if any stage learns from it.

    It is the model itself, if the first stage goes on with a student for good, else a copy.

    Raises:
        ModelError: it cannot be copied.
    """
    taught = [lesson for lesson in run.lessons if lesson is not None]
    if not any(lesson.learning.teacher == "baseline" for lesson in taught):
        return None
    first = run.recipe.stages[0]
    if isinstance(first, Distill) and first.student is not None and first.gate is None:
        return run.model
    return copy_of(run.model)


def teacher(run: Run, index: int) -> keras.Model | None:
    """Who teaches in a stage, or None.

    Raises:
        ModelError: the model would teach itself, and cannot be copied.
    """
    lesson = run.lessons[index]
    if lesson is None:
        return None
    if lesson.teacher is not None:
        return lesson.teacher
    if lesson.learning.teacher == "baseline":
        return run.original
    return run.model if lesson.student is not None else copy_of(run.model)


def enter(run: Run, lesson: Lesson, teacher: keras.Model) -> None:
    """Goes on with the lesson's student, if it has one, and with its samples."""
    run.dataset = lesson.dataset
    if lesson.student is None:
        return
    run.model = lesson.student
    if lesson.inherits:
        # It was made before its teacher was trained.
        inherit(run.model, teacher, lesson.ids)
    else:
        run.loss = loss_for(run.recipe.defaults.loss, run.model, run.dataset)
    if lesson.embedded:
        project_embedding(run.model, teacher, lesson.ids)
