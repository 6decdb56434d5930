"""Stacked GRU that classifies sequences of features or of tokens.

Source: K. Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder for
Statistical Machine Translation", 2014, https://arxiv.org/abs/1406.1078; with the reset
gate after the product with the state, as Keras and cuDNN implement it.
"""

from __future__ import annotations

import keras

from compresskit.models.recurrent import classifier


def gru_classifier(
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
    """Layers `gru1`, `gru2`, ..., then `fc1` with a ReLU and `logits`.

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
        probabilities (batch, classes); 19,978 parameters at the default sizes. Weights
        are random by Keras's seed.

    Raises:
        ModelError: `input_shape` is that of neither tokens nor features.
    """
    return classifier(
        keras.layers.GRU,
        "gru",
        input_shape=input_shape,
        classes=classes,
        vocabulary=vocabulary,
        embedding=embedding,
        units=units,
        layers=layers,
        bidirectional=bidirectional,
        dropout=dropout,
    )
