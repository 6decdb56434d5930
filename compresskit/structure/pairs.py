"""Pairs of layers between which each channel can be scaled up and down again.

Whatever lies between them treats each channel by itself and is positively homogeneous,
`f(s x) = s f(x)` for s > 0: a ReLU, pooling, padding with zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from compresskit.structure.walk import functional

_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_BETWEEN = (
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.Cropping1D,
    layers.Cropping2D,
    layers.UpSampling1D,
    layers.UpSampling2D,
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.LeakyReLU,
    layers.PReLU,
)
_LINEAR = keras.activations.linear
_RELU = keras.activations.relu


@dataclass(frozen=True, eq=False, kw_only=True)
class Pair:
    """A layer whose output channels another reads, and nothing else does.

    Attributes:
        first: Conv, DepthwiseConv of one multiplier, or Dense.
        norm: the BatchNormalization behind it, or None.
        second: of the same kinds; a Dense may read the channels flattened.
    """

    first: Any
    norm: Any
    second: Any

    @property
    def channels(self) -> int:
        """How many channels there are."""
        return int(self.first.kernel.shape[_out(self.first)])

    def largest_first(self) -> np.ndarray:
        """The largest absolute weight that makes each channel, its normalization folded in."""
        kernel = np.abs(self.first.kernel.numpy())
        axis = _out(self.first)
        largest = kernel.max(axis=tuple(each for each in range(kernel.ndim) if each != axis))
        if self.norm is None:
            return largest
        factor = 1 / np.sqrt(self.norm.moving_variance.numpy() + self.norm.epsilon)
        return largest * np.abs(factor * self.norm.gamma.numpy())

    def largest_second(self) -> np.ndarray:
        """The largest absolute weight that reads each channel."""
        kernel, axis = self._read()
        others = tuple(each for each in range(kernel.ndim) if each != axis)
        return np.abs(kernel).max(axis=others)

    def scale(self, factors: np.ndarray) -> None:
        """Divides each channel by its factor where it is made, and multiplies where it is read.

        Args:
            factors: positive, shape (channels,).
        """
        if self.norm is not None:
            made = [self.norm.gamma, self.norm.beta if self.norm.center else None]
        else:
            made = [self.first.bias]
            shape = [1] * len(self.first.kernel.shape)
            shape[_out(self.first)] = -1
            self.first.kernel.assign(self.first.kernel.numpy() / factors.reshape(shape))
        for variable in made:
            if variable is not None:
                variable.assign(variable.numpy() / factors)
        kernel, axis = self._read()
        shape = [1] * kernel.ndim
        shape[axis] = -1
        scaled = kernel * factors.reshape(shape)
        self.second.kernel.assign(scaled.reshape(self.second.kernel.shape))

    def _read(self) -> tuple[np.ndarray, int]:
        """The kernel that reads the channels, and the axis that runs over them."""
        kernel = self.second.kernel.numpy()
        if isinstance(self.second, layers.Dense):
            # Flattened pictures have their channels innermost.
            return kernel.reshape(-1, self.channels, kernel.shape[-1]), 1
        return kernel, kernel.ndim - 2


def _out(layer: Any) -> int:
    kernel = layer.kernel.shape
    return len(kernel) - (2 if isinstance(layer, _DEPTHWISE) else 1)


def pairs(model: keras.Model) -> Iterator[Pair]:
    """The pairs of a functional model, nested ones included, in their order.

    Of a subclassed model, or one within, nothing is known: it has none.
    """
    graphs = _graphs(model)
    calls: dict[int, int] = {}
    for graph in graphs:
        for node in _nodes(graph):
            calls[id(node.operation)] = calls.get(id(node.operation), 0) + 1
    for graph in graphs:
        readers: dict[int, list[Any]] = {}
        for node in _nodes(graph):
            for tensor in node.input_tensors:
                readers.setdefault(id(tensor), []).append(node)
        ends = {id(tensor) for tensor in graph.outputs}
        for node in _nodes(graph):
            pair = _from(node, readers, ends)
            # What is called twice has other neighbours the second time.
            if pair is not None and all(
                calls[id(layer)] == 1 for layer in (pair.first, pair.norm, pair.second) if layer
            ):
                yield pair


def _graphs(model: Any) -> list[Any]:
    graph = functional(model)
    if graph is None:
        return []
    return [graph] + [inner for node in _nodes(graph) for inner in _graphs(node.operation)]


def _nodes(graph: Any) -> list[Any]:
    depths = sorted(graph._nodes_by_depth, reverse=True)
    return [node for depth in depths for node in graph._nodes_by_depth[depth] if not node.is_input]


def _from(node: Any, readers: dict[int, list[Any]], ends: set[int]) -> Pair | None:
    """The pair that begins with the layer of a node, if one does."""
    first, norm, bent = node.operation, None, False
    if not _makes(first):
        return None
    bent = first.activation not in (None, _LINEAR)
    while True:
        (tensor,) = node.outputs
        after = readers.get(id(tensor), ())
        if len(after) != 1 or id(tensor) in ends or len(after[0].outputs) != 1:
            return None
        (node,) = after
        operation = node.operation
        if _reads(operation):
            flat = np.prod([size or 1 for size in tensor.shape[1:]])
            channels = first.kernel.shape[_out(first)]
            # A Dense on a picture that is not flattened reads its last axis alone.
            size = operation.kernel.shape[0 if isinstance(operation, layers.Dense) else -2]
            if size not in (channels, flat) or size % channels:
                return None
            return Pair(first=first, norm=norm, second=operation)
        if isinstance(operation, layers.BatchNormalization):
            if (
                norm is not None
                or bent
                or not operation.scale
                or len(tensor.shape) - 1 != (operation.axis % len(tensor.shape))
            ):
                return None
            norm = operation
            continue
        if not _homogeneous(operation):
            return None
        bent = True


def _last(layer: Any) -> bool:
    return getattr(layer, "data_format", "channels_last") == "channels_last"


def _makes(operation: Any) -> bool:
    if type(operation) in (*_CONVOLUTIONS, *_DEPTHWISE, layers.Dense):
        one = not isinstance(operation, _DEPTHWISE) or operation.depth_multiplier == 1
        return one and _last(operation) and operation.activation in (None, _LINEAR, _RELU)
    return False


def _reads(operation: Any) -> bool:
    if type(operation) in _CONVOLUTIONS and operation.groups != 1:
        return False
    return type(operation) in (*_CONVOLUTIONS, *_DEPTHWISE, layers.Dense) and _last(operation)


def _homogeneous(operation: Any) -> bool:
    if isinstance(operation, layers.ReLU):
        return operation.max_value is None and not operation.threshold
    if isinstance(operation, layers.Activation):
        return operation.activation in (_LINEAR, _RELU)
    if isinstance(operation, layers.Flatten):
        return _last(operation)
    if isinstance(operation, keras.Layer):
        return isinstance(operation, _BETWEEN) and _last(operation)
    return type(operation).__name__ == "Relu"
