"""What can be seen of stages while they are at work."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from compresskit import catalog, ledger
from compresskit.distillation.in_loss import TaughtLoss
from compresskit.holds import MaskHold, holds_of
from compresskit.layers import read
from compresskit.method import Attached
from compresskit.recipe import Recipe
from compresskit.stages import QAT, Cluster, Prune, Stage
from compresskit.target import Grid
from compresskit.weights import Weight

# The weights of each type of stage, with the stage that takes them.
Chosen = Mapping[type, Sequence[tuple[Stage, Weight]]]


def chosen(model: keras.Model, recipe: Recipe) -> Chosen:
    """The weights that the stages of a recipe will take."""
    found: dict[type, list[tuple[Stage, Weight]]] = {}
    for stage in recipe.stages:
        taken = catalog.methods.get(stage.type)(stage).select(model, stage.name).taken
        found.setdefault(type(stage), []).extend((stage, weight) for weight in taken)
    return found


def figures(chosen: Chosen, grid: Grid) -> dict[str, float]:
    """Figures of the weights as layers read them now, by name; the same in every epoch."""
    found: dict[str, float] = {}
    if pruned := chosen.get(Prune):
        zeros = sum(int(np.sum(read(weight) == 0)) for _, weight in pruned)
        found["sparsity"] = zeros / sum(math.prod(weight.shape) for _, weight in pruned)
    if clustered := chosen.get(Cluster):
        found["distinct_values"] = max(
            ledger.shared_values(stage, weight, grid) for stage, weight in clustered
        )
    if quantized := chosen.get(QAT):
        pairs = [(read(weight), _before_rounding(weight)) for _, weight in quantized]
        noise = sum(float(np.sum((rounded - plain) ** 2)) for rounded, plain in pairs)
        power = sum(float(np.sum(plain**2)) for _, plain in pairs)
        found["quantization_error"] = math.sqrt(noise / power) if power else 0.0
    return found


def _before_rounding(weight: Weight) -> np.ndarray:
    values = weight.variable.value
    for invariant in holds_of(weight.variable):
        values = invariant.settled(values)
    return np.asarray(values)


def unheard(
    stage: Stage, attached: Attached, chosen: Chosen, taught: TaughtLoss | None
) -> str | None:
    """What of a stage the steps of the loop did not do; None if they did it all."""
    if taught is not None and not taught.asked:
        return "a training step that does not ask for the model's loss, in which the teacher is"
    for by, weight in chosen[type(stage)]:
        for invariant in holds_of(weight.variable) if by is stage else ():
            # A cluster's mean is that of its members but for rounding.
            most = 0.0 if isinstance(invariant, MaskHold) else 1e-3
            if invariant.distance(weight.variable.value) > most:
                return f"{weight.path} without what {stage.name} holds"
    ranges: dict[str, Any] = attached.state() if isinstance(stage, QAT) else {}
    if ranges and not any(values.any() for values in ranges.values()):
        return "a training step in which no activation was seen"
    return None
