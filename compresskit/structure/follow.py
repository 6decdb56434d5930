"""Follows units through the graph of a model, and says which can be removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from compresskit.errors import ModelError, Problem
from compresskit.structure import moves, rules  # noqa: F401 - they register what they know
from compresskit.structure.flow import Flow, plain
from compresskit.structure.rule import RULES, flows_in
from compresskit.structure.structure import Structure
from compresskit.structure.walk import functional, walk


def follow(model: keras.Model, where: str = "model") -> Structure:
    """Follows every unit of a model.

    Raises:
        ModelError: the model is not a graph of layers.
    """
    graph = functional(model)
    if graph is None:
        raise ModelError(
            Problem(
                where=where,
                found=f"{model.name}, a subclassed model: which layer reads whose output is in its "
                "code",
                expected="a functional or sequential model",
                fix="write it with keras.Input and keras.Model(inputs, outputs), or prune it",
            )
        )
    structure = Structure(model=model)
    outputs = _through(structure, graph, [plain(tensor) for tensor in graph.inputs])
    structure.stop(outputs, "is an output of the model")
    return structure


def _through(structure: Structure, graph: Any, given: Sequence[Flow]) -> list[Flow]:
    def visit(
        operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Sequence[Any]
    ) -> Sequence[Flow]:
        nested = functional(operation)
        if nested is not None:
            inside = flows_in(args, kwargs)
            if len(inside) == len(nested.inputs):
                structure.given[id(operation)] = inside
                return _through(structure, nested, inside)
        for kind in type(operation).__mro__:
            if kind in RULES:
                made = RULES[kind](structure, operation, args, kwargs, outputs)
                break
        else:
            name = f"{operation.name} ({type(operation).__name__})"
            structure.stop(flows_in(args, kwargs), f"goes into {name}, which cannot be followed")
            made = [plain(tensor) for tensor in outputs]
        structure.made[id(operation)] = list(made)
        return made

    return walk(graph, given, visit)
