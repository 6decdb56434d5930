"""The weights of a model by the names of its layers: of Keras 2 and Keras 3 alike.

The order of layers differs between the two; their names do not, nor the order of the weights
within a layer. Neither Keras is imported here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np


def named_layers(model: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The innermost layers with their paths: names of the models that hold them, then their own."""
    for layer in model.layers:
        path = f"{prefix}{layer.name}"
        if hasattr(layer, "layers") and hasattr(layer, "summary"):
            yield from named_layers(layer, f"{path}/")
        else:
            yield path, layer


def read_weights(model: Any) -> dict[str, np.ndarray]:
    """Every weight under its layer's path and its number: `encoder/conv1|0`."""
    return {
        f"{path}|{index}": np.asarray(array)
        for path, layer in named_layers(model)
        for index, array in enumerate(layer.get_weights())
    }


def write_weights(model: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Sets what `read_weights` has read.

    Raises:
        KeyError: a layer has weights that are not there.
        ValueError: they have other shapes.
    """
    for path, layer in named_layers(model):
        count = len(layer.get_weights())
        if count:
            layer.set_weights([arrays[f"{path}|{index}"] for index in range(count)])
