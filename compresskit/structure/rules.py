"""What layers with weights do: which axes of their variables belong to which units."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers
from keras.src.layers.convolutional.base_conv import BaseConv
from keras.src.layers.convolutional.base_conv_transpose import BaseConvTranspose
from keras.src.layers.convolutional.base_depthwise_conv import BaseDepthwiseConv
from keras.src.layers.convolutional.base_separable_conv import BaseSeparableConv

from compresskit.structure.flow import Flow, labelled, plain, shape_of
from compresskit.structure.rule import flows_in, rule
from compresskit.structure.structure import Structure, Work

_MIXING = ("softmax", "log_softmax", "sparsemax", "glu")


def _reads(structure: Structure, variable: Any, axis: int, flow: Flow, channel: int) -> None:
    """Says that an axis of a kernel runs over the channels of a tensor."""
    size = variable.shape[axis]
    if flow.axis is not None and flow.axis == channel % len(flow.shape):
        structure.units.along(variable, axis % len(variable.shape), flow.labels)
        return
    structure.stop([flow], "is read across by a layer with weights")
    structure.units.along(variable, axis % len(variable.shape), np.zeros(size, dtype=np.int64))


def _makes(structure: Structure, layer: Any, labels: np.ndarray, *variables: Any) -> None:
    """Says that the last axis of these variables, some of them None, makes these units."""
    for variable in variables:
        if variable is not None:
            structure.units.along(variable, len(variable.shape) - 1, labels)
    if not acts_alone(getattr(layer, "activation", None)):
        structure.units.pin(labels, f"goes through the activation of {layer.name} with the others")


def acts_alone(activation: Any) -> bool:
    """Whether a function is one of Keras's that see each channel by itself."""
    if activation is None:
        return True
    known = getattr(activation, "__module__", "").startswith("keras.")
    return known and getattr(activation, "__name__", "") not in _MIXING


def _channel(layer: Any) -> int:
    return 1 if getattr(layer, "data_format", None) == "channels_first" else -1


def _positions(tensor: Any, channel: int) -> int:
    shape = shape_of(tensor)
    return int(np.prod(shape[1:], dtype=np.int64)) // shape[channel]


@rule(BaseConv)
def _conv(structure: Structure, layer: Any, args: Any, kwargs: Any, outputs: Any) -> list[Flow]:
    (flow,) = flows_in(args, kwargs)
    channel = _channel(layer)
    labels = structure.source(layer, "filters", layer.filters, [layer.kernel])
    if layer.groups == 1:
        _reads(structure, layer.kernel, -2, flow, channel)
    else:
        reason = f"{layer.name} convolves in groups"
        structure.stop([flow], reason)
        structure.units.pin(labels, reason)
    _makes(structure, layer, labels, layer.kernel, layer.bias)
    structure.multiply(layer.kernel, _positions(outputs[0], channel))
    return [labelled(outputs[0], labels, channel)]


@rule(BaseConvTranspose)
def _transposed(
    structure: Structure, layer: Any, args: Any, kwargs: Any, outputs: Any
) -> list[Flow]:
    (flow,) = flows_in(args, kwargs)
    channel = _channel(layer)
    labels = structure.source(layer, "filters", layer.filters, [layer.kernel])
    _reads(structure, layer.kernel, -1, flow, channel)
    structure.units.along(layer.kernel, len(layer.kernel.shape) - 2, labels)
    _makes(structure, layer, labels, layer.bias)
    size = int(np.prod(flow.shape[1:], dtype=np.int64)) // flow.shape[channel]
    structure.multiply(layer.kernel, size)
    return [labelled(outputs[0], labels, channel)]


@rule(BaseDepthwiseConv)
def _depthwise(
    structure: Structure, layer: Any, args: Any, kwargs: Any, outputs: Any
) -> list[Flow]:
    (flow,) = flows_in(args, kwargs)
    channel = _channel(layer)
    _reads(structure, layer.kernel, -2, flow, channel)
    if flow.axis is None:
        structure.multiply(layer.kernel, _positions(outputs[0], channel))
        return [plain(outputs[0])]
    labels = np.repeat(flow.labels, layer.depth_multiplier)
    if layer.bias is not None:
        structure.units.along(layer.bias, 0, labels)
    if not acts_alone(layer.activation):
        structure.units.pin(labels, f"goes through the activation of {layer.name} with the others")
    structure.multiply(layer.kernel, _positions(outputs[0], channel))
    return [labelled(outputs[0], labels, channel)]


@rule(BaseSeparableConv)
def _separable(
    structure: Structure, layer: Any, args: Any, kwargs: Any, outputs: Any
) -> list[Flow]:
    (flow,) = flows_in(args, kwargs)
    channel = _channel(layer)
    _reads(structure, layer.depthwise_kernel, -2, flow, channel)
    given = flow.labels if flow.axis is not None else np.zeros(flow.shape[channel], dtype=np.int64)
    middle = np.repeat(given, layer.depth_multiplier)
    structure.units.along(layer.pointwise_kernel, len(layer.pointwise_kernel.shape) - 2, middle)
    labels = structure.source(layer, "filters", layer.filters, [layer.pointwise_kernel])
    _makes(structure, layer, labels, layer.pointwise_kernel, layer.bias)
    positions = _positions(outputs[0], channel)
    structure.multiply(layer.depthwise_kernel, positions)
    structure.multiply(layer.pointwise_kernel, positions)
    return [labelled(outputs[0], labels, channel)]


@rule(layers.Dense)
def _dense(structure: Structure, layer: Any, args: Any, kwargs: Any, outputs: Any) -> list[Flow]:
    (flow,) = flows_in(args, kwargs)
    labels = structure.source(layer, "units", layer.units, [layer.kernel])
    _reads(structure, layer.kernel, 0, flow, -1)
    _makes(structure, layer, labels, layer.kernel, layer.bias)
    structure.multiply(layer.kernel, _positions(outputs[0], -1))
    return [labelled(outputs[0], labels)]


@rule(layers.Embedding)
def _embedding(
    structure: Structure, layer: Any, args: Any, kwargs: Any, outputs: Any
) -> list[Flow]:
    labels = structure.source(layer, "width", layer.output_dim, [layer.embeddings])
    _makes(structure, layer, labels, layer.embeddings)
    return [labelled(outputs[0], labels)]


@rule(layers.LSTM, layers.GRU, layers.SimpleRNN)
def _recurrent(
    structure: Structure, layer: Any, args: Any, kwargs: Any, outputs: Any
) -> list[Flow]:
    given, *states = flows_in(args, kwargs)
    labels = structure.source(layer, "units", layer.units, _kernels(layer))
    _cell(structure, layer, given, states, labels)
    return [labelled(tensor, labels) for tensor in outputs]


def _kernels(layer: Any) -> list[Any]:
    return [layer.cell.kernel, layer.cell.recurrent_kernel]


def _cell(
    structure: Structure, layer: Any, given: Flow, states: Sequence[Flow], labels: np.ndarray
) -> None:
    cell = layer.cell
    gates = np.tile(labels, cell.kernel.shape[1] // layer.units)
    _reads(structure, cell.kernel, 0, given, -1)
    structure.units.along(cell.recurrent_kernel, 0, labels)
    _makes(structure, cell, gates, cell.kernel, cell.recurrent_kernel, cell.bias)
    for state in states:
        if state.axis is not None and len(state.labels) == len(labels):
            structure.units.join(labels, state.labels, "is a state of a recurrent layer")
        elif state.shape[-1] == len(labels):  # not a mask
            structure.units.pin(labels, f"{layer.name} begins in a state that is given")
    if layer.stateful:
        structure.units.pin(labels, f"{layer.name} keeps its state")
    steps = given.shape[1]
    structure.multiply(cell.kernel, steps)
    structure.multiply(cell.recurrent_kernel, steps)


@rule(layers.Bidirectional)
def _bidirectional(
    structure: Structure, layer: Any, args: Any, kwargs: Any, outputs: Any
) -> list[Flow]:
    given, *states = flows_in(args, kwargs)
    parts = (layer.forward_layer, layer.backward_layer)
    if not all(isinstance(each, (layers.LSTM, layers.GRU, layers.SimpleRNN)) for each in parts):
        structure.stop([given, *states], f"goes into {layer.name}, which cannot be followed")
        return [plain(tensor) for tensor in outputs]
    both = [structure.source(each, "units", each.units, _kernels(each)) for each in parts]
    half = len(states) // 2
    for index, (part, labels) in enumerate(zip(parts, both, strict=True)):
        _cell(structure, part, given, states[index * half : (index + 1) * half], labels)
    if layer.merge_mode == "concat":
        merged = [np.concatenate(both)]
    elif layer.merge_mode is None:
        merged = both
    else:
        structure.units.join(
            both[0], both[1], f"{layer.name} merges what goes forwards and backwards"
        )
        merged = both[:1]
    number = len(outputs) - len(merged)  # of states
    ends = [both[index * 2 // number] for index in range(number)]
    return [labelled(tensor, labels) for tensor, labels in zip(outputs, merged + ends, strict=True)]


@rule(layers.MultiHeadAttention)
def _attention(
    structure: Structure, layer: Any, args: Any, kwargs: Any, outputs: Any
) -> list[Flow]:
    named = inspect.signature(layer.call).bind(*args, **kwargs).arguments
    query, value = named["query"], named["value"]
    key = named.get("key") or value
    dense = (layer._query_dense, layer._key_dense, layer._value_dense)
    heads = structure.source(layer, "heads", layer.num_heads, [each.kernel for each in dense])
    for each, flow in zip(dense, (query, key, value), strict=True):
        _reads(structure, each.kernel, 0, flow, -1)
        structure.units.along(each.kernel, 1, heads)
        if each.bias is not None:
            structure.units.along(each.bias, 0, heads)
        structure.multiply(each.kernel, flow.shape[1])
    last = layer._output_dense
    structure.units.along(last.kernel, 0, heads)
    if layer._output_shape is None:
        # As wide as the query: what the query loses, the result loses, too.
        size = last.kernel.shape[-1]
        labels = query.labels if query.axis is not None else np.zeros(size, dtype=np.int64)
    else:
        labels = structure.source(layer, "width", last.kernel.shape[-1], [last.kernel])
    for variable in (last.kernel, last.bias):
        if variable is not None:
            structure.units.along(variable, len(variable.shape) - 1, labels)
    structure.multiply(last.kernel, query.shape[1])
    scores = query.shape[1] * value.shape[1]
    each_head = scores * (layer._key_dim + layer._value_dim)
    structure.work.append(Work(times=each_head, along=(heads,)))
    if len(query.shape) != 3 or len(outputs) > 1:
        structure.units.pin(heads, f"{layer.name} attends over other axes, or shows its scores")
    first = labelled(outputs[0], labels) if labels.any() else plain(outputs[0])
    return [first, *(plain(tensor) for tensor in outputs[1:])]


@rule(layers.BatchNormalization)
def _batch_norm(
    structure: Structure, layer: Any, args: Any, kwargs: Any, outputs: Any
) -> list[Flow]:
    flow = flows_in(args, kwargs)[0]
    for variable in (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance):
        if variable is not None:
            _reads(structure, variable, 0, flow, layer.axis)
    return [flow]


@rule(layers.LayerNormalization, layers.RMSNormalization, layers.UnitNormalization)
def _layer_norm(
    structure: Structure, layer: Any, args: Any, kwargs: Any, outputs: Any
) -> list[Flow]:
    flow = flows_in(args, kwargs)[0]
    if flow.axis is None:
        return [flow]
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    axes = [axis % len(flow.shape) for axis in axes]
    if flow.axis in axes:
        structure.measured.append(flow.labels)
        for name in ("gamma", "beta", "scale"):
            variable = getattr(layer, name, None)
            if variable is not None and hasattr(variable, "shape"):
                structure.units.along(variable, axes.index(flow.axis), flow.labels)
    return [flow]


@rule(layers.PReLU)
def _prelu(structure: Structure, layer: Any, args: Any, kwargs: Any, outputs: Any) -> list[Flow]:
    (flow,) = flows_in(args, kwargs)
    if flow.axis is not None and layer.alpha.shape[flow.axis - 1] == len(flow.labels):
        structure.units.along(layer.alpha, flow.axis - 1, flow.labels)
    return [flow]
