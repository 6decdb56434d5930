"""What the stages made of each weight, and whether it is still true: later, and in a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from compresskit.granularity import NM, Block, Unstructured
from compresskit.layers import read
from compresskit.method import Attached
from compresskit.methods.grids import scales_of
from compresskit.methods.masks import breaks
from compresskit.report.records import LayerReport, Promise
from compresskit.resolution import Resolved
from compresskit.stages import PTQ, QAT, Cluster, Prune, Shrink, Stage
from compresskit.target import Grid
from compresskit.tflite.audit import Audit
from compresskit.tflite.match import find, looked_up
from compresskit.weights import Weight, weights_of

# Largest mean difference of outputs that baking the weights may make.
_DETACH_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What a stage made of a weight, and what the file must still have.

    Attributes:
        matrix: the weight as the stage left it or, in the end, as it was baked; output
            channels by inputs.
        stage: name of the stage that answers for it.
        sparsity: share of zeros that pruning made, or None.
        pattern: what was pruned as one, or None.
        run: length of the innermost run of input channels, along which N:M groups lie.
        clusters: how many values clustering left, or None.
        unit: what shares them: `tensor`, `channel` or `gate`.
        bits: of a quantized weight, or None.
        parts: how many tensors a kernel may hold it in.
        scales: how many scales its kernel has, each for as many rows of the matrix.
        table: whether it is looked up. Rows that do not depend on the model's input are
            looked up by the converter, and the file holds those rows alone.
    """

    path: str
    matrix: np.ndarray
    stage: str
    sparsity: float | None = None
    pattern: Unstructured | NM | Block | None = None
    run: int = 1
    clusters: int | None = None
    unit: str = "tensor"
    bits: int | None = None
    parts: int = 1
    scales: int = 1
    table: bool = False


def kept_by(
    stage: Stage,
    attached: Attached,
    layers: Sequence[LayerReport],
    model: keras.Model,
    grid: Grid | None,
) -> list[Kept]:
    """What a stage that has just ended answers for.

    Args:
        grid: behind whose scales values are shared; None: they are shared as they are.
    """
    if isinstance(stage, Shrink):
        return []  # of its weights nothing holds but their shape
    if isinstance(stage, PTQ) and "gptq" not in stage.algorithms:
        return []  # of its weights nothing holds but their effect
    touched = set(attached.touched)
    # Layers of a subclassed model may share a path: the least of them counts.
    made: dict[str, float] = {}
    for layer in layers:
        made[layer.path] = min(layer.sparsity, made.get(layer.path, 1.0))
    return [
        _kept(stage, weight, grid, made[weight.path])
        for weight in weights_of(model)
        if weight.path in touched
    ]


def _bits(stage: Stage, weight: Weight, grid: Grid | None) -> int | None:
    """How many bits a stage made do for a weight."""
    if isinstance(stage, QAT | PTQ):
        return min(stage.weight_bits, scales_of(weight, grid).bits if grid else 8)
    return None


def _kept(stage: Stage, weight: Weight, grid: Grid | None, sparsity: float | None) -> Kept:
    return Kept(
        path=weight.path,
        matrix=weight.matrix(read(weight)),
        stage=stage.name,
        sparsity=sparsity if isinstance(stage, Prune) else None,
        pattern=stage.mask_shape if isinstance(stage, Prune) else None,
        run=weight.input_channels,
        clusters=stage.clusters if isinstance(stage, Cluster) else None,
        unit=stage.granularity if isinstance(stage, Cluster) else "tensor",
        bits=_bits(stage, weight, grid),
        parts=max(1, weight.layout.gates) if weight.layout else 1,
        scales=int(scales_of(weight, grid).units(weight.shape).max()) + 1 if grid else 1,
        table=bool(weight.layout and weight.layout.table),
    )


def shared_values(stage: Stage, weight: Weight, grid: Grid) -> int:
    """How many values a weight has as it is now, in the unit in which a stage shares them."""
    each = _kept(stage, weight, grid, None)
    return _distinct(each, each.matrix)


def _weights(kept: Sequence[Kept], model: keras.Model) -> Iterator[tuple[Kept, Weight]]:
    """Each record with its weight; those that share a path in the model's order."""
    by_path: dict[str, list[Weight]] = {}
    for weight in weights_of(model):
        by_path.setdefault(weight.path, []).append(weight)
    seen: dict[tuple[str, str], int] = {}
    for each in kept:
        index = seen.get((each.stage, each.path), 0)
        seen[each.stage, each.path] = index + 1
        yield each, by_path[each.path][index]


def still_true(kept: Sequence[Kept], model: keras.Model, stage: str) -> list[Promise]:
    """Whether a stage has left alone what earlier ones made; it answers for that."""
    return [
        Promise(what=f"{what} after {stage}", stage=stage, expected=most, measured=now, kept=true)
        for each, weight in _weights(kept, model)
        for what, most, now, true in _checks(each, weight.matrix(read(weight)), each.sparsity)
    ]


def same_answers(trained: np.ndarray, plain: np.ndarray, stage: str) -> Promise:
    """Whether a model answers as it did before what trained it was taken off."""
    difference = float(np.abs(plain.astype(np.float64) - trained).mean())
    return Promise(
        what="mean difference of the outputs of the detached model from the trained one",
        stage=stage,
        expected=_DETACH_TOLERANCE,
        measured=difference,
        kept=difference <= _DETACH_TOLERANCE,
    )


def baked(kept: Sequence[Kept], model: keras.Model) -> list[Kept]:
    """The records with the weights of the plain model."""
    return [
        replace(each, matrix=weight.matrix(weight.variable.numpy()))
        for each, weight in _weights(kept, model)
    ]


def in_file(each: Kept, file: str, audited: Audit, resolved: Resolved) -> list[Promise]:
    """Whether a file holds what a stage made of a weight."""
    if not resolved.precision.integer and resolved.precision.weights != "int4":
        # Floats are shared behind their scales; bits are those of integer kernels.
        each = replace(each, bits=None)
    stored = find(each.matrix, audited, each.parts)
    least = each.sparsity
    if stored is None and each.table:
        stored, rows = looked_up(each.matrix, audited)
        if stored is not None and least is not None:
            least = min(least, float(np.mean(each.matrix[rows] == 0)))
        few = each.clusters is not None or (each.bits is not None and each.bits < 8)
        if stored is None and least is None and not few:
            return []  # floats that the converter added up with others: nothing was promised
    if stored is None:
        seen = "none like it"
        if each.table:
            seen += ": its rows were looked up at conversion and added up with others; `ignore:` it"
        return [
            Promise(
                what=f"{each.path} is found in {file}",
                stage=each.stage,
                expected="a weight tensor",
                measured=seen,
                kept=False,
            )
        ]
    return [
        Promise(what=f"{what} in {file}", stage=each.stage, expected=most, measured=now, kept=true)
        for what, most, now, true in _checks(each, stored, least)
    ]


def _checks(
    each: Kept, values: np.ndarray, least: float | None
) -> Iterator[tuple[str, Any, Any, bool]]:
    """What is promised of a weight, the limit, what it is, and whether that is within.

    Args:
        values: output channels by inputs; floats, or the integers of a file.
        least: the share of zeros.
    """
    if least is not None:
        sparsity = float(np.mean(values == 0))
        yield f"sparsity of {each.path}", least, sparsity, sparsity >= least - 1e-9
    if isinstance(each.pattern, NM):
        broken = breaks(values, each.pattern, each.run)
        what = f"groups of {each.path} that break {each.pattern.n}:{each.pattern.m}"
        yield what, 0, broken, broken == 0
    if each.clusters is not None:
        distinct = _distinct(each, values)
        yield f"distinct values of {each.path}", each.clusters, distinct, distinct <= each.clusters
    # With 8 bits the type of the tensor says it all.
    if each.bits is not None and each.bits < 8:
        most = 2**each.bits - 1
        found = max(len(np.unique(row)) for row in values)
        yield f"distinct values in a channel of {each.path}", most, found, found <= most


def _distinct(each: Kept, values: np.ndarray) -> int:
    """How many values share a weight, in the unit that clustering gave it."""
    if each.unit == "channel":
        return max(len(np.unique(row)) for row in values)
    if each.unit == "gate":
        return max(len(np.unique(part)) for part in np.split(values, each.parts))
    if values.dtype.kind in "iu":
        return len(np.unique(values))
    # Floats are shared behind the scale of each channel, gate or tensor.
    parts = np.split(values, each.scales)
    ratios = [part / max(float(np.abs(part).max()), 1e-30) for part in parts]
    ordered = np.sort(np.concatenate([ratio.ravel() for ratio in ratios]))
    # By their gaps: rounding would tell two floats apart that lie on either side of a tie.
    return 1 + int(np.sum(np.diff(ordered) > 1e-4))
