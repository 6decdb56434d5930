"""TFMOT's process with a few requests more, for tests: old models, masks, centroids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras
from tensorflow_model_optimization.python.core.clustering.keras.clustering_centroids import (
    CentroidsInitializerFactory,
)
from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl

from compresskit.child import serve
from compresskit.tfmot import child

layers = keras.layers


def mixed():
    """Layers whose settings or weights are not the same in both Keras, with two paths."""
    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv")(inputs)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.ReLU(6.0, name="relu")(x)
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.Add(name="add")([x, y])
    x = layers.Reshape((8, 32), name="rows")(x)
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True), name="both")(x)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.GRU(5, name="gru")(x)
    x = layers.Dropout(0.5, name="drop")(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="out")(x), name="mixed")


def tokens():
    return keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            layers.Embedding(11, 4, name="table"),
            layers.Conv1D(5, 3, activation="relu", name="conv"),
            layers.GlobalMaxPooling1D(name="pool"),
            layers.Dense(3, name="out"),
        ]
    )


def small():
    """A model of tf_keras; a recipe's builder."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(16, activation="relu", name="fc")(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="logits")(x), name="sm")


def wrapped():
    model = small()
    sparsity, clustering = tfmot.sparsity.keras, tfmot.clustering.keras

    def wrap(layer):
        if layer.name == "conv":
            return sparsity.prune_low_magnitude(layer, sparsity.ConstantSparsity(0.5, 0))
        if layer.name == "fc":
            init = clustering.CentroidInitialization.LINEAR
            return clustering.cluster_weights(layer, 4, init)
        return layer

    return keras.models.clone_model(model, clone_function=wrap)


def lambdas():
    inputs = keras.Input((4,))
    x = layers.Dense(4, name="first")(inputs)
    return keras.Model(inputs, tf.math.sin(x) + inputs)


def coded(request):
    """Writes a model with code in it to `folder`: it leaves a file `ran` there."""
    mark = str(Path(request["folder"], "ran"))
    layer = layers.Lambda(lambda x, mark=mark: (open(mark, "w").close(), 2 * x)[1])
    model = keras.Sequential([keras.Input((4,)), layer])
    model.save(Path(request["folder"], request["name"]))


def quantized():
    return tfmot.quantization.keras.quantize_model(small())


OLD = {
    "mixed.h5": mixed,
    "mixed.keras": mixed,
    "tokens": tokens,
    "small.h5": small,
    "wrapped.h5": wrapped,
    "lambdas.h5": lambdas,
    "quantized.h5": quantized,
}


def old(request):
    """Writes a model of the list above to `folder`."""
    keras.utils.set_random_seed(1)
    model = OLD[request["name"]]()
    # As if it had been trained: none of its weights is what it began with.
    random = np.random.default_rng(0)
    if not request["name"].startswith(("wrapped", "quantized")):
        model.set_weights([w + random.uniform(0, 0.1, w.shape) for w in model.get_weights()])
    model.save(Path(request["folder"], request["name"]))


def masks(request):
    """TFMOT's own masks of `weights` at each step of a schedule, by the real update op."""
    with np.load(request["file"]) as arrays:
        weights = dict(arrays)
    settings = request["settings"]
    schedule = tfmot.sparsity.keras.PolynomialDecay(**settings["schedule"])
    step = tf.Variable(0, dtype=tf.int64)
    found = {}
    for name, values in weights.items():
        variables = [tf.Variable(values), tf.Variable(np.ones_like(values)), tf.Variable(0.0)]
        pruning = pruning_impl.Pruning(
            training_step_fn=lambda: step,
            pruning_vars=[tuple(variables)],
            pruning_schedule=schedule,
            block_size=settings["block"],
            block_pooling_type="AVG",
            sparsity_m_by_n=settings["zeros_of"],
        )
        for now in range(1, settings["steps"] + 1):
            step.assign(now)
            variables[1].assign(np.full_like(values, -1.0))
            pruning.conditional_mask_update()
            found[f"{name}|{now}"] = variables[1].numpy()
    np.savez(request["out"], **found)


def centroids(request):
    """TFMOT's first centroids of the array `values`."""
    init = tfmot.clustering.keras.CentroidInitialization[request["init"]]
    made = CentroidsInitializerFactory.get_centroid_initializer(init)
    with np.load(request["file"]) as arrays:
        values = tf.constant(arrays["values"])
    return made(values, request["count"]).get_cluster_centroids().numpy().tolist()


_MORE = {each.__name__: each for each in (coded, old, masks, centroids)}


def handle(request):
    more = _MORE.get(request["do"])
    return more(request) if more else child.handle(request)


if __name__ == "__main__":
    serve(handle)
