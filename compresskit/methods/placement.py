"""Where an integer graph rounds its activations: the rules of the converter, as data.

The converter fuses BatchNormalization into the convolution before it and a ReLU into
whatever it can: between them nothing is rounded. Pooling, reshaping and concatenation
hand their input's scale on. Everything else rounds its output once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
from keras import layers

from compresskit.attention import attentions
from compresskit.graph import Call, Graph
from compresskit.inner import points
from compresskit.ranges import Place
from compresskit.weights import ATOMIC, layout_of

# The kernel's own output range, whatever the data (TFLite quantization specification).
FIXED_RANGES: dict[str, tuple[float, float]] = {
    "softmax": (0.0, 255 / 256),
    "sigmoid": (0.0, 255 / 256),
    "tanh": (-1.0, 127 / 128),
}

# Kernels whose output has the scale of their input.
SAME_SCALE = (
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.Flatten,
    layers.Reshape,
    layers.Permute,
    layers.RepeatVector,
    layers.Cropping1D,
    layers.Cropping2D,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
)
_SAME_SCALE_FUNCTIONS = {"Reshape", "Transpose", "Squeeze", "ExpandDims", "Max", "GetItem", "Flip"}

# Fused into the op that makes their input.
_FUSED_FUNCTIONS = {"Relu", "Relu6"}
_FUSED_ACTIVATIONS = (keras.activations.relu, keras.activations.relu6)
_LINEAR = (None, keras.activations.linear)

# Ops that a ReLU can be fused into.
_TAKES_RELU = (layers.Add, layers.Subtract, layers.Multiply, layers.BatchNormalization)
_TAKES_RELU_FUNCTIONS = {"Add", "Subtract", "Multiply"}


@dataclass(frozen=True, kw_only=True)
class Placement:
    """One point where an activation is rounded.

    Attributes:
        operation: the operation that is hooked; for `input` the model itself.
        place: where at the operation.
        inner: the name of the tensor, for the place `inside`.
        fixed: the range, where the kernel dictates it.
    """

    operation: Any
    place: Place
    inner: str = ""
    fixed: tuple[float, float] | None = None


def activation_of(operation: Any) -> Any:
    """The activation function that a layer applies last, or None."""
    activation = getattr(operation, "activation", None)
    return None if activation in _LINEAR else activation


def _function_name(function: Any) -> str:
    return getattr(function, "__name__", "")


def _is_fused(operation: Any) -> bool:
    """Whether an operation is a ReLU that disappears into the op before it."""
    if isinstance(operation, layers.ReLU):
        return (
            operation.max_value in (None, 6.0)
            and not operation.negative_slope
            and not operation.threshold
        )
    if isinstance(operation, layers.Activation):
        return operation.activation in _FUSED_ACTIVATIONS
    return not isinstance(operation, keras.Layer) and type(operation).__name__ in _FUSED_FUNCTIONS


def _takes_relu(operation: Any) -> bool:
    if isinstance(operation, keras.Layer):
        return layout_of(operation) is not None or isinstance(operation, _TAKES_RELU)
    return type(operation).__name__ in _TAKES_RELU_FUNCTIONS


def hands_scale_on(operation: Any) -> bool:
    """Whether the output of an operation has the scale of its input."""
    if isinstance(operation, layers.UpSampling2D):
        return operation.interpolation == "nearest"
    if isinstance(operation, keras.Layer):
        return isinstance(operation, SAME_SCALE)
    return type(operation).__name__ in _SAME_SCALE_FUNCTIONS


def is_table(operation: Any) -> bool:
    """Whether an operation looks rows up, and so has the scale of its table."""
    layout = layout_of(operation) if isinstance(operation, keras.Layer) else ()
    return any(each.table for each in layout or ())


def _fixed_range(operation: Any) -> tuple[float, float] | None:
    if isinstance(operation, layers.Softmax):
        return FIXED_RANGES["softmax"]
    if isinstance(operation, keras.Layer):
        return FIXED_RANGES.get(_function_name(activation_of(operation)))
    return FIXED_RANGES.get(type(operation).__name__.lower())


def _rounded_later(call: Call, graph: Graph) -> bool:
    """Whether the only reader of a call's output rounds it, fused with it or for it."""
    (tensor, *more) = call.outputs
    readers = graph.readers(tensor)
    if more or len(readers) != 1 or tensor in graph.outputs:
        return False
    (reader,) = readers
    operation = call.operation
    if _joins(reader.operation):
        # One scale for all that is joined: the range of the result is theirs.
        return _fixed_range(operation) is None
    if activation_of(operation) is not None:
        return False
    if isinstance(reader.operation, layers.BatchNormalization):
        return isinstance(operation, keras.Layer) and layout_of(operation) is not None
    return _is_fused(reader.operation) and _takes_relu(operation)


def _touch_fused(graph: Graph) -> set[int]:
    """Tensors that a recurrent layer reads or writes, or that take their scale from one.

    No fake-quant op may touch a fused LSTM: the conversion succeeds, and the op's bias
    keeps the scale of another input. Calibration gives these ranges at export.
    """
    found: set[int] = set()
    for call in graph.calls:
        if isinstance(call.operation, ATOMIC):
            found.update(call.inputs, call.outputs)
    # Forwards and backwards through what hands its scale on.
    size = -1
    while size != len(found):
        size = len(found)
        for call in graph.calls:
            if hands_scale_on(call.operation) or _joins(call.operation):
                touched = {*call.inputs, *call.outputs}
                if touched & found:
                    found |= touched
    return found


def _joins(operation: Any) -> bool:
    return type(operation).__name__ == "Concatenate"  # the layer, or the function


def placements(model: keras.Model, graph: Graph, ignored: set[int]) -> list[Placement]:
    """All points where the activations of a model are rounded.

    Args:
        ignored: identities of operations that stay as they are.
    """
    fused = _touch_fused(graph)
    found = []
    if not any(graph.writer(tensor) is None for tensor in fused):
        found.append(Placement(operation=model, place="input"))
    for layer in attentions(model):
        # The scores, and what is gathered by them; Keras computes both outside of any layer.
        if id(layer._output_dense) in ignored:
            continue
        for operation in (layer._softmax, layer._output_dense):
            found.append(Placement(operation=operation, place="input"))
    seen: set[int] = set()
    for call in graph.calls:
        operation = call.operation
        if id(operation) in seen or id(operation) in ignored or not call.outputs:
            continue
        seen.add(id(operation))
        found += [
            Placement(operation=operation, place="inside", inner=name) for name in points(operation)
        ]
        # A layer may be called twice; what one call needs, both get.
        calls = graph.of(operation)
        if hands_scale_on(operation) or all(_rounded_later(each, graph) for each in calls):
            continue
        if is_table(operation) or any(fused & set(each.outputs) for each in calls):
            continue
        activation = activation_of(operation)
        standalone = isinstance(operation, layers.Activation | layers.Softmax)
        if not (activation is None or activation in _FUSED_ACTIVATIONS or standalone):
            found.append(Placement(operation=operation, place="activation"))
        found.append(Placement(operation=operation, place="output", fixed=_fixed_range(operation)))
    return found
