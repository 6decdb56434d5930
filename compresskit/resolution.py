"""Looks up the targets and precisions that a recipe's exports name. No Keras."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from compresskit import catalog
from compresskit.errors import Problem, did_you_mean
from compresskit.installed import LITERT_QUANTIZER, Package, missing
from compresskit.recipe import Recipe
from compresskit.recipe_rounding import ROUNDING
from compresskit.recipe_source import Locate, render
from compresskit.stage_base import Compression, Selecting
from compresskit.stages import PTQ, QAT, Cluster, Distill, Shrink, Stage
from compresskit.target import Grid, Precision, Target
from compresskit.tfmot.limits import recipe_problems


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """An export with its records, after names have been looked up."""

    target: Target
    precision_name: str
    precision: Precision
    file: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the file, and of the one that the target's own tool makes of it."""
        compiled = self.target.compiled_name(self.file)
        return (self.file,) if compiled is None else (self.file, compiled)


def resolve(recipe: Recipe, locate: Locate = render) -> tuple[list[Resolved], list[Problem]]:
    """Targets and precisions of a recipe's exports, and what stands against them."""
    resolved: list[Resolved] = []
    problems: list[Problem] = []
    for index, export in enumerate(recipe.export):
        target: Target = catalog.targets.get(export.target)
        name = export.precision or target.default
        options, wrong = options_of(
            target, export.options, where=locate(("export", index, "options"))
        )
        problems += wrong
        if name in target.precisions:
            file = f"{export.name or f'{target.name}-{name}'}.tflite"
            resolved.append(
                Resolved(
                    target=target,
                    precision_name=name,
                    precision=target.precisions[name],
                    file=file,
                    options=options,
                )
            )
        else:
            problems.append(
                Problem(
                    where=locate(("export", index, "precision")),
                    found=f"precision {name!r} for target {target.name!r}",
                    expected=f"one of: {', '.join(target.precisions)}",
                    fix=did_you_mean(name, target.precisions),
                )
            )
    files = [set(each.files) for each in resolved]
    problems += [
        Problem(
            where=locate(("export", index)),
            found=f"a second export to {min(each & set().union(*files[:index]))}",
            expected="a file of its own for each export",
            fix="give one of them another `name`",
        )
        for index, each in enumerate(files)
        if each & set().union(*files[:index])
    ]
    problems += _packages(recipe, locate) + _compressions(recipe, locate)
    problems += _c_arrays(recipe, locate)
    problems += _grids(recipe, resolved, locate) + _roundings(recipe, resolved, locate)
    problems += _order(recipe, locate) + _activation_bits(recipe, resolved, locate)
    problems += recipe_problems(recipe, locate)
    return resolved, problems


def options_of(
    target: Target, given: Mapping[str, str], *, where: str
) -> tuple[dict[str, str], list[Problem]]:
    """A value for each option of a target's tool, and what is wrong with those that are given."""
    problems = []
    for name, value in given.items():
        valid = target.options.get(name, ())
        if name not in target.options:
            words = tuple(target.options)
            expected = f"one of: {', '.join(words)}" if words else "no options"
            found = f"unknown option {name!r} for target {target.name!r}"
        elif value not in valid:
            words = tuple(valid)
            expected = f"one of: {', '.join(words)}"
            found = f"{name} {value!r} for target {target.name!r}"
        else:
            continue
        fix = did_you_mean(value if valid else name, words) if words else "remove `options`"
        problems.append(Problem(where=where, found=found, expected=expected, fix=fix))
    return {name: given.get(name, values[0]) for name, values in target.options.items()}, problems


def _packages(recipe: Recipe, locate: Locate) -> list[Problem]:
    """What must be installed before anything is trained."""
    needed: list[tuple[str, Package | None]] = []
    for export in recipe.export:
        target: Target = catalog.targets.get(export.target)
        precision = target.precisions.get(export.precision or target.default)
        rounds = precision is not None and precision.weights == "int4"
        if rounds or export.weights != ROUNDING:
            needed.append(("precision" if rounds else "weights", LITERT_QUANTIZER))
        else:
            needed.append(("target", target.requires))
    found = [
        missing(package, where=locate(("export", index, key)))
        for index, (key, package) in enumerate(needed)
        if package is not None
    ]
    return [problem for problem in found if problem is not None]


def _roundings(recipe: Recipe, exports: list[Resolved], locate: Locate) -> list[Problem]:
    """Ways to round weights where nothing is rounded that way, or the stages have done it."""
    if len(exports) != len(recipe.export):
        return []
    problems = []
    on_grid = [
        stage.name
        for stage in recipe.stages
        if isinstance(stage, QAT) or (isinstance(stage, PTQ) and "gptq" in stage.algorithms)
    ]
    for index, (export, resolved) in enumerate(zip(recipe.export, exports, strict=True)):
        precision = resolved.precision
        if export.weights == ROUNDING:
            continue
        if precision.integer or not precision.packed:
            problems.append(
                Problem(
                    where=locate(("export", index, "weights")),
                    found=f"precision {resolved.precision_name!r}",
                    expected="int4 or dynamic: integer weights, and floats between the ops",
                    fix="remove `weights`, or write `precision: int4`",
                )
            )
        elif export.weights.granularity == "block" and precision.weights != "int4":
            problems.append(
                Problem(
                    where=locate(("export", index, "weights", "granularity")),
                    found=f"block for precision {resolved.precision_name!r}",
                    expected="int4: 8-bit kernels have a scale for each channel",
                    fix="write `precision: int4`, or remove `granularity`",
                )
            )
        elif on_grid:
            problems.append(
                Problem(
                    where=locate(("export", index, "weights")),
                    found=f"weights that the stage {on_grid[0]} has put on the grid of channels",
                    expected="min-max by channel, which finds that grid again",
                    fix=f"remove `weights`, or the stage {on_grid[0]}",
                )
            )
    return problems


def _compressions(recipe: Recipe, locate: Locate) -> list[Problem]:
    return [
        Problem(
            where=locate(("export", index, "compress")),
            found=f"{export.compress} for target {export.target!r}",
            expected="a target that decodes weights while it runs: micro",
            fix="remove `compress`, or write `target: micro`; to make a download smaller, "
            "`compresskit pack` the file",
        )
        for index, export in enumerate(recipe.export)
        if export.compress != "none"
        and catalog.targets.get(export.target).runtime != "tflite-micro"
    ]


def _c_arrays(recipe: Recipe, locate: Locate) -> list[Problem]:
    return [
        Problem(
            where=locate(("export", index, "c_array")),
            found=f"a C array for target {export.target!r}",
            expected="a target whose files are linked into firmware: micro",
            fix="remove `c_array`, or write `target: micro`",
        )
        for index, export in enumerate(recipe.export)
        if export.c_array and catalog.targets.get(export.target).runtime != "tflite-micro"
    ]


def _grids(recipe: Recipe, exports: list[Resolved], locate: Locate) -> list[Problem]:
    """Shared integers are those of one grid: on another they are others."""
    shared = [
        stage
        for stage in recipe.stages
        if isinstance(stage, Cluster) and stage.granularity == "tensor"
    ]
    # TFMOT shares floats, on no grid.
    if not shared or len(exports) != len(recipe.export) or recipe.engine == "tfmot":
        return []
    integer = [each for each in exports if each.precision.packed]
    first = training_grid(exports)
    return [
        Problem(
            where=locate(("export", exports.index(each))),
            found=f"{each.file}, whose dense kernels have {_dense(each.precision.grid)}, and "
            f"values shared in the integers of kernels that have {_dense(first)}",
            expected=f"exports of one grid after the stage {shared[0].name}",
            fix="export to the targets of each grid from a recipe of its own, or give the stage "
            "`granularity: channel`",
        )
        for each in integer
        if each.precision.grid.per_channel_dense != first.per_channel_dense
    ]


def _dense(grid: Grid) -> str:
    return "a scale for each output" if grid.per_channel_dense else "one scale"


def training_grid(exports: list[Resolved]) -> Grid:
    """The grid that training rounds weights to: that of the first integer or 4-bit export.

    Activations are rounded if one of the exports computes in 8 bits, or if there is none.
    """
    activations = not exports or any(each.precision.activations == "int8" for each in exports)
    grids = [
        each.precision.grid
        for each in exports
        if each.precision.integer or each.precision.weights == "int4"
    ]
    return replace(grids[0] if grids else Grid(), activations=activations)


def same_weights(one: Grid, other: Grid) -> bool:
    """Whether two grids hold the same weights."""
    return replace(one, activations=True) == replace(other, activations=True)


# What a stage of the first type would undo of an earlier one of the second.
_UNDOES = {
    ("prune", "cluster"): "its zeros would be values that no cluster has",
    ("cluster", "cluster"): "it would move weights that already share values",
    ("cluster", "qat"): "the ranges and the rounding were learned with other weights",
    ("prune", "qat"): "the ranges and the rounding were learned with other weights",
    ("ptq", "cluster"): "it would move weights that already share values",
    ("ptq", "qat"): "the ranges and the rounding were learned with other weights",
    ("prune", "ptq"): "the rounding was chosen for other weights",
    ("cluster", "ptq"): "the rounding was chosen for other weights",
    ("shrink", "prune"): "its masks are for weights of the size that they have now",
    ("shrink", "cluster"): "its clusters are of weights of the size that they have now",
    ("shrink", "qat"): "its ranges and scales are of layers of the size that they have now",
}
_NEW_STUDENT = "a new student has nothing of it"


def _order(recipe: Recipe, locate: Locate) -> list[Problem]:
    """Stages that would destroy what an earlier one made."""
    problems = []
    for index, stage in enumerate(recipe.stages):
        for earlier in recipe.stages[:index]:
            reason = _UNDOES.get((stage.type, earlier.type))
            if isinstance(stage, Distill) and stage.student and isinstance(earlier, Compression):
                reason = _NEW_STUDENT
            if reason is None or _apart(stage, earlier):
                continue
            problems.append(
                Problem(
                    where=locate(("stages", index, "type")),
                    found=f"{stage.type} ({stage.name}) after {earlier.type} ({earlier.name}): "
                    f"{reason}",
                    expected="a student first"
                    if reason == _NEW_STUDENT
                    else "shrink, prune, cluster, qat or ptq in this order, or stages with "
                    "other `targets`"
                    if stage.type != "shrink"
                    else "shrink first, then prune, cluster, qat",
                    fix=f"move {stage.name} before {earlier.name}"
                    if stage.type != earlier.type
                    else "give both `targets` that share nothing",
                )
            )
            break
    return problems


def _apart(one: Stage, other: Stage) -> bool:
    """Whether two stages name their targets, and no pattern twice."""
    if not isinstance(one, Selecting) or not isinstance(other, Selecting):
        return False
    if isinstance(one, Shrink):
        return False  # what reads a unit is made smaller, too
    return bool(one.targets and other.targets) and not set(one.targets) & set(other.targets)


def _activation_bits(recipe: Recipe, exports: list[Resolved], locate: Locate) -> list[Problem]:
    integer = [each for each in exports if each.precision.activations == "int8"]
    return [
        Problem(
            where=locate(("stages", index, "activation_bits")),
            found=f"{stage.activation_bits} bits, and an export to {integer[0].file}",
            expected="8: the kernels of that file compute with 8-bit activations",
            fix="remove activation_bits, or remove the integer exports to simulate only",
        )
        for index, stage in enumerate(recipe.stages)
        if isinstance(stage, QAT) and stage.activation_bits != 8 and integer
    ]
