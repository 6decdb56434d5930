"""Looks up the targets and precisions that a recipe's exports name. No Keras."""

from __future__ import annotations

from dataclasses import dataclass

from compresskit import catalog
from compresskit.errors import Problem, did_you_mean
from compresskit.recipe import Recipe
from compresskit.recipe_source import Locate, render
from compresskit.stages import QAT, Stage
from compresskit.target import Grid, Precision, Target


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """An export with its records, after names have been looked up."""

    target: Target
    precision_name: str
    precision: Precision
    file: str


def resolve(recipe: Recipe, locate: Locate = render) -> tuple[list[Resolved], list[Problem]]:
    """Targets and precisions of a recipe's exports, and what stands against them."""
    resolved: list[Resolved] = []
    problems: list[Problem] = []
    for index, export in enumerate(recipe.export):
        target: Target = catalog.targets.get(export.target)
        name = export.precision or target.default
        if name in target.precisions:
            file = f"{export.name or f'{target.name}-{name}'}.tflite"
            resolved.append(
                Resolved(
                    target=target,
                    precision_name=name,
                    precision=target.precisions[name],
                    file=file,
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
    files = [each.file for each in resolved]
    problems += [
        Problem(
            where=locate(("export", index)),
            found=f"a second export to {each.file}",
            expected="a file of its own for each export",
            fix="give one of them another `name`",
        )
        for index, each in enumerate(resolved)
        if each.file in files[:index]
    ]
    problems += _order(recipe, locate) + _activation_bits(recipe, resolved, locate)
    return resolved, problems


def training_grid(exports: list[Resolved]) -> Grid:
    """The grid that training rounds to: that of the first integer export.

    Without one, files hold integer weights at most, and activations are not rounded.
    """
    grids = [each.precision.grid for each in exports if each.precision.integer]
    return grids[0] if grids else Grid(activations=not exports)


# What a stage of the first type would undo of an earlier one of the second.
_UNDOES = {
    ("prune", "cluster"): "its zeros would be values that no cluster has",
    ("cluster", "cluster"): "it would move weights that already share values",
    ("cluster", "qat"): "the ranges and the rounding were learned with other weights",
    ("prune", "qat"): "the ranges and the rounding were learned with other weights",
}


def _order(recipe: Recipe, locate: Locate) -> list[Problem]:
    """Stages that would destroy what an earlier one made."""
    problems = []
    for index, stage in enumerate(recipe.stages):
        for earlier in recipe.stages[:index]:
            reason = _UNDOES.get((stage.type, earlier.type))
            if reason is None or _apart(stage, earlier):
                continue
            problems.append(
                Problem(
                    where=locate(("stages", index, "type")),
                    found=f"{stage.type} ({stage.name}) after {earlier.type} ({earlier.name}): "
                    f"{reason}",
                    expected="prune, then cluster, then qat, or stages with other `targets`",
                    fix=f"move {stage.name} before {earlier.name}"
                    if stage.type != earlier.type
                    else "give both `targets` that share nothing",
                )
            )
            break
    return problems


def _apart(one: Stage, other: Stage) -> bool:
    """Whether two stages name their targets, and no pattern twice."""
    return bool(one.targets and other.targets) and not set(one.targets) & set(other.targets)


def _activation_bits(recipe: Recipe, exports: list[Resolved], locate: Locate) -> list[Problem]:
    integer = [each for each in exports if each.precision.integer]
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
