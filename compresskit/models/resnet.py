"""ResNet-8, the image classification model of MLPerf Tiny.

Source: C. Banbury et al., "MLPerf Tiny Benchmark", 2021,
https://arxiv.org/abs/2106.07597, after K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual
Learning for Image Recognition", 2015, https://arxiv.org/abs/1512.03385. The benchmark
ends in an 8x8 average pooling of its 32x32 pictures; here it is global, so that other
sizes fit.
"""

from __future__ import annotations

import keras
from keras import KerasTensor, layers


def resnet8(input_shape: tuple[int, int, int] = (28, 28, 1), classes: int = 10) -> keras.Model:
    """Three residual stages of 16, 32 and 64 channels, two convolutions each.

    Args:
        input_shape: (height, width, channels), of any size.
        classes: how many probabilities come out.

    Returns:
        float32 of shape (batch, *input_shape) to probabilities (batch, classes).
        Weights are random by Keras's seed.
    """
    inputs = keras.Input(input_shape, name="image")
    x = _conv_bn(inputs, 16, strides=1, name="stem")
    x = layers.ReLU(name="stem_relu")(x)
    x = _stage(x, 16, strides=1, name="stage1")
    x = _stage(x, 32, strides=2, name="stage2")
    x = _stage(x, 64, strides=2, name="stage3")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(classes, activation="softmax", name="logits")(x)
    return keras.Model(inputs, outputs, name="resnet8")


def _stage(x: KerasTensor, filters: int, *, strides: int, name: str) -> KerasTensor:
    shortcut = x
    x = _conv_bn(x, filters, strides=strides, name=f"{name}_conv1")
    x = layers.ReLU(name=f"{name}_relu1")(x)
    x = _conv_bn(x, filters, strides=1, name=f"{name}_conv2")
    if strides != 1 or shortcut.shape[-1] != filters:
        shortcut = layers.Conv2D(
            filters, 1, strides=strides, padding="same", name=f"{name}_shortcut"
        )(shortcut)
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.ReLU(name=f"{name}_relu2")(x)


def _conv_bn(x: KerasTensor, filters: int, *, strides: int, name: str) -> KerasTensor:
    # BatchNormalization brings the offset, so the convolution needs no bias.
    x = layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False, name=name)(x)
    return layers.BatchNormalization(name=f"{name}_bn")(x)
