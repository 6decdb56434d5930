"""Which variables can be compressed, and how the runtime lays them out: the one table.

A layer type that is not in the table is not guessed at. Its weights are listed as
skipped with that reason; a user may still name them in `targets:` to prune them, since
setting a value to zero needs no knowledge of the kernel that will run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import keras
import numpy as np
from keras import layers


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a Keras weight becomes the runtime's matrix of output channels by inputs.

    Attributes:
        attribute: where the weight is on its layer, for example `kernel` or `cell.kernel`.
        channels: axes of the Keras weight that run over output channels, the axes over
            which an integer kernel has one scale each.
        inputs: the axis that runs over input channels, or None for depthwise kernels.
        pruned: whether pruning takes this weight unless it is named. Depthwise kernels
            are few and every one of them matters, so they are left out, as in TFMOT.
        dense: whether the weight runs as FULLY_CONNECTED, which some targets take only
            with one scale for the whole tensor.
        gates: how many equal parts the output channels fall into that the kernel holds
            as tensors of their own, each with one scale; 0 if it does not.
        table: whether the weight is a table that is looked up, with one scale.
        narrow: whether kernels hold the weight in fewer than 8 bits, if a target has such.
    """

    attribute: str
    channels: tuple[int, ...]
    inputs: int | None
    pruned: bool = True
    dense: bool = False
    gates: int = 0
    table: bool = False
    narrow: bool = False


_CONV_1D = (Layout(attribute="kernel", channels=(2,), inputs=1, narrow=True),)
_CONV_2D = (Layout(attribute="kernel", channels=(3,), inputs=2, narrow=True),)
_TRANSPOSED_2D = (Layout(attribute="kernel", channels=(2,), inputs=3),)
_DEPTHWISE_1D = (Layout(attribute="kernel", channels=(1, 2), inputs=None, pruned=False),)
_DEPTHWISE_2D = (Layout(attribute="kernel", channels=(2, 3), inputs=None, pruned=False),)
_SEPARABLE_1D = (
    Layout(attribute="depthwise_kernel", channels=(1, 2), inputs=None, pruned=False),
    Layout(attribute="pointwise_kernel", channels=(2,), inputs=1, narrow=True),
)
_SEPARABLE_2D = (
    Layout(attribute="depthwise_kernel", channels=(2, 3), inputs=None, pruned=False),
    Layout(attribute="pointwise_kernel", channels=(3,), inputs=2, narrow=True),
)
_DENSE = (Layout(attribute="kernel", channels=(1,), inputs=0, dense=True, narrow=True),)

# The fused LSTM holds eight matrices, one for each gate of either kernel.
_LSTM = (
    Layout(attribute="cell.kernel", channels=(1,), inputs=0, gates=4),
    Layout(attribute="cell.recurrent_kernel", channels=(1,), inputs=0, gates=4),
)
# There is no fused GRU: its kernels run as FULLY_CONNECTED.
_GRU = (
    Layout(attribute="cell.kernel", channels=(1,), inputs=0, dense=True, narrow=True),
    Layout(attribute="cell.recurrent_kernel", channels=(1,), inputs=0, dense=True, narrow=True),
)
_EMBEDDING = (Layout(attribute="embeddings", channels=(0,), inputs=1, table=True),)

# Layers whose inner layers are their own business: they are called once, as a whole.
ATOMIC = (layers.RNN,)

# Looked up along the method resolution order, so a user's subclass of Dense is a Dense,
# and the transposed convolution, which does not derive from Conv2D, is itself.
TABLE: dict[type, tuple[Layout, ...]] = {
    layers.Dense: _DENSE,
    layers.Conv1D: _CONV_1D,
    layers.Conv2D: _CONV_2D,
    layers.Conv2DTranspose: _TRANSPOSED_2D,
    layers.DepthwiseConv1D: _DEPTHWISE_1D,
    layers.DepthwiseConv2D: _DEPTHWISE_2D,
    layers.SeparableConv1D: _SEPARABLE_1D,
    layers.SeparableConv2D: _SEPARABLE_2D,
    layers.LSTM: _LSTM,
    layers.GRU: _GRU,
    layers.Embedding: _EMBEDDING,
}


@dataclass(frozen=True, kw_only=True)
class Weight:
    """A variable that can be compressed, with the layer that reads it.

    Attributes:
        layer: the layer whose call reads the variable.
        variable: the Keras variable.
        layout: its row of the table, or None for a layer type that is not in it.
    """

    layer: keras.Layer
    variable: Any
    layout: Layout | None

    @property
    def path(self) -> str:
        """The variable's path in the model, for example `encoder/conv1/kernel`."""
        return self.variable.path

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.variable.shape)

    def axes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Axes over output channels, and the others with the input channels last."""
        rank = len(self.shape)
        channels = self.layout.channels if self.layout else (rank - 1,)
        inputs = self.layout.inputs if self.layout else rank - 2
        others = tuple(axis for axis in range(rank) if axis not in channels and axis != inputs)
        return channels, others if inputs is None else (*others, inputs)

    def matrix(self, values: np.ndarray) -> np.ndarray:
        """`values` in the runtime's order: output channels by inputs, shape (O, I).

        A row holds all that one output channel reads; for a convolution that is its
        window, row by row, with the input channels innermost.
        """
        channels, others = self.axes()
        rows = int(np.prod([self.shape[axis] for axis in channels]))
        return np.transpose(values, channels + others).reshape(rows, -1)

    def from_matrix(self, matrix: np.ndarray) -> np.ndarray:
        """The inverse of `matrix`."""
        channels, others = self.axes()
        order = channels + others
        values = matrix.reshape([self.shape[axis] for axis in order])
        return np.transpose(values, np.argsort(order))

    @property
    def input_channels(self) -> int:
        """Length of the innermost run of inputs, along which N:M groups lie."""
        inputs = self.layout.inputs if self.layout else len(self.shape) - 2
        return 1 if inputs is None else self.shape[inputs]


def layout_of(layer: keras.Layer) -> tuple[Layout, ...] | None:
    """The rows of the table for a layer, or None."""
    if isinstance(layer, layers.EinsumDense):
        return _einsum_dense(layer)
    for kind in type(layer).__mro__:
        if kind in TABLE:
            return TABLE[kind]
    return None


def leaves(model: keras.Layer) -> Iterator[keras.Layer]:
    """The layers of a model, nested and subclassed ones included, that are called as one."""
    inside = {
        id(part)
        for layer in model._flatten_layers()
        if isinstance(layer, ATOMIC)
        for part in layer._flatten_layers(include_self=False)
    }
    seen: set[int] = set()
    for layer in model._flatten_layers():
        whole = isinstance(layer, ATOMIC) or not layer._layers
        if whole and id(layer) not in seen and id(layer) not in inside:
            seen.add(id(layer))
            yield layer


def _einsum_dense(layer: Any) -> tuple[Layout, ...] | None:
    """The layout that the equation says, if the layer is a matrix product.

    `abc,cde->abde`: what the result keeps of the kernel's axes are output channels, what
    it sums over are inputs.
    """
    kernel, result = layer.equation.replace("...", "").split(",")[1].split("->")
    channels = tuple(axis for axis, letter in enumerate(kernel) if letter in result)
    inputs = [axis for axis, letter in enumerate(kernel) if letter not in result]
    if not channels or not inputs:
        return None
    return (
        Layout(attribute="kernel", channels=channels, inputs=inputs[-1], dense=True, narrow=True),
    )


def weights_of(model: keras.Layer) -> list[Weight]:
    """Every weight of rank two and more, in the model's order, each once.

    A variable that two layers share is listed with the first of them that the table
    knows. Metrics, biases and normalization parameters are not weights in this sense.
    """
    found: dict[int, Weight] = {}
    known_inside: set[int] = set()
    for layer in model._flatten_layers():
        rows = layout_of(layer) or ()
        if rows:
            known_inside.update(id(part) for part in layer._flatten_layers())
        for row in rows:
            variable = attrgetter(row.attribute)(layer)
            known = found.get(id(variable))
            if known is None or known.layout is None:
                found[id(variable)] = Weight(layer=layer, variable=variable, layout=row)
        # What else a layer of the table has are biases, some of them of rank two.
        rest = () if id(layer) in known_inside else layer._trainable_variables
        for variable in rest:
            if len(variable.shape) >= 2 and id(variable) not in found:
                found[id(variable)] = Weight(layer=layer, variable=variable, layout=None)
    order = {id(variable): index for index, variable in enumerate(model.weights)}
    return sorted(found.values(), key=lambda weight: order.get(id(weight.variable), len(order)))
