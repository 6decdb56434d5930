"""What a stage made of the weights, as the layers read them."""

from __future__ import annotations

import keras
import numpy as np

from compresskit.method import Attached
from compresskit.parametrize import parameters_of
from compresskit.report.records import LayerReport
from compresskit.weights import Weight, weights_of


def read(weight: Weight) -> np.ndarray:
    """The values that a layer reads: its variable behind its parametrizations."""
    value = weight.variable.value
    for variable, transform in parameters_of(weight.layer):
        if variable is weight.variable:
            value = transform(value)
    return np.asarray(value)


def layer_reports(model: keras.Model, attached: Attached) -> tuple[LayerReport, ...]:
    """Every weight of the model after a stage, those that it left included."""
    reasons = {skip.path: skip.reason for skip in attached.skipped}
    reports = []
    for weight in weights_of(model):
        values = read(weight)
        reports.append(
            LayerReport(
                path=weight.path,
                shape=weight.shape,
                sparsity=float(np.mean(values == 0)),
                distinct=int(np.unique(values).size),
                skipped=reasons.get(weight.path),
            )
        )
    return tuple(reports)


def sparsity(layers: tuple[LayerReport, ...]) -> float:
    """Share of zeros over the weights that a stage touched."""
    touched = [layer for layer in layers if layer.skipped is None]
    size = sum(int(np.prod(layer.shape)) for layer in touched)
    return float(sum(layer.sparsity * np.prod(layer.shape) for layer in touched) / size)
