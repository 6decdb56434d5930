"""Walks a functional model, nested ones included, and calls each operation as it is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

# An operation, its arguments with values in place of tensors, and the symbolic tensors that it
# makes; gives as many values.
Visit = Callable[[Any, tuple[Any, ...], dict[str, Any], Sequence[Any]], Sequence[Any]]


def functional(model: Any) -> Any:
    """The graph of a functional or sequential model, or None if it has none."""
    if isinstance(model, keras.Sequential):
        model = model._functional
    return model if hasattr(model, "_nodes_by_depth") else None


def walk(graph: Any, given: Sequence[Any], visit: Visit) -> list[Any]:
    """The values of the model's outputs, in their flat order.

    Args:
        graph: of `functional`.
        given: values of its inputs, in their flat order.
        visit: called for each operation in order; a nested model is one.
    """
    known = {id(tensor): value for tensor, value in zip(graph.inputs, given, strict=True)}
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if node.is_input or any(id(tensor) not in known for tensor in node.input_tensors):
                continue
            args, kwargs = node.arguments.fill_in(known)
            made = visit(node.operation, args, kwargs, node.outputs)
            known.update(
                (id(tensor), value) for tensor, value in zip(node.outputs, made, strict=True)
            )
    return [known[id(tensor)] for tensor in graph.outputs]
