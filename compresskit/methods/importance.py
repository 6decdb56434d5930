"""What makes a unit important: criteria, each a function of the evidence about a model.

A criterion gives one score for each label of the units; the units with the lowest are removed
first, and those with an infinite one never. A new one is a function like these and one line of
registration; it inherits the tests of every registered criterion.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from compresskit.samples import Samples, count, each, take
from compresskit.structure.structure import Structure
from compresskit.structure.walk import functional, walk

_BATCH = 64
_BATCHES = 8


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a criterion may look at.

    Attributes:
        structure: the units of the model, which is as it stands.
        x, y: training samples and their labels, or None.
        loss: as `keras.Model.compile` takes it.
    """

    structure: Structure
    x: Samples | None = None
    y: Any = None
    loss: Any = None

    def made(self) -> Iterator[tuple[Any, int, np.ndarray]]:
        """The variables that make units, each with the axis and its labels."""
        axes = self.structure.units.axes
        labels_of = {
            maker: source.labels
            for source in self.structure.sources.values()
            for maker in source.makers
        }
        for variable in self.structure.units.variables:
            if id(variable) not in labels_of:
                continue
            units = set(labels_of[id(variable)].tolist())
            for axis, labels in axes[id(variable)].items():
                if units.issuperset(labels.tolist()):
                    yield variable, axis, labels

    def batches(self) -> Iterator[tuple[Any, Any]]:
        """Some batches of the training samples, the same ones every time."""
        assert self.x is not None
        # Not the first ones: a data set may be in the order of its classes.
        chosen = np.random.default_rng(0).permutation(count(self.x))[: _BATCH * _BATCHES]
        for start in range(0, len(chosen), _BATCH):
            rows = np.sort(chosen[start : start + _BATCH])
            yield take(self.x, rows), take(self.y, rows)

    @cached_property
    def gradients(self) -> Any:
        """A function of a batch and its labels: the loss's gradients by what `made` goes over.

        Compiled once, for all updates of a stage.
        """
        # A second model of the same layers: the first is compiled for its own training.
        model = self.structure.model
        outputs = model.outputs if len(model.outputs) > 1 else model.outputs[0]
        probe = keras.Model(model.inputs, outputs)
        probe.compile(loss=self.loss)
        variables = [variable.value for variable, _, _ in self.made()]

        @tf.function(autograph=False, reduce_retracing=True)
        def gradients(x: Any, y: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = probe.compute_loss(x, y, model(x, training=False))
            return tape.gradient(loss, variables)

        return gradients

    def added(self, values: Any) -> np.ndarray:
        """The sums over each unit: shape (labels,).

        Args:
            values: pairs of labels, shape (n,), and what to add for each.
        """
        sums = np.zeros(len(self.structure.units))
        for labels, each_one in values:
            np.add.at(sums, self.structure.units.find(labels), each_one)
        return sums


def l1(evidence: Evidence) -> np.ndarray:
    """The mean of absolute weights (Li et al., 2016, https://arxiv.org/abs/1608.08710)."""
    return _relative(evidence, _weights(evidence, np.abs))


def l2(evidence: Evidence) -> np.ndarray:
    """The root of the mean square of the weights."""
    return _relative(evidence, np.sqrt(_weights(evidence, np.square)))


def bn_scale(evidence: Evidence) -> np.ndarray:
    """The absolute scale of BatchNormalization (Liu et al., "Network Slimming", 2017,
    https://arxiv.org/abs/1708.06519); what has none is infinitely important, and stays."""
    axes = evidence.structure.units.axes
    norms = [
        layer
        for layer in evidence.structure.model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization) and layer.gamma is not None
    ]
    pairs = [
        (axes[id(layer.gamma)][0], np.abs(layer.gamma.numpy()))
        for layer in norms
        if id(layer.gamma) in axes
    ]
    scores, numbers = evidence.added(pairs), evidence.added((labels, 1) for labels, _ in pairs)
    return np.where(numbers > 0, scores / np.maximum(numbers, 1), np.inf)


def taylor(evidence: Evidence) -> np.ndarray:
    """What the loss would change by, to the first order, if the unit were zero: the square of the
    sum of weight times gradient, over some batches (P. Molchanov et al., "Importance Estimation for
    Neural Network Pruning", 2019, https://arxiv.org/abs/1906.10771)."""
    made = list(evidence.made())
    scores = np.zeros(len(evidence.structure.units))
    for x, y in evidence.batches():
        found = evidence.gradients(each(x, tf.constant), keras.tree.map_structure(tf.constant, y))
        pairs = []
        for (variable, axis, labels), gradient in zip(made, found, strict=True):
            if gradient is not None:
                product = variable.numpy() * np.asarray(tf.convert_to_tensor(gradient))
                pairs.append((labels, _sum_to(product, axis)))
        scores += evidence.added(pairs) ** 2
    return scores


def activation(evidence: Evidence) -> np.ndarray:
    """The mean absolute value of what the unit gives on training samples, relative to the others
    of its tensor (Hu et al., "Network Trimming", 2016, https://arxiv.org/abs/1607.03250, count
    its zeros). Heads, which stay inside their layer, count by their weights, as in `l2`."""
    structure = evidence.structure
    pairs: list[tuple[np.ndarray, np.ndarray]] = []

    def visit(operation: Any, args: Any, kwargs: Any, outputs: Any) -> Any:
        nested = functional(operation)
        if nested is not None and id(operation) not in structure.made:
            given = [one for one in keras.tree.flatten((args, kwargs)) if tf.is_tensor(one)]
            return walk(nested, given, visit)
        made = keras.tree.flatten(operation(*args, **kwargs))
        for flow, values in zip(structure.made[id(operation)], made, strict=True):
            if flow.axis is not None:
                mean = _sum_to(np.abs(np.asarray(values)), flow.axis)
                pairs.append((flow.labels, mean / max(float(mean.mean()), 1e-12)))
        return made

    x, _ = next(evidence.batches())
    graph = functional(structure.model)
    walk(graph, [tf.constant(one) for one in keras.tree.flatten(x)], visit)
    numbers = evidence.added((labels, 1) for labels, _ in pairs)
    return np.where(numbers > 0, evidence.added(pairs) / np.maximum(numbers, 1), l2(evidence))


def _weights(evidence: Evidence, of: Any) -> np.ndarray:
    """The mean over each unit of a function of the weights that make it."""
    made = list(evidence.made())
    sums = evidence.added(
        (labels, _sum_to(of(variable.numpy()), axis)) for variable, axis, labels in made
    )
    numbers = evidence.added(
        (labels, np.prod(variable.shape) / len(labels)) for variable, _, labels in made
    )
    return sums / np.maximum(numbers, 1)


def _sum_to(values: np.ndarray, axis: int) -> np.ndarray:
    return values.sum(axis=tuple(other for other in range(values.ndim) if other != axis))


def _relative(evidence: Evidence, scores: np.ndarray) -> np.ndarray:
    """Scores relative to the mean of their layer's: large weights are no merit of a layer."""
    relative = scores.copy()
    for source in evidence.structure.sources.values():
        roots = np.unique(evidence.structure.units.find(source.labels))
        relative[roots] = scores[roots] / max(float(scores[roots].mean()), 1e-12)
    return relative
