"""Students that begin as a part of their teacher: some of its blocks, some of its tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from compresskit.errors import ModelError, Problem

_RECURRENT = (layers.LSTM, layers.GRU, layers.SimpleRNN, layers.Bidirectional, layers.RNN)


def cut(
    teacher: keras.Model,
    chosen: Sequence[int],
    *,
    tokens: np.ndarray | None = None,
    where: str = "student",
) -> keras.Model:
    """A new model of the same layers, but only some of the numbered blocks.

    A block is a recurrent layer, a layer that holds attention, or the layers around an
    attention layer whose names begin as its does up to a number: `block1_attention`,
    `block1_fc1`. A block that is left out hands on what it is given.

    Args:
        teacher: functional or sequential.
        chosen: the blocks that stay, from 0, rising.
        tokens: of the teacher's token ids those that stay, in their new order; None for all.
        where: where the choice was read, for errors.

    Returns:
        the model with the weights of the teacher.

    Raises:
        ModelError: there are no such blocks, or they do not fit together.
    """
    found = _blocks(_functional(teacher, where))
    if not found or max(chosen) >= len(found):
        raise ModelError(
            Problem(
                where=where,
                found=f"blocks {', '.join(map(str, chosen))} of {teacher.name}, which has "
                f"{len(found)}" + (f" ({', '.join(found)})" if found else ""),
                expected="recurrent layers, attention layers, or layers around attention with "
                "names such as block1_attention and block1_fc1; counted from 0",
                fix="choose among them" if found else "name the layers so, or write a builder",
            )
        )
    names = list(found)
    dropped = {id(each) for index, name in enumerate(names) if index not in chosen
               for each in found[name]}  # fmt: skip
    last = found[names[chosen[-1]]][0]
    ends = found[names[-1]][0]
    source: dict[int, Any] = {}

    def clone(layer: Any) -> Any:
        config = layer.get_config()
        if layer is last and isinstance(layer, _RECURRENT):
            _set_sequences(config, _sequences(ends))
        if tokens is not None and _reads_tokens(layer):
            config["input_dim"] = len(tokens)
        made = type(layer).from_config(config)
        source[id(made)] = layer
        return made

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if id(source[id(layer)]) in dropped:
            return keras.tree.flatten((args, kwargs))[0]
        return layer(*args, **kwargs)

    try:
        student = keras.models.clone_model(
            _functional(teacher, where), clone_function=clone, call_function=call
        )
        inherit(student, teacher, tokens)
    except (ValueError, TypeError) as cause:
        raise ModelError(
            Problem(
                where=where,
                found=f"blocks {', '.join(map(str, chosen))} of {teacher.name}: "
                f"{str(cause).strip().splitlines()[0]}",
                expected="blocks whose inputs have the shape that they were trained with",
                fix="choose others, for example the first ones",
            )
        ) from cause
    student.name = f"{teacher.name}-{len(chosen)}"
    return student


def inherit(student: keras.Model, teacher: keras.Model, tokens: np.ndarray | None = None) -> None:
    """Gives the layers of a student the weights that layers of these names have in its teacher.

    Args:
        tokens: as in `cut`.

    Raises:
        ValueError: weights of other shapes.
    """
    given = {layer.name: layer for layer in teacher.layers}
    for layer in student.layers:
        if isinstance(layer, layers.InputLayer):
            continue
        weights = given[layer.name].get_weights()
        if tokens is not None and _reads_tokens(given[layer.name]):
            weights[0] = weights[0][tokens]
        layer.set_weights(weights)


def project_embedding(
    student: keras.Model,
    teacher: keras.Model,
    tokens: np.ndarray | None = None,
    *,
    where: str = "embedding",
) -> np.ndarray:
    """Gives the student's token embedding the teacher's, on its principal axes.

    The rows keep what tells them apart best (in the sense of least squares) and the standard
    deviation of the teacher's.

    Args:
        tokens: as in `cut`.

    Returns:
        the table, float32, shape (tokens, the student's width).

    Raises:
        ModelError: one of them has no layer that looks up what the model is given, or the numbers
            of tokens differ.
    """
    tables = []
    for model in (student, teacher):
        found = [each for each in _functional(model, where).operations if _reads_tokens(each)]
        if len(found) != 1:
            raise ModelError(
                Problem(
                    where=where,
                    found=f"{len(found)} layers of {model.name} that look up its tokens",
                    expected="one Embedding that is given the input of the model",
                    fix="write `embedding: own`",
                )
            )
        tables.append(found[0].embeddings)
    own, given = tables[0], tables[1].numpy()
    given = given if tokens is None else given[tokens]
    if own.shape[0] != given.shape[0] or own.shape[1] > given.shape[1]:
        raise ModelError(
            Problem(
                where=where,
                found=f"{own.shape[0]} tokens of width {own.shape[1]}; of the teacher "
                f"{given.shape[0]} of {given.shape[1]}",
                expected="as many tokens, and no greater width",
                fix="make the student for the vocabulary of the data, or write `embedding: own`",
            )
        )
    centred = given - given.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)  # by rising share of the variance
    projected = centred @ axes[:, ::-1][:, : own.shape[1]]
    projected *= given.std() / max(float(projected.std()), 1e-12)
    own.assign(projected)
    return projected


def _functional(model: keras.Model, where: str) -> keras.Model:
    if isinstance(model, keras.Sequential):
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    if not hasattr(model, "operations"):
        raise ModelError(
            Problem(
                where=where,
                found=f"{model.name}, a subclassed model",
                expected="a functional or sequential model, whose layers can be told apart",
                fix="write a builder that makes the student",
            )
        )
    return model


def _blocks(model: keras.Model) -> dict[str, list[Any]]:
    """The operations of each block, by its name, in the order of the model."""
    found: dict[str, list[Any]] = {}
    for layer in model.operations:
        if isinstance(layer, layers.MultiHeadAttention):
            name = _stem(layer.name)
            found[name] = _between(model, name) if name else [layer]
        elif isinstance(layer, _RECURRENT) or _holds_attention(layer):
            found[layer.name] = [layer]
    return found


def _stem(name: str) -> str:
    """`block1` of `block1_attention`; nothing if it has no number."""
    match = re.match(r"(.*?\d+)_", name)
    return match[1] if match else ""


def _holds_attention(layer: Any) -> bool:
    return isinstance(layer, keras.Layer) and any(
        isinstance(each, layers.MultiHeadAttention) for each in layer._flatten_layers()
    )


def _between(model: keras.Model, stem: str) -> list[Any]:
    """The operations named so, and those that stand between them, such as a GELU."""
    named = [each for each in model.operations if each.name.startswith(f"{stem}_")]
    after: set[int] = set()
    for each in model.operations:
        if each in named or any(id(giver) in after for giver in _givers(each)):
            after.add(id(each))
    before: set[int] = set()
    for each in reversed(model.operations):
        if each in named or id(each) in before:
            before.add(id(each))
            before |= {id(giver) for giver in _givers(each)}
    return [each for each in model.operations if id(each) in after & before]


def _givers(operation: Any) -> Iterator[Any]:
    for node in operation._inbound_nodes:
        for tensor in node.input_tensors:
            yield tensor._keras_history.operation


def _reads_tokens(layer: Any) -> bool:
    """Whether a layer looks up what the model is given."""
    return isinstance(layer, layers.Embedding) and any(
        isinstance(giver, layers.InputLayer) for giver in _givers(layer)
    )


def _sequences(layer: Any) -> bool:
    inner = layer.forward_layer if isinstance(layer, layers.Bidirectional) else layer
    return bool(inner.return_sequences)


def _set_sequences(config: dict[str, Any], sequences: bool) -> None:
    for part in ("layer", "backward_layer"):
        if part in config:
            config[part]["config"]["return_sequences"] = sequences
    if "return_sequences" in config:
        config["return_sequences"] = sequences
