"""The file of a model that was compressed in somebody else's loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from compresskit.course.course import Course
from compresskit.errors import ModelError, Problem, RecipeError
from compresskit.exporting import export
from compresskit.inspection import FileReport
from compresskit.resolution import Resolved


def export_course(
    course: Course | None,
    exports: list[Resolved],
    *,
    target: str | None,
    path: str | Path,
    precision: str | None,
    representative_data: Any,
    compress: Literal["none", "lut"],
) -> FileReport:
    """Writes the model to a file, if that keeps all that the stages promised.

    Args:
        exports: what the stages were trained for; the first is the default.

    Raises:
        ModelError: training has not ended.
        RecipeError: there is no target.
        ConversionError: also if the file breaks a promise; then it is not written.
    """
    course = ended(course)
    if target is None and exports:
        first = exports[0]
        target, precision = first.target.name, precision or first.precision_name
    if target is None:
        raise RecipeError(
            Problem(
                where="target",
                found="none, here or with the stages",
                expected="a name of `compresskit list targets`",
                fix='for example `target="edge-cpu"`',
            )
        )
    return export(
        course.model,
        target=target,
        path=path,
        precision=precision,
        representative_data=representative_data,
        ranges=course.ranges,
        compress=compress,
        kept=course.kept,
    )


def ended(course: Course | None) -> Course:
    """A course whose training has ended.

    Raises:
        ModelError: it has not.
    """
    if course is None or course.attached:
        raise ModelError(
            Problem(
                where="compression",
                found="a model that is not trained to its end",
                expected="one that is: only then it is plain Keras",
                fix="give the callback to `fit`, or end the block; after an interrupted `fit` call "
                "`detach()`",
            )
        )
    return course
