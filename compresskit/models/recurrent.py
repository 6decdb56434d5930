"""What the LSTM and the GRU classifier have in common: all but the recurrent layer."""

from __future__ import annotations

from collections.abc import Callable

import keras

from compresskit.errors import ModelError, Problem


def classifier(
    recurrent: Callable[..., keras.Layer],
    name: str,
    *,
    input_shape: tuple[int, ...],
    classes: int,
    vocabulary: int | None,
    embedding: int,
    units: int,
    layers: int,
    bidirectional: bool,
    dropout: float,
) -> keras.Model:
    """Stacked recurrent layers, the last output of the last, and two Dense layers.

    Args:
        recurrent: `keras.layers.LSTM` or `keras.layers.GRU`.
        name: of the model; with a number, of each recurrent layer.

    The others are those of `lstm.lstm_classifier`.

    Raises:
        ModelError: `input_shape` is that of neither tokens nor features.
    """
    _check(name, tuple(input_shape), vocabulary)
    if vocabulary is None:
        inputs = keras.Input(input_shape, name="features")
        x = inputs
    else:
        inputs = keras.Input(input_shape, dtype="int32", name="tokens")
        # Padding is a token like any other: a mask would keep the converter from fusing.
        x = keras.layers.Embedding(vocabulary, embedding, mask_zero=False, name="embedding")(inputs)
    for number in range(1, layers + 1):
        layer = recurrent(units, return_sequences=number < layers, name=f"{name}{number}")
        if bidirectional:
            layer = keras.layers.Bidirectional(layer, merge_mode="concat", name=f"{name}{number}")
        x = layer(x)
        if dropout:
            x = keras.layers.Dropout(dropout, name=f"dropout{number}")(x)
    x = keras.layers.Dense(units, activation="relu", name="fc1")(x)
    outputs = keras.layers.Dense(classes, activation="softmax", name="logits")(x)
    return keras.Model(inputs, outputs, name=name)


def _check(name: str, input_shape: tuple[int, ...], vocabulary: int | None) -> None:
    if len(input_shape) == (2 if vocabulary is None else 1):
        return
    if vocabulary is not None:
        expected, fix = "(steps,), since there is a vocabulary", "leave vocabulary out for features"
    elif len(input_shape) == 1:
        expected, fix = "(steps, features)", "for token ids, give vocabulary: how many there are"
    else:
        expected, fix = "(steps, features)", "choose a data set of sequences"
    raise ModelError(
        Problem(
            where=f"model {name!r}", found=f"input_shape {input_shape}", expected=expected, fix=fix
        )
    )
