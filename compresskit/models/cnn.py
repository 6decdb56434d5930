"""A small convolutional network, meant as a student of a larger one.

Strided convolutions in place of pooling: J. T. Springenberg, A. Dosovitskiy, T. Brox, M.
Riedmiller, "Striving for Simplicity", 2014, https://arxiv.org/abs/1412.6806.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers


def small_cnn(
    input_shape: tuple[int, int, int] = (28, 28, 1),
    classes: int = 10,
    *,
    filters: Sequence[int] = (8, 16, 32),
) -> keras.Model:
    """Conv-BN-ReLU blocks that halve the picture, a global average and a classifier.

    Layers: `conv1`, `conv1_bn`, `conv1_relu`, `conv2`, ..., then `pool` and `logits`.

    Args:
        input_shape: (height, width, channels), of any size.
        classes: how many probabilities come out.
        filters: channels of each block.

    Returns:
        float32 of shape (batch, *input_shape) to probabilities (batch, classes); 6,386
        parameters at the default sizes. Weights are random by Keras's seed.
    """
    inputs = keras.Input(input_shape, name="image")
    x = inputs
    for number, channels in enumerate(filters, start=1):
        name = f"conv{number}"
        # BatchNormalization brings the offset, so the convolution needs no bias.
        x = layers.Conv2D(channels, 3, strides=2, padding="same", use_bias=False, name=name)(x)
        x = layers.BatchNormalization(name=f"{name}_bn")(x)
        x = layers.ReLU(name=f"{name}_relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(classes, activation="softmax", name="logits")(x)
    return keras.Model(inputs, outputs, name="small-cnn")
