"""What a recipe would do, and everything that stands against it, before anything is done."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compresskit.errors import RecipeError
from compresskit.recipe import Recipe
from compresskit.recipe_distill import Pupil
from compresskit.recipe_fields import Builder
from compresskit.recipe_source import Locate, render
from compresskit.resolution import Resolved, resolve, same_weights, training_grid
from compresskit.stages import Distill, Prune


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """What a stage would take and leave, and what it is worth on the recipe's targets.

    Attributes:
        teacher: who teaches in it, or None.
        student: the model that it goes on with, or None for the one that is there.
        parameters: of the model that it trains; 0 if that was not loaded.
    """

    name: str
    type: str
    epochs: int
    steps: int
    touched: tuple[str, ...]
    skipped: dict[str, str]
    worth: dict[str, str]
    teacher: str | None = None
    student: str | None = None
    parameters: int = 0


@dataclass(frozen=True, kw_only=True)
class ExportPlan:
    """A file that would be written."""

    target: str
    precision: str
    file: str
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a recipe would do.

    Attributes:
        imported: whether model and data were loaded; if not, stages list no weights.
    """

    recipe: str
    model: str
    data: str
    imported: bool
    stages: tuple[StagePlan, ...]
    exports: tuple[ExportPlan, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for `--json`."""
        return asdict(self)


def describe(spec: Any) -> str:
    """A model or data set of a recipe, in a word."""
    if isinstance(spec, str):
        return spec
    if isinstance(spec, Builder):
        return spec.builder
    if isinstance(spec, Pupil):
        return f"blocks {', '.join(map(str, spec.layers))} of the teacher"
    return str(getattr(spec, "npz", None) or getattr(spec, "directory", None) or spec)


def plan(
    recipe: Recipe | str | Path,
    *,
    model: Any = None,
    data: Any = None,
    imports: bool = True,
    locate: Locate = render,
    base: Path | None = None,
    safe_mode: bool = True,
) -> Plan:
    """Checks a recipe against its model, data and targets, and tells what it would do.

    Args:
        recipe: a recipe, or the path of one.
        model, data: in place of the recipe's own.
        imports: whether to load model and data. A `builder:` runs the user's code;
            without imports none is run, and TensorFlow is not loaded.
        locate: tells people where a key path stands.
        base: folder that relative paths may start from.
        safe_mode: refuse `.keras` files with Python code in them.

    Raises:
        RecipeError, ModelError, DataError: with every problem at once.
    """
    if not isinstance(recipe, Recipe):
        base = base or Path(recipe).parent
        recipe = Recipe.load(recipe)
    if imports:
        # Not at the top: without imports a plan loads no TensorFlow.
        from compresskit.preparation import check
        from compresskit.tfmot.loading import with_engine

        recipe = with_engine(recipe, model, base)
        made = check(recipe, model=model, data=data, locate=locate, base=base, safe_mode=safe_mode)
        exports = made.exports
        stages = _stage_plans(recipe, exports, made)
    else:
        exports, problems = resolve(recipe, locate)
        if problems:
            raise RecipeError(problems)
        stages = _stage_plans(recipe, exports, None)
    return Plan(
        recipe=recipe.name,
        model=describe(recipe.model) if model is None else "given",
        data=describe(recipe.data) if data is None else "given",
        imported=imports,
        stages=tuple(stages),
        exports=tuple(_export_plan(recipe, each, exports) for each in exports),
    )


def _stage_plans(recipe: Recipe, exports: list[Resolved], made: Any) -> list[StagePlan]:
    plans = []
    model = made.model if made else None
    for index, stage in enumerate(recipe.stages):
        selection = made.selections[index] if made else None
        lesson = made.lessons[index] if made else None
        model = (lesson.student if lesson else None) or model
        student = stage.student if isinstance(stage, Distill) else None
        plans.append(
            StagePlan(
                name=stage.name,
                type=stage.type,
                epochs=stage.epochs,
                steps=made.steps[index] * stage.epochs if made else 0,
                touched=tuple(weight.path for weight in selection.taken) if selection else (),
                skipped={skip.path: skip.reason for skip in selection.skipped} if selection else {},
                worth={
                    each.target.name: each.target.worth[_worth_key(stage)]
                    for each in exports
                    if _worth_key(stage) in each.target.worth
                },
                teacher=describe(stage.learning.teacher) if stage.learning else None,
                student=describe(student) if student else None,
                parameters=model.count_params() if model else 0,
            )
        )
    return plans


def _worth_key(stage: Any) -> str:
    """What a target's table of worth calls a stage."""
    if isinstance(stage, Prune) and stage.granularity != "unstructured":
        return "prune:n:m" if ":" in stage.granularity else "prune:block"
    return stage.type


def _export_plan(recipe: Recipe, each: Resolved, exports: list[Resolved]) -> ExportPlan:
    notes = []
    trained = any(stage.type == "qat" for stage in recipe.stages)
    rounded = each.precision.integer or each.precision.weights == "int4"
    if trained and rounded and not same_weights(each.precision.grid, training_grid(exports)):
        notes.append(
            "its kernels round weights on another grid than the one that training saw "
            "(that of the first integer or 4-bit export): they are rounded once more"
        )
    if each.precision.activations == "int8" and not trained:
        notes.append("no qat stage: ranges come from calibration alone")
    if each.precision.activations == "int16":
        notes.append("ranges come from calibration: 16 bits round next to nothing")
    return ExportPlan(
        target=each.target.name,
        precision=each.precision_name,
        file=each.file,
        notes=tuple(notes),
    )
