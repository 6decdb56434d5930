"""Stacked LSTM that classifies sequences of features or of tokens.

Source: S. Hochreiter and J. Schmidhuber, "Long Short-Term Memory", 1997,
https://doi.org/10.1162/neco.1997.9.8.1735; with the forget gate of F. Gers, J.
Schmidhuber, F. Cummins, "Learning to Forget", 2000, as Keras implements it.
"""

from __future__ import annotations

import keras

from compresskit.models.recurrent import classifier


def lstm_classifier(
    input_shape: tuple[int, ...] = (40, 13),
    classes: int = 10,
    *,
    vocabulary: int | None = None,
    embedding: int = 64,
    units: int = 64,
    layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
) -> keras.Model:
    """Layers `lstm1`, `lstm2`, ..., then `fc1` with a ReLU and `logits`.

    Args:
        input_shape: (steps, features); with a vocabulary (steps,).
        classes: how many probabilities come out.
        vocabulary: how many token ids there are; None for features.
        embedding: width of the layer `embedding`, which only tokens have.
        units: of each recurrent layer, in each direction, and of `fc1`.
        layers: how many recurrent layers; all but the last give every step to the next.
        bidirectional: reads forwards and backwards; both last outputs are concatenated.
        dropout: share of each recurrent layer's outputs that training drops.

    Returns:
        float32 of shape (batch, steps, features), or int32 of shape (batch, steps), to
        probabilities (batch, classes); 24,778 parameters at the default sizes, 222,090
        with `units=128, layers=2`. Weights are random by Keras's seed.

    Raises:
        ModelError: `input_shape` is that of neither tokens nor features.
    """
    return classifier(
        keras.layers.LSTM,
        "lstm",
        input_shape=input_shape,
        classes=classes,
        vocabulary=vocabulary,
        embedding=embedding,
        units=units,
        layers=layers,
        bidirectional=bidirectional,
        dropout=dropout,
    )
