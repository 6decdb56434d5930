"""The LSTM in the form that the converter fuses.

The converter fuses any function that carries the attribute `api_implements="lstm_…"`
into UNIDIRECTIONAL_SEQUENCE_LSTM. Keras 3 writes no such attribute, so its LSTM becomes a
WHILE loop, which is slower and which the converter cannot make full integer. Here the
layer's call is replaced, while a model is traced for export, by one that carries it.

The fused op keeps its state between invocations: whoever runs the file resets the
interpreter's variables before each sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from compresskit.errors import ModelError, Problem


def _check(layer: Any) -> None:
    """That the fused op computes what the layer does.

    Raises:
        ModelError: it does not; the message says what to do.
    """
    found = []
    if layer.activation is not keras.activations.tanh:
        found.append(f"activation {getattr(layer.activation, '__name__', layer.activation)}")
    if layer.recurrent_activation is not keras.activations.sigmoid:
        name = getattr(layer.recurrent_activation, "__name__", layer.recurrent_activation)
        found.append(f"recurrent_activation {name}")
    if layer.stateful:
        found.append("stateful=True")
    if found:
        raise ModelError(
            Problem(
                where=f"layer {layer.path}",
                found=", ".join(found),
                expected="what the fused LSTM kernel computes: tanh, sigmoid, a zero state first",
                fix="export with `lstm: unrolled` or `lstm: while`",
            )
        )


# Times this, a tensor stays what it is, and the multiplication is not optimized away.
_ALMOST_ONE = 1.0 + 2.0**-20


def rescaled(values: Any) -> Any:
    """`values` behind an op whose output has a scale of its own."""
    return values * tf.constant(_ALMOST_ONE, values.dtype)


def reverse(values: Any, axis: int, *, integer: bool) -> Any:
    """`values` in reverse order along an axis.

    For REVERSE_V2 the converter calibrates an output scale of its own, and the kernel
    copies bytes: an integer file would answer wrongly. A lookup keeps the scale.
    """
    if not integer:
        return tf.reverse(values, [axis])
    return tf.gather(values, tf.range(values.shape[axis] - 1, -1, -1), axis=axis)


def fused(
    layer: Any, problems: list[Problem], *, integer: bool = False, own_scale: bool = False
) -> Callable[..., Any]:
    """The call of an LSTM layer that the converter fuses.

    Args:
        problems: takes down why a call could not be fused. Keras makes an error of its own
            of whatever a layer's call raises, from its text alone.
        integer: whether the file will compute in integers.
        own_scale: put a multiplication by one behind the op. The kernel writes its output
            on the scale of its hidden state; a concatenation that follows would have the
            converter give the output another scale, and the file would answer wrongly.
    """
    _check(layer)

    def call(
        sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = False
    ) -> Any:
        if mask is not None or initial_state is not None:
            _refuse(layer, problems, "a mask" if mask is not None else "an initial state")
        batch, steps, _ = sequences.shape
        if batch is None or steps is None:
            _refuse(layer, problems, f"sequences of dynamic shape {sequences.shape}")
        cell = layer.cell
        inputs = reverse(sequences, 1, integer=integer) if layer.go_backwards else sequences
        zeros = tf.zeros((batch, layer.units), inputs.dtype)
        bias = cell.bias.value if layer.use_bias else tf.zeros((4 * layer.units,), inputs.dtype)
        # The name must differ from layer to layer, and be the same in every run.
        marks = {
            "api_implements": f"lstm_{layer.path.replace('/', '_')}",
            "api_preferred_device": "CPU",
            "time_major": False,
            "go_backwards": False,
        }
        function = tf.function(_lstm, autograph=False, experimental_attributes=marks)
        last, outputs, hidden, carry, _ = function(
            inputs, zeros, zeros, cell.kernel.value, cell.recurrent_kernel.value, bias
        )
        result = outputs if layer.return_sequences else last
        if own_scale:
            result = rescaled(result)
        return [result, hidden, carry] if layer.return_state else result

    return call


def both_ways(layer: Any) -> Callable[..., Any]:
    """The call of a Bidirectional layer whose second half is turned round by a lookup."""

    def call(
        sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = False
    ) -> Any:
        if not layer.return_sequences or layer.return_state or initial_state is not None:
            return type(layer).call(layer, sequences, initial_state, mask, training)
        ahead = layer.forward_layer(sequences, mask=mask)
        back = reverse(layer.backward_layer(sequences, mask=mask), 1, integer=True)
        return _MERGED[layer.merge_mode](ahead, back)

    return call


_MERGED: dict[str | None, Callable[[Any, Any], Any]] = {
    "concat": lambda ahead, back: tf.concat([ahead, back], axis=-1),
    "sum": lambda ahead, back: ahead + back,
    "ave": lambda ahead, back: (ahead + back) * 0.5,
    "mul": lambda ahead, back: ahead * back,
    None: lambda ahead, back: (ahead, back),
}


def _refuse(layer: Any, problems: list[Problem], found: str) -> None:
    problem = Problem(
        where=f"layer {layer.path}",
        found=found,
        expected="sequences of one fixed length, without a mask, that start from a zero state: "
        "the fused LSTM kernel knows no other",
        fix="train with mask_zero=False (padding is then a token like any other), or export "
        "with `lstm: while`",
    )
    problems.append(problem)
    raise ModelError(problem)


def _lstm(
    inputs: Any, init_h: Any, init_c: Any, kernel: Any, recurrent_kernel: Any, bias: Any
) -> tuple[Any, ...]:
    """The function that is fused; its five results are what the converter looks for.

    Args:
        inputs: (batch, steps, features).
        init_h, init_c: (batch, units).
        kernel: (features, 4 * units), gates in the order input, forget, cell, output.
    """

    def step(state: tuple[Any, Any], given: Any) -> tuple[Any, Any]:
        hidden, carry = state
        sums = given + tf.matmul(hidden, recurrent_kernel) + bias
        enter, forget, candidate, leave = tf.split(sums, 4, axis=1)
        carry = tf.sigmoid(forget) * carry + tf.sigmoid(enter) * tf.tanh(candidate)
        return tf.sigmoid(leave) * tf.tanh(carry), carry

    # The converter drops this body for the fused op; it only has to be right.
    hidden, carry = init_h, init_c
    outputs = []
    for given in tf.unstack(tf.matmul(inputs, kernel), axis=1):
        hidden, carry = step((hidden, carry), given)
        outputs.append(hidden)
    return hidden, tf.stack(outputs, axis=1), hidden, carry, tf.constant(1.0)
