"""Where in the bytes of a .tflite file its constants and scales are.

All of it follows from the structure of the file: constants and scales may hold anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

_BYTES = (schema.TensorType.INT8, schema.TensorType.UINT8)
_BIAS = 2  # its position among the inputs of a weighted op: data, weight, bias
_WORD = 4


@dataclass(frozen=True, kw_only=True, order=True)
class Place:
    """A stretch of bytes; offset and size in bytes."""

    offset: int
    size: int

    @property
    def slice(self) -> slice:
        return slice(self.offset, self.offset + self.size)


@dataclass(frozen=True, kw_only=True, order=True)
class Matrix(Place):
    """A constant of so many rows: outputs of a layer, tokens of an embedding."""

    rows: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.size // self.rows


@dataclass(frozen=True, kw_only=True)
class Product:
    """Scales of a bias: those of the weight, times that of the data."""

    bias: Place
    weight: Place
    data: Place


@dataclass(frozen=True, kw_only=True)
class Places:
    """Of each kind the places in ascending order; none of these overlap.

    Attributes:
        weights: contents of 8-bit constants.
        integers: contents of 32-bit constants, such as biases.
        scales: of tensors, but not those of biases in `products`.
        products: scales of biases, in graph order.
    """

    weights: tuple[Matrix, ...]
    integers: tuple[Place, ...]
    scales: tuple[Place, ...]
    products: tuple[Product, ...]


def places(content: bytes, *, least_weights: int, least_words: int) -> Places:
    """Where a file has what.

    Args:
        least_weights: bytes of the smallest 8-bit constant that counts.
        least_words: bytes of the smallest of the others that counts.
    """
    model = schema.Model.GetRootAs(content, 0)
    # A view into the bytes says where they begin.
    base = _address(np.frombuffer(content, np.uint8))
    graphs = [model.Subgraphs(index) for index in range(model.SubgraphsLength())]
    tensors = [graph.Tensors(index) for graph in graphs for index in range(graph.TensorsLength())]
    weights: dict[int, Matrix] = {}
    integers: set[Place] = set()
    for tensor in tensors:
        view = model.Buffers(tensor.Buffer()).DataAsNumpy()
        if not isinstance(view, np.ndarray):
            continue
        offset = _address(view) - base
        if tensor.Type() in _BYTES:
            weights.setdefault(
                offset, Matrix(offset=offset, size=view.size, rows=_rows(tensor, view.size))
            )
        elif tensor.Type() == schema.TensorType.INT32:
            integers.add(Place(offset=offset, size=view.size))
    scales = {found for tensor in tensors if (found := _scales(tensor, base))}
    products = _apart(each for graph in graphs for each in _products(graph, base))
    of_biases = {product.bias for product in products}
    integers = {place for place in integers if place.offset not in weights}

    def large(found: set[Place]) -> tuple[Place, ...]:
        whole = (place for place in found if place.size % _WORD == 0)
        return tuple(sorted(place for place in whole if place.size >= least_words))

    return Places(
        weights=tuple(sorted(each for each in weights.values() if each.size >= least_weights)),
        integers=large(integers),
        scales=large(scales - of_biases - integers),
        products=tuple(products),
    )


def _rows(tensor: Any, size: int) -> int:
    """The first length of a tensor's shape that is not 1; 1 if the shape does not fit its bytes."""
    shape = [int(length) for length in np.atleast_1d(tensor.ShapeAsNumpy())]
    if math.prod(shape) != size or any(length < 1 for length in shape):
        return 1
    return next((length for length in shape if length > 1), 1)


def _apart(products: Iterator[Product]) -> list[Product]:
    """Each bias once, and none whose scales another product is made from."""
    found = {product.bias: product for product in products}
    sources = {place for each in found.values() for place in (each.weight, each.data)}
    return [product for place, product in found.items() if place not in sources]


def _products(graph: Any, base: int) -> Iterator[Product]:
    for index in range(graph.OperatorsLength()):
        inputs = graph.Operators(index).InputsAsNumpy()
        if not isinstance(inputs, np.ndarray) or len(inputs) <= _BIAS:
            continue
        if min(inputs[: _BIAS + 1]) < 0:  # one is left out
            continue
        given = [graph.Tensors(int(each)) for each in inputs[: _BIAS + 1]]
        if given[_BIAS].Type() != schema.TensorType.INT32:
            continue
        data, weight, bias = (_scales(tensor, base) for tensor in given)
        if data and weight and bias and data.size == _WORD and weight.size == bias.size:
            yield Product(bias=bias, weight=weight, data=data)


def _scales(tensor: Any, base: int) -> Place | None:
    quantization = tensor.Quantization()
    view = quantization.ScaleAsNumpy() if quantization is not None else None
    if not isinstance(view, np.ndarray) or view.size == 0:
        return None
    return Place(offset=_address(view) - base, size=view.nbytes)


def _address(view: np.ndarray) -> int:
    return view.__array_interface__["data"][0]
