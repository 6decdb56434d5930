"""What TFMOT cannot do, and what does it instead, known before a recipe starts. No Keras."""

from __future__ import annotations

from collections.abc import Iterable

from compresskit.errors import Problem
from compresskit.granularity import NM, Block
from compresskit.installed import TF_KERAS, TFMOT, missing
from compresskit.recipe import Recipe
from compresskit.recipe_rounding import ROUNDING
from compresskit.recipe_source import Locate
from compresskit.stages import PTQ, QAT, Cluster, Distill, Prune, Shrink, Stage

_NATIVE = "or `engine: native` and a Keras 3 model (`compresskit migrate`)"

# What its registries list of layers that Keras 3 has, too; a test compares.
PRUNED = frozenset(
    {
        "Dense", "Conv1D", "Conv2D", "Conv2DTranspose", "Conv3D", "Conv3DTranspose",
        "SeparableConv1D", "SeparableConv2D", "Embedding", "LSTM", "GRU", "SimpleRNN", "RNN",
        "MultiHeadAttention",
    }
)  # fmt: skip
CLUSTERED = frozenset(
    {
        "Dense", "Conv1D", "Conv1DTranspose", "Conv2D", "Conv2DTranspose", "Conv3D",
        "Conv3DTranspose", "SeparableConv1D", "SeparableConv2D", "Embedding", "LSTM", "GRU",
        "SimpleRNN", "RNN", "Bidirectional", "MultiHeadAttention",
    }
)  # fmt: skip
# SeparableConv2D is missing: it becomes two layers, whose weights are not those of the model.
QUANTIZED = frozenset(
    {
        "Dense", "Conv2D", "DepthwiseConv2D", "Conv2DTranspose", "ReLU", "LeakyReLU",
        "Softmax", "Activation", "Concatenate", "Add", "Cropping1D", "Cropping2D",
        "Cropping3D", "UpSampling2D", "ZeroPadding1D", "ZeroPadding2D",
        "ActivityRegularization", "Dropout", "Flatten", "Permute", "Reshape",
        "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "AveragePooling1D",
        "AveragePooling2D", "GlobalAveragePooling1D", "GlobalAveragePooling2D",
        "GlobalAveragePooling3D", "GlobalMaxPooling1D", "GlobalMaxPooling2D",
        "GlobalMaxPooling3D", "MaxPooling2D", "InputLayer", "BatchNormalization",
    }
)  # fmt: skip
_N_OF_M = frozenset(["Dense", "Conv2D"])
_BLOCKS = frozenset(["Dense", "Embedding", "LSTM", "GRU", "SimpleRNN"])
# What its schemes keep: of other layers, QAT would undo what earlier stages made.
_PRESERVED = frozenset(["Dense", "Conv2D"])
OPTIMIZERS = frozenset(
    {
        "adadelta", "adafactor", "adagrad", "adam", "adamax", "adamw", "ftrl", "lion",
        "nadam", "rmsprop", "sgd",
    }
)  # fmt: skip


def recipe_problems(recipe: Recipe, locate: Locate) -> list[Problem]:
    """What of a recipe with `engine: tfmot` TFMOT cannot do, whatever the model."""
    if recipe.engine != "tfmot":
        return []
    where = locate(("engine",))
    found = [missing(package, where=where) for package in (TFMOT, TF_KERAS)]
    problems = [problem for problem in found if problem is not None]
    for index, stage in enumerate(recipe.stages):
        path = ("stages", index)
        for key, what, fix in _stage(stage):
            problems.append(_no(locate((*path, key)), what, fix))
        name = (stage.optimizer or recipe.defaults.optimizer).lower()
        if name not in OPTIMIZERS:
            valid = ", ".join(sorted(OPTIMIZERS))
            problems.append(
                _no(locate((*path, "optimizer")), f"the optimizer {name!r}", f"use one of: {valid}")
            )
        if isinstance(stage, QAT) and index + 1 < len(recipe.stages):
            later = recipe.stages[index + 1].name
            problems.append(
                _no(locate((*path, "type")), f"a stage after qat ({later})", "put qat last")
            )
    trained = any(isinstance(stage, QAT) for stage in recipe.stages)
    for index, export in enumerate(recipe.export):
        if export.weights != ROUNDING:
            what = "weights rounded by another algorithm"
            problems.append(_no(locate(("export", index, "weights")), what, "remove `weights`"))
        if export.calibration.estimator != "min-max":
            what = f"the estimator {export.calibration.estimator}"
            problems.append(
                _no(locate(("export", index, "calibration")), what, "write `estimator: min-max`")
            )
        if export.lstm != "fused":
            problems.append(
                _no(locate(("export", index, "lstm")), f"lstm: {export.lstm}", "remove `lstm`")
            )
        if trained and export.precision in ("int16x8", "int4"):
            what = f"{export.precision} after qat, which learned 8-bit ranges"
            problems.append(
                _no(locate(("export", index, "precision")), what, "write `precision: int8`")
            )
    return problems


def _no(where: str, what: str, fix: str) -> Problem:
    return Problem(where=where, found=what, expected="what TFMOT does", fix=f"{fix}, {_NATIVE}")


def _stage(stage: Stage) -> Iterable[tuple[str, str, str]]:
    """Key, what was found, what to do."""
    if isinstance(stage, (Shrink, Distill, PTQ)):
        yield "type", f"a stage of type {stage.type}", "remove the stage"
        return
    if stage.early_stopping is not None:
        yield "early_stopping", "a stage that may end early", "remove `early_stopping`"
    if stage.learning is not None:
        yield "distill", "a teacher", "remove `distill`"
    if isinstance(stage, Prune) and stage.method != "magnitude":
        yield "method", f"the criterion {stage.method}", "write `method: magnitude`"
    if isinstance(stage, Prune) and isinstance(stage.mask_shape, Block) and stage.scope == "global":
        yield "scope", "a ranking of the blocks of all layers together", "write `scope: layer`"
    if isinstance(stage, Cluster) and stage.granularity != "tensor":
        yield "granularity", f"clusters by {stage.granularity}", "remove `granularity`"
    if isinstance(stage, Cluster) and stage.assignment != "learned":
        yield "assignment", f"{stage.assignment} assignments", "remove `assignment`"
    if isinstance(stage, QAT):
        for key, bits in (
            ("weight_bits", stage.weight_bits),
            ("activation_bits", stage.activation_bits),
        ):
            if bits != 8:
                yield key, f"{bits} bits", f"remove `{key}`"
        if stage.ema_decay != QAT().ema_decay:
            yield "ema_decay", f"ema_decay {stage.ema_decay}", "remove `ema_decay` (it is 0.999)"


def model_problems(
    stage: Stage,
    taken: Iterable[tuple[str, str]],
    every: Iterable[tuple[str, str]],
    earlier: Iterable[tuple[str, str]],
    where: str,
) -> list[Problem]:
    """What of a model TFMOT cannot do in a stage.

    Args:
        taken: name and type of each layer whose weights the stage takes.
        every: of each layer of the model that the stage does not ignore.
        earlier: of each layer that an earlier stage has pruned or clustered.
    """
    if isinstance(stage, QAT):
        return _refused("quantize", every, QUANTIZED, where) + _refused(
            "keep zeros and clusters under QAT of", earlier, _PRESERVED, where
        )
    if isinstance(stage, Cluster):
        return _refused("cluster", taken, CLUSTERED, where)
    if not isinstance(stage, Prune):
        return []  # refused by `recipe_problems`, whatever the model
    if isinstance(stage.mask_shape, NM):
        return _refused(f"prune {stage.granularity} in", taken, _N_OF_M, where)
    if isinstance(stage.mask_shape, Block):
        return _refused("prune blocks of", taken, _BLOCKS, where)
    return _refused("prune", taken, PRUNED, where)


def _refused(
    verb: str, layers: Iterable[tuple[str, str]], valid: frozenset[str], where: str
) -> list[Problem]:
    return [
        Problem(
            where=where,
            found=f"the layer {name} ({kind}), which TFMOT does not {verb.split()[0]}"
            if verb in ("quantize", "cluster", "prune")
            else f"the layer {name}: TFMOT does not {verb} a layer of type {kind}",
            expected=f"layers that it takes: {', '.join(sorted(valid))}",
            fix=f"name the layer under `ignore`, {_NATIVE}",
        )
        for name, kind in dict.fromkeys(layers)
        if kind not in valid
    ]
