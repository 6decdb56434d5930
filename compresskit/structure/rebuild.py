"""The same model without some of its units: a plain Keras model of smaller layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers
from keras.src.layers.convolutional.base_conv import BaseConv
from keras.src.layers.convolutional.base_conv_transpose import BaseConvTranspose
from keras.src.layers.convolutional.base_separable_conv import BaseSeparableConv
from keras.src.ops import numpy as numpy_ops

from compresskit.structure.structure import Structure
from compresskit.structure.walk import functional, walk

# How many of a layer's units are left, by their kind.
Left = Callable[[str], int]


def _named(*keys: str) -> Callable[[dict[str, Any], Left], None]:
    """Writes the number of units of a kind under a key of the layer's settings: `kind=key`."""
    pairs = [key.split("=") for key in keys]

    def write(config: dict[str, Any], left: Left) -> None:
        for kind, key in pairs:
            if config.get(key) is not None:
                config[key] = left(kind)

    return write


_SETTINGS: dict[type, Callable[[dict[str, Any], Left], None]] = {
    BaseConv: _named("filters=filters"),
    BaseConvTranspose: _named("filters=filters"),
    BaseSeparableConv: _named("filters=filters"),
    layers.Dense: _named("units=units"),
    layers.Embedding: _named("width=output_dim"),
    layers.LSTM: _named("units=units"),
    layers.GRU: _named("units=units"),
    layers.SimpleRNN: _named("units=units"),
    layers.MultiHeadAttention: _named("heads=num_heads", "width=output_shape"),
}


def rebuild(structure: Structure, kept: np.ndarray) -> keras.Model:
    """The model without the units that are not kept, with the weights of what is left.

    Args:
        kept: bool, one for each label of `structure.units`.

    Returns:
        a model of the same class (functional or sequential), with the same names; not compiled.
    """
    made: dict[int, Any] = {}
    smaller = _model(structure, structure.model, kept, made)
    axes = structure.units.axes
    for layer in _innermost(structure.model):
        for variable, new in zip(layer.variables, made[id(layer)].variables, strict=True):
            values = variable.numpy()
            for axis, labels in axes.get(id(variable), {}).items():
                values = np.compress(structure.left(kept, labels), values, axis=axis)
            new.assign(values)
    return smaller


def _model(structure: Structure, model: Any, kept: np.ndarray, made: dict[int, Any]) -> keras.Model:
    graph = functional(model)

    def visit(
        operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Sequence[Any]
    ) -> Sequence[Any]:
        if id(operation) not in made:
            made[id(operation)] = _operation(structure, operation, kept, made)
        return keras.tree.flatten(made[id(operation)](*args, **kwargs))

    if isinstance(model, keras.Sequential):
        parts = []
        for layer in model.layers:
            made[id(layer)] = _operation(structure, layer, kept, made)
            parts.append(made[id(layer)])
        return keras.Sequential(
            [*_inputs(structure, model, kept), *parts], name=model.name, trainable=model.trainable
        )
    inputs = _inputs(structure, model, kept)
    given = keras.tree.pack_sequence_as(model._inputs_struct, inputs)
    results = walk(graph, inputs, visit)
    packed = keras.tree.pack_sequence_as(model._outputs_struct, results)
    smaller = keras.Model(given, packed, name=model.name)
    smaller.trainable = model.trainable
    return smaller


def _inputs(structure: Structure, model: Any, kept: np.ndarray) -> list[Any]:
    """New inputs; those of a nested model may be smaller, too."""
    made = []
    flows = structure.given.get(id(model), [None] * len(model.inputs))
    for tensor, flow in zip(functional(model).inputs, flows, strict=True):
        shape = list(tensor.shape)
        if flow is not None and flow.axis is not None:
            shape[flow.axis] = int(structure.left(kept, flow.labels).sum())
        name = tensor._keras_history.operation.name
        made.append(keras.Input(batch_shape=shape, dtype=tensor.dtype, name=name))
    return made


def _operation(structure: Structure, operation: Any, kept: np.ndarray, made: dict[int, Any]) -> Any:
    """An operation of the sizes that are left."""
    if functional(operation) is not None:
        return _model(structure, operation, kept, made)
    flows = structure.made.get(id(operation), [])
    if isinstance(operation, numpy_ops.Split):
        sizes = [int(structure.left(kept, flow.labels).sum()) for flow in flows]
        if all(flow.axis == operation.axis % len(flow.shape) for flow in flows):
            return numpy_ops.Split(list(np.cumsum(sizes)[:-1]), axis=operation.axis)
        return operation
    if isinstance(operation, (numpy_ops.Reshape, layers.Reshape)) and flows[0].axis is not None:
        size = int(structure.left(kept, flows[0].labels).sum())
        if isinstance(operation, layers.Reshape):
            config = operation.get_config()
            shape = list(config["target_shape"])
            shape[flows[0].axis - 1] = size
            return layers.Reshape.from_config({**config, "target_shape": tuple(shape)})
        newshape = list(operation.newshape)
        newshape[flows[0].axis] = size
        return numpy_ops.Reshape(tuple(newshape))
    if not isinstance(operation, keras.Layer):
        return operation
    config = operation.get_config()
    _resize(structure, operation, config, kept)
    return type(operation).from_config(config)


def _resize(structure: Structure, layer: Any, config: dict[str, Any], kept: np.ndarray) -> None:
    if isinstance(layer, layers.Bidirectional):
        for part, inner in (
            ("layer", layer.forward_layer),
            ("backward_layer", layer.backward_layer),
        ):
            if part in config:
                _resize(structure, inner, config[part]["config"], kept)
                # It would build itself for the inputs that it had.
                config[part].pop("build_config", None)
        return

    def left(kind: str) -> int:
        source = structure.sources[id(layer), kind]
        return int(structure.left(kept, source.labels).sum())

    for kind in type(layer).__mro__:
        if kind in _SETTINGS and any(key[0] == id(layer) for key in structure.sources):
            _SETTINGS[kind](config, left)
            return


def _innermost(model: Any) -> list[Any]:
    """Every layer that was made anew as one."""
    found: dict[int, Any] = {}
    for layer in functional(model).layers:
        inner = functional(layer)
        for each in _innermost(layer) if inner is not None else [layer]:
            if not isinstance(each, layers.InputLayer):
                found[id(each)] = each
    return list(found.values())
