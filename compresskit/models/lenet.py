"""LeNet-300-100 and LeNet-5, the usual first models of papers on compression.

Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-Based Learning Applied to
Document Recognition", 1998, in the sizes that S. Han, H. Mao, W. J. Dally, "Deep
Compression", 2016, https://arxiv.org/abs/1510.00149, compresses.
"""

from __future__ import annotations

import keras
from keras import layers


def lenet300(input_shape: tuple[int, ...] = (28, 28, 1), classes: int = 10) -> keras.Model:
    """A perceptron with hidden layers of 300 and 100.

    Args:
        input_shape: the shape of one sample, flattened by the model.
        classes: how many probabilities come out.

    Returns:
        float32 of shape (batch, *input_shape) to probabilities (batch, classes);
        266,610 parameters at the default sizes. Weights are random by Keras's seed.
    """
    inputs = keras.Input(input_shape, name="image")
    x = layers.Flatten(name="flatten")(inputs)
    x = layers.Dense(300, activation="relu", name="fc1")(x)
    x = layers.Dense(100, activation="relu", name="fc2")(x)
    outputs = layers.Dense(classes, activation="softmax", name="logits")(x)
    return keras.Model(inputs, outputs, name="lenet300")


def lenet5(input_shape: tuple[int, int, int] = (28, 28, 1), classes: int = 10) -> keras.Model:
    """The convolutional network in the variant of Caffe.

    Args:
        input_shape: (height, width, channels), at least 16 by 16.
        classes: how many probabilities come out.

    Returns:
        float32 of shape (batch, *input_shape) to probabilities (batch, classes);
        431,080 parameters at the default sizes. Weights are random by Keras's seed.
    """
    inputs = keras.Input(input_shape, name="image")
    x = layers.Conv2D(20, 5, name="conv1")(inputs)
    x = layers.MaxPooling2D(2, name="pool1")(x)
    x = layers.Conv2D(50, 5, name="conv2")(x)
    x = layers.MaxPooling2D(2, name="pool2")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(500, activation="relu", name="fc1")(x)
    outputs = layers.Dense(classes, activation="softmax", name="logits")(x)
    return keras.Model(inputs, outputs, name="lenet5")
