"""Activation ranges: where an integer graph rounds its activations, and over what range.

A range is plain data. Training learns it, export puts it into the graph as a constant,
and it can be stored beside a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from compresskit.attention import attentions, hide_at, written_out
from compresskit.graph import operations
from compresskit.inner import POSITIVE, form
from compresskit.parametrize import hook, settle

# What is rounded: what comes in; a tensor that the written-out layer shows; what goes
# into a layer's own activation function; what an operation gives.
Place = Literal["input", "inside", "activation", "output"]


@dataclass(frozen=True, kw_only=True)
class Range:
    """The range of one activation.

    Attributes:
        operation: position in `graph.operations(model)`, or None for the model itself.
        name: the operation's name, for people.
        place: where at the operation.
        inner: the name of the tensor, for the place `inside`.
        low, high: the range, zero inside it.
        bits: of the integer that holds the activation.
    """

    operation: int | None
    name: str
    place: Place
    low: float
    high: float
    bits: int
    inner: str = ""


def completed(ranges: Sequence[Range], more: Sequence[Range]) -> tuple[Range, ...]:
    """`ranges`, and those of `more` that are of other activations."""
    known = {(each.operation, each.place, each.inner) for each in ranges}
    others = (each for each in more if (each.operation, each.place, each.inner) not in known)
    return (*ranges, *others)


def place(
    operation: Any, where: Place, transform: Callable[[Any], Any], inner: str = ""
) -> Callable[[], None]:
    """Puts a transform at a place of an operation.

    Returns:
        A function that takes it away again.
    """
    target = hook(operation)
    if where == "activation":
        target.activation = lambda original: lambda values: original(transform(values))
    else:
        transforms = {
            "input": target.inputs,
            "output": target.outputs,
            "inside": target.inside.setdefault(inner, []),
        }[where]
        transforms.append(transform)
    if where == "inside" and target.call == target.original:
        target.call = form(operation, target.show)

    def undo() -> None:
        if where == "activation":
            target.activation = None
        else:
            transforms.remove(transform)
        if where == "inside" and not any(target.inside.values()):
            target.call = target.original
        settle(operation)

    return undo


@contextmanager
def applied(model: keras.Model, ranges: Sequence[Range], *, export: bool = False) -> Iterator[None]:
    """Inside, the model rounds its activations over constant ranges.

    Args:
        export: write ops for the converter only, and leave to kernels what they do.
    """
    known = list(operations(model))
    by_place = {}
    with ExitStack() as stack:
        for each in ranges:
            operation = model if each.operation is None else known[each.operation]
            stack.callback(place(operation, each.place, _constant(each, export), each.inner))
            by_place[id(operation), each.place] = each
        hide, scaled = {}, {}
        for layer in attentions(model):
            scores = by_place.get((id(layer._softmax), "input"))
            query = by_place.get((id(layer._query_dense), "output"))
            if scores is not None:
                hide[layer] = hide_at(scores.low)
            if query is not None:
                # The same integers as the query's: scaling it rounds nothing.
                factor = layer._inverse_sqrt_key_dim
                low, high = query.low * factor, query.high * factor
                scaled[layer] = _constant(replace(query, low=low, high=high), export)
        stack.enter_context(written_out(hide, scaled))
        yield


def _constant(each: Range, export: bool) -> Callable[[Any], Any]:
    low, high = np.float32(each.low), np.float32(each.high)
    step = (high - low) / np.float32(2**each.bits - 1)

    def fake_quant(values: Any) -> Any:
        # The op that training used: its twin that takes attributes rounds ties otherwise.
        rounded = tf.quantization.fake_quant_with_min_max_vars(
            tf.cast(values, tf.float32), tf.constant(low), tf.constant(high), num_bits=each.bits
        )
        if each.inner == POSITIVE and not export:
            rounded = tf.maximum(rounded, step)
        return tf.cast(rounded, values.dtype)

    return fake_quant
