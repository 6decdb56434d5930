"""Who teaches whom in the stages of a recipe, found and checked before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from compresskit import catalog
from compresskit.data import Dataset
from compresskit.distillation.student import cut, project_embedding
from compresskit.distillation.teaching import comparisons
from compresskit.distillation.transfer import load_transfer
from compresskit.distillation.vocabulary import cut_vocabulary
from compresskit.errors import ModelError, Problem, RecipeError, did_you_mean
from compresskit.models.load import load_model
from compresskit.recipe_distill import Learning, Pupil
from compresskit.recipe_source import Locate
from compresskit.samples import Samples, count, take
from compresskit.stages import Distill, Stage

OWN = ("baseline", "previous")


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """How a stage learns from a teacher.

    Attributes:
        learning: the settings.
        teacher: a model of its own, or None for the baseline or the previous model.
        student: the model to go on with, or None for the one that is there.
        inherits: whether the student is made of layers of its teacher.
        embedded: whether its token embedding begins as the teacher's.
        dataset: what it and later stages train on and are measured with.
        transfer: samples without labels, or None.
        ids: the teacher's token id of each of the student's, or None if they are the same.
        first_ids: those of the model before the first stage.
    """

    learning: Learning
    teacher: keras.Model | None
    student: keras.Model | None
    inherits: bool
    embedded: bool
    dataset: Dataset
    transfer: Samples | None
    ids: np.ndarray | None
    first_ids: np.ndarray | None

    @property
    def samples(self) -> int:
        """How many samples an epoch has."""
        extra = 0 if self.transfer is None else count(self.transfer)
        return count(self.dataset.x_train) + extra


def find_lesson(
    stage: Stage,
    path: tuple[str | int, ...],
    model: keras.Model,
    original: keras.Model,
    dataset: Dataset,
    ids: np.ndarray | None,
    locate: Locate,
    *,
    base: Path | None,
    safe_mode: bool,
) -> Lesson | None:
    """The lesson of a stage, or None if nobody teaches in it.

    Args:
        path: of the stage in the recipe.
        model: what comes out of the stage before.
        original: the model before the first stage.
        dataset: what the stage before trains on.
        ids: the token id of `original` for each of the data set's, or None.

    Raises:
        RecipeError, ModelError, DataError: it cannot be.
    """
    learning = stage.learning
    if learning is None:
        return None
    inner = path if isinstance(stage, Distill) else (*path, "distill")
    transfer = None
    if learning.transfer is not None:
        where = locate((*inner, "transfer"))
        transfer = load_transfer(learning.transfer, dataset, where=where, base=base)
    kept = None
    taught_on = dataset
    if isinstance(stage, Distill):
        _check_student(stage, path, locate)
    if isinstance(stage, Distill) and stage.vocabulary == "data":
        where = locate((*path, "vocabulary"))
        dataset, transfer, kept = cut_vocabulary(dataset, transfer, where=where)
    teacher = None
    if learning.teacher not in OWN:
        where = locate((*inner, "teacher"))
        _check_teacher(learning.teacher, where)
        teacher = load_model(
            learning.teacher, where=where, base=base, safe_mode=safe_mode, dataset=taught_on
        )
    first_ids = ids if kept is None else kept if ids is None else ids[kept]
    # All but the previous model know the vocabulary of the beginning.
    known = kept if learning.teacher == "previous" else first_ids
    asked = teacher or (original if learning.teacher == "baseline" else model)
    student = None
    if isinstance(stage, Distill) and stage.student is not None:
        where = locate((*path, "student"))
        if isinstance(stage.student, Pupil):
            student = cut(asked, stage.student.layers, tokens=known, where=where)
        else:
            student = load_model(
                stage.student, where=where, base=base, safe_mode=safe_mode, dataset=dataset
            )
    embedded = isinstance(stage, Distill) and stage.embedding == "teacher"
    if embedded and student is not None:
        where = locate((*path, "embedding"))
        # Now for the errors; once its teacher is trained, for its weights.
        project_embedding(student, asked, known, where=where)
    lesson = Lesson(
        learning=learning,
        teacher=teacher,
        student=student,
        inherits=isinstance(stage, Distill) and isinstance(stage.student, Pupil),
        embedded=embedded,
        dataset=dataset,
        transfer=transfer,
        ids=known,
        first_ids=first_ids,
    )
    # That they answer, and show what is to be compared.
    comparisons(
        learning,
        asked,
        student or model,
        take(dataset.x_train, slice(2)),
        dataset.y_train,
        where=locate(inner),
        ids=known,
    )
    return lesson


def _check_teacher(teacher: Any, where: str) -> None:
    """That a teacher can have learned something.

    Raises:
        RecipeError: it is a name alone, which is at most that of a model with random weights.
    """
    if not isinstance(teacher, str) or teacher.endswith(".keras") or "/" in teacher:
        return
    if teacher in catalog.models:
        found = f"{teacher!r}, a registered model, whose weights are random"
        fix = "train it and name the file, or make it the recipe's `model` with a `baseline`"
    else:
        found, fix = f"unknown teacher {teacher!r}", did_you_mean(teacher, OWN)
    raise RecipeError(
        Problem(
            where=where,
            found=found,
            expected="baseline, previous, the path of a .keras file, or a mapping with `builder`",
            fix=fix,
        )
    )


def _check_student(stage: Distill, path: tuple[str | int, ...], locate: Locate) -> None:
    """That what is said of a student is said of one.

    Raises:
        ModelError: the model as it is has its vocabulary and its embedding already.
    """
    problems = [
        Problem(
            where=locate((*path, key)),
            found=f"`{key}: {value}` for the model as it is",
            expected="a student, which is made for it",
            fix=f"add `student: {{from: teacher, layers: [0, 1]}}`, or remove `{key}`",
        )
        for key, value, plain in (
            ("vocabulary", stage.vocabulary, "all"),
            ("embedding", stage.embedding, "own"),
        )
        if value != plain and stage.student is None
    ]
    if problems:
        raise ModelError(problems)
