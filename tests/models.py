"""Small models that tests share: fresh, built, under 10,000 parameters.

Each takes (8, 8, 1) pictures, unless it says otherwise, and gives ten probabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from compresskit.models.bert import bert_classifier
from compresskit.models.gru import gru_classifier
from compresskit.models.lstm import lstm_classifier

CLASSES = 10
# What the models of sequences take: features of one shape, or ids of one vocabulary.
FEATURES = (12, 6)
TOKENS = (12,)
VOCABULARY = 20


def cnn() -> keras.Model:
    """Two plain convolutions."""
    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(8, 3, activation="relu", padding="same", name="conv1")(inputs)
    x = layers.MaxPooling2D(2, name="pool1")(x)
    x = layers.Conv2D(16, 3, activation="relu", padding="same", name="conv2")(x)
    x = layers.Flatten(name="flatten")(x)
    outputs = layers.Dense(CLASSES, activation="softmax", name="logits")(x)
    return keras.Model(inputs, outputs, name="cnn")


def cnn_bn() -> keras.Model:
    """Conv-BN-ReLU with a residual connection."""
    inputs = keras.Input((8, 8, 1), name="image")
    x = _conv_bn_relu(inputs, "conv1")
    shortcut = x
    x = _conv_bn_relu(x, "conv2")
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv3")(x)
    x = layers.BatchNormalization(name="conv3_bn")(x)
    x = layers.Add(name="add")([x, shortcut])
    x = layers.ReLU(name="add_relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(CLASSES, activation="softmax", name="logits")(x)
    return keras.Model(inputs, outputs, name="cnn_bn")


def depthwise() -> keras.Model:
    """A depthwise and a separable convolution, with BatchNormalization."""
    inputs = keras.Input((8, 8, 1), name="image")
    x = _conv_bn_relu(inputs, "conv1")
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    x = layers.BatchNormalization(name="depthwise_bn")(x)
    x = layers.ReLU(name="depthwise_relu")(x)
    x = layers.SeparableConv2D(16, 3, padding="same", name="separable")(x)
    x = layers.BatchNormalization(name="separable_bn")(x)
    x = layers.ReLU(name="separable_relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(CLASSES, activation="softmax", name="logits")(x)
    return keras.Model(inputs, outputs, name="depthwise")


def conv1d() -> keras.Model:
    """A convolution over time; takes (16, 4)."""
    inputs = keras.Input((16, 4), name="signal")
    x = layers.Conv1D(8, 3, activation="relu", name="conv1")(inputs)
    x = layers.MaxPooling1D(2, name="pool1")(x)
    x = layers.Flatten(name="flatten")(x)
    outputs = layers.Dense(CLASSES, activation="softmax", name="logits")(x)
    return keras.Model(inputs, outputs, name="conv1d")


def transpose() -> keras.Model:
    """A transposed convolution, whose kernel keeps its channels on another axis."""
    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="conv1")(inputs)
    x = layers.Conv2DTranspose(
        6, 3, strides=2, padding="same", activation="relu", name="transpose"
    )(x)
    x = layers.Flatten(name="flatten")(x)
    outputs = layers.Dense(CLASSES, activation="softmax", name="logits")(x)
    return keras.Model(inputs, outputs, name="transpose")


def concat() -> keras.Model:
    """Two branches that are concatenated."""
    inputs = keras.Input((8, 8, 1), name="image")
    narrow = layers.Conv2D(4, 1, activation="relu", name="narrow")(inputs)
    wide = layers.Conv2D(4, 3, padding="same", activation="relu", name="wide")(inputs)
    x = layers.Concatenate(name="concat")([narrow, wide])
    x = layers.MaxPooling2D(2, name="pool")(x)
    x = layers.Flatten(name="flatten")(x)
    outputs = layers.Dense(CLASSES, activation="softmax", name="logits")(x)
    return keras.Model(inputs, outputs, name="concat")


def mlp() -> keras.Model:
    """Dense layers only."""
    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Flatten(name="flatten")(inputs)
    x = layers.Dense(32, activation="relu", name="fc1")(x)
    outputs = layers.Dense(CLASSES, activation="softmax", name="logits")(x)
    return keras.Model(inputs, outputs, name="mlp")


def nested() -> keras.Model:
    """A Sequential inside a functional model."""
    features = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, activation="relu", padding="same", name="conv1"),
            layers.MaxPooling2D(2, name="pool1"),
        ],
        name="features",
    )
    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Flatten(name="flatten")(features(inputs))
    outputs = layers.Dense(CLASSES, activation="softmax", name="logits")(x)
    return keras.Model(inputs, outputs, name="nested")


@keras.saving.register_keras_serializable(package="compresskit_tests")
class Subclassed(keras.Model):
    """A model that is code, not a graph of layers."""

    def __init__(self, filters: int = 8, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.conv1 = layers.Conv2D(filters, 3, activation="relu", padding="same", name="conv1")
        self.pool = layers.GlobalAveragePooling2D(name="pool")
        self.logits = layers.Dense(CLASSES, activation="softmax", name="logits")

    def build(self, input_shape):
        self.conv1.build(input_shape)
        self.logits.build((input_shape[0], self.filters))
        super().build(input_shape)

    def call(self, inputs):
        return self.logits(self.pool(self.conv1(inputs)))

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


def subclassed() -> keras.Model:
    """A subclass of keras.Model."""
    model = Subclassed(name="subclassed")
    model.build((None, 8, 8, 1))
    return model


def lstm() -> keras.Model:
    """One LSTM over features; takes FEATURES."""
    return lstm_classifier(FEATURES, CLASSES, units=16)


def stacked_lstm() -> keras.Model:
    """Two LSTMs over features; takes FEATURES."""
    return lstm_classifier(FEATURES, CLASSES, units=16, layers=2)


def bidirectional() -> keras.Model:
    """An LSTM over tokens, forwards and backwards; takes TOKENS."""
    return lstm_classifier(
        TOKENS, CLASSES, vocabulary=VOCABULARY, embedding=8, units=16, bidirectional=True
    )


def gru() -> keras.Model:
    """One GRU over features; takes FEATURES."""
    return gru_classifier(FEATURES, CLASSES, units=16)


def tiny_bert(**sizes: Any) -> keras.Model:
    """An encoder of one block; takes TOKENS."""
    return bert_classifier(
        TOKENS,
        CLASSES,
        vocabulary=VOCABULARY,
        blocks=1,
        width=16,
        heads=2,
        feed_forward=32,
        positions=16,
        name="tiny_bert",
        **sizes,
    )


def sequences(name: str, count: int = 64) -> np.ndarray:
    """Random inputs that a model of SEQUENCE_MODELS takes.

    Features are float32 of shape (count, *FEATURES); token ids are int32 of shape
    (count, *TOKENS), padded with 0 at the end.
    """
    random = np.random.default_rng(7)
    if name not in ("bidirectional", "tiny_bert"):
        return random.normal(size=(count, *FEATURES)).astype(np.float32)
    ids = random.integers(1, VOCABULARY, size=(count, *TOKENS), dtype=np.int32)
    lengths = random.integers(1, TOKENS[0] + 1, size=(count, 1))
    return np.where(np.arange(TOKENS[0]) < lengths, ids, 0).astype(np.int32)


def mask_of(*shape: int, hidden: int = 2) -> np.ndarray:
    """A mask of attention: of the last axis, `hidden` keys are False, but never the first."""
    order = np.random.default_rng(3).random(shape)
    order[..., 0] = 1.0
    return order.argsort(axis=-1).argsort(axis=-1) >= hidden


def _conv_bn_relu(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name=name)(x)
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


MODELS: dict[str, Callable[[], keras.Model]] = {
    "cnn": cnn,
    "cnn_bn": cnn_bn,
    "depthwise": depthwise,
    "conv1d": conv1d,
    "transpose": transpose,
    "concat": concat,
    "mlp": mlp,
    "nested": nested,
    "subclassed": subclassed,
}

SEQUENCE_MODELS: dict[str, Callable[[], keras.Model]] = {
    "lstm": lstm,
    "stacked_lstm": stacked_lstm,
    "bidirectional": bidirectional,
    "gru": gru,
    "tiny_bert": tiny_bert,
}
