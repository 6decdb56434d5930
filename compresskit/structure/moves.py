"""What operations without weights do: hand units on, bring tensors together, move them about."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers
from keras.src.layers.merging.base_merge import Merge
from keras.src.layers.pooling.base_global_pooling import BaseGlobalPooling
from keras.src.layers.pooling.base_pooling import BasePooling
from keras.src.ops import core as core_ops
from keras.src.ops import nn as nn_ops
from keras.src.ops import numpy as numpy_ops

from compresskit.structure.flow import Flow, from_full, labelled, plain
from compresskit.structure.rule import flows_in, rule
from compresskit.structure.rules import acts_alone
from compresskit.structure.structure import Structure


def _stopped(structure: Structure, operation: Any, flows: list[Flow], outputs: Any) -> list[Flow]:
    name = f"{operation.name} ({type(operation).__name__})"
    structure.stop(flows, f"goes into {name}, which mixes or moves channels")
    return [plain(tensor) for tensor in outputs]


@rule(
    BasePooling,
    layers.Identity,
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.AlphaDropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.ActivityRegularization,
    layers.Masking,
    layers.ReLU,
    layers.LeakyReLU,
    layers.ELU,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Cropping3D,
    layers.UpSampling1D,
    layers.UpSampling2D,
    layers.UpSampling3D,
    nn_ops.Relu,
    nn_ops.Relu6,
    nn_ops.Sigmoid,
    nn_ops.Softplus,
    nn_ops.Softsign,
    nn_ops.Silu,
    nn_ops.LeakyRelu,
    nn_ops.HardSigmoid,
    nn_ops.HardSilu,
    nn_ops.Elu,
    nn_ops.Selu,
    nn_ops.Gelu,
    numpy_ops.Tanh,
    numpy_ops.Absolute,
    numpy_ops.Exp,
    numpy_ops.Log,
    numpy_ops.Negative,
    numpy_ops.Sqrt,
    numpy_ops.Square,
    numpy_ops.Reciprocal,
    numpy_ops.Clip,
    numpy_ops.ZerosLike,
    numpy_ops.OnesLike,
    core_ops.Cast,
    core_ops.StopGradient,
)
def _alone(
    structure: Structure, operation: Any, args: Any, kwargs: Any, outputs: Any
) -> list[Flow]:
    """Each channel by itself."""
    flow = flows_in(args, kwargs)[0]
    shape = outputs[0].shape
    if flow.axis is None:
        return [plain(outputs[0])]
    if len(shape) != len(flow.shape) or shape[flow.axis] != len(flow.labels):
        return _stopped(structure, operation, [flow], outputs)
    return [labelled(outputs[0], flow.labels, flow.axis)]


@rule(layers.Activation)
def _activation(
    structure: Structure, operation: Any, args: Any, kwargs: Any, outputs: Any
) -> list[Flow]:
    if acts_alone(operation.activation):
        return list(_alone(structure, operation, args, kwargs, outputs))
    return _stopped(structure, operation, flows_in(args, kwargs), outputs)


@rule(layers.Softmax, nn_ops.Softmax, nn_ops.LogSoftmax)
def _softmax(
    structure: Structure, operation: Any, args: Any, kwargs: Any, outputs: Any
) -> list[Flow]:
    flow = flows_in(args, kwargs)[0]
    axes = np.atleast_1d(operation.axis) % len(flow.shape)
    if flow.axis in axes:
        return _stopped(structure, operation, [flow], outputs)
    return list(_alone(structure, operation, args, kwargs, outputs))


@rule(
    Merge,
    numpy_ops.Add,
    numpy_ops.Subtract,
    numpy_ops.Multiply,
    numpy_ops.Divide,
    numpy_ops.TrueDivide,
    numpy_ops.Maximum,
    numpy_ops.Minimum,
    numpy_ops.Power,
    numpy_ops.Where,
    numpy_ops.Equal,
    numpy_ops.NotEqual,
    numpy_ops.Greater,
    numpy_ops.GreaterEqual,
    numpy_ops.Less,
    numpy_ops.LessEqual,
    layers.Rescaling,
)
def _together(
    structure: Structure, operation: Any, args: Any, kwargs: Any, outputs: Any
) -> list[Flow]:
    """Element by element, broadcast."""
    flat = keras.tree.flatten((args, kwargs))
    if isinstance(operation, layers.Rescaling):
        flat += [np.asarray(operation.scale), np.asarray(operation.offset)]
    given = [each for each in flat if getattr(each, "shape", ())]
    flows = [each for each in given if isinstance(each, Flow) and each.axis is not None]
    # From the end: that is where shapes are aligned.
    places = {flow.axis - len(flow.shape) for flow in flows if flow.axis is not None}
    if not flows:
        return [plain(outputs[0])]
    if len(places) > 1:
        return _stopped(structure, operation, flows, outputs)
    (place,) = places
    size = outputs[0].shape[place]
    labels = next((flow.labels for flow in flows if len(flow.labels) == size), None)
    if labels is None:
        return _stopped(structure, operation, flows, outputs)
    reason = f"meets in {operation.name} what cannot be removed"
    for each in given:
        if len(each.shape) < -place or each.shape[place] != size:
            continue  # broadcast: the same for every unit
        if isinstance(each, Flow) and each.axis is not None:
            structure.units.join(labels, each.labels, reason)
        else:
            structure.units.pin(labels, reason)
    return [labelled(outputs[0], labels, place)]


@rule(layers.Concatenate, numpy_ops.Concatenate)
def _concatenate(
    structure: Structure, operation: Any, args: Any, kwargs: Any, outputs: Any
) -> list[Flow]:
    flows = flows_in(args, kwargs)
    axis = operation.axis % len(flows[0].shape)
    places = {flow.axis for flow in flows if flow.axis is not None}
    if not places:
        return [plain(outputs[0])]
    if places == {axis}:
        parts = [
            flow.labels if flow.axis == axis else np.zeros(flow.shape[axis], dtype=np.int64)
            for flow in flows
        ]
        return [labelled(outputs[0], np.concatenate(parts), axis)]
    along = flows[0].axis
    if len(places) > 1 or along is None or any(flow.axis is None for flow in flows):
        return _stopped(structure, operation, flows, outputs)
    for flow in flows[1:]:
        structure.units.join(flows[0].labels, flow.labels, f"is put together in {operation.name}")
    return [labelled(outputs[0], flows[0].labels, along)]


@rule(
    BaseGlobalPooling,
    numpy_ops.Mean,
    numpy_ops.Sum,
    numpy_ops.Max,
    numpy_ops.Min,
    numpy_ops.Amax,
    numpy_ops.Amin,
)
def _reduce(
    structure: Structure, operation: Any, args: Any, kwargs: Any, outputs: Any
) -> list[Flow]:
    flow = flows_in(args, kwargs)[0]
    if flow.axis is None:
        return [plain(outputs[0])]
    rank = len(flow.shape)
    if isinstance(operation, BaseGlobalPooling):
        first = 2 if operation.data_format == "channels_first" else 1
        axes = set(range(first, first + rank - 2))
    elif operation.axis is None:
        axes = set(range(rank))
    else:
        axes = {int(axis) % rank for axis in np.atleast_1d(operation.axis)}
    if flow.axis in axes:
        return _stopped(structure, operation, [flow], outputs)
    gone = 0 if operation.keepdims else sum(axis < flow.axis for axis in axes)
    return [labelled(outputs[0], flow.labels, flow.axis - gone)]


@rule(
    layers.Flatten,
    layers.Permute,
    layers.RepeatVector,
    layers.Reshape,
    numpy_ops.ExpandDims,
    numpy_ops.Flip,
    numpy_ops.GetItem,
    numpy_ops.Moveaxis,
    numpy_ops.Reshape,
    numpy_ops.Split,
    numpy_ops.Squeeze,
    numpy_ops.Stack,
    numpy_ops.Swapaxes,
    numpy_ops.Transpose,
)
def _move(structure: Structure, operation: Any, args: Any, kwargs: Any, outputs: Any) -> list[Flow]:
    """Moves the labels as it moves the values."""
    flows = flows_in(args, kwargs)
    if all(flow.axis is None for flow in flows):
        return [plain(tensor) for tensor in outputs]
    args, kwargs = keras.tree.map_structure(
        lambda each: keras.ops.convert_to_tensor(each.full) if isinstance(each, Flow) else each,
        (args, kwargs),
    )
    # Not through `__call__`, which would cast whole numbers to the layer's type.
    moved = keras.tree.flatten(operation.call(*args, **kwargs))
    made = [from_full(np.asarray(each)) for each in moved]
    if any(flow is None for flow in made):
        return _stopped(structure, operation, flows, outputs)
    found = [flow for flow in made if flow is not None]
    if isinstance(operation, numpy_ops.GetItem) and any(
        not np.array_equal(each.labels, flows[0].labels) for each in found
    ):
        # The part that is taken is written down in numbers.
        return _stopped(structure, operation, flows, outputs)
    return found
