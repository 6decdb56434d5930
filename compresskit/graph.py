"""Which operation reads whose output, for any kind of model.

A model is run once on a sample and every innermost operation writes down the tensors
that it was given and gave. So functional, sequential, nested and subclassed models
look alike. What a subclassed model computes between its layers with plain tensor
functions stays unseen: a tensor that goes there has no reader here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras

from compresskit.weights import leaves


@dataclass(frozen=True, kw_only=True)
class Made:
    """One call of an operation: the tensors that went in and came out."""

    operation: Any
    given: list[Any]
    made: list[Any]


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of an operation: the identities of the tensors that went in and came out."""

    operation: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Graph:
    """The calls of one run, in order, with the identities of the model's outputs."""

    calls: tuple[Call, ...]
    outputs: frozenset[int]

    def readers(self, tensor: int) -> list[Call]:
        """The calls that read a tensor."""
        return [call for call in self.calls if tensor in call.inputs]

    def writer(self, tensor: int) -> Call | None:
        """The call that made a tensor, or None for an input or an unseen computation."""
        return next((call for call in self.calls if tensor in call.outputs), None)

    def of(self, operation: Any) -> list[Call]:
        """All calls of one operation."""
        return [call for call in self.calls if call.operation is operation]


def operations(model: keras.Layer) -> Iterator[Any]:
    """Every innermost operation of a model: layers, and functions of functional graphs."""
    seen: set[int] = set()
    for layer in model._flatten_layers():
        for operation in getattr(layer, "operations", ()):
            if not isinstance(operation, keras.Layer) and id(operation) not in seen:
                seen.add(id(operation))
                yield operation
    for layer in leaves(model):
        if id(layer) not in seen:
            seen.add(id(layer))
            yield layer


@contextmanager
def recording(model: keras.Model) -> Iterator[list[Made]]:
    """Inside, every call of an innermost operation of the model is written down, in order."""
    calls: list[Made] = []

    def record(operation: Any) -> None:
        original = operation.call

        def call(*args: Any, **kwargs: Any) -> Any:
            outputs = original(*args, **kwargs)
            given = [value for value in keras.tree.flatten((args, kwargs)) if _tensor(value)]
            made = [value for value in keras.tree.flatten(outputs) if _tensor(value)]
            # Dropout at inference and the like: the tensor that came in goes out.
            if not {id(value) for value in made} <= {id(value) for value in given}:
                calls.append(Made(operation=operation, given=given, made=made))
            return outputs

        operation.call = call

    recorded = list(operations(model))
    previous = [operation.__dict__.get("call") for operation in recorded]
    for operation in recorded:
        record(operation)
    try:
        yield calls
    finally:
        for operation, call in zip(recorded, previous, strict=True):
            if call is None:
                del operation.call
            else:
                operation.call = call


def trace(model: keras.Model, sample: Any) -> Graph:
    """Runs the model on a sample (a batch as the model takes it) and records the calls."""
    # The tensors live until the end: a freed one's identity could be given out again.
    with recording(model) as calls:
        outputs = model(sample, training=False)
    return Graph(
        calls=tuple(
            Call(
                operation=call.operation,
                inputs=tuple(map(id, call.given)),
                outputs=tuple(map(id, call.made)),
            )
            for call in calls
        ),
        outputs=frozenset(id(value) for value in keras.tree.flatten(outputs)),
    )


def _tensor(value: Any) -> bool:
    return keras.ops.is_tensor(value)
