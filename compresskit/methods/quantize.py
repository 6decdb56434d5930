"""Quantization-aware training: the model learns behind the rounding of the kernels."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, final

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from compresskit.attention import attentions, hide_below, written_out
from compresskit.graph import Graph, operations, trace
from compresskit.inner import POSITIVE
from compresskit.method import Attached, Examples, Length, Method, State
from compresskit.methods.fake_quant import INT8_MAX, ActivationRange, weight_transform
from compresskit.methods.grids import scales_of
from compresskit.methods.placement import Placement, activation_of, is_table, placements
from compresskit.parametrize import hook, settle
from compresskit.ranges import Range, place
from compresskit.selection import Selection, select
from compresskit.stages import QAT
from compresskit.target import Grid
from compresskit.weights import Weight, layout_of, leaves


@final
class Quantization(Method):
    """Fake quantization of weights on the target's grid and of activations by range."""

    def __init__(self, stage: QAT):
        self.stage = stage

    def select(self, model: keras.Model, where: str) -> Selection:
        return select(model, self.stage.targets, self.stage.ignore, where=where, unfit=_unfit)

    def attach(
        self,
        model: keras.Model,
        sample: Any,
        grid: Grid,
        length: Length,
        examples: Examples | None = None,
    ) -> Attached:
        selection = self.select(model, self.stage.name)
        # Written out, attention calls its softmax; in one piece Keras may not.
        with ExitStack() as stack:
            inner = attentions(model) if grid.activations else ()
            stack.enter_context(written_out(dict.fromkeys(inner, hide_below)))
            graph = trace(model, sample)
            whole = stack.pop_all()
        taken = {id(weight.layer) for weight in selection.taken}
        ignored = {id(leaf) for leaf in leaves(model) if layout_of(leaf) and id(leaf) not in taken}
        observing = tf.Variable(False, trainable=False, name="observing")
        parameters = [
            (weight, (weight.variable, _transform(weight, graph, grid, self.stage.weight_bits)))
            for weight in selection.taken
        ]
        for weight, parameter in parameters:
            hook(weight.layer).parameters.append(parameter)
        observed = [
            (placement, self._observe(placement, observing))
            for placement in (placements(model, graph, ignored) if grid.activations else ())
        ]
        undo = [
            place(placement.operation, placement.place, observer, placement.inner)
            for placement, observer in observed
        ]

        learned = [observer for _, observer in observed if observer.fixed is None]

        def state() -> State:
            return {
                f"range{index}": np.array(observer.range, np.float32)
                for index, observer in enumerate(learned)
            }

        def restore(state: State) -> None:
            for index, observer in enumerate(learned):
                low, high = state[f"range{index}"]
                observer.low.assign(low)
                observer.high.assign(high)

        def detach() -> dict[str, Any]:
            for weight, (variable, transform) in parameters:
                variable.assign(transform(variable.value))
                hook(weight.layer).parameters.remove((variable, transform))
                settle(weight.layer)
            for take_away in undo:
                take_away()
            whole.close()
            tables = [
                weight for weight in selection.taken if grid.activations and is_table(weight.layer)
            ]
            return {"ranges": (*table_ranges(model, tables), *_learned(model, observed))}

        return Attached(
            touched=tuple(weight.path for weight in selection.taken),
            skipped=selection.skipped,
            callbacks=(_Observe(observing),),
            detach=detach,
            state=state,
            restore=restore,
        )

    def _observe(self, placement: Placement, observing: Any) -> ActivationRange:
        return ActivationRange(
            "_".join(filter(None, (placement.operation.name, placement.place, placement.inner))),
            observing=observing,
            bits=self.stage.activation_bits,
            decay=self.stage.ema_decay,
            fixed=placement.fixed,
            positive=placement.inner == POSITIVE,
        )


def _unfit(weight: Weight, named: bool) -> str | None:
    if weight.layout is None:
        return f"no integer kernel is known for layers of type {type(weight.layer).__name__}"
    return None


def _transform(weight: Weight, graph: Graph, grid: Grid, bits: int) -> Callable[[Any], Any]:
    """The rounding of a weight as the kernel that will run holds it."""
    assert weight.layout is not None  # `_unfit` leaves the others out
    scales = scales_of(weight, grid)
    quantize = weight_transform(scales, bits)
    if scales.channels or not weight.layout.dense:
        return quantize
    norm = normalization_after(weight.layer, graph)
    if norm is None:
        return quantize

    # The converter folds the normalization in before it rounds. With a scale per channel
    # the two commute; with one scale for all, training must round the folded weight.
    def folded(values: Any) -> Any:
        factor = tf.math.rsqrt(norm.moving_variance.value + norm.epsilon)
        if norm.scale:
            factor = factor * norm.gamma.value
        factor = tf.stop_gradient(tf.where(tf.equal(factor, 0.0), tf.ones_like(factor), factor))
        return quantize(values * factor) / factor

    return folded


def normalization_after(layer: keras.Layer, graph: Graph) -> Any:
    """The BatchNormalization that alone reads the output of a layer, or None."""
    if activation_of(layer) is not None:
        return None
    readers = [r.operation for call in graph.of(layer) for r in graph.readers(call.outputs[0])]
    return readers[0] if len(readers) == 1 and _is_norm(readers[0]) else None


def _is_norm(operation: Any) -> bool:
    return isinstance(operation, layers.BatchNormalization)


def table_ranges(model: keras.Model, tables: list[Weight]) -> list[Range]:
    """The ranges of rows of tables: a lookup hands the grid of its table on, as it is."""
    positions = {id(operation): index for index, operation in enumerate(operations(model))}
    steps = [(weight.layer, np.abs(weight.variable.numpy()).max() / INT8_MAX) for weight in tables]
    return [
        Range(
            operation=positions[id(layer)],
            name=layer.name,
            place="output",
            low=float(-(INT8_MAX + 1) * step),
            high=float(INT8_MAX * step),
            bits=8,
        )
        for layer, step in steps
        if step > 0
    ]


def _learned(model: keras.Model, observed: list[tuple[Placement, ActivationRange]]) -> list[Range]:
    """The ranges as plain data, by the position of their operation in the model."""
    positions = {id(operation): index for index, operation in enumerate(operations(model))}
    return [
        Range(
            operation=positions.get(id(placement.operation)),
            name=placement.operation.name,
            place=placement.place,
            inner=placement.inner,
            low=observer.range[0],
            high=observer.range[1],
            bits=observer.bits,
        )
        for placement, observer in observed
        if observer.range[0] < observer.range[1]
    ]


@final
class _Observe(keras.callbacks.Callback):
    """Lets ranges move while the model trains, and holds them still while it is tested."""

    def __init__(self, observing: Any):
        super().__init__()
        self.observing = observing

    def on_train_begin(self, logs: Any = None) -> None:
        self.observing.assign(True)

    def on_train_end(self, logs: Any = None) -> None:
        self.observing.assign(False)

    def on_test_begin(self, logs: Any = None) -> None:
        self.training = bool(self.observing.numpy())
        self.observing.assign(False)

    def on_test_end(self, logs: Any = None) -> None:
        self.observing.assign(self.training)
