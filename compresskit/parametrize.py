"""What a layer reads in place of its variable, and what its neighbours see of its output.

No layer is replaced and no class is changed. The `call` of one operation, an instance
attribute, is hooked: inside `keras.StatelessScope` every read of `variable.value` yields
the transformed tensor, so the layer's own code runs unchanged on, for example,
fake-quantized weights, while the gradient flows to the float variable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import keras
import numpy as np
from keras.src.backend.common.variables import AutocastScope

Transform = Callable[[Any], Any]


@contextmanager
def in_float32(model: keras.Model) -> Iterator[None]:
    """Inside, a model that trains in half floats (`mixed_float16`) computes in float32.

    Its variables are float32 anyway; kernels in a file are for nothing in between.
    """
    mixed = [
        (layer, layer.dtype_policy)
        for layer in model._flatten_layers()
        if layer.dtype_policy.name in ("mixed_float16", "mixed_bfloat16")
    ]
    for layer, _ in mixed:
        layer.dtype_policy = "float32"
    try:
        yield
    finally:
        for layer, policy in mixed:
            layer.dtype_policy = policy


@contextmanager
def reading(mapping: Sequence[tuple[Any, Any]], variables: Sequence[Any]) -> Iterator[None]:
    """Lets every read of a mapped variable yield the tensor beside it.

    What the code inside assigns to other `variables` (moving averages, seed
    generators) is written back on exit: a stateless scope would drop it. Scopes nest:
    a mapping of an outer one stays visible.
    """
    scope = keras.StatelessScope(state_mapping=list(mapping))
    with scope:
        if scope.original_scope is not None:
            for key, value in scope.original_scope.state_mapping.items():
                scope.state_mapping.setdefault(key, value)
        before = dict(scope.state_mapping)
        yield
    for variable in variables:
        value = scope.get_current_value(variable)
        if value is not None and value is not before.get(id(variable)):
            variable.assign(value)


@final
class CallHook:
    """The callable that stands in `operation.call`.

    Attributes:
        original: the operation's own call.
        call: what is called; a numerically equal form may stand here that shows a tensor
            which the original hides.
        parameters: transforms of variables, as (variable, transform), applied in order.
        inputs: transforms of every float input tensor.
        outputs: transforms of every float output tensor.
        activation: wraps the layer's own activation function, or None.
        inside: transforms of the tensors that `call` shows, by their names.
    """

    def __init__(self, operation: Any):
        self.operation = operation
        self.original: Callable[..., Any] = operation.call
        self.call = self.original
        self.parameters: list[tuple[Any, Transform]] = []
        self.inputs: list[Transform] = []
        self.outputs: list[Transform] = []
        self.activation: Callable[[Transform], Transform] | None = None
        self.inside: dict[str, list[Transform]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.inputs:
            args = tuple(_transform(arg, self.inputs) for arg in args)
        with self._activation_in_place():
            if self.parameters:
                with reading(self._mapping(), self.operation.variables):
                    outputs = self.call(*args, **kwargs)
            else:
                outputs = self.call(*args, **kwargs)
        return _transform(outputs, self.outputs) if self.outputs else outputs

    def show(self, name: str, values: Any) -> Any:
        """What becomes of a tensor inside the operation."""
        return _transform(values, self.inside.get(name, ()))

    def _mapping(self) -> list[tuple[Any, Any]]:
        values: dict[int, tuple[Any, Any]] = {}
        # Whoever computes in half floats reads a cast of the variable. A grid is one of float32:
        # what is read is cast once it is on the grid.
        with AutocastScope(None):
            for variable, transform in self.parameters:
                _, value = values.get(id(variable), (variable, variable.value))
                values[id(variable)] = (variable, transform(value))
        return list(values.values())

    @contextmanager
    def _activation_in_place(self) -> Iterator[None]:
        if self.activation is None:
            yield
            return
        # Replicas of a strategy take turns in here: another one may have put its own there.
        original = getattr(self.operation.activation, "original", self.operation.activation)
        wrapped = self.activation(original)
        wrapped.original = original  # type: ignore[attr-defined]
        self.operation.activation = wrapped
        try:
            yield
        finally:
            self.operation.activation = original


def _transform(values: Any, transforms: Sequence[Transform]) -> Any:
    def apply(value: Any) -> Any:
        # A model called by hand is given NumPy arrays as they are.
        if isinstance(value, np.ndarray):
            value = keras.ops.convert_to_tensor(value)
        if not keras.ops.is_tensor(value) or not keras.backend.is_float_dtype(value.dtype):
            return value
        for transform in transforms:
            value = transform(value)
        return value

    return keras.tree.map_structure(apply, values)


def hook(operation: Any) -> CallHook:
    """The operation's hook, made if it has none."""
    current = operation.__dict__.get("call")
    if isinstance(current, CallHook):
        return current
    made = CallHook(operation)
    operation.call = made
    return made


def settle(operation: Any) -> None:
    """Gives the operation its own call back once nothing stands on its hook."""
    current = operation.__dict__.get("call")
    if not isinstance(current, CallHook):
        return
    places = (current.parameters, current.inputs, current.outputs, *current.inside.values())
    if not any(places) and current.activation is None and current.call == current.original:
        del operation.call


def parameters_of(operation: Any) -> list[tuple[Any, Transform]]:
    """The transforms of variables that stand on an operation, in the order they apply."""
    current = operation.__dict__.get("call")
    return current.parameters if isinstance(current, CallHook) else []
